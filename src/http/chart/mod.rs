//! The chart of daily active users: from days to coordinates. Pure; `templates/chart.svg` draws.
//!
//! The lines lie in a coordinate system of their own, in which a day is 1 wide and the plot 1000 high, and which SVG
//! stretches over the plot: many years stay small, and nothing is averaged or left out. What must not be stretched, such as
//! text and marks, is placed in the units of the canvas.

mod axes;
mod line;
#[cfg(test)]
mod tests;

use chrono::{Datelike, NaiveDate, Weekday};

pub use axes::{Tick, thousands};
pub use line::Series;

use crate::store::status::{Day, Gap};

/// The canvas and where the plot lies in it, in SVG units.
pub const WIDTH: f64 = 1080.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 380.0;
/// Left edge of the plot.
pub const LEFT: f64 = 56.0;
/// Right edge of the plot; behind it stand the names.
pub const RIGHT: f64 = WIDTH - 112.0;
/// Where the names begin.
pub const NAMES_AT: f64 = RIGHT + 22.0;
/// Upper edge of the plot; above it stand the remarks.
pub const TOP: f64 = 30.0;
/// Lower edge of the plot.
pub const BOTTOM: f64 = HEIGHT - 34.0;
/// How high the plot is in the coordinates of the lines.
pub const STEPS: i64 = 1000;

/// With more days than this, Saturdays and Sundays are drawn apart: lines that fall and rise each week hide each other.
pub const APART: i64 = 200;
/// With more days than this, a day is narrower than what a hand can point at, and a weekend than what an eye can see.
const NARROW: i64 = 400;
/// Gaps are at least this wide, so that none is overlooked.
const NARROWEST_GAP: f64 = 3.0;

/// A chart, ready to be drawn.
#[derive(Debug)]
pub struct Chart {
    /// First and last day.
    pub span: (NaiveDate, NaiveDate),
    /// Days from the first to the last, both included: the width in the coordinates of the lines.
    pub days: i64,
    /// One for each product that has any figure.
    pub series: Vec<Series>,
    /// Products that have none.
    pub without: Vec<&'static str>,
    /// Horizontal grid lines.
    pub y_ticks: Vec<Tick>,
    /// Beginnings of months, quarters or years.
    pub x_ticks: Vec<Tick>,
    /// Saturdays and Sundays, as path data in the coordinates of the lines; empty where they would be too narrow.
    pub weekends: String,
    /// Days for which nothing is held.
    pub gaps: Vec<Band>,
    /// Where the days at the end begin that may still change, and the remark about it.
    pub open_from: Option<f64>,
    /// One for each day.
    pub hovers: Vec<Hover>,
}

/// Days without figures.
#[derive(Debug, PartialEq)]
pub struct Band {
    /// Left edge.
    pub x: f64,
    /// How wide.
    pub width: f64,
    /// Which days.
    pub title: String,
    /// Where its remark stands, if there is room for one.
    pub label_at: Option<f64>,
}

/// A day to point at.
#[derive(Debug)]
pub struct Hover {
    /// Left edge.
    pub x: f64,
    /// The day and its figures.
    pub title: String,
}

/// Where things are.
#[derive(Debug, Clone, Copy)]
struct Scale {
    first: NaiveDate,
    days: i64,
    top: i64,
}

impl Scale {
    /// How many days after the first.
    fn index(self, date: NaiveDate) -> i64 {
        (date - self.first).num_days()
    }

    /// The middle of a day, in units of the canvas.
    fn x(self, date: NaiveDate) -> f64 {
        (real(self.index(date)) + 0.5).mul_add(self.day_width(), LEFT)
    }

    /// See [`APART`].
    fn sets_weekends_apart(self) -> bool {
        self.days > APART
    }

    /// See [`NARROW`].
    fn is_narrow(self) -> bool {
        self.days > NARROW
    }

    fn day_width(self) -> f64 {
        (RIGHT - LEFT) / real(self.days)
    }

    /// The height of a figure, in units of the canvas.
    fn y(self, figure: i64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * real(figure) / real(self.top)
    }

    /// The height of a figure in the coordinates of the lines, where 0 is the upper edge.
    fn step(self, figure: i64) -> i64 {
        let share = i128::from(figure) * i128::from(STEPS) / i128::from(self.top);
        STEPS - i64::try_from(share).unwrap_or(STEPS)
    }
}

