//! What the pages and the metrics show. What is about all targets is read at most every ten seconds however often it is
//! asked for, and more rarely where reading takes long; what is about one tenant is read when it is asked for.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use sqlx::{Connection, PgPool};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tracing::warn;
use uuid::Uuid;

use crate::store::status::{
    self, AttemptLine, Day, Gap, TargetStatus,
    tenant::{self, Change},
};

/// How long an answer of the database is good for.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// And how many times as long as it took: with very many tenants, looking must not become work of its own.
const FRESH_TIMES: u32 = 20;

/// How long a failure is good for: not every waiting request is to wait for the database in turn.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// Who has an answer that is not older than [`OLD_AFTER`] waits no longer than this for a newer one.
const PATIENCE: Duration = Duration::from_millis(150);

/// See [`PATIENCE`].
const OLD_AFTER: Duration = Duration::from_mins(2);

/// How long the database may take. A scrape of Prometheus has 10 s by default.
const DATABASE_LIMIT: Duration = Duration::from_secs(7);

/// How long it may take for what a page can do without.
const EXTRA_LIMIT: Duration = Duration::from_secs(1);

/// Pages take at most so many connections: the work has to have the others.
const AT_ONCE: usize = 2;

/// How many attempts are shown: of all tenants, and of one, which is three passes.
const ATTEMPTS: i64 = 20;
/// See [`ATTEMPTS`].
const ATTEMPTS_OF_ONE: i64 = 12;

/// How far back the list of changed figures looks from the newest day held, and how long it may be.
const CHANGED_DAYS: Days = Days::new(30);
/// See [`CHANGED_DAYS`].
const CHANGES: i64 = 2_000;

/// How the newest attempts went, and what is missing, of all tenants.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// The newest attempts, newest first.
    pub attempts: Vec<AttemptLine>,
    /// Days without figures; `None`: it took too long to find out.
    pub gaps: Option<Vec<Gap>>,
}

/// Everything that the page of one tenant shows.
#[derive(Debug, Default)]
pub struct TenantData {
    /// Its name.
    pub name: String,
    /// Its enabled targets.
    pub targets: Vec<TargetStatus>,
    /// The days of the range asked for, oldest first.
    pub days: Vec<Day>,
    /// Its newest attempts, newest first.
    pub attempts: Vec<AttemptLine>,
    /// Its holes, newest first.
    pub gaps: Vec<Gap>,
    /// What Microsoft changed lately; `None`: it took too long to find out.
    pub changes: Option<Vec<Change>>,
}

/// What the overview shows of a tenant besides its targets.
#[derive(Debug, Default)]
pub struct Glimpse {
    /// The average day of each of the last 26 whole weeks, oldest first.
    pub weeks: Vec<Option<i64>>,
    /// Days without figures.
    pub missing: i64,
}

/// Everything that is read for showing it.
#[derive(Debug)]
pub struct Data {
    targets: Cached<Vec<TargetStatus>>,
    recent: Cached<Recent>,
    turns: Semaphore,
}

