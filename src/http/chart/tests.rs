use chrono::{Days, NaiveDate};
use uuid::Uuid;

use super::{
    BOTTOM, Chart, LEFT, RIGHT, TOP,
    axes::{round_scale, thousands},
    is_weekend,
};
use crate::store::status::{Day, Gap};

/// A day after Wednesday 20 May 2026.
fn date(n: u64) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 5, 20).unwrap() + Days::new(n)
}

fn day(n: u64, figure: Option<i64>) -> Day {
    Day {
        report_date: date(n),
        office_365: figure,
        exchange: figure,
        onedrive: None,
        sharepoint: Some(0),
        skype_for_business: None,
        yammer: None,
        teams: None,
        is_final: true,
    }
}

fn gap(from: u64, to: u64) -> Gap {
    Gap {
        tenant_id: Uuid::nil(),
        tenant_name: String::new(),
        report: String::new(),
        gap_start: date(from),
        gap_end: date(to),
        days: i32::try_from(to - from + 1).unwrap(),
    }
}

#[test]
fn numbers_are_easy_to_read() {
    assert_eq!([0, 999, 1_000, 1_234_567, -5_000].map(thousands), ["0", "999", "1,000", "1,234,567", "-5,000"]);
}

#[test]
fn the_scale_is_round_and_holds_everything() {
    for most in [0, 1, 4, 5, 6, 49, 50, 51, 987, 123_456, 4_000_000_000] {
        let (step, top) = round_scale(most);
        assert!(top >= most && top % step == 0 && top / step <= 5, "{most}: {step} {top}");
    }
}

#[test]
fn the_pen_is_lifted_over_holes_and_blanks() {
    let days = [day(0, Some(10)), day(1, Some(40)), day(2, None), day(3, Some(20)), day(14, Some(30))];
    let chart = Chart::new(&days, &[gap(4, 13)]).unwrap();
    assert_eq!((chart.days, chart.span), (15, (date(0), date(14))));
    let office = &chart.series[0];
    assert_eq!(office.paths.settled, "M0 750l1-750M3 500h0M14 250h0", "a line, and two days that stand alone");
    assert_eq!((office.paths.open.as_str(), office.newest.as_ref().unwrap().0.as_str()), ("", "30"));
    assert_eq!(chart.series[2].paths.settled, "M0 1000l1 0l1 0l1 0M14 1000h0", "zero is a figure");
    assert_eq!(chart.without, ["Teams", "OneDrive", "Yammer", "Skype f. B."]);
    assert_eq!(chart.gaps.len(), 1);
    let band = &chart.gaps[0];
    assert_eq!(band.title, "No figures from 2026-05-24 to 2026-06-02");
    let width = (RIGHT - LEFT) / 15.0;
    assert!((band.x - width.mul_add(4.0, LEFT)).abs() < 0.01 && (band.width - 10.0 * width).abs() < 0.01, "{band:?}");
    assert!(band.label_at.is_some());
    assert_eq!(chart.x_ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(), ["Jun 2026"]);
    assert_eq!((chart.y_ticks[0].at, chart.y_ticks.last().unwrap().at), (BOTTOM, TOP));
    assert_eq!(chart.weekends.matches('M').count(), 4);
    assert!(is_weekend(date(3)) && is_weekend(date(4)) && chart.weekends.starts_with("M3 0h1v1000h-1zM4 0"));
}

#[test]
fn days_that_may_still_change_are_drawn_apart() {
    let mut days: Vec<Day> = (0..30).map(|n| day(n, Some(100))).collect();
    for open in &mut days[27..] {
        open.is_final = false;
    }
    let chart = Chart::new(&days, &[]).unwrap();
    let office = &chart.series[0];
    assert_eq!(office.paths.settled.matches('l').count(), 26);
    assert_eq!(office.paths.open, "M26 0l1 0l1 0l1 0");
    assert_eq!(office.hollow.len(), 3);
    assert_eq!(office.newest.as_ref().unwrap().1, date(26));
    let width = (RIGHT - LEFT) / 30.0;
    assert!((chart.open_from.unwrap() - width.mul_add(27.0, LEFT)).abs() < 0.01);
    assert!(chart.hovers[28].title.contains("Office 365 100") && chart.hovers[28].title.contains("may still change"));
    assert!(!chart.hovers[26].title.contains("may still change") && chart.hovers[0].title.contains("Teams \u{2013}"));
}

