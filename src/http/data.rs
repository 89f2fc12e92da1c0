//! What the pages and the metrics show, read from the ledger at most every ten seconds however often they are asked for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgPool};
use tokio::{sync::Mutex, time::timeout};
use tracing::warn;
use uuid::Uuid;

use crate::store::status::{self, AttemptLine, Day, Gap, TargetStatus};

/// How long an answer of the database is good for.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// How long a failure is good for: not every waiting request is to wait for the database in turn.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// How long the database may take. A scrape of Prometheus has 10 s by default.
const DATABASE_LIMIT: Duration = Duration::from_secs(2);

/// How many attempts are shown.
const ATTEMPTS: i64 = 20;

/// How many days the chart spans: as many as Microsoft remembers.
pub const CHART_DAYS: i32 = 180;

/// What is shown besides the targets.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// The newest attempts, newest first.
    pub attempts: Vec<AttemptLine>,
    /// Days without figures.
    pub gaps: Vec<Gap>,
    /// The figures of one tenant.
    pub days: Vec<Day>,
}

/// The two readings, cached one by one: a scrape needs the first only.
#[derive(Debug, Default)]
pub struct Data {
    targets: Cached<Vec<TargetStatus>>,
    details: Cached<Details>,
}

impl Data {
    /// How every target stands.
    pub async fn targets(&self, pool: &PgPool) -> Reading<Vec<TargetStatus>> {
        self.targets.get(status::targets(pool)).await
    }

    /// The newest attempts, the gaps, and the days of `tenant`.
    pub async fn details(&self, pool: &PgPool, tenant: Option<Uuid>) -> Reading<Details> {
        self.details
            .get(async {
                Ok(Details {
                    attempts: status::recent_attempts(pool, ATTEMPTS).await?,
                    gaps: status::gaps(pool).await?,
                    days: match tenant {
                        Some(tenant) => status::days(pool, tenant, CHART_DAYS).await?,
                        None => Vec::new(),
                    },
                })
            })
            .await
    }
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
    /// Whether it answered in the last seconds.
    pub fresh: bool,
}

impl<T> Reading<T> {
    /// The value, if it is of now.
    pub fn fresh(self) -> Option<Arc<T>> {
        self.last_known.filter(|_| self.fresh)
    }
}

#[derive(Debug)]
struct Cached<T>(Mutex<Entry<T>>);

#[derive(Debug)]
struct Entry<T> {
    last_known: Option<Arc<T>>,
    asked: Option<(Instant, bool)>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(Entry { last_known: None, asked: None }))
    }
}

impl<T> Cached<T> {
    /// The cached value, or what `fetch` gives. Whoever asks meanwhile waits for that one answer.
    async fn get(&self, fetch: impl Future<Output = Result<T, sqlx::Error>>) -> Reading<T> {
        let mut entry = self.0.lock().await;
        let known = entry.asked.and_then(|(at, well)| {
            let good_for = if well { FRESH_FOR } else { FAILED_FOR };
            (at.elapsed() < good_for).then_some(well)
        });
        let fresh = if let Some(well) = known {
            well
        } else {
            let value = within_limit(fetch).await.map(Arc::new);
            let well = value.is_some();
            entry.last_known = value.or(entry.last_known.take());
            entry.asked = Some((Instant::now(), well));
            well
        };
        Reading { last_known: entry.last_known.clone(), fresh }
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

    use super::Cached;

    #[tokio::test]
    async fn an_answer_is_kept_and_shared() {
        let cached = Cached::default();
        let calls = AtomicUsize::new(0);
        let fetch = || async {
            tokio::task::yield_now().await;
            Ok(calls.fetch_add(1, Ordering::Relaxed))
        };
        let (one, two) = tokio::join!(cached.get(fetch()), cached.get(fetch()));
        assert_eq!((one.fresh().as_deref(), two.fresh().as_deref()), (Some(&0), Some(&0)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn after_a_failure_the_last_answer_is_known_but_not_fresh() {
        let cached = Cached::default();
        assert_eq!(cached.get(async { Ok(7) }).await.fresh().as_deref(), Some(&7));
        cached.0.lock().await.asked = None;
        let reading = cached.get(async { Err(sqlx::Error::PoolClosed) }).await;
        assert!(!reading.fresh);
        assert_eq!(reading.last_known.as_deref(), Some(&7));
        assert!(reading.fresh().is_none());
        let reading = cached.get(async { panic!("a failure is kept for a moment") }).await;
        assert!(!reading.fresh);
    }
}
