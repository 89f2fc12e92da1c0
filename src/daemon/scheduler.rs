//! The daemon's loop: wake up, look what is missing, see to it.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::{sync::mpsc, time::Instant};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::worker::{Crew, Worker};
use crate::{
    clock::Clock,
    config::Retention,
    graph::MAX_CALLS_PER_ATTEMPT,
    plan::Timetable,
    report::Target,
    store::{
        Receipt, StoreError, purge,
        slots::{self, Scope},
        targets,
    },
    telemetry::metrics::{self, SkipReason},
};

/// The wake-up, in UTC, seconds first. It carries no information and nothing depends on it being on time, complete or
/// single: the plan is made from the clock and the ledger.
const WAKE_UP: &str = "*/5 * * * * *";

/// How often old attempts are forgotten.
const PURGE_EVERY: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// What the daemon works by.
#[derive(Debug)]
pub struct Scheduler {
    /// The database.
    pub pool: PgPool,
    /// The time.
    pub clock: Clock,
    /// The schedules.
    pub timetable: Timetable,
    /// What is to be fetched.
    pub targets: Vec<Target>,
    /// Calls for each tenant and report in ten minutes.
    pub calls_per_10_minutes: u16,
    /// How long what is not a fact is kept.
    pub retention: Retention,
}

impl Scheduler {
    /// Runs until `stop`, then waits for what is in flight. A fault never ends it: the next wake-up looks again. `alive` is
    /// called at each wake-up, `looked` after each look that came to its end, with what is due next where that may have
    /// changed.
    pub async fn run(
        &self,
        worker: &Arc<Worker>,
        stop: &CancellationToken,
        alive: impl Fn(),
        mut looked: impl FnMut(Option<&Upcoming>),
    ) -> Result<(), JobSchedulerError> {
        let (wake, mut wake_ups) = mpsc::channel(1);
        let ticker = tick(wake.clone()).await?;
        let (mut state, mut received) = State::new(&self.targets);
        while !stop.is_cancelled() {
            alive();
            match self.look(worker, &mut state).await {
                Ok(planned) => looked(planned.then_some(&state.upcoming)),
                Err(error) => tracing::error!(
                    error_class = %error.class(), advice = error.class().advice(),
                    "cannot look for due work: {error}; the next wake-up tries again"
                ),
            }
            let pause = tokio::time::sleep(self.pause(&state));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = wake_ups.recv() => break,
                    () = &mut pause => break,
                    // Each receipt means that there is room for more, and may bring the next try nearer.
                    Some(receipt) = received.recv() => {
                        if let Some(at) = receipt.next_try {
                            state.next_try = Some(state.next_try.map_or(at, |known| known.min(at)));
                            pause.as_mut().reset(Instant::now() + self.pause(&state));
                        }
                        if state.more && self.refill(worker, &mut state).await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        drop(ticker);
        while state.crew.join_next().await.is_some() {}
        Ok(())
    }

    /// Looks, and sees everything that is due through to its end. Without wake-ups: for the demonstration and for tests.
    pub async fn catch_up(&self, worker: &Arc<Worker>) -> Result<(), StoreError> {
        let (mut state, _received) = State::new(&self.targets);
        loop {
            self.look(worker, &mut state).await?;
            while state.crew.join_next().await.is_some() {}
            if !state.more {
                return Ok(());
            }
        }
    }

    /// One look: what is due is written down, and as much of it claimed as there is room for. Returns whether a plan was
    /// made: there is none to make before the next instant has come.
    async fn look(&self, worker: &Arc<Worker>, state: &mut State) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let planned = !state.quiet.contains(&now);
        if planned {
            self.plan(state, now).await?;
        }
        if state.purged.is_none_or(|purged| now - purged >= PURGE_EVERY) {
            purge(&self.pool, &self.retention, now).await?;
            state.purged = Some(now);
        }
        self.refill(worker, state).await?;
        state.next_try = slots::next_try(&self.pool, &state.tenants, now).await?;
        Ok(planned)
    }

    /// Writes down what is due, and when something is due next.
    async fn plan(&self, state: &mut State, now: DateTime<Utc>) -> Result<(), StoreError> {
        if state.last.is_none() {
            state.last = Some(targets::newest_slots(&self.pool, &state.tenants).await?);
        }
        let last = state.last.get_or_insert_default();
        let due = self.timetable.due(self.targets.iter(), last, now);
        if !due.is_empty() {
            let skipped = slots::insert_due(&self.pool, &due, now).await?;
            metrics::skipped_slots(SkipReason::Superseded, skipped);
            let missed: u32 = due.iter().map(|due| u32::from(due.missed)).sum();
            tracing::info!(due = due.len(), missed, skipped, "slots are due");
            last.extend(due.iter().map(|due| (due.target, due.at)));
        }
        state.upcoming =
            self.targets.iter().filter_map(|target| Some((*target, self.timetable.next(target, now)?))).collect();
        let next = state.upcoming.iter().map(|&(_, at)| at).min();
        state.quiet = now..next.unwrap_or(now);
        Ok(())
    }

    async fn refill(&self, worker: &Arc<Worker>, state: &mut State) -> Result<(), StoreError> {
        let scope = Scope::Scheduled {
            tenants: &state.tenants,
            calls: i32::from(self.calls_per_10_minutes),
            calls_per_attempt: i32::from(MAX_CALLS_PER_ATTEMPT),
        };
        if let Some(claimed) = worker.fill(&mut state.crew, scope, &state.receipts).await? {
            state.more = claimed;
        }
        Ok(())
    }

    /// Until the next try, if one is near; the wake-up comes in any case.
    fn pause(&self, state: &State) -> Duration {
        let wait = state.next_try.and_then(|at| (at - self.clock.now()).to_std().ok());
        wait.map_or(Duration::from_mins(1), |wait| wait.clamp(Duration::from_secs(1), Duration::from_mins(1)))
    }
}

/// When each target is due next.
pub type Upcoming = Vec<(Target, DateTime<Utc>)>;

/// What one look remembers for the next. All of it can be read again.
struct State {
    tenants: Vec<Uuid>,
    crew: Crew,
    receipts: mpsc::UnboundedSender<Receipt>,
    last: Option<HashMap<Target, DateTime<Utc>>>,
    upcoming: Upcoming,
    /// From the last plan to the next due instant. A clock that is set back leaves it, too.
    quiet: Range<DateTime<Utc>>,
    purged: Option<DateTime<Utc>>,
    next_try: Option<DateTime<Utc>>,
    /// The last claim found something, and so there may be more.
    more: bool,
}

impl State {
    /// With the receipts of the work begun with it.
    fn new(targets: &[Target]) -> (Self, mpsc::UnboundedReceiver<Receipt>) {
        let mut tenants: Vec<Uuid> = targets.iter().map(|target| target.tenant_id).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let (receipts, received) = mpsc::unbounded_channel();
        let state = Self {
            tenants,
            crew: Crew::new(),
            receipts,
            last: None,
            upcoming: Upcoming::new(),
            quiet: DateTime::UNIX_EPOCH..DateTime::UNIX_EPOCH,
            purged: None,
            next_try: None,
            more: false,
        };
        (state, received)
    }
}

/// Starts the wake-up. A wake-up that finds the last one still unheeded is dropped: one look serves both.
async fn tick(wake: mpsc::Sender<()>) -> Result<JobScheduler, JobSchedulerError> {
    let ticker = JobScheduler::new().await?;
    let job = Job::new(WAKE_UP, move |_, _| {
        let _ = wake.try_send(());
    })?;
    ticker.add(job).await?;
    ticker.start().await?;
    Ok(ticker)
}
