//! What a person asked for now: the same work as the daemon's, until it is done.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::worker::{Crew, Worker};
use crate::{
    clock::Clock,
    outcome::ErrorClass,
    store::{
        Receipt, StoreError,
        slots::{self, Scope},
    },
};

/// How often in a row the database may fail before the rest is given up.
const DATABASE_TRIES: u32 = 3;
const DATABASE_PAUSE: Duration = Duration::from_secs(2);

/// Slots that a person asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The database.
    pub pool: &'a PgPool,
    /// The time.
    pub clock: &'a Clock,
    /// Their tenants.
    pub tenants: &'a [Uuid],
    /// Their due instant.
    pub at: DateTime<Utc>,
    /// A slot whose next try is further away is given up.
    pub longest_wait: Duration,
}

impl Asked<'_> {
    /// Works them until none is open, or until `stop` and what is in flight has ended. Every slot leaves a receipt whose
    /// `next_try` is `None`, except those that `stop` or a lost database left undone.
    pub async fn work(
        &self,
        worker: &Arc<Worker>,
        receipts: &mpsc::UnboundedSender<Receipt>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let scope = Scope::Asked { tenants: self.tenants, at: self.at };
        let mut crew = Crew::new();
        let mut failures = 0;
        let outcome = loop {
            match self.step(worker, &mut crew, scope, receipts, stop).await {
                Ok(true) => failures = 0,
                Ok(false) => break Ok(()),
                Err(_) if failures + 1 < DATABASE_TRIES => {
                    failures += 1;
                    stop.run_until_cancelled(tokio::time::sleep(DATABASE_PAUSE)).await;
                }
                Err(error) => break Err(error),
            }
        };
        while crew.join_next().await.is_some() {}
        outcome
    }

    /// One step; `false` when there is nothing left to do.
    async fn step(
        &self,
        worker: &Arc<Worker>,
        crew: &mut Crew,
        scope: Scope<'_>,
        receipts: &mpsc::UnboundedSender<Receipt>,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError> {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let claimed = worker.fill(crew, scope, receipts).await?;
        if crew.join_next().await.is_some() || claimed == Some(true) {
            return Ok(true);
        }
        worker.sign_on().await?;
        let Some(next) = slots::open_asked(self.pool, self.tenants, self.at).await? else { return Ok(false) };
        let wait = (next - self.clock.now()).to_std().unwrap_or_default();
        if wait > self.longest_wait {
            let class = ErrorClass::Throttled;
            let left = slots::give_up_asked(self.pool, self.tenants, self.at, class.as_str(), self.clock.now()).await?;
            for claim in left {
                let message = format!("not tried: Microsoft asked for a pause until {}", next.format("%F %T UTC"));
                let _ = receipts.send(Receipt::unwritten(claim, class, message));
            }
            return Ok(false);
        }
        stop.run_until_cancelled(tokio::time::sleep(wait.max(Duration::from_millis(50)))).await;
        Ok(true)
    }
}
