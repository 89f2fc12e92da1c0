//! Every metric of this program: its name, its meaning and the one function that moves it.
//!
//! Labels have closed sets of values, and counters carry no tenant. What is known per target comes from the database at
//! each scrape instead (see [`super::targets`]), so that it survives a restart. The one gauge with a tenant is the end of its
//! credential, which no database knows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use uuid::Uuid;

use crate::{
    outcome::{ErrorClass, Outcome},
    report::{Period, Report, catalogue},
};

const BUILD_INFO: &str = "m365_ledger_build_info";
const ATTEMPTS: &str = "m365_ledger_attempts_total";
const ROWS: &str = "m365_ledger_rows_total";
const STAGE_DURATION: &str = "m365_ledger_stage_duration_seconds";
const SKIPPED_SLOTS: &str = "m365_ledger_skipped_slots_total";
const FENCED_WRITES: &str = "m365_ledger_fenced_writes_total";
const THROTTLED: &str = "m365_ledger_throttled_seconds_total";
const SAME_REFRESH_CHANGED: &str = "m365_ledger_same_refresh_changed_total";
const REJECTED_PAYLOADS: &str = "m365_ledger_rejected_payloads_total";
const SLOTS_CLAIMED: &str = "m365_ledger_slots_claimed";
const CLOCK_SKEW: &str = "m365_ledger_clock_skew_seconds";
const SCHEMA_VERSION: &str = "m365_ledger_schema_version";
const CREDENTIAL_EXPIRY: &str = "m365_ledger_credential_expiry_timestamp_seconds";

/// The label value where an attempt has no error class.
const NO_ERROR: &str = "none";

/// Upper bounds in seconds: a parse takes about a millisecond, a throttled call may wait for minutes.
const STAGE_BUCKETS: [f64; 13] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The parts of an attempt that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Signing in.
    Token,
    /// Asking Graph for the report.
    Graph,
    /// Fetching the body.
    Download,
    /// From bytes to a snapshot.
    Parse,
    /// The transaction.
    Store,
}

impl Stage {
    /// Every stage, in the order of the way of the data.
    pub const ALL: [Self; 5] = [Self::Token, Self::Graph, Self::Download, Self::Parse, Self::Store];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Graph => "graph",
            Self::Download => "download",
            Self::Parse => "parse",
            Self::Store => "store",
        }
    }
}

/// Why a slot that was due was not worked by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A newer slot of the same target took its place, after an outage for example.
    Superseded,
    /// Another replica holds it.
    HeldElsewhere,
    /// The calls that this program may make against this tenant are used up for now.
    Quota,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Superseded, Self::HeldElsewhere, Self::Quota];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::HeldElsewhere => "held_elsewhere",
            Self::Quota => "quota",
        }
    }
}

/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A second call in one process.
    #[error("metrics are already set up")]
    Again,
    /// A fault in the definitions above.
    #[error("metrics cannot be set up: {0}")]
    Build(#[from] metrics_exporter_prometheus::BuildError),
}

/// What has been counted so far.
#[derive(Debug, Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts counting, for the whole process. To be called once; without it the functions below do nothing.
    pub fn install() -> Result<Self, MetricsError> {
        let recorder = recorder()?;
        let metrics = Self(recorder.handle());
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Again)?;
        describe();
        start_at_zero();
        Ok(metrics)
    }

    /// What `act` counts, and nothing else: for tests.
    #[cfg(test)]
    pub fn local(act: impl FnOnce()) -> Self {
        let recorder = recorder().unwrap();
        let metrics = Self(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            describe();
            start_at_zero();
            act();
        });
        metrics
    }

    /// All of it in the text format of Prometheus.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Sums up what histograms have gathered; to be called every minute or so, because nobody may ever scrape.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn recorder() -> Result<PrometheusRecorder, MetricsError> {
    let buckets = Matcher::Full(STAGE_DURATION.to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(buckets, &STAGE_BUCKETS)?.build_recorder())
}

fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; which program this is.");
    describe_counter!(ATTEMPTS, "Attempts that ended, by outcome and error class (none where there was no error).");
    describe_counter!(ROWS, "Rows of stored snapshots: inserted, updated, or unchanged.");
    describe_histogram!(STAGE_DURATION, "Time of one stage of an attempt.");
    describe_counter!(SKIPPED_SLOTS, "Due slots that this process passed over.");
    describe_counter!(FENCED_WRITES, "Writes refused because another process had taken the slot over.");
    describe_counter!(THROTTLED, "Time waited because Microsoft asked for it.");
    describe_counter!(SAME_REFRESH_CHANGED, "Bodies with a known refresh date and other numbers.");
    describe_counter!(REJECTED_PAYLOADS, "Bodies refused whole and kept in quarantine.");
    describe_gauge!(SLOTS_CLAIMED, "Slots this process is working on.");
    describe_gauge!(CLOCK_SKEW, "The clock of Postgres minus the clock of this machine.");
    describe_gauge!(SCHEMA_VERSION, "The newest migration the database has.");
    describe_gauge!(CREDENTIAL_EXPIRY, "When the tenant's certificate or client secret ends, where that is known.");
}

