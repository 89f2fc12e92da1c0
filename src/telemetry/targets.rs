//! Metrics per target, written out from what the ledger holds.
//!
//! They are text, not gauges of the recorder: a gauge once set stays for ever, while a target may leave the configuration
//! or the hundred that are shown.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

/// With more tenants than this, only so many have series of their own: those without success for longest.
pub const MOST_TENANTS: usize = 100;

/// The states of a target that are always counted, also when no target is in them.
const STATES: [&str; 4] = ["ok", "late", "stale", "never"];

/// What is shown of one target.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The tenant's ID, as text.
    pub tenant: &'a str,
    /// The report's name.
    pub report: &'a str,
    /// The period, such as `D7`.
    pub period: &'a str,
    /// `ok`, `late`, `stale` or `never`.
    pub state: &'a str,
    /// The last time the data were as fresh as Microsoft's.
    pub last_success: Option<DateTime<Utc>>,
    /// The last time an attempt ended.
    pub last_attempt: Option<DateTime<Utc>>,
    /// The next time it will be fetched.
    pub next_due: Option<DateTime<Utc>>,
    /// The newest refresh date held.
    pub newest_refresh_date: Option<NaiveDate>,
}

/// One gauge per target: its name, its meaning and where its value comes from.
type Family = (&'static str, &'static str, fn(&Target<'_>) -> Option<DateTime<Utc>>);

const FAMILIES: [Family; 4] = [
    (
        "m365_ledger_last_success_timestamp_seconds",
        "When the data were last known to be as fresh as Microsoft's.",
        |target| target.last_success,
    ),
    ("m365_ledger_last_attempt_timestamp_seconds", "When the last attempt ended, well or not.", |target| {
        target.last_attempt
    }),
    ("m365_ledger_next_due_timestamp_seconds", "When the target is due next.", |target| target.next_due),
    (
        "m365_ledger_newest_refresh_date_timestamp_seconds",
        "Midnight UTC of the newest refresh date held: the age of the data, apart from that of the job.",
        |target| target.newest_refresh_date.map(|date| date.and_time(NaiveTime::MIN).and_utc()),
    ),
];

/// The metrics of all targets in the text format of Prometheus. An empty slice gives the aggregates only.
pub fn render(targets: &[Target<'_>]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut out, targets);
    out
}

fn write_all(out: &mut String, targets: &[Target<'_>]) -> std::fmt::Result {
    let mut states: BTreeMap<&str, usize> = STATES.into_iter().map(|state| (state, 0)).collect();
    for target in targets {
        *states.entry(target.state).or_default() += 1;
    }
    head(out, "m365_ledger_targets", "Targets by state.")?;
    for (state, count) in states {
        writeln!(out, "m365_ledger_targets{{state=\"{}\"}} {count}", escaped(state))?;
    }

    if let Some(oldest) = targets.iter().filter_map(|target| target.last_success).min() {
        let name = "m365_ledger_oldest_success_timestamp_seconds";
        head(out, name, "The last success of the target that has waited longest for one.")?;
        writeln!(out, "{name} {}", oldest.timestamp())?;
    }

    let shown = stalest_tenants(targets);
    for (name, help, value) in FAMILIES {
        head(out, name, help)?;
        for target in targets.iter().filter(|target| shown.contains(target.tenant)) {
            let Some(at) = value(target) else { continue };
            writeln!(
                out,
                "{name}{{tenant=\"{}\",report=\"{}\",period=\"{}\"}} {}",
                escaped(target.tenant),
                escaped(target.report),
                escaped(target.period),
                at.timestamp()
            )?;
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")
}

/// At most [`MOST_TENANTS`], those first whose oldest success lies furthest back; never is before everything.
fn stalest_tenants<'a>(targets: &[Target<'a>]) -> BTreeSet<&'a str> {
    let mut oldest: BTreeMap<&str, Option<DateTime<Utc>>> = BTreeMap::new();
    for target in targets {
        oldest
            .entry(target.tenant)
            .and_modify(|at| *at = (*at).min(target.last_success))
            .or_insert(target.last_success);
    }
    let mut tenants: Vec<_> = oldest.into_iter().collect();
    tenants.sort_by_key(|&(tenant, at)| (at, Reverse(tenant)));
    tenants.into_iter().take(MOST_TENANTS).map(|(tenant, _)| tenant).collect()
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::{MOST_TENANTS, Target, render};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn target(tenant: &str) -> Target<'_> {
        Target {
            tenant,
            report: "r",
            period: "D7",
            state: "ok",
            last_success: Some(at(1_000)),
            last_attempt: Some(at(2_000)),
            next_due: None,
            newest_refresh_date: Some(at(86_400 * 3).date_naive()),
        }
    }

    #[test]
    fn a_target_has_its_timestamps_and_nothing_that_is_not_known() {
        let text = render(&[target("t")]);
        for line in [
            r#"m365_ledger_targets{state="ok"} 1"#,
            r#"m365_ledger_targets{state="stale"} 0"#,
            "m365_ledger_oldest_success_timestamp_seconds 1000",
            r#"m365_ledger_last_success_timestamp_seconds{tenant="t",report="r",period="D7"} 1000"#,
            r#"m365_ledger_last_attempt_timestamp_seconds{tenant="t",report="r",period="D7"} 2000"#,
            r#"m365_ledger_newest_refresh_date_timestamp_seconds{tenant="t",report="r",period="D7"} 259200"#,
        ] {
            assert!(text.lines().any(|have| have == line), "no `{line}` in:\n{text}");
        }
        assert!(!text.contains("next_due_timestamp_seconds{"));
    }

    #[test]
    fn of_very_many_tenants_the_stalest_are_shown_and_all_are_counted() {
        let names: Vec<String> = (0..MOST_TENANTS + 50).map(|n| format!("t{n:03}")).collect();
        let mut targets: Vec<_> = names.iter().map(|name| target(name)).collect();
        targets[140].last_success = None;
        targets[141].last_success = Some(at(1_000) - TimeDelta::days(1));
        let text = render(&targets);
        let shown = text.lines().filter(|line| line.starts_with("m365_ledger_last_attempt_timestamp_seconds{")).count();
        assert_eq!(shown, MOST_TENANTS);
        assert!(text.contains("\"t140\"") && text.contains("\"t141\""));
        assert!(text.contains(r#"m365_ledger_targets{state="ok"} 150"#));
    }

    #[test]
    fn labels_are_escaped() {
        let text = render(&[target("a\"} 1\nforged 2\\")]);
        assert!(text.contains(r#"tenant="a\"} 1\nforged 2\\""#), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("forged")));
    }
}
