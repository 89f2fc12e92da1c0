//! Claims slots and works them: tenants side by side, one tenant's calls one after the other.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::Clock,
    ingest::Ingest,
    outcome::{ErrorClass, Outcome},
    report::{Report, Target},
    store::{
        Receipt, StoreError,
        slots::{self, Claim, Scope},
        targets,
    },
    telemetry::metrics,
};

/// Tenants claimed at once: enough to keep all places busy while the next claim is made.
const CLAIM_TENANTS: i64 = 256;

/// More is claimed when fewer tenants than this are in hand for each place. Some of them have made their calls already
/// and only wait to be written.
const IN_HAND: usize = 8;

/// A process at work. Its claims hold as long as its lease, which [`Worker::keep_alive`] renews.
#[derive(Debug)]
pub struct Worker {
    pool: PgPool,
    ingest: Ingest,
    clock: Clock,
    host: String,
    lease: Duration,
    parallel: usize,
    places: Semaphore,
    hand: Hand,
    stop: CancellationToken,
}

/// Tenants being worked.
pub type Crew = JoinSet<()>;

impl Worker {
    /// A worker that has not signed on yet. `stop` makes it claim and begin nothing more.
    pub fn new(
        pool: PgPool,
        ingest: Ingest,
        clock: Clock,
        lease: Duration,
        parallel: usize,
        stop: CancellationToken,
    ) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let places = Semaphore::new(parallel);
        Self { pool, ingest, clock, host, lease, parallel, places, hand: Hand::default(), stop }
    }

    /// Says that this process lives, and gives back what it holds but does not work on.
    pub async fn sign_on(&self) -> Result<(), StoreError> {
        let database_time = targets::renew_lease(&self.pool, self.ingest.worker_id, &self.host, self.lease).await?;
        metrics::clock_skew(database_time - Clock::System.now());
        self.give_back().await
    }

    /// Renews the lease until `end`, three times within its term.
    pub async fn keep_alive(&self, end: CancellationToken) {
        while end.run_until_cancelled(tokio::time::sleep(self.lease / 3)).await.is_some() {
            if let Err(error) = self.sign_on().await {
                tracing::warn!(error = %error, error_class = %error.class(), "the lease could not be renewed");
            }
        }
    }

    /// Gives back all claims and signs off, so that others need not wait for the lease to end.
    pub async fn sign_off(&self) -> Result<(), StoreError> {
        self.hand.claims().clear();
        self.give_back().await?;
        targets::sign_off(&self.pool, self.ingest.worker_id).await
    }

    /// Claims work if there is room for it, and sets it going. Receipts go to `receipts` as they come. Returns whether
    /// anything was claimed; `None` if there was no room.
    pub async fn fill(
        self: &Arc<Self>,
        crew: &mut Crew,
        scope: Scope<'_>,
        receipts: &mpsc::UnboundedSender<Receipt>,
    ) -> Result<Option<bool>, StoreError> {
        while crew.try_join_next().is_some() {}
        if crew.len() >= IN_HAND * self.parallel || self.stop.is_cancelled() {
            return Ok(None);
        }
        let gate = self.hand.gate.lock().await;
        let (worker_id, tries) = (self.ingest.worker_id, self.ingest.patience.tries);
        let claims = slots::claim(&self.pool, worker_id, scope, CLAIM_TENANTS, tries, self.clock.now()).await?;
        self.begin(crew, &claims, gate, receipts);
        Ok(Some(!claims.is_empty()))
    }

    /// Writes down what a person asks for, and sets it going.
    pub async fn ask(
        self: &Arc<Self>,
        crew: &mut Crew,
        targets: &[Target],
        at: DateTime<Utc>,
        receipts: &mpsc::UnboundedSender<Receipt>,
    ) -> Result<(), StoreError> {
        let gate = self.hand.gate.lock().await;
        let claims = slots::ask(&self.pool, self.ingest.worker_id, targets, at).await?;
        self.begin(crew, &claims, gate, receipts);
        Ok(())
    }

    /// Takes claims in hand, and then opens the gate.
    fn begin(
        self: &Arc<Self>,
        crew: &mut Crew,
        claims: &[Claim],
        gate: tokio::sync::MutexGuard<'_, ()>,
        receipts: &mpsc::UnboundedSender<Receipt>,
    ) {
        self.hand.claims().extend(claims.iter().map(|claim| claim.attempt_id));
        drop(gate);
        for tenant in claims.chunk_by(|a, b| a.target.tenant_id == b.target.tenant_id) {
            crew.spawn(self.clone().work_tenant(tenant.to_vec(), receipts.clone()));
        }
    }

    /// One tenant's claims, one call after the other. While one body is written, the next call is made.
    async fn work_tenant(self: Arc<Self>, claims: Vec<Claim>, receipts: mpsc::UnboundedSender<Receipt>) {
        let held = Held { hand: &self.hand, claims: &claims };
        let counted: Vec<_> = claims.iter().map(|_| metrics::slot_claimed()).collect();
        let Ok(place) = self.places.acquire().await else { return };
        let mut pending = Vec::with_capacity(claims.len());
        let mut untried = Vec::new();
        let mut throttled: Vec<&Report> = Vec::new();
        for claim in &claims {
            if self.stop.is_cancelled() || throttled.contains(&claim.target.report) {
                untried.push(claim.attempt_id);
                continue;
            }
            let (receipt, was_throttled) = self.ingest.ingest(*claim).await;
            pending.push(receipt);
            if was_throttled {
                throttled.push(claim.target.report);
            }
        }
        // The next tenant's calls need not wait until this one's answers are written.
        drop(place);
        for receipt in pending {
            let receipt = receipt.receipt().await;
            report(&receipt);
            let _ = receipts.send(receipt);
        }
        drop((held, counted));
        if !untried.is_empty()
            && let Err(error) = slots::release_untried(&self.pool, self.ingest.worker_id, &untried).await
        {
            tracing::debug!(error = %error, "claims are given back with the next renewal of the lease");
        }
    }

    async fn give_back(&self) -> Result<(), StoreError> {
        let _gate = self.hand.gate.lock().await;
        let in_hand: Vec<Uuid> = self.hand.claims().iter().copied().collect();
        slots::release_all_but(&self.pool, self.ingest.worker_id, &in_hand).await
    }
}