impl Chart {
    /// Draws `days`, which are in order, with the `gaps` among them. `None` with fewer than two days, or no figure at all.
    pub fn new(days: &[Day], gaps: &[Gap]) -> Option<Self> {
        let (first, last) = (days.first()?.report_date, days.last()?.report_date);
        if last <= first {
            return None;
        }
        let most = days.iter().flat_map(Day::figures).flatten().max()?;
        let (step, top) = axes::round_scale(most);
        let scale = Scale { first, days: (last - first).num_days() + 1, top };
        let (series, without) = line::all(days, scale);
        let open_from = days.iter().rev().take_while(|day| !day.is_final).last().map(|day| day.report_date);
        let open_from = open_from.map(|date| scale.x(date) - scale.day_width() / 2.0);
        Some(Self {
            span: (first, last),
            days: scale.days,
            series,
            without,
            y_ticks: axes::y_ticks(scale, step),
            x_ticks: axes::x_ticks(scale, last),
            weekends: weekends(scale, last),
            gaps: bands(gaps, scale, last, open_from.is_some()),
            open_from,
            hovers: if scale.is_narrow() { Vec::new() } else { hovers(days, scale) },
        })
    }

    /// How wide a day is, in units of the canvas.
    pub fn day_width(&self) -> f64 {
        (RIGHT - LEFT) / real(self.days)
    }
}

fn weekends(scale: Scale, last: NaiveDate) -> String {
    use std::fmt::Write as _;
    let mut path = String::new();
    if scale.is_narrow() {
        return path;
    }
    for date in scale.first.iter_days().take_while(|date| *date <= last) {
        if is_weekend(date) {
            // Writing to a string cannot fail.
            let _ = write!(path, "M{} 0h1v{STEPS}h-1z", scale.index(date));
        }
    }
    path
}

/// The gaps inside the plot, oldest first, each with its remark unless that would run into the one before it.
fn bands(gaps: &[Gap], scale: Scale, last: NaiveDate, remark_at_the_end: bool) -> Vec<Band> {
    const HALF: f64 = 60.0;
    let mut inside: Vec<&Gap> = gaps.iter().filter(|gap| gap.gap_start > scale.first && gap.gap_end < last).collect();
    inside.sort_by_key(|gap| gap.gap_start);
    let mut free_from = LEFT;
    let free_to = if remark_at_the_end { RIGHT - 2.2 * HALF } else { RIGHT };
    inside
        .into_iter()
        .map(|gap| {
            let exact = real(i64::from(gap.days)) * scale.day_width();
            let width = exact.max(NARROWEST_GAP);
            let x = scale.x(gap.gap_start) - scale.day_width() / 2.0 - (width - exact) / 2.0;
            let middle = (x + width / 2.0).clamp(LEFT + HALF, free_to - HALF);
            let label_at = (middle - HALF >= free_from).then_some(middle);
            if label_at.is_some() {
                free_from = middle + HALF;
            }
            let title = if gap.days == 1 {
                format!("No figures for {}", gap.gap_start)
            } else {
                format!("No figures from {} to {}", gap.gap_start, gap.gap_end)
            };
            Band { x, width, title, label_at }
        })
        .collect()
}

fn hovers(days: &[Day], scale: Scale) -> Vec<Hover> {
    days.iter()
        .map(|day| {
            let figures: Vec<String> = day
                .figures()
                .into_iter()
                .zip(line::PRODUCTS)
                .map(|(figure, product)| format!("{} {}", product.name, figure.map_or_else(none, thousands)))
                .collect();
            let open = if day.is_final { "" } else { "\nmay still change" };
            Hover {
                x: scale.x(day.report_date) - scale.day_width() / 2.0,
                title: format!("{}\n{}{open}", day.report_date.format("%a %Y-%m-%d"), figures.join("\n")),
            }
        })
        .collect()
}

fn none() -> String {
    "\u{2013}".to_owned()
}

/// Saturday or Sunday.
pub fn is_weekend(date: NaiveDate) -> bool {
    matches!(date.weekday(), Weekday::Sat | Weekday::Sun)
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is coarser than any rounding here")]
fn real(value: i64) -> f64 {
    value as f64
}