/// Lets series exist before their first event: `increase()` does not see a counter that is born with 1.
fn start_at_zero() {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "revision" => option_env!("M365_LEDGER_REVISION").unwrap_or("unknown"))
        .set(1.0);
    for name in [FENCED_WRITES, THROTTLED, SAME_REFRESH_CHANGED] {
        counter!(name).increment(0);
    }
    gauge!(SLOTS_CLAIMED).set(0.0);
    for reason in SkipReason::ALL {
        counter!(SKIPPED_SLOTS, "reason" => reason.as_str()).increment(0);
    }
    for stage in Stage::ALL {
        // Known, but empty.
        let _ = histogram!(STAGE_DURATION, "stage" => stage.as_str());
    }
    for class in ErrorClass::ALL.into_iter().filter(|class| class.refuses_bodies()) {
        counter!(REJECTED_PAYLOADS, "error_class" => class.as_str()).increment(0);
    }
    for report in catalogue::REPORTS {
        for op in ["inserted", "updated", "unchanged"] {
            counter!(ROWS, "report" => report.name, "op" => op).increment(0);
        }
        for &period in report.periods {
            for (outcome, class) in endings() {
                attempts(report, period, outcome, class).increment(0);
            }
        }
    }
}

/// How an attempt of this process can end.
fn endings() -> impl Iterator<Item = (Outcome, Option<ErrorClass>)> {
    let good = [(Outcome::Stored, None), (Outcome::Unchanged, None), (Outcome::Empty, Some(ErrorClass::EmptyReport))];
    let rejected = ErrorClass::ALL.into_iter().filter(|class| class.refuses_bodies());
    let rejected = rejected.map(|class| (Outcome::Rejected, Some(class)));
    // Of those that refuse a body, some are also seen on the way to one.
    let failed = ErrorClass::ALL.into_iter().filter(|&class| class != ErrorClass::EmptyReport);
    good.into_iter().chain(rejected).chain(failed.map(|class| (Outcome::Failed, Some(class))))
}

fn attempts(report: &'static Report, period: Period, outcome: Outcome, class: Option<ErrorClass>) -> Counter {
    counter!(
        ATTEMPTS,
        "report" => report.name,
        "period" => period.as_str(),
        "outcome" => outcome.as_str(),
        "error_class" => class.map_or(NO_ERROR, ErrorClass::as_str),
    )
}

/// An attempt ended.
pub fn attempt(report: &'static Report, period: Period, outcome: Outcome, class: Option<ErrorClass>) {
    attempts(report, period, outcome, class).increment(1);
}

/// A snapshot was stored.
pub fn rows(report: &'static Report, inserted: u64, updated: u64, unchanged: u64) {
    for (op, count) in [("inserted", inserted), ("updated", updated), ("unchanged", unchanged)] {
        counter!(ROWS, "report" => report.name, "op" => op).increment(count);
    }
}

/// A stage of an attempt took this long, well or not.
pub fn stage(stage: Stage, took: Duration) {
    histogram!(STAGE_DURATION, "stage" => stage.as_str()).record(took);
}

/// Slots that were due were passed over.
pub fn skipped_slots(reason: SkipReason, count: u64) {
    counter!(SKIPPED_SLOTS, "reason" => reason.as_str()).increment(count);
}

/// A write was refused because the slot had been taken over.
pub fn fenced_write() {
    counter!(FENCED_WRITES).increment(1);
}

