//! Where the periods of one refresh may disagree on a day: noted here, so that nobody has to compare all facts to find out.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Incoming, current::Current, rows_of};
use crate::{
    report::{Report, Row},
    store::{StoreError, rows::statement},
};

/// A day of a refresh.
type Day = (Uuid, NaiveDate, NaiveDate);

/// Notes the days on which fresh rows differ from another row of their refresh. `current` is as it was before them.
pub(super) async fn enter_contested(
    connection: &mut PgConnection,
    report: &'static Report,
    fresh: &[&Incoming<'_>],
    current: &Current,
) -> Result<(), StoreError> {
    let days = contested(fresh, current);
    if days.is_empty() {
        return Ok(());
    }
    let sql = statement(
        report,
        "INSERT INTO {contested} SELECT * FROM unnest($1::uuid[], $2::date[], $3::date[]) ON CONFLICT DO NOTHING",
    );
    sqlx::query(sql)
        .bind(days.iter().map(|day| day.0).collect::<Vec<_>>())
        .bind(days.iter().map(|day| day.1).collect::<Vec<_>>())
        .bind(days.iter().map(|day| day.2).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(StoreError::during("entering contested days"))?;
    Ok(())
}

/// All that are held of a day's newest refresh either say what its current row says, or are noted already. So a row of
/// that refresh need only be compared with the current one; of a newer refresh nothing is held; and a row of an older one
/// is noted without a look, which does no harm.
fn contested(fresh: &[&Incoming<'_>], current: &Current) -> BTreeSet<Day> {
    let mut days = BTreeSet::new();
    let mut seen: HashMap<Day, &Row> = HashMap::new();
    for new in fresh.iter().copied().flat_map(rows_of) {
        let day = (new.tenant_id, new.row.report_date, new.refresh_date);
        let held = current.get(&(day.0, day.1)).is_some_and(|held| {
            held.refresh_date > new.refresh_date || held.refresh_date == new.refresh_date && !agree(&held.row, new.row)
        });
        let beside = match seen.entry(day) {
            Entry::Occupied(other) => !agree(other.get(), new.row),
            Entry::Vacant(place) => {
                place.insert(new.row);
                false
            }
        };
        if held || beside {
            days.insert(day);
        }
    }
    days
}

fn agree(one: &Row, other: &Row) -> bool {
    (&one.values, &one.extra) == (&other.values, &other.extra)
}
