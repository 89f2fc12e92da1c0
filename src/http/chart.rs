//! The line chart of the status page: from days to coordinates. Pure; the template draws.

use std::fmt::Write;

use chrono::{Datelike, Days, NaiveDate};

use crate::store::status::Day;

/// The canvas and where the plot lies in it, in SVG units.
pub const WIDTH: f64 = 960.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 320.0;
/// Left edge of the plot.
pub const LEFT: f64 = 64.0;
/// Right edge of the plot.
pub const RIGHT: f64 = WIDTH - 16.0;
/// Upper edge of the plot.
pub const TOP: f64 = 16.0;
/// Lower edge of the plot.
pub const BOTTOM: f64 = HEIGHT - 32.0;

/// One product's figure of a day.
type Figure = fn(&Day) -> Option<i64>;

/// What is drawn: the CSS class, the name, the figure.
const SERIES: [(&str, &str, Figure); 5] = [
    ("s1", "Office 365 (any product)", |day| day.office_365),
    ("s2", "Exchange", |day| day.exchange),
    ("s3", "Teams", |day| day.teams),
    ("s4", "OneDrive", |day| day.onedrive),
    ("s5", "SharePoint", |day| day.sharepoint),
];

/// A chart, ready to be drawn.
#[derive(Debug, PartialEq)]
pub struct Chart {
    /// First and last day.
    pub span: (NaiveDate, NaiveDate),
    /// One for each product.
    pub lines: Vec<Line>,
    /// Horizontal grid lines.
    pub y_ticks: Vec<Tick>,
    /// The first of each month.
    pub x_ticks: Vec<Tick>,
    /// Spans of days for which nothing is held.
    pub holes: Vec<Hole>,
}

/// One product.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// The CSS class.
    pub class: &'static str,
    /// The name in the legend.
    pub name: &'static str,
    /// SVG path data; the pen is lifted over days without a figure.
    pub path: String,
    /// The newest figure.
    pub newest: Option<String>,
}

/// A mark on an axis.
#[derive(Debug, PartialEq)]
pub struct Tick {
    /// Where, in SVG units.
    pub at: String,
    /// What it says.
    pub label: String,
}

/// Days without figures.
#[derive(Debug, PartialEq)]
pub struct Hole {
    /// Left edge.
    pub x: String,
    /// How wide.
    pub width: String,
    /// Which days.
    pub label: String,
}

/// Draws `days`, which are in order; days between the first and the last that are missing become holes. `None` with
/// fewer than two days.
pub fn chart(days: &[Day]) -> Option<Chart> {
    let (first, last) = (days.first()?.report_date, days.last()?.report_date);
    if last <= first {
        return None;
    }
    let most = days.iter().flat_map(|day| SERIES.iter().filter_map(|(_, _, figure)| figure(day))).max()?;
    let (step, top) = scale(most);
    let x = |date: NaiveDate| LEFT + (RIGHT - LEFT) * share(days_between(first, date), days_between(first, last));
    let y = |figure: i64| BOTTOM - (BOTTOM - TOP) * share(figure, top);

    let lines = SERIES.iter().map(|&(class, name, figure)| Line {
        class,
        name,
        path: path(days, figure, &x, &y),
        newest: days.iter().rev().find_map(figure).map(thousands),
    });
    let y_ticks = (0..=top / step).map(|n| Tick { at: unit(y(n * step)), label: thousands(n * step) });
    let x_ticks = first.iter_days().take_while(|day| *day <= last).filter(|day| day.day() == 1).map(|day| Tick {
        at: unit(x(day)),
        label: day.format(if day.month() == 1 { "%b %Y" } else { "%b" }).to_string(),
    });
    let holes = days.windows(2).filter_map(|pair| {
        let (before, after) = (pair[0].report_date, pair[1].report_date);
        let missing = days_between(before, after) - 1;
        (missing > 0).then(|| Hole {
            x: unit(x(before)),
            width: unit(x(after) - x(before)),
            label: match (before.checked_add_days(Days::new(1)), after.checked_sub_days(Days::new(1))) {
                (Some(from), Some(to)) if from < to => format!("No figures from {from} to {to}"),
                (Some(from), _) => format!("No figures for {from}"),
                _ => "No figures".to_owned(),
            },
        })
    });
    Some(Chart {
        span: (first, last),
        lines: lines.collect(),
        y_ticks: y_ticks.collect(),
        x_ticks: x_ticks.collect(),
        holes: holes.collect(),
    })
}

