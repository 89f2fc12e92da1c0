//! What the stand-in is told before it starts.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::state::now;

/// The tenant of [`Config::one_tenant`], and the first of [`Config::many`].
pub const TENANT_ID: Uuid = Uuid::from_u128(0x5eed_0001_c0de_4365_8000_0000_0000_0000);
/// The application ID of that tenant.
pub const CLIENT_ID: &str = "5eedc11e-c0de-4365-8000-000000000000";
/// The client secret of that tenant.
pub const CLIENT_SECRET: &str = "Sim8Q~not-a-real-secret-0000";

/// How far a report looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Period {
    /// 7 days.
    D7,
    /// 30 days.
    D30,
    /// 90 days.
    D90,
    /// 180 days.
    D180,
}

impl Period {
    /// All four, the shortest first.
    pub const ALL: [Self; 4] = [Self::D7, Self::D30, Self::D90, Self::D180];

    /// The length in days, as the CSV's `Report Period` column has it.
    pub const fn days(self) -> u16 {
        match self {
            Self::D7 => 7,
            Self::D30 => 30,
            Self::D90 => 90,
            Self::D180 => 180,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "D{}", self.days())
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|period| period.to_string() == text).ok_or_else(|| format!("no such period: {text}"))
    }
}

/// One customer of Microsoft's, with the one application that reads its reports.
#[derive(Debug, Clone)]
pub struct TenantConfig {
    /// The directory (tenant) ID.
    pub id: Uuid,
    /// The application (client) ID.
    pub client_id: String,
    /// The client secret that is valid at the start.
    pub client_secret: String,
    /// How many licensed users the tenant has: the size of its figures.
    pub users: u64,
    /// Two tenants of one size and seed have the same figures.
    pub seed: u64,
}

/// The limit on the calls of one report by one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Calls in the window, rejected ones included, before the next one is refused.
    pub calls: usize,
    /// The length of the sliding window.
    pub window: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { calls: 14, window: Duration::from_mins(10) }
    }
}

/// The columns of the CSV, which have changed before and will again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HeaderGeneration {
    /// The ten columns since 2017-09-30.
    #[default]
    Today,
    /// The nine columns of the first page, of 2017-09-26.
    WithoutTeams,
    /// Today's, with one more product column of this name between `Teams` and `Report Date`.
    Extra(String),
}

/// Everything the stand-in is told before it starts; `Config::one_tenant()` is enough for most tests.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tenants Microsoft knows.
    pub tenants: Vec<TenantConfig>,
    /// The refresh date served at first.
    pub refresh_date: NaiveDate,
    /// Serve https, with a CA of its own ([`crate::Sim::ca_pem`]).
    pub tls: bool,
    /// How long an access token is good for.
    pub token_lifetime: Duration,
    /// How long a download link is good for.
    pub link_lifetime: Duration,
    /// The limit of calls per tenant and report; `None`: no limit.
    pub throttle: Option<Throttle>,
    /// The columns of the CSV.
    pub header: HeaderGeneration,
    /// The order of the rows: newest report date first, or oldest first.
    pub newest_first: bool,
    /// Waited before each answer of each host.
    pub latency: Duration,
    /// The ports of login, Graph and download; 0 takes any free one.
    pub ports: [u16; 3],
    /// The address all three listen on.
    pub listen: IpAddr,
    /// The host name in URLs and certificates; `None`: the listening address (127.0.0.1 for a wildcard).
    pub public_host: Option<String>,
}

impl Config {
    /// One tenant of 1,000 users: [`TENANT_ID`], [`CLIENT_ID`], [`CLIENT_SECRET`].
    pub fn one_tenant() -> Self {
        Self::many(1)
    }

    /// `count` tenants of different sizes and figures, always the same ones.
    pub fn many(count: u32) -> Self {
        let two_days_ago = now().date_naive() - Days::new(2);
        Self {
            tenants: (0..count).map(tenant).collect(),
            refresh_date: two_days_ago,
            tls: false,
            token_lifetime: Duration::from_secs(3599),
            link_lifetime: Duration::from_mins(5),
            throttle: Some(Throttle::default()),
            header: HeaderGeneration::Today,
            newest_first: true,
            latency: Duration::ZERO,
            ports: [0; 3],
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            public_host: None,
        }
    }

    /// Starts at this refresh date instead of two days ago.
    #[must_use]
    pub fn refresh_date(mut self, date: NaiveDate) -> Self {
        self.refresh_date = date;
        self
    }

    /// Gives every tenant this many users.
    #[must_use]
    pub fn users(mut self, users: u64) -> Self {
        for tenant in &mut self.tenants {
            tenant.users = users;
        }
        self
    }

    /// Serves https.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Limits the calls otherwise than Microsoft does.
    #[must_use]
    pub fn throttle(mut self, calls: usize, window: Duration) -> Self {
        self.throttle = Some(Throttle { calls, window });
        self
    }

    /// Lifts the limit of calls.
    #[must_use]
    pub fn without_throttle(mut self) -> Self {
        self.throttle = None;
        self
    }

    /// Serves other columns.
    #[must_use]
    pub fn header(mut self, header: HeaderGeneration) -> Self {
        self.header = header;
        self
    }

    /// Waits before each answer.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Makes access tokens expire after `lifetime`.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// Makes download links expire after `lifetime`.
    #[must_use]
    pub fn link_lifetime(mut self, lifetime: Duration) -> Self {
        self.link_lifetime = lifetime;
        self
    }

    /// Listens on these ports: login, Graph, download.
    #[must_use]
    pub fn ports(mut self, ports: [u16; 3]) -> Self {
        self.ports = ports;
        self
    }

    /// The host that stands in URLs and certificates.
    pub(crate) fn host(&self) -> String {
        match &self.public_host {
            Some(host) => host.clone(),
            None if self.listen.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            None if self.listen.is_ipv6() => format!("[{}]", self.listen),
            None => self.listen.to_string(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::one_tenant()
    }
}

/// The tenant with this number. The first one has the published constants and 1,000 users.
fn tenant(number: u32) -> TenantConfig {
    let client = Uuid::from_u128(0x5eed_c11e_c0de_4365_8000_0000_0000_0000 + u128::from(number));
    TenantConfig {
        id: Uuid::from_u128(TENANT_ID.as_u128() + u128::from(number)),
        client_id: client.to_string(),
        client_secret: format!("Sim8Q~not-a-real-secret-{number:04}"),
        users: 1_000 + u64::from(number % 37) * 730,
        seed: u64::from(number) + 1,
    }
}