impl Default for Data {
    fn default() -> Self {
        Self { targets: Cached::default(), recent: Cached::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl Data {
    /// How every target stands.
    pub async fn targets(&self, pool: &PgPool) -> Reading<Vec<TargetStatus>> {
        let pool = pool.clone();
        self.targets.get(async move { status::targets(&pool).await }).await
    }

    /// The newest attempts and the gaps.
    pub async fn recent(&self, pool: &PgPool) -> Reading<Recent> {
        let pool = pool.clone();
        let fetch = async move {
            let attempts = status::recent_attempts(&pool, ATTEMPTS).await?;
            let mut look = tenant::look(&pool).await?;
            Ok(Recent { attempts, gaps: status::gaps(&mut *look).await.ok() })
        };
        self.recent.get(fetch).await
    }

    /// All about one tenant, with the newest `last_n_days` days held. `Some(None)`: there is none such.
    pub async fn tenant(&self, pool: &PgPool, id: Uuid, last_n_days: i32) -> Option<Option<TenantData>> {
        self.in_turn(async {
            let mut look = tenant::look(pool).await?;
            let Some(name) = tenant::name(&mut look, id).await? else { return Ok(None) };
            let targets = tenant::targets(&mut look, id).await?;
            let days = status::days(&mut *look, id, last_n_days).await?;
            let attempts = tenant::attempts(&mut look, id, ATTEMPTS_OF_ONE).await?;
            let gaps = tenant::gaps(&mut look, id).await?;
            let since = days.last().and_then(|day| day.report_date.checked_sub_days(CHANGED_DAYS));
            // The last statement, because one that takes too long ends the look.
            let changes = match since {
                Some(since) => tenant::changes(&mut look, id, since, CHANGES).await.ok(),
                None => Some(Vec::new()),
            };
            Ok(Some(TenantData { name, targets, days, attempts, gaps, changes }))
        })
        .await
    }

    /// The name of one tenant and its days, for a download. `Some(None)`: there is none such.
    pub async fn days(&self, pool: &PgPool, id: Uuid, last_n_days: i32) -> Option<Option<(String, Vec<Day>)>> {
        self.in_turn(async {
            let mut look = tenant::look(pool).await?;
            let Some(name) = tenant::name(&mut look, id).await? else { return Ok(None) };
            Ok(Some((name, status::days(&mut *look, id, last_n_days).await?)))
        })
        .await
    }

    /// The trends and gaps of a few tenants; nothing when the database does not say.
    pub async fn glimpses(&self, pool: &PgPool, tenants: &[Uuid], today: NaiveDate) -> HashMap<Uuid, Glimpse> {
        let ids: Vec<String> = tenants.iter().map(Uuid::to_string).collect();
        let read = async {
            let mut look = tenant::look(pool).await?;
            let mut glimpses = HashMap::<Uuid, Glimpse>::new();
            for week in tenant::weeks(&mut look, &ids, last_settled_sunday(today)).await? {
                let weeks = &mut glimpses.entry(week.tenant_id).or_default().weeks;
                weeks.resize(26, None);
                if let Some(place) = usize::try_from(25 - week.weeks_ago).ok().and_then(|place| weeks.get_mut(place)) {
                    *place = week.average;
                }
            }
            for missing in tenant::missing(&mut look, &ids).await? {
                glimpses.entry(missing.tenant_id).or_default().missing = missing.days;
            }
            Ok(glimpses)
        };
        timeout(EXTRA_LIMIT, self.in_turn(read)).await.ok().flatten().unwrap_or_default()
    }

    async fn in_turn<T>(&self, fetch: impl Future<Output = Result<T, sqlx::Error>>) -> Option<T> {
        within_limit(async {
            // Nobody closes the semaphore.
            let _turn = self.turns.acquire().await;
            fetch.await
        })
        .await
    }
}

/// The end of the newest week of which Microsoft rarely changes anything any more: three days have to have passed since,
/// and Microsoft is two days behind.
fn last_settled_sunday(today: NaiveDate) -> NaiveDate {
    let settled = today - TimeDelta::days(5);
    settled - TimeDelta::days(i64::from(settled.weekday().num_days_from_sunday()))
}

/// Whether Postgres answers.
pub async fn ping(pool: &PgPool) -> bool {
    let answer = async { pool.acquire().await?.ping().await };
    matches!(timeout(DATABASE_LIMIT, answer).await, Ok(Ok(())))
}

/// What is known, and whether it is of now.
#[derive(Debug)]
pub struct Reading<T> {
    /// The newest that the database ever answered.
    pub last_known: Option<Arc<T>>,
    /// Whether it answered when it was last asked.
    pub fresh: bool,
    /// How long ago the last answer came.
    pub age: Duration,
}

impl<T> Reading<T> {
    /// The value, if it is of now.
    pub fn fresh(self) -> Option<Arc<T>> {
        self.last_known.filter(|_| self.fresh)
    }

    /// The time it is of.
    pub fn as_of(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        TimeDelta::from_std(self.age).map_or(now, |age| now - age)
    }
}

/// A value of the database, kept for a while. Clones share one.
#[derive(Debug)]
struct Cached<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    entry: RwLock<Entry<T>>,
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Entry<T> {
    last_known: Option<(Arc<T>, Instant)>,
    /// When the database was last asked, whether it answered, and how long that is good for.
    asked: Option<(Instant, bool, Duration)>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        let entry = RwLock::new(Entry { last_known: None, asked: None });
        Self(Arc::new(Shared { entry, turn: Mutex::new(()) }))
    }
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// The cached value, or what `fetch` gives. Whoever asks meanwhile waits for that one answer, and only for a moment
    /// if the value before it is not old.
    async fn get(&self, fetch: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static) -> Reading<T> {
        if self.0.is_due() {
            let shared = Arc::clone(&self.0);
            let renewal = tokio::spawn(async move {
                let _turn = shared.turn.lock().await;
                if shared.is_due() {
                    let begun = Instant::now();
                    let value = within_limit(fetch).await;
                    shared.put(value, begun);
                }
            });
            if self.0.reading().is_some_and(|known| known.fresh && known.age < OLD_AFTER) {
                let _ = timeout(PATIENCE, renewal).await;
            } else {
                let _ = renewal.await;
            }
        }
        self.0.reading().unwrap_or(Reading { last_known: None, fresh: false, age: Duration::ZERO })
    }
}

impl<T> Shared<T> {
    fn is_due(&self) -> bool {
        let entry = self.entry.read().unwrap_or_else(PoisonError::into_inner);
        entry.asked.is_none_or(|(at, _, good_for)| at.elapsed() >= good_for)
    }

    fn put(&self, value: Option<T>, begun: Instant) {
        let now = Instant::now();
        let mut entry = self.entry.write().unwrap_or_else(PoisonError::into_inner);
        let good_for = if value.is_some() { FRESH_FOR.max((now - begun) * FRESH_TIMES) } else { FAILED_FOR };
        entry.asked = Some((now, value.is_some(), good_for));
        if let Some(value) = value {
            entry.last_known = Some((Arc::new(value), begun));
        }
    }

    fn reading(&self) -> Option<Reading<T>> {
        let entry = self.entry.read().unwrap_or_else(PoisonError::into_inner);
        let (value, at) = entry.last_known.as_ref()?;
        let fresh = entry.asked.is_some_and(|(_, well, _)| well);
        Some(Reading { last_known: Some(Arc::clone(value)), fresh, age: at.elapsed() })
    }
}

/// The answer, or `None` and a line in the log.
async fn within_limit<T>(fetch: impl Future<Output = Result<T, sqlx::Error>>) -> Option<T> {
    match timeout(DATABASE_LIMIT, fetch).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            warn!(error = &error as &dyn std::error::Error, "the status cannot be read from Postgres");
            None
        }
        Err(_) => {
            warn!(limit_seconds = DATABASE_LIMIT.as_secs(), "Postgres took too long to tell the status");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_kept_and_shared() {
        let cached = Cached::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let fetch = || {
            let calls = Arc::clone(&calls);
            async move {
                tokio::task::yield_now().await;
                Ok(calls.fetch_add(1, Ordering::Relaxed))
            }
        };
        let (one, two) = tokio::join!(cached.get(fetch()), cached.get(fetch()));
        assert_eq!((one.fresh().as_deref(), two.fresh().as_deref()), (Some(&0), Some(&0)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    fn due(cached: &Cached<i32>) {
        cached.0.entry.write().unwrap().asked.as_mut().unwrap().2 = Duration::ZERO;
    }

    #[tokio::test]
    async fn after_a_failure_the_last_answer_is_known_but_not_fresh() {
        let cached = Cached::default();
        assert_eq!(cached.get(async { Ok(7) }).await.fresh().as_deref(), Some(&7));
        due(&cached);
        let reading = cached.get(async { Err(sqlx::Error::PoolClosed) }).await;
        assert!(!reading.fresh);
        assert_eq!(reading.last_known.as_deref(), Some(&7));
        assert!(reading.fresh().is_none());
        let reading = cached.get(async { panic!("a failure is kept for a moment") }).await;
        assert!(!reading.fresh);
    }

    #[tokio::test]
    async fn who_has_an_answer_of_lately_does_not_wait_for_a_slow_one() {
        let cached = Cached::default();
        cached.get(async { Ok(1) }).await;
        due(&cached);
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let slow = async move {
            let _ = wait.await;
            Ok(2)
        };
        let reading = cached.get(slow).await;
        assert_eq!((reading.fresh, reading.last_known.as_deref()), (true, Some(&1)));
        go.send(()).unwrap();
        while cached.0.is_due() {
            tokio::task::yield_now().await;
        }
        assert_eq!(cached.get(async { panic!("it is known") }).await.fresh().as_deref(), Some(&2));
    }

    #[test]
    fn the_newest_settled_week_ends_on_a_sunday() {
        for (today, sunday) in
            [("2026-11-24", "2026-11-15"), ("2026-11-26", "2026-11-15"), ("2026-11-27", "2026-11-22")]
        {
            assert_eq!(last_settled_sunday(today.parse().unwrap()), sunday.parse().unwrap(), "{today}");
        }
    }
}
