//! What is due: pure, from the schedules, what the ledger already holds, and the time.
//!
//! A wake-up carries no information. Whoever wakes up asks this room what is missing, so that the normal run, the catch-up
//! after an outage and the first start are the same code. Missed instants are not made up one by one: one fetch answers
//! for all of them ("fire once now"), because each report looks back further than any schedule's step.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{Cron, Direction};
use uuid::Uuid;

use crate::{
    config::Schedule,
    report::{Period, Target},
};

/// More missed instants than this are not counted one by one.
const MISSED_LIMIT: u16 = 10_000;

/// A target whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// What is to be fetched.
    pub target: Target,
    /// The instant it was due; with the target, the slot's key.
    pub at: DateTime<Utc>,
    /// Instants before it that passed while nothing ran.
    pub missed: u16,
}

/// The schedules of all periods.
#[derive(Debug, Clone)]
pub struct Timetable {
    crons: HashMap<Period, Cron>,
    timezone: Tz,
    jitter: Duration,
}

/// A cron expression that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: `{expression}` is no cron expression (minute hour day month weekday): {reason}")]
pub struct BadCron {
    setting: String,
    expression: String,
    reason: String,
}

impl Timetable {
    /// Reads the expressions of a schedule.
    pub fn new(schedule: &Schedule) -> Result<Self, BadCron> {
        let mut crons = HashMap::new();
        for period in Period::LONGEST_FIRST {
            let expression = schedule.cron(period);
            let bad = |reason: String| BadCron {
                setting: if schedule.periods.contains_key(&period) {
                    format!("schedule.periods.{period}.cron")
                } else {
                    "schedule.cron".to_owned()
                },
                expression: expression.to_owned(),
                reason,
            };
            let cron: Cron = expression.parse().map_err(|error: croner::errors::CronError| bad(error.to_string()))?;
            let anywhen = DateTime::<Utc>::default().with_timezone(&schedule.timezone);
            cron.find_next_occurrence(&anywhen, true).map_err(|_| bad("it never comes true".to_owned()))?;
            crons.insert(period, cron);
        }
        Ok(Self { crons, timezone: schedule.timezone, jitter: schedule.jitter })
    }

    /// The targets that are due at `now`. `last` holds, for each target, the due instant of its newest slot; a target
    /// without one was never fetched and is due at once.
    pub fn due<'a>(
        &self,
        targets: impl Iterator<Item = &'a Target>,
        last: &HashMap<Target, DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Vec<Due> {
        targets
            .filter_map(|target| {
                let at = self.latest(target, now)?;
                match last.get(target) {
                    None => Some(Due { target: *target, at, missed: 0 }),
                    Some(&last) if last < at => {
                        Some(Due { target: *target, at, missed: self.between(target, last, at) })
                    }
                    Some(_) => None,
                }
            })
            .collect()
    }

    /// The next instant after `now` at which the target is due.
    pub fn next(&self, target: &Target, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset = self.offset(target.tenant_id);
        let local = (now - offset).with_timezone(&self.timezone);
        let next = self.crons.get(&target.period)?.find_next_occurrence(&local, false).ok()?;
        Some(next.with_timezone(&Utc) + offset)
    }

    /// The longest time between two instants of a period's schedule, judged from the next year's instants.
    pub fn interval(&self, period: Period, now: DateTime<Utc>) -> TimeDelta {
        let Some(cron) = self.crons.get(&period) else { return TimeDelta::zero() };
        let instants: Vec<_> = cron
            .iter_from(now.with_timezone(&self.timezone), Direction::Forward)
            .take_while(|at| at.with_timezone(&Utc) < now + TimeDelta::days(366))
            .take(400)
            .collect();
        let steps = instants.windows(2).map(|pair| pair[1].with_timezone(&Utc) - pair[0].with_timezone(&Utc));
        steps.max().unwrap_or(TimeDelta::days(366))
    }