/// Microsoft asked to wait this long. Counted in whole seconds, rounded up.
pub fn throttled(wait: Duration) {
    counter!(THROTTLED).increment(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
}

/// A known refresh date was served again with other numbers.
pub fn same_refresh_changed() {
    counter!(SAME_REFRESH_CHANGED).increment(1);
}

/// A body was refused.
pub fn rejected_payload(class: ErrorClass) {
    counter!(REJECTED_PAYLOADS, "error_class" => class.as_str()).increment(1);
}

/// A slot was claimed; it counts as claimed until the value is dropped.
#[must_use = "the slot counts as claimed for as long as this lives"]
pub fn slot_claimed() -> SlotClaimed {
    gauge!(SLOTS_CLAIMED).increment(1.0);
    SlotClaimed(())
}

/// See [`slot_claimed`].
#[derive(Debug)]
pub struct SlotClaimed(());

impl Drop for SlotClaimed {
    fn drop(&mut self) {
        gauge!(SLOTS_CLAIMED).decrement(1.0);
    }
}

/// How far the clock of Postgres is ahead of ours.
#[expect(clippy::cast_precision_loss, reason = "a skew of 2^53 ms is not to be told from a larger one")]
pub fn clock_skew(skew: TimeDelta) {
    gauge!(CLOCK_SKEW).set(skew.num_milliseconds() as f64 / 1000.0);
}

/// The newest migration the database has.
#[expect(clippy::cast_precision_loss, reason = "migrations are few")]
pub fn schema_version(version: i64) {
    gauge!(SCHEMA_VERSION).set(version as f64);
}

/// A tenant's credential ends then.
#[expect(clippy::cast_precision_loss, reason = "seconds are counted exactly for the next 285 million years")]
pub fn credential_expiry(tenant: Uuid, end: DateTime<Utc>) {
    gauge!(CREDENTIAL_EXPIRY, "tenant" => tenant.to_string()).set(end.timestamp() as f64);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::report::catalogue::OFFICE365_ACTIVE_USER_COUNTS as REPORT;

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::local(|| {
            attempt(&REPORT, Period::D7, Outcome::Stored, None);
            attempt(&REPORT, Period::D7, Outcome::Failed, Some(ErrorClass::Throttled));
            rows(&REPORT, 7, 0, 3);
            stage(Stage::Parse, Duration::from_millis(3));
            skipped_slots(SkipReason::Superseded, 4);
            fenced_write();
            throttled(Duration::from_millis(1500));
            same_refresh_changed();
            rejected_payload(ErrorClass::BadRow);
            std::mem::forget(slot_claimed());
            drop(slot_claimed());
            clock_skew(TimeDelta::milliseconds(-250));
            schema_version(2);
            credential_expiry(Uuid::from_u128(1), DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        });
        let text = metrics.render();
        for line in [
            r#"m365_ledger_attempts_total{report="office365_active_user_counts",period="D7",outcome="stored",error_class="none"} 1"#,
            r#"m365_ledger_attempts_total{report="office365_active_user_counts",period="D7",outcome="failed",error_class="throttled"} 1"#,
            r#"m365_ledger_attempts_total{report="office365_active_user_counts",period="D180",outcome="failed",error_class="auth_forbidden"} 0"#,
            r#"m365_ledger_rows_total{report="office365_active_user_counts",op="inserted"} 7"#,
            r#"m365_ledger_stage_duration_seconds_bucket{stage="parse",le="0.005"} 1"#,
            r#"m365_ledger_skipped_slots_total{reason="superseded"} 4"#,
            "m365_ledger_fenced_writes_total 1",
            "m365_ledger_throttled_seconds_total 2",
            "m365_ledger_same_refresh_changed_total 1",
            r#"m365_ledger_rejected_payloads_total{error_class="bad_row"} 1"#,
            "m365_ledger_slots_claimed 1",
            "m365_ledger_clock_skew_seconds -0.25",
            "m365_ledger_schema_version 2",
            r#"m365_ledger_credential_expiry_timestamp_seconds{tenant="00000000-0000-0000-0000-000000000001"} 1800000000"#,
        ] {
            assert!(text.lines().any(|have| have == line), "no `{line}` in:\n{text}");
        }
        let described = text.lines().filter(|line| line.starts_with("# HELP")).count();
        assert_eq!(described, 13, "every metric is described:\n{text}");
        assert!(text.contains("m365_ledger_build_info{version=\""));
    }

    /// A counter that is born with its first event hides that event from `increase()`.
    #[test]
    fn every_closed_label_set_stands_there_before_its_first_event() {
        let series = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
        };
        let fresh = Metrics::local(|| {}).render();
        for line in fresh.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let zero = line.ends_with(" 0") || line.starts_with("m365_ledger_build_info");
            assert!(zero, "{line}");
        }
        let used = Metrics::local(|| {
            for report in catalogue::REPORTS {
                for &period in report.periods {
                    attempt(report, period, Outcome::Stored, None);
                    attempt(report, period, Outcome::Unchanged, None);
                    attempt(report, period, Outcome::Empty, Some(ErrorClass::EmptyReport));
                    for class in ErrorClass::ALL.into_iter().filter(|&class| class != ErrorClass::EmptyReport) {
                        attempt(report, period, Outcome::Failed, Some(class));
                        if class.refuses_bodies() {
                            attempt(report, period, Outcome::Rejected, Some(class));
                            rejected_payload(class);
                        }
                    }
                }
                rows(report, 1, 1, 1);
            }
            for each in Stage::ALL {
                stage(each, Duration::from_secs(1));
            }
            for reason in SkipReason::ALL {
                skipped_slots(reason, 1);
            }
            fenced_write();
            throttled(Duration::from_secs(1));
            same_refresh_changed();
            drop(slot_claimed());
        });
        assert_eq!(series(&used.render()), series(&fresh));
        assert!(fresh.contains("m365_ledger_rejected_payloads_total{error_class=\"bad_row\"} 0\n"), "{fresh}");
    }
}
