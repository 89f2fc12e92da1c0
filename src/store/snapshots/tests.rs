//! The store against a model of it: any bodies, in any order, in any groups.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;
use crate::{
    plan::Due,
    report::{Period, Row, Target, catalogue::OFFICE365_ACTIVE_USER_COUNTS as REPORT},
    store::{
        slots::{self, Scope},
        targets, verify,
    },
};

type Figures = BTreeMap<NaiveDate, Vec<Option<i64>>>;

/// What should be held: by tenant, refresh date and period.
type Model = BTreeMap<(Uuid, NaiveDate, Period), Figures>;

fn day(n: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date") + chrono::Days::new(n.into())
}

/// A body of two to seven days up to its refresh date; figures from a small range, so that bodies repeat and differ.
fn body(random: &mut StdRng, period: Period, refresh: u32) -> Snapshot {
    let length = random.random_range(2..=7_u32);
    let extra = random.random_bool(0.1).then(|| format!("{{\"Loop\":\"{}\"}}", random.random_range(0..2)));
    let rows = (0..length)
        .map(|back| Row {
            report_date: day(refresh + back + 1 - length),
            values: (0..7).map(|_| random.random_bool(0.8).then(|| random.random_range(0..2))).collect(),
            extra: extra.clone(),
        })
        .collect();
    let source_columns = vec!["a".into(), "b,\"c".into()];
    Snapshot { report: &REPORT, period, refresh_date: day(refresh), rows, source_columns, body_hash: random.random() }
}

async fn claims(pool: &PgPool, worker: Uuid, targets: &[Target], at: DateTime<Utc>) -> Vec<Claim> {
    targets::renew_lease(pool, worker, "test", Duration::from_mins(1)).await.expect("a lease");
    let due: Vec<Due> = targets.iter().map(|&target| Due { target, at, missed: 0 }).collect();
    slots::insert_due(pool, &due, at).await.expect("slots");
    let tenants: Vec<Uuid> = targets.iter().map(|target| target.tenant_id).collect();
    let scope = Scope::Scheduled { tenants: &tenants, calls: 1_000, calls_per_attempt: 3 };
    slots::claim(pool, worker, scope, 100, 100, at).await.expect("claims")
}

fn finished(claim: Claim, worker_id: Uuid, snapshot: Snapshot, at: DateTime<Utc>) -> Finished {
    Finished {
        claim,
        worker_id,
        started_at: at,
        finished_at: at,
        graph_calls: 1,
        http_status: Some(200),
        request_id: None,
        client_request_id: claim.attempt_id,
        result: Ok(Served::Snapshot(snapshot)),
    }
}

async fn tenants(pool: &PgPool, count: u128) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (1..=count).map(Uuid::from_u128).collect();
    for id in &ids {
        sqlx::query("INSERT INTO m365_store.tenant VALUES ($1, $1::text, 'global', now())")
            .bind(id)
            .execute(pool)
            .await
            .expect("a tenant");
    }
    ids
}

async fn assert_sound(pool: &PgPool, context: &str) {
    let verdict = verify::verify(pool).await.expect("verified");
    assert!(verdict.violations.is_empty(), "{context}: {:?}", verdict.violations);
}

async fn stored(pool: &PgPool) -> Model {
    type Line = (Uuid, NaiveDate, i16, NaiveDate, Vec<Option<i64>>);
    let lines: Vec<Line> = sqlx::query_as(
        "SELECT tenant_id, report_refresh_date, report_period, report_date,
                ARRAY[office_365, exchange, onedrive, sharepoint, skype_for_business, yammer, teams]
         FROM m365_store.office365_active_user_counts",
    )
    .fetch_all(pool)
    .await
    .expect("facts");
    let mut model = Model::new();
    for (tenant, refresh, days, date, values) in lines {
        let period = Period::from_days(days).expect("a period");
        model.entry((tenant, refresh, period)).or_default().insert(date, values);
    }
    model
}

#[sqlx::test]
async fn any_bodies_in_any_order_and_grouping_give_what_was_served_last(pool: PgPool) {
    let worker = Uuid::from_u128(99);
    let tenants = tenants(&pool, 3).await;
    let targets: Vec<Target> = tenants
        .iter()
        .flat_map(|&tenant_id| Period::LONGEST_FIRST.map(|period| Target { tenant_id, report: &REPORT, period }))
        .collect();
    let mut random = StdRng::seed_from_u64(20_260_101);
    let mut model = Model::new();
    let (mut reissued, mut unchanged) = (0, 0);
    for round in 0..24_u32 {
        let at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::hours(round.into());
        let mut group: Vec<Finished> = claims(&pool, worker, &targets, at)
            .await
            .into_iter()
            .map(|claim| {
                let refresh = 10 + random.random_range(0..6);
                let target = claim.target;
                let key = (target.tenant_id, day(refresh), target.period);
                let repeated = random.random_bool(0.3).then(|| model.get(&key)).flatten();
                let mut snapshot = body(&mut random, target.period, refresh);
                if let Some(figures) = repeated {
                    snapshot.rows = figures
                        .iter()
                        .map(|(&report_date, values)| Row { report_date, values: values.clone(), extra: None })
                        .collect();
                }
                let figures = snapshot.rows.iter().map(|row| (row.report_date, row.values.clone())).collect();
                model.insert(key, figures);
                finished(claim, worker, snapshot, at)
            })
            .collect();
        assert_eq!(group.len(), targets.len());
        group.shuffle(&mut random);
        let size = random.random_range(1..=group.len());
        for part in group.chunks(size) {
            for receipt in write(&pool, part, at).await.expect("written") {
                reissued += u32::from(receipt.reissued);
                unchanged += u32::from(receipt.outcome == Outcome::Unchanged);
            }
        }
        if round % 3 == 2 {
            assert_sound(&pool, &format!("round {round}")).await;
        }
    }
    assert!(reissued > 30 && unchanged > 15, "{reissued} re-issues and {unchanged} repetitions were tried");
    assert_eq!(stored(&pool).await, model);
}

