//! The way of the data: one slot, from claim to commit.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::{Report, Schedule, Tenant},
    graph::{Fetched, Graph, GraphError, Trace},
    outcome::{ErrorClass, Outcome, Retry},
    report::{Body, Rejection, parse},
    store::{Committer, Finished, Pending, Served, Unstored, slots::Claim},
    telemetry::metrics::{self, Stage},
};

/// No attempt lives longer, whatever its single deadlines add up to.
const ATTEMPT_DEADLINE: Duration = Duration::from_mins(5);

/// The longest back-off of our own; Microsoft may ask for more.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// What it takes to bring a report home.
#[derive(Debug)]
pub struct Ingest {
    /// This process, as the slots know it.
    pub worker_id: Uuid,
    graph: Graph,
    committer: Committer,
    clock: Clock,
    tenants: HashMap<Uuid, Tenant>,
    functions: HashMap<&'static str, String>,
    /// How often and how long to try.
    pub patience: Patience,
}

/// How often and how long to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries for one slot.
    pub tries: i16,
    /// First back-off, doubled with each try.
    pub backoff: Duration,
    /// A slot whose next try is further away is given up; `None`: it waits.
    pub longest_wait: Option<Duration>,
}

impl Patience {
    /// As the schedule says. The service waits as long as it takes; a person does not.
    pub fn new(schedule: &Schedule, longest_wait: Option<Duration>) -> Self {
        Self {
            tries: i16::try_from(schedule.max_attempts.get()).unwrap_or(i16::MAX),
            backoff: schedule.backoff,
            longest_wait,
        }
    }
}

impl Ingest {
    /// Puts the parts together.
    pub fn new(
        graph: Graph,
        committer: Committer,
        clock: Clock,
        tenants: Vec<Tenant>,
        reports: &[Report],
        patience: Patience,
    ) -> Self {
        Self {
            worker_id: Uuid::now_v7(),
            graph,
            committer,
            clock,
            tenants: tenants.into_iter().map(|tenant| (tenant.id, tenant)).collect(),
            functions: reports.iter().map(|report| (report.definition.name, report.function.clone())).collect(),
            patience,
        }
    }

    /// Works one claimed slot: asks Graph for the report, downloads it, parses it, and hands the whole to the committer.
    ///
    /// Returns when the body is parsed and queued, so that the tenant's next call can begin while this one is written.
    /// The receipt says what became of it; the flag, whether Microsoft asked for a pause.
    pub async fn ingest(&self, claim: Claim) -> (Pending, bool) {
        let span = tracing::info_span!(
            "attempt",
            tenant = %claim.target.tenant_id,
            report = claim.target.report.name,
            period = %claim.target.period,
            attempt_id = %claim.attempt_id,
        );
        let started_at = self.clock.now();
        let mut trace = Trace::new(claim.attempt_id);
        let result = async {
            match tokio::time::timeout(ATTEMPT_DEADLINE, self.serve(&claim, &mut trace)).await {
                Ok(Ok(served)) => Ok(served),
                Ok(Err(failure)) => Err(self.unstored(&claim, &failure)),
                Err(_) => Err(self.unstored(&claim, &Failure::TooLong)),
            }
        }
        .instrument(span)
        .await;
        for (stage, took) in
            [(Stage::Token, trace.token), (Stage::Graph, trace.graph), (Stage::Download, trace.download)]
        {
            metrics::stage(stage, took);
        }
        let finished = Finished {
            claim,
            worker_id: self.worker_id,
            started_at,
            finished_at: self.clock.now(),
            graph_calls: i16::try_from(trace.graph_calls).unwrap_or(i16::MAX),
            http_status: trace.http_status.and_then(|status| i16::try_from(status).ok()),
            request_id: trace.request_id,
            client_request_id: trace.client_request_id,
            result,
        };
        let throttled = finished.throttled_until().is_some();
        (self.committer.submit(finished).await, throttled)
    }

    /// From Graph to a validated snapshot, or to one that the ledger holds already.
    async fn serve(&self, claim: &Claim, trace: &mut Trace) -> Result<Served, Failure> {
        let target = claim.target;
        let tenant = self.tenants.get(&target.tenant_id).ok_or(Failure::NotConfigured)?;
        let function = self.functions.get(target.report.name).ok_or(Failure::NotConfigured)?;
        let body = match self.graph.fetch(tenant, function, target.period, trace).await? {
            Fetched::Body(body) => body,
            Fetched::NoData => return Err(Failure::Empty),
        };
        // The same bytes as last time need not be read again: of most looks this is the end.
        if let Some(known) = claim.known.filter(|known| known.body_hash == body.fingerprint()) {
            return Ok(Served::Known(known));
        }
        let today = self.clock.now().date_naive();
        let started = Instant::now();
        let parsed = parse(target.report, target.period, &body, today);
        metrics::stage(Stage::Parse, started.elapsed());
        match parsed {
            Ok(Some(snapshot)) => Ok(Served::Snapshot(snapshot)),
            Ok(None) => Err(Failure::Empty),
            Err(rejection) => Err(Failure::Rejected(rejection, body)),
        }
    }

