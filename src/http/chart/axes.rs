//! Round numbers and beginnings of months.

use chrono::{Datelike, Months, NaiveDate};

use super::Scale;

/// More ticks than this on the time axis run into each other; beginnings of years are always shown.
const MOST_X_TICKS: usize = 14;

/// A mark on an axis.
#[derive(Debug, PartialEq)]
pub struct Tick {
    /// Where, in units of the canvas.
    pub at: f64,
    /// What it says.
    pub label: String,
}

/// A round step for about five grid lines, and the first multiple of it that nothing rises above.
pub fn round_scale(most: i64) -> (i64, i64) {
    let most = most.clamp(1, i64::MAX / 10);
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

pub fn y_ticks(scale: Scale, step: i64) -> Vec<Tick> {
    (0..=scale.top / step).map(|n| Tick { at: scale.y(n * step), label: thousands(n * step) }).collect()
}

/// The first days of months, or of every third, sixth or twelfth, as few as fit.
pub fn x_ticks(scale: Scale, last: NaiveDate) -> Vec<Tick> {
    let begin = scale.first.with_day(1).unwrap_or(scale.first);
    let firsts: Vec<NaiveDate> = (0..)
        .map_while(|n| begin.checked_add_months(Months::new(n)))
        .skip_while(|date| *date < scale.first)
        .take_while(|date| *date <= last)
        .collect();
    let every = |months: u32| firsts.iter().filter(move |date| date.month0() % months == 0);
    let months = [1, 3, 6].into_iter().find(|months| every(*months).count() <= MOST_X_TICKS);
    every(months.unwrap_or(12))
        .enumerate()
        .map(|(n, date)| {
            let format = if n == 0 || date.month() == 1 { "%b %Y" } else { "%b" };
            Tick { at: scale.x(*date), label: date.format(format).to_string() }
        })
        .collect()
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
