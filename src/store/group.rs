//! Group commit: attempts that are finished at the same time share a transaction, as in a database's own log.

use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{
    attempts::{Finished, Receipt, Served},
    slots::Claim,
    snapshots,
};
use crate::{
    clock::Clock,
    outcome::ErrorClass,
    telemetry::metrics::{self, Stage},
};

/// A group is closed when it holds this many rows.
const GROUP_ROWS: usize = 10_000;

/// Attempts that may wait for a writer's next group; more make their senders wait, which bounds memory.
const WAITING: usize = 128;

/// Groups written at the same time, each by its own connection. A tenant always has the same writer, so that two groups
/// never wait for each other.
const WRITERS: usize = 2;

type Waiting = (Finished, oneshot::Sender<Receipt>);

/// Takes finished attempts and writes them, many in one transaction when many are ready.
#[derive(Debug, Clone)]
pub struct Committer {
    queues: [mpsc::Sender<Waiting>; WRITERS],
}

/// The receipt of a commit that may not have happened yet.
#[derive(Debug)]
pub struct Pending {
    claim: Claim,
    receipt: oneshot::Receiver<Receipt>,
}

impl Pending {
    /// Waits until the attempt is in the database, or is known not to be.
    pub async fn receipt(self) -> Receipt {
        let closed = |_| Receipt::unwritten(self.claim, ErrorClass::Shutdown, "the program is stopping".to_owned());
        self.receipt.await.unwrap_or_else(closed)
    }
}

impl Committer {
    /// Starts the task that writes. It ends when the last clone of the committer is gone and everything is written.
    pub fn start(pool: &PgPool, clock: &Clock) -> (Self, JoinHandle<()>) {
        let mut writers = JoinSet::new();
        let queues = std::array::from_fn(|_| {
            let (queue, waiting) = mpsc::channel(WAITING);
            writers.spawn(commit_groups(pool.clone(), clock.clone(), waiting));
            queue
        });
        let task = tokio::spawn(async move { while writers.join_next().await.is_some() {} });
        (Self { queues }, task)
    }

    /// Hands an attempt over. Returns when it is in the queue; its receipt follows.
    pub async fn submit(&self, finished: Finished) -> Pending {
        let (done, receipt) = oneshot::channel();
        let claim = finished.claim;
        let writer = usize::from(claim.target.tenant_id.as_bytes()[15]) % WRITERS;
        // A failed send drops `done`, and so the receipt says that the program is stopping.
        let _ = self.queues[writer].send((finished, done)).await;
        Pending { claim, receipt }
    }
}

async fn commit_groups(pool: PgPool, clock: Clock, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some((first, answer)) = waiting.recv().await {
        let mut rows = rows(&first);
        let (mut group, mut answers) = (vec![first], vec![answer]);
        while rows < GROUP_ROWS
            && let Ok((finished, answer)) = waiting.try_recv()
        {
            rows += self::rows(&finished);
            group.push(finished);
            answers.push(answer);
        }
        let started = Instant::now();
        let receipts = commit(&pool, &group, clock.now()).await;
        metrics::stage(Stage::Store, started.elapsed());
        for (answer, receipt) in answers.into_iter().zip(receipts) {
            let _ = answer.send(receipt);
        }
    }
}

fn rows(finished: &Finished) -> usize {
    match &finished.result {
        Ok(Served::Snapshot(snapshot)) => snapshot.rows.len(),
        Ok(Served::Known(_)) | Err(_) => 0,
    }
}

/// Writes a group, and once more if it failed: as a whole when the fault lies with the database, which also settles a
/// commit whose answer was lost (what did land is recognised); one by one otherwise, so that a bad one harms nobody.
async fn commit(pool: &PgPool, group: &[Finished], now: DateTime<Utc>) -> Vec<Receipt> {
    let error = match snapshots::write(pool, group, now).await {
        Ok(receipts) => return receipts,
        Err(error) => error,
    };
    tracing::warn!(error = %error, attempts = group.len(), "a group of attempts could not be written; trying once more");
    let step = if is_of_the_whole_database(error.class()) { group.len() } else { 1 };
    let mut receipts = Vec::with_capacity(group.len());
    for part in group.chunks(step) {
        match snapshots::write(pool, part, now).await {
            Ok(written) => receipts.extend(written),
            Err(error) => receipts
                .extend(part.iter().map(|attempt| Receipt::unwritten(attempt.claim, error.class(), error.to_string()))),
        }
    }
    receipts
}

const fn is_of_the_whole_database(class: ErrorClass) -> bool {
    matches!(
        class,
        ErrorClass::DbUnavailable
            | ErrorClass::DbReadonly
            | ErrorClass::DbFull
            | ErrorClass::SchemaMismatch
            | ErrorClass::Timeout
    )
}
