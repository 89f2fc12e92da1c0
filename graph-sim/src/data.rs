//! The figures, and the bytes they are served as.
//!
//! Every figure is a pure function of the tenant's seed and size, the report date, the refresh date and the revision,
//! so that a test can ask what was served at any time, and the same question always has the same answer.

use std::{collections::BTreeSet, fmt::Write};

use bytes::Bytes;
use chrono::{Datelike, Days, NaiveDate, Weekday};

use crate::config::{HeaderGeneration, Period};

/// The columns of [`Figures`], in order: the names the ledger stores them under.
pub const COLUMNS: [&str; 7] =
    ["office_365", "exchange", "onedrive", "sharepoint", "skype_for_business", "yammer", "teams"];

/// One day's active users in the order of [`COLUMNS`]; `None` is a blank cell, which is not zero.
pub type Figures = [Option<i64>; 7];

/// Report dates younger than this many days (seen from the refresh) are still being counted.
const UNSETTLED_DAYS: i64 = 3;
/// A reissue of one refresh corrects this many of its report dates.
const CORRECTED_DAYS: i64 = 7;

/// Whose figures, and as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) seed: u64,
    pub(crate) users: u64,
    pub(crate) refresh: NaiveDate,
    pub(crate) revision: u32,
}

impl Edition {
    /// The rows of one body, oldest first, without the days in `removed`.
    pub(crate) fn rows(&self, period: Period, removed: &BTreeSet<NaiveDate>) -> Vec<(NaiveDate, Figures)> {
        let first = self.refresh - Days::new(u64::from(period.days()) - 1);
        first
            .iter_days()
            .take(usize::from(period.days()))
            .filter(|date| !removed.contains(date))
            .map(|date| (date, self.figures(date)))
            .collect()
    }

    /// The figures of one report date as this edition has them.
    fn figures(&self, date: NaiveDate) -> Figures {
        let age = (self.refresh - date).num_days();
        let mut figures = self.settled(date);
        for (column, figure) in figures.iter_mut().enumerate() {
            if let Some(figure) = figure {
                *figure = whole(self.completeness(date, age, column) * real(*figure));
                if age < CORRECTED_DAYS {
                    *figure += i64::from(self.revision);
                }
            }
        }
        // `Office 365` counts who was active in any product: never fewer than in one of them.
        figures[0] = figures.iter().copied().max().flatten();
        figures
    }

    /// The figures a report date has once all of it is counted.
    fn settled(&self, date: NaiveDate) -> Figures {
        let weekend = matches!(date.weekday(), Weekday::Sat | Weekday::Sun);
        let days = NaiveDate::from_ymd_opt(2024, 1, 1).map_or(0, |start| (date - start).num_days());
        let years = real(days) / 365.0;
        let staff = f64::from(u32::try_from(self.users).unwrap_or(u32::MAX)) * (1.0 + 0.03 * years).clamp(0.3, 3.0);
        let active = staff * weekday(date) * season(date);
        let share = |column: usize, share: f64| active * share * (0.97 + 0.06 * self.chance(date, column));

        let exchange = share(1, 0.84);
        let onedrive = share(2, (0.36 + 0.03 * years).clamp(0.1, 0.7));
        let sharepoint = share(3, (0.31 + 0.02 * years).clamp(0.1, 0.6));
        let skype = share(4, 0.06 * (-0.7 * years.max(0.0)).exp2());
        let yammer = share(5, 0.012);
        let teams = share(6, (0.58 + 0.06 * years).clamp(0.0, 0.9));
        let any = exchange.max(teams) * (1.05 + 0.03 * self.chance(date, 0));

        // Retired long ago: some tenants have nothing but blanks left, the others have gaps.
        let skype_blank = weekend || self.seed.is_multiple_of(3) || self.chance(date, 14) < 0.4;
        [
            Some(whole(any)),
            Some(whole(exchange)),
            Some(whole(onedrive)),
            Some(whole(sharepoint)),
            (!skype_blank).then(|| whole(skype)),
            (!weekend).then(|| whole(yammer)),
            Some(whole(teams)),
        ]
    }

    /// Which part of a report date is counted `age` days later.
    fn completeness(&self, date: NaiveDate, age: i64, column: usize) -> f64 {
        let luck = self.chance(date, 21 + column);
        match age {
            UNSETTLED_DAYS.. => 1.0,
            2 => 0.94 + 0.03 * luck,
            1 => 0.80 + 0.12 * luck,
            _ => 0.60 + 0.15 * luck,
        }
    }

