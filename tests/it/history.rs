//! Refreshes that come, come late, come again with other numbers, or lose days.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};
use graph_sim::{COLUMNS, Fault, FaultKind, Figures, Host, Period, TENANT_ID};
use serde_json::json;

use crate::support::{ALL_ROWS, Current, Scene, Served, TestDb, body};

/// A change as `active_users_revisions` has it: day, product, period, both refreshes, both values.
type Change = (NaiveDate, String, i16, NaiveDate, NaiveDate, Option<i64>, Option<i64>);

async fn changes(db: &TestDb, kind: &str) -> Vec<Change> {
    let mut changes: Vec<Change> = sqlx::query_as(
        "SELECT report_date, product, report_period, old_refresh_date, new_refresh_date, old_value, new_value
         FROM m365_v1.active_users_revisions WHERE tenant_id = $1 AND kind = $2",
    )
    .bind(TENANT_ID.to_string())
    .bind(kind)
    .fetch_all(&db.pool)
    .await
    .expect("the view can be read");
    changes.sort();
    changes
}

type Rows = BTreeMap<NaiveDate, Figures>;

/// How two bodies of one period differ on the days that both hold; with `one_sided`, also on the others.
fn difference(period: Period, old: (NaiveDate, &Rows), new: (NaiveDate, &Rows), one_sided: bool) -> Vec<Change> {
    let days = i16::try_from(period.days()).expect("180 at the most");
    let blank = [None; 7];
    let mut dates: Vec<_> = old.1.keys().chain(new.1.keys()).copied().collect();
    dates.sort_unstable();
    dates.dedup();
    let mut changes = Vec::new();
    for date in dates {
        let (before, after) = match (old.1.get(&date), new.1.get(&date)) {
            (Some(before), Some(after)) => (before, after),
            (before, after) if one_sided => (before.unwrap_or(&blank), after.unwrap_or(&blank)),
            _ => continue,
        };
        for ((name, before), after) in COLUMNS.iter().zip(before).zip(after) {
            if before != after {
                changes.push((date, (*name).to_owned(), days, old.0, new.0, *before, *after));
            }
        }
    }
    changes
}

fn bodies(scene: &Scene) -> [(Period, Rows); 4] {
    Period::ALL.map(|period| (period, body(&scene.sim, TENANT_ID, period)))
}

