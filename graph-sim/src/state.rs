//! What Microsoft remembers between two requests.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    config::{Config, HeaderGeneration, Period, TenantConfig, Throttle},
    credential,
    data::{self, Edition, Figures},
    fault::{Count, Fault, FaultKind, Host},
    wire::Response,
};

/// The request log keeps the newest of them.
const LONGEST_LOG: usize = 100_000;
/// More tokens or links than this, and the expired ones are forgotten.
const MANY: usize = 10_000;

/// The machine's time, for logs and messages; whatever expires is measured by a monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the machine's clock")]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// A text nobody can guess, of 64 characters.
pub(crate) fn random_text() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// A request that one of the three hosts received.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// When it was answered (a delay comes after that).
    pub at: DateTime<Utc>,
    /// By whom.
    pub host: Host,
    /// The tenant it concerns, as far as one could tell.
    pub tenant: Option<Uuid>,
    /// The period it concerns, as far as one could tell.
    pub period: Option<Period>,
    /// The method.
    pub method: String,
    /// The path, without the query. That of a download is a secret.
    pub path: String,
    /// The status it was answered with; 0: no answer.
    pub status: u16,
    /// It carried an `Authorization` header.
    pub had_authorization: bool,
}

/// A tenant, and all that tests can change about it.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) config: TenantConfig,
    pub(crate) secret: String,
    pub(crate) secret_expired: bool,
    /// The certificates of the app registration: the thumbprint as an assertion's header has it, and the DER.
    pub(crate) certificates: Vec<(String, Vec<u8>)>,
    pub(crate) federations: Vec<Federation>,
    pub(crate) consent: bool,
    pub(crate) revision: u32,
    pub(crate) removed: BTreeSet<NaiveDate>,
    pub(crate) refresh: HashMap<Period, NaiveDate>,
    bodies: HashMap<Period, (Edition, Bytes)>,
}

/// A federated credential: whose tokens are taken for the application's own.
#[derive(Debug, Clone)]
pub(crate) struct Federation {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audience: String,
}

impl Tenant {
    /// Adds a certificate in PEM to the app registration.
    pub(crate) fn add_certificate(&mut self, pem: &str) -> Result<(), String> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&der));
        self.certificates.push((thumbprint, der.to_vec()));
        Ok(())
    }
}

/// An access token or a download link.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) tenant: Uuid,
    /// Of a link.
    pub(crate) period: Option<Period>,
    /// Of a link: the second half, which stands in the query.
    pub(crate) signature: String,
    pub(crate) expires: Instant,
}

impl Grant {
    pub(crate) fn is_valid(&self) -> bool {
        Instant::now() < self.expires
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tenants: HashMap<Uuid, Tenant>,
    pub(crate) tokens: HashMap<String, Grant>,
    pub(crate) links: HashMap<String, Grant>,
    pub(crate) refresh_date: NaiveDate,
    pub(crate) header: HeaderGeneration,
    pub(crate) newest_first: bool,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) recent_calls: HashMap<Uuid, VecDeque<Instant>>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) log: VecDeque<Request>,
    pub(crate) calls: HashMap<Host, u64>,
    pub(crate) leaks: u64,
    pub(crate) secrets: Vec<String>,
}

impl State {
    pub(crate) fn new(config: &Config) -> Self {
        let tenant = |config: &TenantConfig| Tenant {
            secret: config.client_secret.clone(),
            config: config.clone(),
            secret_expired: false,
            certificates: Vec::new(),
            federations: Vec::new(),
            consent: true,
            revision: 0,
            removed: BTreeSet::new(),
            refresh: HashMap::new(),
            bodies: HashMap::new(),
        };
        Self {
            tenants: config.tenants.iter().map(|config| (config.id, tenant(config))).collect(),
            tokens: HashMap::new(),
            links: HashMap::new(),
            refresh_date: config.refresh_date,
            header: config.header.clone(),
            newest_first: config.newest_first,
            throttle: config.throttle,
            recent_calls: HashMap::new(),
            faults: Vec::new(),
            log: VecDeque::new(),
            calls: HashMap::new(),
            leaks: 0,
            secrets: config.tenants.iter().map(|tenant| tenant.client_secret.clone()).collect(),
        }
    }

    /// Whose figures are served now, and as of when.
    fn edition(&self, tenant: &Tenant, period: Period) -> Edition {
        Edition {
            seed: tenant.config.seed,
            users: tenant.config.users,
            refresh: tenant.refresh.get(&period).copied().unwrap_or(self.refresh_date),
            revision: tenant.revision,
        }
    }

    /// The refresh date a tenant's report of this period is of.
    pub(crate) fn refresh_date(&self, tenant: Uuid, period: Period) -> NaiveDate {
        let tenant = self.tenants.get(&tenant);
        tenant.and_then(|tenant| tenant.refresh.get(&period)).copied().unwrap_or(self.refresh_date)
    }

    /// The rows that are served now, oldest first.
    pub(crate) fn rows(&self, tenant: Uuid, period: Period) -> Vec<(NaiveDate, Figures)> {
        let Some(tenant) = self.tenants.get(&tenant) else { return Vec::new() };
        self.edition(tenant, period).rows(period, &tenant.removed)
    }