#[sqlx::test]
async fn a_write_under_an_older_term_is_refused(pool: PgPool) {
    let tenants = tenants(&pool, 1).await;
    let target = Target { tenant_id: tenants[0], report: &REPORT, period: Period::D7 };
    let at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let (first, second) = (Uuid::from_u128(98), Uuid::from_u128(99));
    let mut random = StdRng::seed_from_u64(1);
    let stale = claims(&pool, first, &[target], at).await[0];
    sqlx::query("UPDATE m365_store.worker SET lease_until = now() - interval '1 s'")
        .execute(&pool)
        .await
        .expect("expired");
    let taken = claims(&pool, second, &[target], at).await[0];
    assert_eq!((taken.term, taken.attempt), (stale.term + 1, 2));

    let snapshot = body(&mut random, Period::D7, 10);
    let refused = write(&pool, &[finished(stale, first, snapshot.clone(), at)], at).await.expect("answered");
    assert_eq!(refused[0].class, Some(ErrorClass::Fenced));
    assert!(stored(&pool).await.is_empty(), "nothing was written");

    let written = write(&pool, &[finished(taken, second, snapshot.clone(), at)], at).await.expect("written");
    assert_eq!(written[0].outcome, Outcome::Stored);
    let again = write(&pool, &[finished(taken, second, snapshot, at)], at).await.expect("answered");
    assert_eq!(again[0].outcome, Outcome::Stored, "a commit whose answer was lost is recognised");
    assert_eq!(stored(&pool).await.len(), 1);
    let outcomes: Vec<String> = sqlx::query_scalar("SELECT outcome FROM m365_store.attempt ORDER BY outcome")
        .fetch_all(&pool)
        .await
        .expect("read");
    assert_eq!(outcomes, ["abandoned", "stored"]);
    assert_sound(&pool, "after fencing").await;
}

#[sqlx::test]
async fn a_group_with_two_bodies_for_one_key_is_written_one_by_one(pool: PgPool) {
    let tenants = tenants(&pool, 1).await;
    let target = Target { tenant_id: tenants[0], report: &REPORT, period: Period::D7 };
    let worker = Uuid::from_u128(99);
    let mut random = StdRng::seed_from_u64(2);
    let at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let one = claims(&pool, worker, &[target], at).await[0];
    let later = at + TimeDelta::hours(1);
    let two = slots::ask(&pool, worker, &[target], later).await.expect("a claim")[0];
    let (first, second) = (body(&mut random, Period::D7, 10), body(&mut random, Period::D7, 10));
    let clock = crate::clock::Clock::simulated(at);
    let (committer, task) = crate::store::Committer::start(&pool, &clock);
    let group = [finished(one, worker, first, at), finished(two, worker, second, at)];
    let mut pending = Vec::new();
    for attempt in group {
        pending.push(committer.submit(attempt).await);
    }
    for receipt in pending {
        assert_eq!(receipt.receipt().await.outcome, Outcome::Stored);
    }
    drop(committer);
    task.await.expect("the committer ended");
    assert_sound(&pool, "after both").await;
}

#[sqlx::test]
async fn known_bytes_write_nothing_and_count_only_while_the_ledger_holds_them(pool: PgPool) {
    let tenants = tenants(&pool, 1).await;
    let target = Target { tenant_id: tenants[0], report: &REPORT, period: Period::D7 };
    let worker = Uuid::from_u128(99);
    let mut random = StdRng::seed_from_u64(3);
    let at = |hour| DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::hours(hour);
    targets::renew_lease(&pool, worker, "test", Duration::from_mins(1)).await.expect("a lease");
    let first = slots::ask(&pool, worker, &[target], at(0)).await.expect("a claim")[0];
    assert_eq!(first.known, None);
    let served = body(&mut random, Period::D7, 10);
    let rows = served.rows.len();
    write(&pool, &[finished(first, worker, served.clone(), at(0))], at(0)).await.expect("written");

    let second = slots::ask(&pool, worker, &[target], at(1)).await.expect("a claim")[0];
    let known = second.known.expect("the ledger holds one");
    assert_eq!((known.refresh_date, known.body_hash), (served.refresh_date, served.body_hash));
    let same = |claim| Finished { result: Ok(Served::Known(known)), ..finished(claim, worker, served.clone(), at(1)) };
    let receipt = write(&pool, &[same(second)], at(1)).await.expect("written").remove(0);
    assert_eq!((receipt.outcome, receipt.unchanged as usize), (Outcome::Unchanged, rows));

    let third = slots::ask(&pool, worker, &[target], at(2)).await.expect("a claim")[0];
    let fourth = slots::ask(&pool, worker, &[target], at(3)).await.expect("a claim")[0];
    let reissued = body(&mut random, Period::D7, 10);
    write(&pool, &[finished(fourth, worker, reissued, at(3))], at(3)).await.expect("written");
    let receipt = write(&pool, &[same(third)], at(3)).await.expect("written").remove(0);
    assert_eq!((receipt.class, receipt.next_try), (Some(ErrorClass::Fenced), Some(at(3))), "to be read after all");
    assert_sound(&pool, "after all").await;
}
