//! What Microsoft changed: one row for each day of each of the last refreshes, one column for each product.

use chrono::NaiveDate;

use super::{figure, number, thousands, weekday};
use crate::store::status::{PRODUCTS, tenant::Change};

/// Refreshes shown; those before are in the view.
const REFRESHES: usize = 4;
/// Days of one refresh shown.
const DAYS: usize = 10;

/// The list, ready to be laid out.
#[derive(Debug, Default)]
pub struct Changes {
    /// Products of which anything changed.
    pub products: Vec<String>,
    /// The newest refresh first.
    pub refreshes: Vec<Refresh>,
}

/// What one refresh said otherwise.
#[derive(Debug)]
pub struct Refresh {
    /// Its date.
    pub date: NaiveDate,
    /// The newest day first.
    pub days: Vec<ChangedDay>,
    /// How many days are left out.
    pub more: Option<String>,
}

/// What it said otherwise of one day.
#[derive(Debug)]
pub struct ChangedDay {
    date: NaiveDate,
    compared_with: NaiveDate,
    reissue: bool,
    /// The day.
    pub day: String,
    /// What it is compared with.
    pub before: String,
    /// One for each of the products.
    pub cells: Vec<Option<Cell>>,
}

/// A figure before and after.
#[derive(Debug, PartialEq)]
pub struct Cell {
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
    /// How much more or less, with its sign.
    pub delta: Option<String>,
}

impl Changes {
    /// From changes in the order of refresh and day, the newest first, in which the first of several periods counts.
    pub fn new(changes: &[Change]) -> Self {
        let mut products: Vec<&str> = Vec::new();
        for change in changes {
            if !products.contains(&change.product.as_str()) {
                products.push(&change.product);
            }
        }
        products.sort_by_key(|product| {
            let place = PRODUCTS.iter().position(|(name, _)| name == product);
            (place.unwrap_or(PRODUCTS.len()), *product)
        });
        let mut refreshes: Vec<Refresh> = Vec::new();
        for change in changes {
            if refreshes.last().is_none_or(|refresh| refresh.date != change.new_refresh_date) {
                if refreshes.len() == REFRESHES {
                    break;
                }
                refreshes.push(Refresh { date: change.new_refresh_date, days: Vec::new(), more: None });
            }
            if let Some(refresh) = refreshes.last_mut() {
                refresh.note(change, &products);
            }
        }
        for refresh in &mut refreshes {
            refresh.more = refresh.days.len().checked_sub(DAYS + 1).map(|beyond| number(beyond + 1));
            refresh.days.truncate(DAYS);
        }
        let name = |product: &str| {
            let known = PRODUCTS.iter().find(|(name, _)| *name == product);
            known.map_or(product, |(_, name)| name).to_owned()
        };
        Self { products: products.into_iter().map(name).collect(), refreshes }
    }
}

impl Refresh {
    fn note(&mut self, change: &Change, products: &[&str]) {
        let reissue = change.kind == "reissue";
        let key = (change.report_date, change.old_refresh_date, reissue);
        let known = self.days.iter().position(|day| (day.date, day.compared_with, day.reissue) == key);
        let place = known.unwrap_or(self.days.len());
        if known.is_none() {
            self.days.push(ChangedDay::new(change, reissue, products.len()));
        }
        let day = &mut self.days[place];
        if let Some(cell) = products.iter().position(|product| *product == change.product)
            && day.cells[cell].is_none()
        {
            day.cells[cell] = Some(Cell::new(change.old_value, change.new_value));
        }
    }
}

impl ChangedDay {
    /// With nothing changed yet.
    fn new(change: &Change, reissue: bool, products: usize) -> Self {
        Self {
            date: change.report_date,
            compared_with: change.old_refresh_date,
            reissue,
            day: weekday(change.report_date),
            before: if reissue {
                "the same refresh, served before".to_owned()
            } else {
                format!("refresh {}", change.old_refresh_date)
            },
            cells: (0..products).map(|_| None).collect(),
        }
    }
}

impl Cell {
    fn new(old: Option<i64>, new: Option<i64>) -> Self {
        let delta = old.zip(new).and_then(|(old, new)| new.checked_sub(old));
        let delta = delta.map(|delta| {
            let sign = if delta > 0 { "+" } else { "\u{2212}" };
            format!("{sign}{}", thousands(i64::try_from(delta.unsigned_abs()).unwrap_or(i64::MAX)))
        });
        Self { old: figure(old), new: figure(new), delta }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(refresh: &str, day: &str, product: &str, old: Option<i64>, new: Option<i64>) -> Change {
        let new_refresh_date: NaiveDate = refresh.parse().unwrap();
        Change {
            report_date: day.parse().unwrap(),
            product: product.to_owned(),
            old_refresh_date: new_refresh_date.pred_opt().unwrap(),
            new_refresh_date,
            old_value: old,
            new_value: new,
            kind: "refresh".to_owned(),
        }
    }

    #[test]
    fn a_row_for_each_day_and_a_column_for_each_product() {
        let mut again = change("2026-11-22", "2026-11-20", "teams", Some(690), Some(1_700));
        again.kind = "reissue".to_owned();
        again.old_refresh_date = again.new_refresh_date;
        let changes = Changes::new(&[
            change("2026-11-22", "2026-11-21", "teams", Some(100), Some(120)),
            change("2026-11-22", "2026-11-21", "Loop", None, Some(7)),
            change("2026-11-22", "2026-11-21", "office_365", Some(1_200), Some(1_100)),
            // A shorter period, which comes later and does not count.
            change("2026-11-22", "2026-11-21", "teams", Some(100), Some(999)),
            again,
            change("2026-11-21", "2026-11-20", "teams", Some(1), None),
        ]);
        assert_eq!(changes.products, ["Office 365", "Teams", "Loop"]);
        assert_eq!(changes.refreshes.len(), 2);
        let newest = &changes.refreshes[0];
        assert_eq!(newest.days.len(), 2);
        assert_eq!(
            (newest.days[0].day.as_str(), newest.days[0].before.as_str()),
            ("Sat 2026-11-21", "refresh 2026-11-21")
        );
        let cell = |old: &str, new: &str, delta: Option<&str>| {
            Some(Cell { old: old.to_owned(), new: new.to_owned(), delta: delta.map(str::to_owned) })
        };
        let expected =
            [cell("1,200", "1,100", Some("\u{2212}100")), cell("100", "120", Some("+20")), cell("\u{2013}", "7", None)];
        assert_eq!(newest.days[0].cells, expected);
        assert_eq!(newest.days[1].before, "the same refresh, served before");
        assert_eq!(newest.days[1].cells, [None, cell("690", "1,700", Some("+1,010")), None]);
        assert_eq!(changes.refreshes[1].days[0].cells[1], cell("1", "\u{2013}", None));
    }

    #[test]
    fn the_list_is_bounded() {
        let changes: Vec<Change> = (1..=28)
            .rev()
            .flat_map(|refresh| {
                (1..=28).rev().map(move |day| {
                    change(&format!("2026-11-{refresh:02}"), &format!("2026-10-{day:02}"), "teams", Some(1), Some(2))
                })
            })
            .collect();
        let changes = Changes::new(&changes);
        assert_eq!(
            changes.refreshes.iter().map(|refresh| (refresh.days.len(), refresh.more.as_deref())).collect::<Vec<_>>(),
            [(10, Some("18")); 4]
        );
        assert!(Changes::new(&[]).refreshes.is_empty());
    }
}