fn all_differences(
    old: (NaiveDate, &[(Period, Rows); 4]),
    new: (NaiveDate, &[(Period, Rows); 4]),
    one_sided: bool,
) -> Vec<Change> {
    let pairs = old.1.iter().zip(new.1);
    pairs.flat_map(|((period, a), (_, b))| difference(*period, (old.0, a), (new.0, b), one_sided)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_refresh_moves_current_and_shows_what_was_revised() {
    let scene = Scene::new().await;
    let (sim, db, program) = (&scene.sim, &scene.db, &scene.program);
    program.once(&[]).await;
    let mut served = Served::of(sim, TENANT_ID);
    let (first, before) = (sim.refresh_date(), bodies(&scene));

    sim.advance_days(1);
    let document = program.once(&[]).await;
    assert_eq!(document["totals"]["rows_inserted"], json!(ALL_ROWS));
    served.note(sim, TENANT_ID, &Period::ALL);
    served.assert_stored(db, TENANT_ID).await;
    assert_eq!(db.sizes().await, [614, 181, 0, 8]);
    let newest =
        db.current(TENANT_ID).await.values().filter(|((refresh, _), _)| *refresh == sim.refresh_date()).count();
    assert_eq!(newest, 180);

    let mut expected = all_differences((first, &before), (sim.refresh_date(), &bodies(&scene)), false);
    expected.sort();
    // The last three days of each of the four periods were still being counted.
    assert!(expected.len() >= 3 * 4 * 5, "{}", expected.len());
    assert_eq!(changes(db, "refresh").await, expected);
    assert_eq!(changes(db, "reissue").await, []);

    // What was known with the first refresh can still be asked for.
    let as_of: Vec<(NaiveDate, Option<i64>)> =
        sqlx::query_as("SELECT report_date, teams FROM m365_v1.active_users_as_of($1) ORDER BY report_date")
            .bind(first)
            .fetch_all(&db.pool)
            .await
            .expect("the function can be called");
    let then: Vec<_> = before[3].1.iter().map(|(date, figures)| (*date, figures[6])).collect();
    assert_eq!(as_of, then);
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_refresh_that_comes_late_is_kept_and_changes_nothing_newer() {
    let scene = Scene::new().await;
    let (sim, db, program) = (&scene.sim, &scene.db, &scene.program);
    program.once(&[]).await;
    let mut served = Served::of(sim, TENANT_ID);
    let before: Current = db.current(TENANT_ID).await;

    let older = sim.refresh_date() - Days::new(3);
    for period in Period::ALL {
        sim.set_refresh_date_for(TENANT_ID, period, older);
    }
    let document = program.once(&[]).await;
    assert_eq!(document["totals"]["rows_inserted"], json!(ALL_ROWS));
    assert_eq!(document["targets"][0]["refresh_date"], json!(older));
    served.note(sim, TENANT_ID, &Period::ALL);
    served.assert_stored(db, TENANT_ID).await;
    // It reaches three days further back; these are new, and every day that was held stays as it was.
    let after = db.current(TENANT_ID).await;
    assert_eq!(after.len(), 183);
    for (date, row) in &before {
        assert_eq!(after.get(date), Some(row), "{date}");
    }
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_served_again_with_other_numbers_replaces_and_keeps_the_old_ones() {
    let scene = Scene::new().await;
    let (sim, db, program) = (&scene.sim, &scene.db, &scene.program);
    program.once(&[]).await;
    let original = Period::ALL.map(|period| (period, sim.csv(TENANT_ID, period)));
    let mut editions = vec![bodies(&scene)];

    for round in 1..=2_usize {
        sim.reissue(TENANT_ID);
        let document = program.once(&[]).await;
        let totals = &document["totals"];
        // The last seven days of each period changed.
        let rows = (&totals["rows_inserted"], &totals["rows_updated"], &totals["rows_unchanged"]);
        assert_eq!(rows, (&json!(0), &json!(4 * 7), &json!(ALL_ROWS - 4 * 7)));
        assert_eq!(totals["stored"], json!(4));
        Served::of(sim, TENANT_ID).assert_stored(db, TENANT_ID).await;
        editions.push(bodies(&scene));
        assert_reissues(&scene, &editions).await;
        assert_eq!(db.sizes().await[2], i64::try_from(307 * round).expect("small"));
        program.verify().await;
    }

    // Back to the very first bytes, under the same refresh date still.
    for (period, csv) in original {
        sim.inject(Fault::always(Host::Download, FaultKind::body(csv)).period(period));
    }
    program.once(&[]).await;
    editions.push(editions[0].clone());
    assert_reissues(&scene, &editions).await;
    let first: Vec<_> = db.facts(TENANT_ID).await.into_values().collect();
    assert_eq!(first, editions[0].clone().map(|(_, rows)| rows));
    assert_eq!(db.sizes().await, [307, 180, 3 * 307, 4]);
    program.verify().await;
    // And the same once more is no change.
    assert_eq!(program.once(&[]).await["totals"]["unchanged"], json!(4));
}

/// Every edition but the last is superseded, and each step between two stands in the view.
async fn assert_reissues(scene: &Scene, editions: &[[(Period, Rows); 4]]) {
    let db = &scene.db;
    let refresh = scene.sim.refresh_date();
    let mut expected: Vec<_> =
        editions.windows(2).flat_map(|pair| all_differences((refresh, &pair[0]), (refresh, &pair[1]), true)).collect();
    expected.sort();
    assert!(!expected.is_empty());
    assert_eq!(changes(db, "reissue").await, expected);
    assert_eq!(changes(db, "refresh").await, []);
    let revisions: Vec<i32> = sqlx::query_scalar("SELECT DISTINCT revision FROM m365_store.snapshot")
        .fetch_all(&db.pool)
        .await
        .expect("the ledger can be read");
    assert_eq!(revisions, [i32::try_from(editions.len()).expect("few")]);

    let old: Vec<(i32, i16, NaiveDate, Option<i64>)> = sqlx::query_as(
        "SELECT revision, report_period, report_date, exchange
         FROM m365_store.office365_active_user_counts_superseded ORDER BY 1, 2, 3",
    )
    .fetch_all(&db.pool)
    .await
    .expect("what was superseded can be read");
    let mut kept = Vec::new();
    for (edition, revision) in editions[..editions.len() - 1].iter().zip(1..) {
        for (period, rows) in edition {
            let days = i16::try_from(period.days()).expect("180 at the most");
            kept.extend(rows.iter().map(|(date, figures)| (revision, days, *date, figures[1])));
        }
    }
    assert_eq!(old, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_a_reissue_drops_falls_back_to_the_next_best_or_goes() {
    let scene = Scene::new().await;
    let (sim, db, program) = (&scene.sim, &scene.db, &scene.program);
    program.once(&[]).await;
    let mut served = Served::of(sim, TENANT_ID);
    sim.advance_days(1);
    program.once(&[]).await;
    served.note(sim, TENANT_ID, &Period::ALL);
    let (old, new) = (sim.refresh_date() - Days::new(1), sim.refresh_date());
    let day = new - Days::new(3);
    let source = async |date| db.current(TENANT_ID).await.get(&date).map(|(from, _)| *from);
    assert_eq!(source(day).await, Some((new, 180)));

    // One period drops it: the next longest of the same refresh answers.
    sim.remove_date(TENANT_ID, day);
    let document = program.once(&["--period", "D180"]).await;
    assert_eq!(document["totals"]["rows_unchanged"], json!(179));
    served.note(sim, TENANT_ID, &[Period::D180]);
    served.assert_stored(db, TENANT_ID).await;
    assert_eq!(source(day).await, Some((new, 90)));
    program.verify().await;

    // All periods drop it: the refresh before answers.
    program.once(&[]).await;
    served.note(sim, TENANT_ID, &Period::ALL);
    served.assert_stored(db, TENANT_ID).await;
    assert_eq!(source(day).await, Some((old, 180)));
    program.verify().await;

    // The newest day is in no other refresh: it goes.
    sim.remove_date(TENANT_ID, new);
    program.once(&[]).await;
    served.note(sim, TENANT_ID, &Period::ALL);
    served.assert_stored(db, TENANT_ID).await;
    assert_eq!(source(new).await, None);
    assert_eq!(db.sizes().await[1], 180);
    program.verify().await;

    // And comes back.
    sim.restore_date(TENANT_ID, new);
    sim.restore_date(TENANT_ID, day);
    let document = program.once(&[]).await;
    assert_eq!(document["totals"]["rows_inserted"], json!(2 * 4));
    served.note(sim, TENANT_ID, &Period::ALL);
    served.assert_stored(db, TENANT_ID).await;
    assert_eq!((source(day).await, source(new).await), (Some((new, 180)), Some((new, 180))));
    assert_eq!(db.count("SELECT max(revision)::bigint FROM m365_store.snapshot").await, 4);
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_may_be_of_different_refreshes() {
    let scene = Scene::new().await;
    let (sim, db, program) = (&scene.sim, &scene.db, &scene.program);
    let newest = sim.refresh_date();
    sim.set_refresh_date_for(TENANT_ID, Period::D180, newest - Days::new(2));
    sim.set_refresh_date_for(TENANT_ID, Period::D30, newest - Days::new(1));
    sim.set_refresh_date_for(TENANT_ID, Period::D90, newest - Days::new(1));
    program.once(&[]).await;
    Served::of(sim, TENANT_ID).assert_stored(db, TENANT_ID).await;
    let from = db.current(TENANT_ID).await;
    let count = |period| from.values().filter(|((_, from), _)| *from == period).count();
    // D7 has the last seven days; D90, a day older, the 84 before; D180, another day older, the rest.
    assert_eq!([count(7), count(30), count(90), count(180)], [7, 0, 84, 91]);
    assert_eq!(db.sizes().await, [307, 182, 0, 4]);
    program.verify().await;

    // D180 catches up later and takes over.
    sim.set_refresh_date(newest);
    let document = program.once(&["--period", "D180"]).await;
    assert_eq!(document["totals"]["rows_inserted"], json!(180));
    let from = db.current(TENANT_ID).await;
    assert_eq!(from.values().filter(|(from, _)| *from == (newest, 180)).count(), 180);
    program.verify().await;
}
