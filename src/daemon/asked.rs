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
    report::Target,
    store::{
        Receipt, StoreError,
        slots::{self, Scope},
    },
};

/// How often in a row the database may fail before the rest is given up.
const DATABASE_TRIES: u32 = 3;
const DATABASE_PAUSE: Duration = Duration::from_secs(2);

/// How often to look for slots whose next try has come while others are still worked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often to look for an open slot that cannot be claimed: another process may be claiming at this moment.
const CLAIM_TRIES: u32 = 10;
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

/// What a person asks for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The database.
    pub pool: &'a PgPool,
    /// The time.
    pub clock: &'a Clock,
    /// What is to be fetched, tenant by tenant.
    pub targets: &'a [Target],
    /// The due instant of its slots.
    pub at: DateTime<Utc>,
    /// A slot whose next try is further away is given up.
    pub longest_wait: Duration,
}

impl Asked<'_> {
    /// Works it until no slot is open, or until `stop` and what is in flight has ended. Every slot leaves a receipt whose
    /// `next_try` is `None`, except those that `stop` or a lost database left undone.
    pub async fn work(
        &self,
        worker: &Arc<Worker>,
        receipts: &mpsc::UnboundedSender<Receipt>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut tenants: Vec<Uuid> = self.targets.iter().map(|target| target.tenant_id).collect();
        tenants.dedup();
        let mut crew = Crew::new();
        worker.ask(&mut crew, self.targets, self.at, receipts).await?;
        let mut failures = 0;
        let outcome = loop {
            match self.step(worker, &mut crew, &tenants, receipts, stop).await {
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
        tenants: &[Uuid],
        receipts: &mpsc::UnboundedSender<Receipt>,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError> {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let scope = Scope::Asked { tenants, at: self.at };
        if !crew.is_empty() {
            let drained = async { while crew.join_next().await.is_some() {} };
            if tokio::time::timeout(LOOK_EVERY, drained).await.is_err() {
                worker.fill(crew, scope, receipts).await?;
                return Ok(true);
            }
        }
        let Some(next) = slots::open_asked(self.pool, tenants, self.at).await? else { return Ok(false) };
        let wait = (next - self.clock.now()).to_std().unwrap_or_default();
        if wait > self.longest_wait {
            let message = format!("not tried: Microsoft asked for a pause until {}", next.format("%F %T UTC"));
            self.give_up(tenants, ErrorClass::Throttled, &message, receipts).await?;
            return Ok(false);
        }
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        // What is open may be in nobody's hand: an attempt that could not be written.
        worker.sign_on().await?;
        for _ in 0..CLAIM_TRIES {
            if worker.fill(crew, scope, receipts).await? != Some(false) {
                return Ok(true);
            }
            stop.run_until_cancelled(tokio::time::sleep(CLAIM_PAUSE)).await;
        }
        let message = "tried as often as it may be, and could not be written";
        self.give_up(tenants, ErrorClass::DbUnavailable, message, receipts).await?;
        Ok(false)
    }

    /// Closes what is left.
    async fn give_up(
        &self,
        tenants: &[Uuid],
        class: ErrorClass,
        message: &str,
        receipts: &mpsc::UnboundedSender<Receipt>,
    ) -> Result<(), StoreError> {
        let left = slots::give_up_asked(self.pool, tenants, self.at, class.as_str(), self.clock.now()).await?;
        for claim in left {
            let _ = receipts.send(Receipt::unwritten(claim, class, message.to_owned()));
        }
        Ok(())
    }
}