    /// A number in 0..1 that only depends on tenant, day and `what`.
    fn chance(&self, date: NaiveDate, what: usize) -> f64 {
        let day = u64::from(date.num_days_from_ce().unsigned_abs());
        let what = u64::try_from(what).unwrap_or(0);
        let mixed = mix(mix(mix(self.seed) ^ day) ^ what);
        f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

/// The bytes of one body: BOM, header, CRLF after every line.
pub(crate) fn csv(rows: &[(NaiveDate, Figures)], header: &HeaderGeneration, edition: Edition, period: Period) -> Bytes {
    let mut text = String::with_capacity(160 + rows.len() * 72);
    text.push_str("\u{feff}Report Refresh Date,Office 365,Exchange,OneDrive,SharePoint,Skype For Business,Yammer");
    match header {
        HeaderGeneration::Today => text.push_str(",Teams"),
        HeaderGeneration::WithoutTeams => {}
        HeaderGeneration::Extra(name) => {
            text.push_str(",Teams,");
            text.push_str(name);
        }
    }
    text.push_str(",Report Date,Report Period\r\n");
    let refresh = edition.refresh.to_string();
    let columns = if *header == HeaderGeneration::WithoutTeams { 6 } else { 7 };
    for (date, figures) in rows {
        text.push_str(&refresh);
        for figure in &figures[..columns] {
            push_cell(&mut text, *figure);
        }
        if matches!(header, HeaderGeneration::Extra(_)) {
            push_cell(&mut text, figures[6].map(|teams| teams / 5));
        }
        // Writing to a String cannot fail.
        let _ = write!(text, ",{date},{}\r\n", period.days());
    }
    text.into()
}

fn push_cell(text: &mut String, figure: Option<i64>) {
    text.push(',');
    if let Some(figure) = figure {
        let _ = write!(text, "{figure}");
    }
}

/// The part of the staff that works on such a day of the week.
fn weekday(date: NaiveDate) -> f64 {
    match date.weekday() {
        Weekday::Mon => 0.94,
        Weekday::Tue | Weekday::Wed => 0.97,
        Weekday::Thu => 0.96,
        Weekday::Fri => 0.89,
        Weekday::Sat => 0.17,
        Weekday::Sun => 0.13,
    }
}

/// The part of them that is not on holiday.
fn season(date: NaiveDate) -> f64 {
    match (date.month(), date.day()) {
        (12, 23..) | (1, 1..=2) => 0.35,
        (7, 15..) | (8, _) => 0.86,
        _ => 1.0,
    }
}

/// One round of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "figures and day counts stay far below 2^52")]
fn real(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "figures stay far below 2^52")]
fn whole(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition(refresh: &str, revision: u32) -> Edition {
        Edition { seed: 1, users: 1_000, refresh: refresh.parse().unwrap(), revision }
    }

    #[test]
    fn only_recent_days_differ_between_refreshes() {
        let none = BTreeSet::new();
        let older = edition("2026-10-01", 0).rows(Period::D30, &none);
        let newer = edition("2026-10-02", 0).rows(Period::D30, &none);
        let changed: Vec<_> = older[1..].iter().zip(&newer).filter(|(old, new)| old != new).map(|(o, _)| o.0).collect();
        let expected: Vec<NaiveDate> =
            ["2026-09-29", "2026-09-30", "2026-10-01"].iter().map(|date| date.parse().unwrap()).collect();
        assert_eq!(changed, expected);
        for (old, new) in older[1..].iter().zip(&newer) {
            assert_eq!(old.0, new.0);
            assert!(old.1[0] <= new.1[0], "{} shrank", old.0);
        }
    }

    #[test]
    fn the_union_is_never_smaller_than_a_part_and_blanks_are_not_zero() {
        let rows = edition("2026-10-01", 0).rows(Period::D180, &BTreeSet::new());
        assert_eq!(rows.len(), 180);
        for (date, figures) in &rows {
            assert!(figures.iter().all(|figure| *figure <= figures[0]), "{date}: {figures:?}");
            assert!(figures[0] > Some(0));
        }
        assert!(rows.iter().any(|(_, figures)| figures[4].is_some()));
        assert!(rows.iter().any(|(_, figures)| figures[4].is_none()));
        assert!(rows.iter().any(|(_, figures)| figures[5].is_none()));
    }

    #[test]
    fn a_reissue_changes_every_recent_figure() {
        let none = BTreeSet::new();
        let first = edition("2026-10-01", 0).rows(Period::D7, &none);
        let second = edition("2026-10-01", 1).rows(Period::D7, &none);
        assert!(first.iter().zip(&second).all(|(first, second)| first.0 == second.0 && first.1 != second.1));
    }
}
