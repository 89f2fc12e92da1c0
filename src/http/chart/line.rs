//! The lines of the chart: their paths, their marks, and their names at the right end.

use std::fmt::Write as _;

use chrono::{Datelike as _, NaiveDate, TimeDelta, Weekday};

use super::{BOTTOM, Scale, TOP, is_weekend, thousands};
use crate::store::status::{Day, PRODUCTS as CONTRACT};

/// A line has about so many marks, however long it is.
const MARKS: i64 = 6;
/// Names at the right end are at least so far apart.
const NAME_HEIGHT: f64 = 16.0;
/// A line without a settled figure in so many days has no name at the right end.
const NAMED_FOR: TimeDelta = TimeDelta::days(11);

/// How a product is drawn. Products differ by colour and by mark, so that no one has to tell colours apart.
#[derive(Debug)]
pub struct Product {
    /// Where its figure stands among [`Day::figures`].
    place: usize,
    /// The CSS class, which gives the colour.
    class: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its mark, as path data around 0,0.
    mark: &'static str,
}

const fn product(place: usize, class: &'static str, mark: &'static str) -> Product {
    Product { place, class, name: CONTRACT[place].1, mark }
}

/// The products in the order in which they are named, usually the largest first.
pub const PRODUCTS: [Product; 7] = [
    product(0, "s1", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"),
    product(1, "s2", "M-3.5-3.5h7v7h-7z"),
    product(6, "s3", "M0-4.8L4.6 3.4h-9.2z"),
    product(2, "s4", "M0-5L5 0L0 5L-5 0z"),
    product(3, "s5", "M0 4.8L4.6-3.4h-9.2z"),
    product(5, "s6", "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z"),
    product(4, "s7", "M-5-2h10v4h-10z"),
];

/// One product.
#[derive(Debug)]
pub struct Series {
    /// The CSS class.
    pub class: &'static str,
    /// The name.
    pub name: &'static str,
    /// The shape of its marks, as path data around 0,0.
    pub mark: &'static str,
    /// Its lines.
    pub paths: Paths,
    /// Where its marks are.
    pub marks: Vec<Mark>,
    /// The figures that may still change.
    pub hollow: Vec<Mark>,
    /// Height of the highest figure of its last settled days, and of its name beside it; `None`: it has none.
    pub end: Option<(f64, f64)>,
    /// The newest figure that is settled, and its day.
    pub newest: Option<(String, NaiveDate)>,
}

/// Path data in the coordinates of the lines; the pen is lifted over days without a figure. A figure that stands alone is a
/// line of no length, which round caps show as a dot.
#[derive(Debug)]
pub struct Paths {
    /// Between days that are settled.
    pub settled: String,
    /// From or to days that may still change.
    pub open: String,
    /// Saturdays and Sundays where they are drawn apart.
    pub weekends: String,
}

/// A place on the canvas.
#[derive(Debug, PartialEq)]
pub struct Mark {
    /// From the left.
    pub x: f64,
    /// From above.
    pub y: f64,
}

/// The products that have figures, and the names of those that have none.
pub fn all(days: &[Day], scale: Scale) -> (Vec<Series>, Vec<&'static str>) {
    let (with, without): (Vec<_>, Vec<_>) =
        PRODUCTS.iter().enumerate().partition(|(_, product)| days.iter().any(|day| product.figure(day).is_some()));
    let mut series: Vec<_> = with.into_iter().map(|(n, product)| product.series(n, days, scale)).collect();
    spread(&mut series);
    (series, without.into_iter().map(|(_, product)| product.name).collect())
}

impl Product {
    fn figure(&self, day: &Day) -> Option<i64> {
        day.figures()[self.place]
    }

    fn series(&self, number: usize, days: &[Day], scale: Scale) -> Series {
        let paths = self.paths(days, scale);
        let at = |day: &Day| Some(Mark { x: scale.x(day.report_date), y: scale.y(self.figure(day)?) });
        let hollow = days.iter().filter(|day| !day.is_final).filter_map(at).collect();
        // Where one line ends on a weekend, all do: the week before tells them apart.
        let recent = days.last().map(|last| last.report_date - NAMED_FOR);
        let recent = days.iter().rev().take_while(|day| Some(day.report_date) > recent).filter(|day| day.is_final);
        let end = recent.filter_map(|day| self.figure(day)).max().map(|figure| (scale.y(figure), scale.y(figure)));
        let mut newest = days.iter().rev().filter(|day| day.is_final);
        let newest = newest.find_map(|day| Some((thousands(self.figure(day)?), day.report_date)));
        let marks = self.marked(number, days, scale).into_iter().filter_map(at).collect();
        Series { class: self.class, name: self.name, mark: self.mark, paths, marks, hollow, end, newest }
    }

    fn paths(&self, days: &[Day], scale: Scale) -> Paths {
        let point = |(n, day): (usize, &Day)| {
            let (date, figure) = (day.report_date, self.figure(day)?);
            Some(Point { n, date, at: (scale.index(date), scale.step(figure)), settled: day.is_final })
        };
        let points = days.iter().enumerate().filter_map(point);
        let (apart, line): (Vec<_>, Vec<_>) =
            points.partition(|point| scale.sets_weekends_apart() && is_weekend(point.date));
        let (mut settled, mut open, mut weekends) = (Pen::default(), Pen::default(), Pen::default());
        for (n, point) in line.iter().enumerate() {
            let before = n.checked_sub(1).map(|n| &line[n]).filter(|before| point.follows(before, scale));
            if let Some(before) = before {
                let pen = if point.settled && before.settled { &mut settled } else { &mut open };
                pen.line(before.at, point.at);
            } else if line.get(n + 1).is_none_or(|next| !next.follows(point, scale)) {
                settled.dot(point.at);
            }
        }
        for point in apart {
            weekends.dot(point.at);
        }
        Paths { settled: settled.path, open: open.path, weekends: weekends.path }
    }

    /// The days that get a mark: in even steps, each product a little further along, and of the week around that day the
    /// one with the most users, because the lines of all products meet on weekends.
    fn marked<'d>(&self, number: usize, days: &'d [Day], scale: Scale) -> Vec<&'d Day> {
        let step = (scale.days / MARKS).max(8);
        let shift = step * (2 * i64::try_from(number).unwrap_or(0) + 1) / 14;
        let busiest = |middle: i64| {
            let from = days.partition_point(|day| scale.index(day.report_date) < middle - 3);
            let week = days[from..].iter().take_while(|day| scale.index(day.report_date) <= middle + 3);
            week.filter(|day| day.is_final && self.figure(day).is_some()).max_by_key(|day| self.figure(day))
        };
        (0..=MARKS).map(|n| n * step + shift).take_while(|middle| *middle < scale.days).filter_map(busiest).collect()
    }
}