    /// What the ledger is told of an attempt without a snapshot, and when the slot is tried again.
    fn unstored(&self, claim: &Claim, failure: &Failure) -> Unstored {
        let now = self.clock.now();
        let retry_after = failure.retry_after();
        if let Some(wait) = retry_after {
            metrics::throttled(wait);
        }
        let class = failure.class();
        let (outcome, body) = match failure {
            Failure::Empty => (Outcome::Empty, None),
            Failure::Rejected(_, body) => (Outcome::Rejected, Some(kept(body))),
            Failure::Graph(_) | Failure::TooLong | Failure::NotConfigured => (Outcome::Failed, None),
        };
        Unstored {
            outcome,
            class,
            message: failure.to_string(),
            body,
            throttled_until: retry_after.and_then(|wait| after(now, wait)),
            next_try: self.next_try(class, claim.attempt, retry_after, now),
        }
    }

    fn next_try(
        &self,
        class: ErrorClass,
        attempt: i16,
        retry_after: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        if class.retry() != Retry::Now || attempt >= self.patience.tries {
            return None;
        }
        let ceiling = self.patience.backoff.saturating_mul(1 << (attempt - 1).clamp(0, 16)).min(LONGEST_BACKOFF);
        let jittered = ceiling.mul_f64(rand::random_range(0.5..=1.0));
        let wait = jittered.max(retry_after.unwrap_or_default());
        let given_up = self.patience.longest_wait.is_some_and(|longest| wait > longest);
        if given_up { None } else { after(now, wait) }
    }
}

fn after(now: DateTime<Utc>, wait: Duration) -> Option<DateTime<Utc>> {
    now.checked_add_signed(TimeDelta::from_std(wait).ok()?)
}

/// What is kept of a refused body. It may be, or hold, a download link, and that is a credential.
fn kept(body: &Body) -> (Vec<u8>, u64) {
    let length = body.bytes.len() as u64;
    let kept = &body.bytes[..body.bytes.len().min(crate::store::QUARANTINE_BYTES)];
    (without_links(kept), length)
}

/// Text with each link cut after its host. Bytes, because a page may be in any encoding, and cut within a character.
fn without_links(text: &[u8]) -> Vec<u8> {
    let mut safe = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|three| three == b"://") {
        let (before, link) = rest.split_at(at + 3);
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'<>\\".contains(byte);
        let end = link.iter().position(ends).unwrap_or(link.len());
        let host = link[..end].iter().position(|byte| b"/?#".contains(byte)).unwrap_or(end);
        let host_start = link[..host].iter().rposition(|byte| *byte == b'@').map_or(0, |userinfo| userinfo + 1);
        safe.extend_from_slice(before);
        safe.extend_from_slice(&link[host_start..host]);
        if host < end {
            safe.extend_from_slice(b"/[cut]");
        }
        rest = &link[end..];
    }
    safe.extend_from_slice(rest);
    safe
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Graph(#[from] GraphError),
    #[error("Microsoft had no rows for this report and period")]
    Empty,
    #[error("the body was refused: {0}")]
    Rejected(Rejection, Body),
    #[error("the attempt took longer than {} minutes", ATTEMPT_DEADLINE.as_secs() / 60)]
    TooLong,
    #[error("the configuration no longer names this tenant or report")]
    NotConfigured,
}

impl Failure {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Graph(error) => error.class(),
            Self::Empty => ErrorClass::EmptyReport,
            Self::Rejected(rejection, _) => rejection.class,
            Self::TooLong => ErrorClass::Timeout,
            Self::NotConfigured => ErrorClass::Internal,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Graph(error) => error.retry_after(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_links;

    #[test]
    fn links_are_cut_after_the_host() {
        for (text, safe) in [
            ("https://reports.office.com/data/download/canary?token=canary", "https://reports.office.com/[cut]"),
            (
                "<a href=\"https://u:canary@h.example/p\">x</a> http://b",
                "<a href=\"https://h.example/[cut]\">x</a> http://b",
            ),
            ("{\"url\":\"https://h?canary\"}", "{\"url\":\"https://h/[cut]\"}"),
            ("no link: // :/ ", "no link: // :/ "),
            ("https://", "https://"),
        ] {
            assert_eq!(without_links(text.as_bytes()), safe.as_bytes());
        }
        assert_eq!(without_links(b"f\xfcr https://h/canary\xe4 \xff"), b"f\xfcr https://h/[cut] \xff");
    }
}