    /// The body that is served now.
    pub(crate) fn csv(&mut self, tenant: Uuid, period: Period) -> Option<Bytes> {
        let found = self.tenants.get(&tenant)?;
        let edition = self.edition(found, period);
        if let Some((_, body)) = found.bodies.get(&period).filter(|(cached, _)| *cached == edition) {
            return Some(body.clone());
        }
        let mut rows = edition.rows(period, &found.removed);
        if self.newest_first {
            rows.reverse();
        }
        let body = data::csv(&rows, &self.header, edition, period);
        self.tenants.get_mut(&tenant)?.bodies.insert(period, (edition, body.clone()));
        Some(body)
    }

    /// To be called whenever a body changes in a way that its [`Edition`] does not tell.
    pub(crate) fn forget_bodies(&mut self) {
        for tenant in self.tenants.values_mut() {
            tenant.bodies.clear();
        }
    }

    /// Moves every tenant and period to one refresh date.
    pub(crate) fn set_refresh_date(&mut self, date: NaiveDate) {
        self.refresh_date = date;
        for tenant in self.tenants.values_mut() {
            tenant.refresh.clear();
        }
    }

    /// Moves every tenant and period by so many days.
    pub(crate) fn advance(&mut self, days: i64) {
        let moved = |date: NaiveDate| date.checked_add_signed(TimeDelta::days(days)).unwrap_or(date);
        self.refresh_date = moved(self.refresh_date);
        for date in self.tenants.values_mut().flat_map(|tenant| tenant.refresh.values_mut()) {
            *date = moved(*date);
        }
    }

    /// A new access token.
    pub(crate) fn issue_token(&mut self, tenant: Uuid, lifetime: Duration) -> String {
        let token = format!("eyJ0eXAi{}{}", random_text(), random_text());
        let expires = Instant::now() + lifetime;
        forget_expired(&mut self.tokens);
        self.tokens.insert(token.clone(), Grant { tenant, period: None, signature: String::new(), expires });
        self.secrets.push(token.clone());
        token
    }

    /// A new token of the identity provider that stands beside Microsoft.
    pub(crate) fn federated_token(&mut self, issuer: &str, subject: &str, audience: &str, seconds: i64) -> String {
        let token = credential::federated_token(issuer, subject, audience, now(), TimeDelta::seconds(seconds));
        self.secrets.push(token.clone());
        token
    }

    /// A new download link: the last part of its path, and its signature.
    pub(crate) fn issue_link(&mut self, tenant: Uuid, period: Period, lifetime: Duration) -> (String, String) {
        let (name, signature) = (random_text(), format!("{}{}", random_text(), random_text()));
        let expires = Instant::now() + lifetime;
        forget_expired(&mut self.links);
        let link = Grant { tenant, period: Some(period), signature: signature.clone(), expires };
        self.links.insert(name.clone(), link);
        self.secrets.extend([name.clone(), signature.clone()]);
        (name, signature)
    }

    /// Counts a call of the report; says how many seconds to wait if it is one too many.
    pub(crate) fn count_call(&mut self, tenant: Uuid) -> Option<u64> {
        let Throttle { calls, window } = self.throttle?;
        let now = Instant::now();
        let recent = self.recent_calls.entry(tenant).or_default();
        while recent.front().is_some_and(|at| now.duration_since(*at) >= window) {
            recent.pop_front();
        }
        let refused = recent.len() >= calls;
        recent.push_back(now);
        if !refused {
            return None;
        }
        // The next call passes once fewer than `calls` are left in the window, refused ones included.
        let gone_first = recent.get(recent.len() - calls.max(1)).copied().unwrap_or(now);
        let wait = window.saturating_sub(now.duration_since(gone_first));
        Some(u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1))
    }

    /// Answers a request: as `proper` says, unless a fault hits it.
    pub(crate) fn answer(
        &mut self,
        host: Host,
        tenant: Option<Uuid>,
        period: Option<Period>,
        proper: impl FnOnce(&mut Self) -> Response,
    ) -> Response {
        let Some(fault) = self.take_fault(host, tenant, period) else { return proper(self) };
        let needs_csv = matches!(fault, FaultKind::DirectCsv | FaultKind::GzipBomb(_));
        let csv = match (tenant, period) {
            (Some(tenant), Some(period)) if needs_csv => self.csv(tenant, period),
            _ => None,
        };
        fault.apply(|| proper(self), csv)
    }

    fn take_fault(&mut self, host: Host, tenant: Option<Uuid>, period: Option<Period>) -> Option<FaultKind> {
        let index = self.faults.iter().position(|fault| fault.hits(host, tenant, period))?;
        let fault = &mut self.faults[index];
        let kind = fault.kind.clone();
        if let Count::Times(left) = &mut fault.count {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(index);
            }
        }
        Some(kind)
    }

    /// Adds a request to the log.
    pub(crate) fn record(&mut self, request: Request) {
        *self.calls.entry(request.host).or_default() += 1;
        if self.log.len() == LONGEST_LOG {
            self.log.pop_front();
        }
        self.log.push_back(request);
    }
}

fn forget_expired(grants: &mut HashMap<String, Grant>) {
    if grants.len() >= MANY && grants.len().is_multiple_of(MANY / 10) {
        grants.retain(|_, grant| grant.is_valid());
    }
}