/// The claims this process works on or is about to. Whatever else it holds in the database is given back.
#[derive(Debug, Default)]
struct Hand {
    claims: Mutex<HashSet<Uuid>>,
    /// Held from a claim in the database until it is in hand, so that it is not given back in between.
    gate: tokio::sync::Mutex<()>,
}

impl Hand {
    fn claims(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claims that are in hand until this is dropped, also by a panic.
struct Held<'a> {
    hand: &'a Hand,
    claims: &'a [Claim],
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut in_hand = self.hand.claims();
        for claim in self.claims {
            in_hand.remove(&claim.attempt_id);
        }
    }
}

/// One line for each attempt, and its metrics.
fn report(receipt: &Receipt) {
    let target = receipt.claim.target;
    metrics::attempt(target.report, target.period, receipt.outcome, receipt.class);
    metrics::rows(target.report, receipt.inserted.into(), receipt.updated.into(), receipt.unchanged.into());
    if receipt.reissued {
        metrics::same_refresh_changed();
    }
    match receipt.class {
        Some(class) if receipt.outcome == Outcome::Rejected => metrics::rejected_payload(class),
        Some(ErrorClass::Fenced) => metrics::fenced_write(),
        _ => {}
    }
    let class = receipt.class.map(ErrorClass::as_str);
    let (report, period, attempt_id) = (target.report.name, target.period, receipt.claim.attempt_id);
    match &receipt.message {
        None => tracing::info!(
            tenant = %target.tenant_id, report, %period, %attempt_id,
            outcome = %receipt.outcome, refresh_date = receipt.refresh_date.map(tracing::field::display),
            rows_inserted = receipt.inserted, rows_updated = receipt.updated, rows_unchanged = receipt.unchanged,
            "{report} {period}: {}", receipt.outcome
        ),
        Some(message) => tracing::warn!(
            tenant = %target.tenant_id, report, %period, %attempt_id,
            outcome = %receipt.outcome, error_class = class,
            next_try = receipt.next_try.map(tracing::field::display),
            "{report} {period}: {}: {message}", receipt.outcome
        ),
    }
}
