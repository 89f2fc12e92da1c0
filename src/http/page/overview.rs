//! The overview: all tenants, those that need attention first.

use std::{collections::HashMap, fmt::Write as _};

use askama::Template;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::{Badge, Frame, Moment, Summary, count, date, figure, mood, number, summary::Told};
use crate::{
    http::{NextDue, data::Glimpse},
    store::status::{Grade, Standing, TargetStatus},
};

/// Rows on one page.
const ROWS: usize = 100;

/// What is asked for in the address.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Browse {
    /// Part of the name or ID.
    #[serde(default)]
    q: String,
    /// Only tenants that stand so.
    state: Option<Only>,
    /// From 1 on.
    page: Option<usize>,
}

/// The names of grades in addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Only {
    Attention,
    Waiting,
    Fresh,
}

impl Only {
    const ALL: [Self; 3] = [Self::Attention, Self::Waiting, Self::Fresh];

    const fn grade(self) -> Grade {
        match self {
            Self::Attention => Grade::Attention,
            Self::Waiting => Grade::Waiting,
            Self::Fresh => Grade::Fresh,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Waiting => "waiting",
            Self::Fresh => "fresh",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Attention => "Need attention",
            Self::Waiting => "Waiting",
            Self::Fresh => "Up to date",
        }
    }
}

impl Browse {
    /// Whether nothing in particular is asked for.
    pub fn is_plain(&self) -> bool {
        self.q.trim().is_empty() && self.state.is_none() && self.page.is_none()
    }

    /// The address of a page like this one.
    fn link(&self, path: &str, state: Option<Only>, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.q.trim().is_empty() {
            query.append_pair("q", self.q.trim());
        }
        if let Some(state) = state {
            query.append_pair("state", state.name());
        }
        if page > 1 {
            query.append_pair("page", &page.to_string());
        }
        let query = query.finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// The tenants that are asked for, in the order of their need.
#[derive(Debug)]
pub struct Listing<'t> {
    /// How many tenants there are in all, and how many in each grade.
    total: usize,
    by_grade: [usize; 3],
    /// Those whose name or ID fits, in each grade.
    fitting: [usize; 3],
    /// Those asked for.
    pub found: Vec<Summary<'t>>,
}

impl<'t> Listing<'t> {
    /// Of all targets, in order of the tenant.
    pub fn new(targets: &'t [TargetStatus], browse: &Browse) -> Self {
        let wanted = browse.q.trim().to_lowercase();
        let (mut total, mut by_grade, mut fitting) = (0, [0; 3], [0; 3]);
        let mut found = Vec::new();
        for summary in Summary::all(targets) {
            let grade = summary.standing.grade();
            total += 1;
            by_grade[grade as usize] += 1;
            let tenant = &summary.targets[0];
            let fits = wanted.is_empty()
                || tenant.tenant_name.to_lowercase().contains(&wanted)
                || tenant.tenant_id.to_string().contains(&wanted);
            if fits {
                fitting[grade as usize] += 1;
                if browse.state.is_none_or(|only| only.grade() == grade) {
                    found.push(summary);
                }
            }
        }
        // They come by name, and stay so where the need is the same. None, which is never, is before any time.
        let waits_since =
            |summary: &Summary<'_>| summary.last_success.filter(|_| summary.standing != Standing::UpToDate);
        found.sort_by_key(|summary| (summary.standing, waits_since(summary)));
        Self { total, by_grade, fitting, found }
    }

    fn pages(&self) -> usize {
        self.found.len().div_ceil(ROWS).max(1)
    }

    fn page(&self, browse: &Browse) -> usize {
        browse.page.unwrap_or(1).clamp(1, self.pages())
    }