/// Path data. A day that stands alone becomes a line of no length, which round caps show as a dot.
fn path(days: &[Day], figure: Figure, x: &impl Fn(NaiveDate) -> f64, y: &impl Fn(i64) -> f64) -> String {
    let mut out = String::new();
    let mut previous: Option<NaiveDate> = None;
    for day in days {
        let Some(value) = figure(day) else {
            previous = None;
            continue;
        };
        let joined = previous.is_some_and(|date| days_between(date, day.report_date) == 1);
        let (pen, dot) = if joined { ("L", "") } else { ("M", "h0") };
        // Writing to a string cannot fail.
        let _ = write!(out, "{pen}{} {}{dot}", unit(x(day.report_date)), unit(y(value)));
        previous = Some(day.report_date);
    }
    out
}

/// A round step for about five grid lines, and the first multiple of it that nothing rises above.
fn scale(most: i64) -> (i64, i64) {
    let most = most.max(1);
    let mut magnitude = 1;
    loop {
        for factor in [1, 2, 5] {
            let step = factor * magnitude;
            if most <= step * 5 {
                return (step, (most + step - 1) / step * step);
            }
        }
        magnitude *= 10;
    }
}

fn days_between(from: NaiveDate, to: NaiveDate) -> i64 {
    (to - from).num_days()
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is coarser than any rounding here")]
fn share(part: i64, whole: i64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn unit(value: f64) -> String {
    format!("{value:.1}")
}

/// A number as people write it: `12,345`.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        out.push('-');
    }
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use chrono::{Days, NaiveDate};

    use super::{BOTTOM, LEFT, RIGHT, TOP, chart, scale, thousands};
    use crate::store::status::Day;

    fn day(n: u64, figure: Option<i64>) -> Day {
        Day {
            report_date: NaiveDate::from_ymd_opt(2026, 5, 20).unwrap() + Days::new(n),
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

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([0, 999, 1_000, 1_234_567, -5_000].map(thousands), ["0", "999", "1,000", "1,234,567", "-5,000"]);
    }

    #[test]
    fn the_scale_is_round_and_holds_everything() {
        for most in [0, 1, 4, 5, 6, 49, 50, 51, 987, 123_456, 4_000_000_000] {
            let (step, top) = scale(most);
            assert!(top >= most && top % step == 0 && top / step <= 5, "{most}: {step} {top}");
        }
    }

    #[test]
    fn lines_stay_inside_and_the_pen_is_lifted_over_holes() {
        let days = [day(0, Some(10)), day(1, Some(40)), day(2, None), day(3, Some(20)), day(14, Some(30))];
        let chart = chart(&days).unwrap();
        let office = &chart.lines[0];
        assert_eq!(office.path.matches('M').count(), 3);
        assert!(office.path.starts_with(&format!("M{LEFT:.1} ")) && office.path.contains(&format!("M{RIGHT:.1} ")));
        assert_eq!(office.newest.as_deref(), Some("30"));
        assert_eq!(chart.lines[3].newest, None);
        assert_eq!(chart.holes.len(), 1);
        assert_eq!(chart.holes[0].label, "No figures from 2026-05-24 to 2026-06-02");
        assert_eq!(chart.x_ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(), ["Jun"]);
        assert_eq!(chart.y_ticks.first().unwrap().at, format!("{BOTTOM:.1}"));
        assert_eq!(chart.y_ticks.last().unwrap().at, format!("{TOP:.1}"));
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert!(chart(&[]).is_none());
        assert!(chart(&[day(0, Some(1))]).is_none());
        assert!(chart(&[day(0, Some(0)), day(1, None)]).is_some(), "zero is a figure");
    }
}