/// A figure of a day.
struct Point {
    /// Where the day stands among those that are held.
    n: usize,
    date: NaiveDate,
    at: (i64, i64),
    settled: bool,
}

impl Point {
    /// Whether a line joins it with one before it: that of the day before, or of the Friday before a Monday where weekends
    /// are drawn apart. Never over days that are not held.
    fn follows(&self, before: &Self, scale: Scale) -> bool {
        let days = (self.date - before.date).num_days();
        let all_held = usize::try_from(days) == Ok(self.n - before.n);
        all_held && (days == 1 || scale.sets_weekends_apart() && days == 3 && self.date.weekday() == Weekday::Mon)
    }
}

/// Draws relative lines, which are short to write, between whole steps, so that nothing adds up.
#[derive(Default)]
struct Pen {
    path: String,
    at: Option<(i64, i64)>,
}

impl Pen {
    fn line(&mut self, from: (i64, i64), to: (i64, i64)) {
        if self.at != Some(from) {
            self.move_to(from);
        }
        let (right, down) = (to.0 - from.0, to.1 - from.1);
        let between = if down < 0 { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(self.path, "l{right}{between}{down}");
        self.at = Some(to);
    }

    fn dot(&mut self, at: (i64, i64)) {
        self.move_to(at);
        self.path.push_str("h0");
        self.at = Some(at);
    }

    fn move_to(&mut self, at: (i64, i64)) {
        let _ = write!(self.path, "M{} {}", at.0, at.1);
    }
}

/// Moves the names apart where lines end close together.
fn spread(series: &mut [Series]) {
    let mut ends: Vec<&mut (f64, f64)> = series.iter_mut().filter_map(|series| series.end.as_mut()).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = BOTTOM;
    for end in ends.iter_mut().rev() {
        end.1 = end.0.min(lowest);
        lowest = end.1 - NAME_HEIGHT;
    }
    let mut highest = TOP;
    for end in ends {
        end.1 = end.1.max(highest);
        highest = end.1 + NAME_HEIGHT;
    }
}