    /// Those on the page asked for.
    pub fn shown(&self, browse: &Browse) -> &[Summary<'t>] {
        let from = (self.page(browse) - 1) * ROWS;
        &self.found[from..self.found.len().min(from + ROWS)]
    }
}

/// The page.
#[derive(Debug, Template)]
#[template(path = "overview.html")]
pub struct Overview {
    frame: Frame,
    mood: &'static str,
    headline: String,
    total: usize,
    q: String,
    state: Option<&'static str>,
    filters: Vec<Filter>,
    rows: Vec<Row>,
    range: String,
    previous: Option<String>,
    next: Option<String>,
    csv: String,
}

/// A link that narrows the list.
#[derive(Debug)]
struct Filter {
    words: &'static str,
    number: String,
    href: String,
    current: bool,
}

/// One tenant.
#[derive(Debug)]
struct Row {
    id: Uuid,
    name: String,
    badge: Badge,
    affected: Option<String>,
    reason: Option<Told>,
    more_reasons: usize,
    refresh_date: String,
    behind: Option<String>,
    success: Option<Moment>,
    next_due: Option<Moment>,
    trend: Option<Trend>,
    missing: Option<String>,
}

/// A line of 26 weeks.
#[derive(Debug)]
struct Trend {
    path: String,
    newest: String,
    words: String,
}

impl Overview {
    /// The page for what the ledger said at `as_of`.
    pub fn new(
        listing: &Listing<'_>,
        browse: &Browse,
        glimpses: &HashMap<Uuid, Glimpse>,
        next: &NextDue,
        (as_of, now): (DateTime<Utc>, DateTime<Utc>),
    ) -> Self {
        let (mood, headline) = headline(listing);
        let page = listing.page(browse);
        let first = (page - 1) * ROWS;
        let shown = listing.shown(browse);
        let range = match listing.found.len() {
            0 => String::new(),
            all if all == shown.len() => format!("{} shown", number(all)),
            all => format!("{} to {} of {}", number(first + 1), number(first + shown.len()), number(all)),
        };
        let title = if page > 1 { format!("{headline}, page {page}") } else { headline.clone() };
        Self {
            frame: Frame::new(title, as_of, now),
            mood,
            headline,
            total: listing.total,
            q: browse.q.trim().to_owned(),
            state: browse.state.map(Only::name),
            filters: filters(listing, browse),
            rows: shown.iter().map(|summary| Row::new(*summary, glimpses, next, now)).collect(),
            range,
            previous: (page > 1).then(|| browse.link("/", browse.state, page - 1)),
            next: (page < listing.pages()).then(|| browse.link("/", browse.state, page + 1)),
            csv: browse.link("/tenants.csv", browse.state, 1),
        }
    }
}

fn headline(listing: &Listing<'_>) -> (&'static str, String) {
    let [attention, waiting, _] = listing.by_grade;
    let total = number(listing.total);
    let words = match (listing.total, attention, waiting) {
        (0, ..) => "Nothing is to be fetched yet".to_owned(),
        (1, 1, _) => "The one tenant needs attention".to_owned(),
        (1, 0, 1) => "The one tenant waits for data from Microsoft".to_owned(),
        (1, ..) => "The one tenant is up to date".to_owned(),
        (_, 1, _) => format!("1 of {total} tenants needs attention"),
        (_, 2.., _) => format!("{} of {total} tenants need attention", number(attention)),
        (_, 0, 0) => format!("All {total} tenants are up to date"),
        (_, 0, 1) => format!("1 of {total} tenants waits for data from Microsoft"),
        (_, 0, _) => format!("{} of {total} tenants wait for data from Microsoft", number(waiting)),
    };
    let grade = match (listing.total, attention, waiting) {
        (0, ..) | (_, 0, 1..) => Grade::Waiting,
        (_, 1.., _) => Grade::Attention,
        (_, 0, 0) => Grade::Fresh,
    };
    (mood(grade), words)
}

fn filters(listing: &Listing<'_>, browse: &Browse) -> Vec<Filter> {
    let filter = |only: Option<Only>, words, fitting| Filter {
        words,
        number: number(fitting),
        href: browse.link("/", only, 1),
        current: browse.state == only,
    };
    let all = filter(None, "All", listing.fitting.iter().sum());
    let each = Only::ALL.map(|only| filter(Some(only), only.words(), listing.fitting[only.grade() as usize]));
    [all].into_iter().chain(each).collect()
}

impl Row {
    fn new(summary: Summary<'_>, glimpses: &HashMap<Uuid, Glimpse>, next: &NextDue, now: DateTime<Utc>) -> Self {
        let tenant = &summary.targets[0];
        let (affected, all) = (summary.affected().count(), summary.targets.len());
        // Of the others the state says enough.
        let told = summary.standing.grade() == Grade::Attention;
        let mut reasons = summary.reasons().into_iter().filter(|_| told);
        let newest = summary.newest_refresh();
        let glimpse = glimpses.get(&tenant.tenant_id);
        Self {
            id: tenant.tenant_id,
            name: tenant.tenant_name.clone(),
            badge: summary.standing.into(),
            affected: (affected < all).then(|| format!("{affected} of {all} targets")),
            reason: reasons.next(),
            more_reasons: reasons.count(),
            refresh_date: date(newest.map(|(date, _)| date)),
            behind: newest.map(|(_, days)| count(i64::from(days), "day")),
            success: summary.last_success.map(|at| Moment::new(at, now)),
            next_due: summary.next_due(next).map(|at| Moment::new(at, now)),
            trend: glimpse.and_then(|glimpse| Trend::new(&glimpse.weeks)),
            missing: glimpse.filter(|glimpse| glimpse.missing > 0).map(|glimpse| count(glimpse.missing, "day")),
        }
    }
}

impl Trend {
    /// In a box of 100 by 24, from 0 to the highest week; the pen is lifted over weeks that are not whole.
    fn new(weeks: &[Option<i64>]) -> Option<Self> {
        let top = weeks.iter().flatten().max().copied()?.max(1);
        let newest = weeks.iter().rev().flatten().next().copied()?;
        let oldest = weeks.iter().flatten().next().copied()?;
        let (mut path, mut pen) = (String::new(), 'M');
        for (place, week) in weeks.iter().enumerate() {
            let Some(users) = week else {
                pen = 'M';
                continue;
            };
            let height = i128::from(*users) * 22 / i128::from(top);
            // Writing to a string cannot fail.
            let _ = write!(path, "{pen}{} {}", place * 4, 23 - height);
            if pen == 'M' {
                path.push_str("h0");
            }
            pen = 'L';
        }
        let known = weeks.iter().flatten().count();
        let words = format!(
            "from {} to {} in {}",
            figure(Some(oldest)),
            figure(Some(newest)),
            count(i64::try_from(known).unwrap_or(0), "week")
        );
        Some(Self { path, newest: figure(Some(newest)), words })
    }
}
