//! How a target stands, in the words that people are told: on the page, in the terminal and in downloads alike.

use std::cmp::Reverse;

use super::TargetStatus;
use crate::{
    outcome::{ErrorClass, Retry},
    report::Period,
};

/// How a target stands, the worst first. The contract's `state` knows whether figures are fresh; this knows as well
/// whether somebody has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Figures are late by our fault, or will be unless somebody acts.
    NeedsAttention,
    /// Nothing was tried yet.
    NotFetched,
    /// Microsoft had no rows to give yet.
    NoData,
    /// We succeed, but Microsoft has published nothing new for days.
    WaitsForMicrosoft,
    /// As fresh as Microsoft's own.
    UpToDate,
}

/// What a person is to think of a standing; also the filter of the overview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Do something.
    Attention,
    /// Wait.
    Waiting,
    /// Nothing.
    Fresh,
}

impl Standing {
    /// What people read.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NeedsAttention => "Needs attention",
            Self::NotFetched => "Not fetched yet",
            Self::NoData => "No data yet",
            Self::WaitsForMicrosoft => "Waiting for Microsoft",
            Self::UpToDate => "Up to date",
        }
    }

    /// Whether to do something about it.
    pub const fn grade(self) -> Grade {
        match self {
            Self::NeedsAttention => Grade::Attention,
            Self::NotFetched | Self::NoData | Self::WaitsForMicrosoft => Grade::Waiting,
            Self::UpToDate => Grade::Fresh,
        }
    }
}

impl TargetStatus {
    /// How it stands. An error that only a person can end needs attention before the figures are old.
    pub fn standing(&self) -> Standing {
        let needs_human = self.error_class().is_some_and(|class| class.retry() == Retry::NeedsHuman);
        match (self.state.as_str(), self.last_outcome.as_deref()) {
            _ if needs_human => Standing::NeedsAttention,
            ("ok", _) => Standing::UpToDate,
            ("late", _) => Standing::WaitsForMicrosoft,
            ("never", None) => Standing::NotFetched,
            ("never", Some("empty")) => Standing::NoData,
            _ => Standing::NeedsAttention,
        }
    }

    /// Why the last attempt failed.
    pub fn error_class(&self) -> Option<ErrorClass> {
        ErrorClass::named(self.last_error_class.as_deref()?)
    }

    /// What to do, or why nothing is to be done; `None` when all is well.
    pub fn advice(&self) -> Option<&'static str> {
        match (self.standing(), self.error_class()) {
            (Standing::NeedsAttention, None) => Some(
                "nothing has fetched it for too long: check that the service runs and has this tenant in its settings",
            ),
            (_, Some(class)) => Some(class.advice()),
            (Standing::WaitsForMicrosoft, None) => Some(
                "nothing to do: it is fetched in time, but Microsoft has published nothing newer; see its service health \
                 page if it lasts",
            ),
            (Standing::NotFetched, None) => Some("nothing to do: it is fetched when it is due"),
            (Standing::NoData | Standing::UpToDate, None) => None,
        }
    }
}

/// What several targets of a tenant have in common: what is wrong, or waited for.
#[derive(Debug, PartialEq)]
pub struct Reason<'t> {
    /// The periods of these targets.
    pub periods: Vec<String>,
    /// Why, in one word.
    pub error_class: Option<&'t str>,
    /// What to do.
    pub advice: Option<&'static str>,
}

/// Why targets of one tenant stand as they do: the most common reason first; nothing about those that are well.
pub fn reasons<'t>(targets: impl IntoIterator<Item = &'t TargetStatus>) -> Vec<Reason<'t>> {
    let mut reasons: Vec<Reason<'t>> = Vec::new();
    for target in targets {
        let (error_class, advice) = (target.last_error_class.as_deref(), target.advice());
        if error_class.is_none() && advice.is_none() {
            continue;
        }
        let days = target.report_period;
        let period = Period::from_days(days).map_or_else(|| format!("{days} days"), |period| period.to_string());
        let same = |known: &&mut Reason<'_>| known.error_class == error_class && known.advice == advice;
        match reasons.iter_mut().find(same) {
            Some(known) => known.periods.push(period),
            None => reasons.push(Reason { periods: vec![period], error_class, advice }),
        }
    }
    reasons.sort_by_key(|reason| Reverse(reason.periods.len()));
    reasons
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn target(state: &str, outcome: Option<&str>, class: Option<&str>) -> TargetStatus {
        TargetStatus {
            tenant_id: Uuid::nil(),
            tenant_name: String::new(),
            report: String::new(),
            report_period: 7,
            state: state.to_owned(),
            newest_refresh_date: None,
            days_behind: None,
            last_success_at: None,
            last_attempt_at: None,
            last_outcome: outcome.map(str::to_owned),
            last_error_class: class.map(str::to_owned),
            last_error_message: None,
            last_due_at: None,
            next_try_at: None,
            snapshots: 0,
            interval_seconds: 60,
        }
    }

    #[test]
    fn every_state_has_its_standing_and_its_advice() {
        for (state, outcome, class, standing, advice) in [
            ("ok", Some("stored"), None, Standing::UpToDate, None),
            ("ok", Some("failed"), Some("throttled"), Standing::UpToDate, Some("nothing to do")),
            ("ok", Some("failed"), Some("auth_invalid_client"), Standing::NeedsAttention, Some("tenant.client_id")),
            ("late", Some("unchanged"), None, Standing::WaitsForMicrosoft, Some("nothing to do")),
            ("late", Some("failed"), Some("auth_forbidden"), Standing::NeedsAttention, Some("Reports.Read.All")),
            ("stale", Some("failed"), Some("connection"), Standing::NeedsAttention, Some("DNS")),
            ("stale", Some("stored"), None, Standing::NeedsAttention, Some("service runs")),
            ("never", None, None, Standing::NotFetched, Some("when it is due")),
            ("never", Some("empty"), Some("empty_report"), Standing::NoData, Some("no rows")),
            ("never", Some("failed"), Some("graph_5xx"), Standing::NeedsAttention, Some("Microsoft's side")),
            ("never", Some("failed"), Some("of_a_later_version"), Standing::NeedsAttention, Some("service runs")),
        ] {
            let target = target(state, outcome, class);
            assert_eq!(target.standing(), standing, "{target:?}");
            let told = target.advice();
            assert!(
                told.is_some() == advice.is_some() && told.unwrap_or("").contains(advice.unwrap_or("")),
                "{target:?}"
            );
        }
    }

    #[test]
    fn a_reason_of_several_targets_is_told_once() {
        let mut targets = ["timeout", "tls", "tls"].map(|class| target("stale", Some("failed"), Some(class))).to_vec();
        targets.push(target("ok", Some("stored"), None));
        for (target, days) in targets.iter_mut().zip([180, 90, 30, 7]) {
            target.report_period = days;
        }
        let told = reasons(&targets);
        let told: Vec<_> = told.iter().map(|reason| (reason.periods.join(", "), reason.error_class)).collect();
        assert_eq!(told, [("D90, D30".to_owned(), Some("tls")), ("D180".to_owned(), Some("timeout"))]);
    }

    #[test]
    fn the_worst_comes_first() {
        let order = [
            Standing::NeedsAttention,
            Standing::NotFetched,
            Standing::NoData,
            Standing::WaitsForMicrosoft,
            Standing::UpToDate,
        ];
        assert!(order.is_sorted() && order.map(Standing::grade).is_sorted());
    }
}