#[test]
fn names_stand_apart_and_inside() {
    let mut days: Vec<Day> = (0..10).map(|n| day(n, Some(1_000))).collect();
    for day in &mut days {
        (day.onedrive, day.skype_for_business, day.yammer, day.teams) = (Some(1), Some(2), Some(999), Some(1_000));
    }
    let chart = Chart::new(&days, &[]).unwrap();
    let mut names: Vec<f64> = chart.series.iter().map(|series| series.end.unwrap().1).collect();
    names.sort_by(f64::total_cmp);
    assert_eq!(names.len(), 7);
    assert!(names.windows(2).all(|pair| pair[1] - pair[0] > 15.9), "{names:?}");
    assert!(names[0] >= TOP && names[6] <= BOTTOM, "{names:?}");
}

#[test]
fn ten_years_stay_small_and_lose_no_day() {
    let days: Vec<Day> = (0..3_650)
        .map(|n| {
            let figure = Some(i64::try_from(n * 7_919 % 90_000).unwrap());
            Day { onedrive: figure, skype_for_business: figure, yammer: figure, teams: figure, ..day(n, figure) }
        })
        .collect();
    let gaps: Vec<Gap> = (0..200).map(|n| gap(10 * n + 1, 10 * n + 2)).collect();
    let chart = Chart::new(&days, &gaps).unwrap();
    // The line joins working days, over weekends as well.
    let working = days.iter().filter(|day| !is_weekend(day.report_date)).count();
    let paths = &chart.series[0].paths;
    assert_eq!(paths.settled.matches('l').count(), working - 1);
    assert_eq!(paths.weekends.matches('M').count(), 3_650 - working);
    let size = |series: &super::Series| series.paths.settled.len() + series.paths.weekends.len();
    let bytes: usize = chart.series.iter().map(size).sum();
    assert!(bytes < 220_000, "{bytes}");
    assert!(chart.hovers.is_empty() && chart.weekends.is_empty());
    assert!(chart.x_ticks.len() <= 14 && chart.x_ticks.len() > 5, "{:?}", chart.x_ticks);
    assert!(chart.gaps.iter().all(|band| band.width >= 3.0));
    let labels: Vec<f64> = chart.gaps.iter().filter_map(|band| band.label_at).collect();
    assert!(!labels.is_empty() && labels.windows(2).all(|pair| pair[1] - pair[0] > 119.0), "{labels:?}");
}

#[test]
fn a_long_line_does_not_cross_a_weekend_that_is_not_held() {
    // 23 and 24 May 2026 are a Saturday and a Sunday.
    let gone = |n: &u64| !(3..=4).contains(n) && *n != 407;
    let days: Vec<Day> = (0..420).filter(gone).map(|n| day(n, Some(100))).collect();
    let chart = Chart::new(&days, &[gap(3, 4), gap(407, 407)]).unwrap();
    let settled = &chart.series[0].paths.settled;
    assert!(settled.starts_with("M0 0l1 0l1 0M5 0l1 0l1 0l1 0l1 0l3 0l1 0"), "{settled}");
    assert_eq!(settled.matches('M').count(), 3);
}

#[test]
fn nothing_to_draw_is_no_chart() {
    assert!(Chart::new(&[], &[]).is_none());
    assert!(Chart::new(&[day(0, Some(1))], &[]).is_none());
    assert!(Chart::new(&[day(0, Some(0)), day(1, None)], &[]).is_some(), "zero is a figure");
}
