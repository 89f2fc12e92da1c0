//! Settings: what they are, where they come from, and what is refused.
//!
//! `config/default.toml` is compiled in and documents every setting; a file and the environment override it. This is the
//! only room that reads the environment.

mod http;
mod load;
mod secret;
mod tenants;

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use chrono_tz::Tz;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

pub use http::Http;
pub use load::{ConfigError, Effective, environment, load, load_from, search_path};
pub use secret::{Secret, SecretError};
pub use tenants::{SignIn, Tenant};

use self::tenants::TenantEntry;
use crate::report::{self, Period, catalogue};

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the ledger is kept.
    pub database: Database,
    /// The one tenant, or what several tenants have in common.
    tenant: TenantEntry,
    /// Several tenants.
    #[serde(default)]
    tenants: Vec<TenantEntry>,
    /// Microsoft's side.
    pub graph: Graph,
    /// By report name; a report that is not named has its defaults.
    reports: BTreeMap<String, ReportEntry>,
    /// When to fetch.
    pub schedule: Schedule,
    /// Health, metrics and the status page.
    pub http: Http,
    /// Logging.
    pub log: Log,
    /// How long what is not a fact is kept.
    pub retention: Retention,
}

/// Postgres.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    url: Option<SecretString>,
    url_file: Option<PathBuf>,
    /// Data directory of the managed local server, used when there is no `url`.
    pub data_dir: PathBuf,
    /// Most connections held at once.
    pub max_connections: NonZeroU32,
    /// Longest wait for a connection.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time for one statement.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Whether to apply pending migrations at start.
    pub migrate: bool,
}

impl Database {
    /// The connection string, or `None` for the managed local server.
    pub fn url(&self) -> Result<Option<Secret>, ConfigError> {
        Secret::either("database.url", self.url.as_ref(), self.url_file.as_ref())
    }
}

/// Microsoft's clouds. Tokens of one are worthless in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Cloud {
    /// The world, and GCC.
    Global,
    /// US Government L4 (GCC High).
    Usgov,
    /// US Government L5 (DoD).
    UsgovDod,
    /// China, run by 21Vianet.
    China,
}

impl Cloud {
    /// The name used in the configuration and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Usgov => "usgov",
            Self::UsgovDod => "usgov-dod",
            Self::China => "china",
        }
    }
}

impl TryFrom<String> for Cloud {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        [Self::Global, Self::Usgov, Self::UsgovDod, Self::China]
            .into_iter()
            .find(|cloud| cloud.as_str() == name)
            .ok_or_else(|| format!("`{name}` is no cloud (global, usgov, usgov-dod, china)"))
    }
}

/// Microsoft's side: hosts, bounds and deadlines.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Which cloud's hosts, scope and API version to use.
    pub cloud: Cloud,
    /// Instead of the cloud's Graph origin.
    pub base_url: Option<Url>,
    /// Instead of the cloud's login origin.
    pub login_url: Option<Url>,
    /// Instead of the cloud's download hosts: suffixes that begin with a dot, or whole hosts.
    #[serde(default, deserialize_with = "optional_list")]
    pub download_hosts: Option<Vec<String>>,
    /// Permits plain http and any port to loopback addresses.
    pub allow_insecure_loopback: bool,
    /// PEM certificates trusted besides the system's.
    pub extra_ca_file: Option<PathBuf>,
    /// Longest time to connect.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time for one request with its body.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Largest body, in bytes after decompression.
    pub max_body_bytes: NonZeroUsize,
    /// Tenants fetched at the same time.
    pub parallel_tenants: NonZeroUsize,
    /// Calls per report, tenant and 10 minutes that scheduled work may make.
    pub calls_per_10_minutes: NonZeroU16,
}

/// A report as it is written down; [`Settings::reports`] fills in its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportEntry {
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "optional_list")]
    periods: Option<Vec<Period>>,
    function: Option<String>,
}

/// A report that is to be fetched.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its definition.
    pub definition: &'static report::Report,
    /// The periods to ask for, longest first.
    pub periods: Vec<Period>,
    /// The Graph function to call.
    pub function: String,
}

/// When to fetch, and how persistently.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Cron expression, five fields.
    pub cron: String,
    /// IANA time zone the expression is read in.
    pub timezone: Tz,
    /// Each tenant is put off by a fixed share of this.
    #[serde(with = "humantime_serde")]
    pub jitter: Duration,
    /// A claim is lost when its process was not heard of for this long.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Tries for one slot.
    pub max_attempts: NonZeroU16,
    /// First back-off between tries.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// `once` gives up on a slot whose next try is further away.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Other expressions for some periods.
    #[serde(default)]
    pub periods: BTreeMap<Period, PeriodSchedule>,
}

impl Schedule {
    /// The cron expression of a period.
    pub fn cron(&self, period: Period) -> &str {
        self.periods.get(&period).map_or(&self.cron, |own| &own.cron)
    }
}

/// What one period does otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeriodSchedule {
    /// Cron expression, five fields.
    pub cron: String,
}

/// Logging.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// As in `RUST_LOG`.
    pub filter: String,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// How long what is not a fact is kept. Facts are kept for ever.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Attempts and closed slots.
    #[serde(with = "humantime_serde")]
    pub attempts: Duration,
    /// Refused bodies.
    #[serde(with = "humantime_serde")]
    pub quarantine: Duration,
}

impl Settings {
    /// The reports to fetch.
    pub fn reports(&self) -> Result<Vec<Report>, ConfigError> {
        if let Some(unknown) = self.reports.keys().find(|name| catalogue::find(name).is_none()) {
            let known: Vec<_> = catalogue::REPORTS.iter().map(|report| report.name).collect();
            return Err(ConfigError::Invalid(format!(
                "reports.{unknown}: there is no such report; known are {}",
                known.join(", ")
            )));
        }
        let mut reports = Vec::new();
        for &definition in catalogue::REPORTS {
            let entry = self.reports.get(definition.name);
            if entry.and_then(|entry| entry.enabled) == Some(false) {
                continue;
            }
            let mut periods =
                entry.and_then(|entry| entry.periods.clone()).unwrap_or_else(|| definition.periods.to_vec());
            periods.sort_unstable_by(|a, b| b.cmp(a));
            periods.dedup();
            let function =
                entry.and_then(|entry| entry.function.clone()).unwrap_or_else(|| definition.function.to_owned());
            if function.is_empty() || !function.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') {
                return Err(ConfigError::Invalid(format!(
                    "reports.{}.function: `{function}` is no name of a Graph function",
                    definition.name
                )));
            }
            reports.push(Report { definition, periods, function });
        }
        Ok(reports)
    }
}

/// A list, also as one string with commas: the environment knows no lists.
fn optional_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + std::str::FromStr<Err: std::fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        Many(Vec<T>),
        One(String),
    }
    match Option::<OneOrMany<T>>::deserialize(deserializer)? {
        None => Ok(None),
        Some(OneOrMany::Many(list)) => Ok(Some(list)),
        Some(OneOrMany::One(text)) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(D::Error::custom))
            .collect::<Result<_, _>>()
            .map(Some),
    }
}