    /// The newest instant not after `now`.
    fn latest(&self, target: &Target, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let offset = self.offset(target.tenant_id);
        let local = (now - offset).with_timezone(&self.timezone);
        let latest = self.crons.get(&target.period)?.find_previous_occurrence(&local, true).ok()?;
        Some(latest.with_timezone(&Utc) + offset)
    }

    /// How many instants lie strictly between two.
    fn between(&self, target: &Target, after: DateTime<Utc>, before: DateTime<Utc>) -> u16 {
        let offset = self.offset(target.tenant_id);
        let Some(cron) = self.crons.get(&target.period) else { return 0 };
        let missed = cron
            .iter_after((after - offset).with_timezone(&self.timezone))
            .take(usize::from(MISSED_LIMIT))
            .take_while(|at| at.with_timezone(&Utc) + offset < before)
            .count();
        u16::try_from(missed).unwrap_or(MISSED_LIMIT)
    }

    /// A tenant's fixed share of the jitter: the same on every replica and at every start, so that all of them compute
    /// the same slot.
    fn offset(&self, tenant_id: Uuid) -> TimeDelta {
        let millis = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        // FNV-1a: stable over program versions, which the standard library's hasher is not.
        let hash = tenant_id
            .as_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let share = hash.checked_rem(millis).unwrap_or(0);
        TimeDelta::milliseconds(i64::try_from(share).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveDate, Timelike};
    use proptest::prelude::*;

    use super::*;
    use crate::{config::load_from, report::catalogue::OFFICE365_ACTIVE_USER_COUNTS};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn timetable(cron: &str, timezone: &str, jitter: &str) -> Timetable {
        let pairs = [("CRON", cron), ("TIMEZONE", timezone), ("JITTER", jitter)];
        let environment =
            pairs.map(|(key, value)| (format!("M365_LEDGER__SCHEDULE__{key}"), value.to_owned())).into_iter().collect();
        let settings = load_from(None, environment).expect("settings").settings;
        Timetable::new(&settings.schedule).expect("a timetable")
    }

    fn target(n: u128) -> Target {
        Target { tenant_id: Uuid::from_u128(n), report: &OFFICE365_ACTIVE_USER_COUNTS, period: Period::D7 }
    }

    fn due(table: &Timetable, last: Option<&str>, now: &str) -> Option<(DateTime<Utc>, u16)> {
        let last = last.map(|last| (target(1), at(last))).into_iter().collect();
        table.due([target(1)].iter(), &last, at(now)).first().map(|due| (due.at, due.missed))
    }

    #[test]
    fn what_was_never_fetched_is_due_at_once() {
        let table = timetable("0 */6 * * *", "UTC", "0s");
        assert_eq!(due(&table, None, "2026-03-01T05:59:00Z"), Some((at("2026-03-01T00:00:00Z"), 0)));
    }

    #[test]
    fn an_instant_is_due_once() {
        let table = timetable("0 */6 * * *", "UTC", "0s");
        let slot = "2026-03-01T06:00:00Z";
        assert_eq!(due(&table, Some("2026-03-01T00:00:00Z"), "2026-03-01T05:59:59Z"), None);
        assert_eq!(due(&table, Some("2026-03-01T00:00:00Z"), slot), Some((at(slot), 0)));
        assert_eq!(due(&table, Some(slot), slot), None);
        assert_eq!(due(&table, Some(slot), "2026-02-20T00:00:00Z"), None, "a clock set back repeats nothing");
    }

    #[test]
    fn eight_days_of_downtime_are_one_catch_up() {
        let table = timetable("0 */6 * * *", "UTC", "0s");
        let missed = due(&table, Some("2026-03-01T00:00:00Z"), "2026-03-09T01:00:00Z");
        assert_eq!(missed, Some((at("2026-03-09T00:00:00Z"), 31)));
    }

    #[test]
    fn every_tenant_has_its_own_unmoving_share_of_the_jitter() {
        let table = timetable("0 */6 * * *", "UTC", "10m");
        let now = at("2026-03-01T03:00:00Z");
        let instants: Vec<_> = (0..200).map(|n| table.latest(&target(n), now).expect("one")).collect();
        let start = at("2026-03-01T00:00:00Z");
        assert!(instants.iter().all(|&t| t >= start && t < start + TimeDelta::minutes(10)));
        let minutes: std::collections::BTreeSet<_> = instants.iter().map(Timelike::minute).collect();
        assert_eq!(minutes.len(), 10, "spread over all ten minutes");
        assert_eq!(instants[7], table.latest(&target(7), now + TimeDelta::hours(1)).expect("one"));
    }

    #[test]
    fn the_interval_is_the_longest_step() {
        let now = at("2026-03-01T03:00:00Z");
        let hours = |cron| timetable(cron, "UTC", "0s").interval(Period::D7, now).num_hours();
        assert_eq!(hours("0 */6 * * *"), 6);
        assert_eq!(hours("0 8,12 * * *"), 20);
        assert_eq!(hours("0 3 * * 0"), 168);
    }

    #[test]
    fn a_bad_expression_names_its_setting() {
        for cron in ["every day", "61 * * * *", "0 0 30 2 *"] {
            let environment = [("M365_LEDGER__SCHEDULE__PERIODS__D30__CRON".to_owned(), cron.to_owned())];
            let settings = load_from(None, environment.into()).expect("settings").settings;
            let error = Timetable::new(&settings.schedule).expect_err(cron).to_string();
            assert!(error.starts_with("schedule.periods.D30.cron"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A daily schedule fires once a day, whatever the zone does to its clocks: a time that is left out fires at the
        /// first instant after it, which can be on the next day, and a time that comes twice fires at the first.
        #[test]
        fn daily_is_once_a_day_in_every_zone(zone in 0..chrono_tz::TZ_VARIANTS.len(), hour in 0..24_u32, year in 2020..2037) {
            let zone = chrono_tz::TZ_VARIANTS[zone];
            let table = timetable(&format!("30 {hour} * * *"), zone.name(), "0s");
            let from = NaiveDate::from_ymd_opt(year, 1, 1).expect("a date").and_hms_opt(0, 0, 0).expect("a time").and_utc();
            let mut instants = vec![table.next(&target(1), from).expect("a first one")];
            while instants.len() < 370 {
                instants.push(table.next(&target(1), *instants.last().expect("one")).expect("a next one"));
            }
            for pair in instants.windows(2) {
                let hours = (pair[1] - pair[0]).num_hours();
                prop_assert!((22..=26).contains(&hours), "{zone}: {hours} h between {} and {}", pair[0], pair[1]);
            }
        }

        /// Whatever the order of wake-ups, no slot comes twice and none is left out.
        #[test]
        fn each_instant_is_planned_at_most_once(steps in proptest::collection::vec(-7_200_i64..50_000, 1..60)) {
            let table = timetable("0 */6 * * *", "Europe/Berlin", "10m");
            let mut now = at("2026-03-20T00:00:00Z");
            let mut last = HashMap::new();
            let mut seen = std::collections::BTreeSet::new();
            let mut instants = 0;
            for step in steps {
                now += TimeDelta::seconds(step);
                for due in table.due([target(1)].iter(), &last, now) {
                    prop_assert!(seen.insert(due.at), "{} came twice", due.at);
                    prop_assert!(due.at <= now);
                    instants += u32::from(due.missed) + 1;
                    last.insert(due.target, due.at);
                }
            }
            let first = *seen.first().expect("at least one");
            let newest = *seen.last().expect("at least one");
            prop_assert_eq!(instants, u32::from(table.between(&target(1), first, newest)) + if first == newest { 1 } else { 2 });
        }
    }
}
