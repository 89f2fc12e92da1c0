//! How one tenant stands, all its targets together.

use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    http::NextDue,
    store::status::{Reason, Standing, TargetStatus, reasons},
};

/// How one tenant stands. Borrows from its targets, of which there is at least one.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'t> {
    /// Its targets.
    pub targets: &'t [TargetStatus],
    /// That of its worst target.
    pub standing: Standing,
    /// Of the targets that stand so, when the one that waits longest was last fetched well.
    pub last_success: Option<DateTime<Utc>>,
}

/// A reason, ready to be shown.
#[derive(Debug, PartialEq)]
pub struct Told {
    /// Of which periods; `None`: of all.
    pub periods: Option<String>,
    /// Why, in one word.
    pub error_class: Option<String>,
    /// What to do.
    pub advice: Option<&'static str>,
}

impl Told {
    fn new(reason: &Reason<'_>, all_periods: usize) -> Self {
        Self {
            periods: (reason.periods.len() < all_periods).then(|| reason.periods.join(", ")),
            error_class: reason.error_class.map(str::to_owned),
            advice: reason.advice,
        }
    }

    /// The advice as it stands behind the class and a colon; without a class it begins the sentence.
    pub fn sentence(&self) -> Option<String> {
        let advice = self.advice?;
        let mut letters = advice.chars();
        match (&self.error_class, letters.next()) {
            (None, Some(first)) => Some(first.to_uppercase().chain(letters).collect()),
            _ => Some(advice.to_owned()),
        }
    }
}

impl<'t> Summary<'t> {
    /// Of targets in order of the tenant.
    pub fn all(targets: &'t [TargetStatus]) -> impl Iterator<Item = Self> {
        targets.chunk_by(|a, b| a.tenant_id == b.tenant_id).filter_map(Self::of)
    }

    /// Of one tenant's targets; `None` when there are none.
    pub fn of(targets: &'t [TargetStatus]) -> Option<Self> {
        let standing = targets.iter().map(TargetStatus::standing).min()?;
        let last_success = targets.iter().filter(|target| target.standing() == standing);
        // None is less than Some: never is longest ago.
        let last_success = last_success.map(|target| target.last_success_at).min().flatten();
        Some(Self { targets, standing, last_success })
    }

    /// The targets that stand worst.
    pub fn affected(self) -> impl Iterator<Item = &'t TargetStatus> {
        self.targets.iter().filter(move |target| target.standing() == self.standing)
    }

    /// The newest refresh date held of any target.
    pub fn newest_refresh(self) -> Option<(NaiveDate, i32)> {
        self.targets.iter().filter_map(|target| Some((target.newest_refresh_date?, target.days_behind?))).max()
    }

    /// The earliest time at which a target is due.
    pub fn next_due(self, next: &NextDue) -> Option<DateTime<Utc>> {
        self.targets.iter().filter_map(|target| next.of(target)).min()
    }

    /// Why it stands so: the most common reason first.
    pub fn reasons(self) -> Vec<Told> {
        let all = self.targets.len();
        reasons(self.affected()).iter().map(|reason| Told::new(reason, all)).collect()
    }
}
