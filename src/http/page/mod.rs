//! The pages: from what the ledger says to words that a person understands. Pure; `templates/` lays them out.

mod changes;
mod overview;
mod summary;
mod tenant;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use sha2::{Digest, Sha256};

pub use self::{
    overview::{Browse, Listing, Overview},
    summary::Summary,
    tenant::{Range, TenantPage},
};
use super::chart::thousands;
use crate::{
    report::Period,
    store::status::{Grade, Standing},
};

/// Which stands in every page.
const CSS: &str = include_str!("../../../templates/style.css");

/// The picture on the browser's tab.
pub const ICON: &str = include_str!("../../../templates/icon.svg");

/// What a browser may do with a page: show it, with exactly the one style sheet inside it and our own icon, send its form
/// back to us, and nothing else.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(CSS));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    )
});

/// What stands around every page.
#[derive(Debug)]
pub struct Frame {
    css: &'static str,
    version: &'static str,
    title: String,
    as_of: Moment,
}

impl Frame {
    fn new(title: String, as_of: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self { css: CSS, version: env!("CARGO_PKG_VERSION"), title, as_of: Moment::new(as_of, now) }
    }
}

/// A page that has nothing to show but a message.
#[derive(Debug, Template)]
#[template(path = "notice.html")]
pub struct Notice {
    frame: Frame,
    heading: &'static str,
    text: &'static str,
}

impl Notice {
    /// The ledger cannot be read.
    pub fn unreadable(now: DateTime<Utc>) -> Self {
        let heading = "The database does not answer";
        let text = "Nothing is lost: what Microsoft holds is fetched as soon as Postgres is back. Check that it runs and that \
                    database.url is right; the log says what it answered.";
        Self { frame: Frame::new(heading.to_owned(), now, now), heading, text }
    }

    /// There is no such tenant.
    pub fn unknown_tenant(now: DateTime<Utc>) -> Self {
        let heading = "There is no such tenant";
        let text = "The address ends with the directory (tenant) ID, and nothing is held under this one. Check it against the \
                    settings, or look the tenant up by name.";
        Self { frame: Frame::new(heading.to_owned(), now, now), heading, text }
    }
}

/// An instant for people and, in the `datetime` attribute, for machines.
#[derive(Debug)]
pub struct Moment {
    relative: String,
    absolute: String,
    machine: String,
}

impl Moment {
    fn new(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            relative: relative(at - now),
            absolute: at.format("%Y-%m-%d %H:%M").to_string(),
            machine: at.to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

/// `3 hours ago`, `in 5 minutes`, `just now`.
fn relative(distance: TimeDelta) -> String {
    let seconds = distance.num_seconds();
    let amount = match seconds.abs() {
        0..60 => return if seconds > 0 { "in a moment" } else { "just now" }.to_owned(),
        size @ 60..3_600 => count(size / 60, "minute"),
        size @ 3_600..172_800 => count(size / 3_600, "hour"),
        size => count(size / 86_400, "day"),
    };
    if seconds < 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

fn count(number: i64, unit: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {unit}{ending}", thousands(number))
}

fn number(number: usize) -> String {
    thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What stands where there is nothing to say.
fn none() -> String {
    "\u{2013}".to_owned()
}

fn figure(value: Option<i64>) -> String {
    value.map_or_else(none, thousands)
}

fn date(value: Option<NaiveDate>) -> String {
    value.map_or_else(none, |date| date.to_string())
}

fn weekday(date: NaiveDate) -> String {
    date.format("%a %Y-%m-%d").to_string()
}

fn period(days: i16) -> String {
    Period::from_days(days).map_or_else(|| format!("{days} days"), |period| period.to_string())
}

/// Names of reports as people write words.
fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// The CSS class of a standing.
fn mood(grade: Grade) -> &'static str {
    match grade {
        Grade::Attention => "bad",
        Grade::Waiting => "wait",
        Grade::Fresh => "good",
    }
}

/// A standing as a colour, a sign and words: nobody has to tell colours apart.
#[derive(Debug)]
struct Badge {
    class: &'static str,
    sign: &'static str,
    words: &'static str,
}

impl From<Standing> for Badge {
    fn from(standing: Standing) -> Self {
        let sign = match standing.grade() {
            Grade::Attention => "!",
            Grade::Waiting => "\u{2026}",
            Grade::Fresh => "\u{2713}",
        };
        Self { class: mood(standing.grade()), sign, words: standing.words() }
    }
}
