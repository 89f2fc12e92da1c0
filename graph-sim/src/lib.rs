//! A stateful stand-in for the three hosts that a Microsoft 365 usage report comes from: the login host, Graph, and the
//! download host, each on a port of its own.
//!
//! It serves `getOffice365ActiveUserCounts` as Microsoft does: a token for a client secret, a
//! certificate or another provider's token, a redirect to a
//! pre-authenticated link, and a CSV whose recent days are revised by later refreshes. Time stands still until
//! [`Sim::advance_days`]. Anything that has ever been seen to go wrong can be made to go wrong with [`Sim::inject`].
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use graph_sim::{Config, Fault, FaultKind, Host, Period, Sim, TENANT_ID};
//!
//! let sim = Sim::start(Config::one_tenant())?;
//! println!("{} {} {}", sim.login_url(), sim.graph_url(), sim.download_url());
//! sim.inject(Fault::once(Host::Download, FaultKind::CutAt(100)).period(Period::D30));
//! sim.advance_days(1);
//! let rows = sim.expected_rows(TENANT_ID, Period::D7);
//! # Ok(())
//! # }
//! ```

mod admin;
mod assertion;
mod config;
mod credential;
mod data;
mod download;
mod fault;
mod graph;
mod login;
mod server;
mod state;
mod tls;
mod wire;

use std::{io, sync::Arc};

use bytes::Bytes;
use chrono::NaiveDate;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use crate::{
    config::{CLIENT_ID, CLIENT_SECRET, Config, HeaderGeneration, Period, TENANT_ID, TenantConfig, Throttle},
    credential::{AppCertificate, FEDERATION_AUDIENCE},
    data::{COLUMNS, Figures},
    fault::{Count, Fault, FaultKind, Host},
    state::Request,
};
use crate::{
    server::Shared,
    state::{Federation, State, Tenant},
};

/// A running stand-in. Dropping it closes its ports and connections.
#[derive(Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<()>>,
    ca_pem: Option<String>,
}

impl Sim {
    /// Binds the three ports and serves them on the current tokio runtime.
    pub fn start(config: Config) -> io::Result<Self> {
        server::start(config)
    }

    /// The origin of the login host, such as `http://127.0.0.1:40001`.
    pub fn login_url(&self) -> String {
        self.shared.urls[0].clone()
    }

    /// The origin of Graph, without a version.
    pub fn graph_url(&self) -> String {
        self.shared.urls[1].clone()
    }

    /// The origin of the download host.
    pub fn download_url(&self) -> String {
        self.shared.urls[2].clone()
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The CA to trust, in PEM; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Closes the connections and the ports; when it returns, the ports are free again.
    pub async fn shutdown(mut self) {
        for listener in std::mem::take(&mut self.listeners) {
            listener.abort();
            let _ = listener.await;
        }
    }

    /// The refresh date that every tenant and period without one of its own is served.
    pub fn refresh_date(&self) -> NaiveDate {
        self.state(|state| state.refresh_date)
    }

    /// The refresh date of this tenant's report of this period.
    pub fn refresh_date_for(&self, tenant: Uuid, period: Period) -> NaiveDate {
        self.state(|state| state.refresh_date(tenant, period))
    }

    /// Moves every tenant and period to one refresh date, which may be an older one.
    pub fn set_refresh_date(&self, date: NaiveDate) {
        self.state(|state| state.set_refresh_date(date));
    }

    /// Moves one report alone, until [`Sim::set_refresh_date`].
    pub fn set_refresh_date_for(&self, tenant: Uuid, period: Period, date: NaiveDate) {
        self.tenant(tenant, |tenant| {
            tenant.refresh.insert(period, date);
        });
    }

    /// Moves the refresh date of every tenant and period by so many days.
    pub fn advance_days(&self, days: i64) {
        self.state(|state| state.advance(days));
    }

    /// From now on the tenant's last seven report dates come with other numbers, under the same refresh date.
    pub fn reissue(&self, tenant: Uuid) {
        self.tenant(tenant, |tenant| tenant.revision += 1);
    }

    /// From now on the tenant's reports lack this report date.
    pub fn remove_date(&self, tenant: Uuid, date: NaiveDate) {
        self.tenant(tenant, |tenant| {
            tenant.removed.insert(date);
        });
        self.state(State::forget_bodies);
    }

    /// Takes [`Sim::remove_date`] back.
    pub fn restore_date(&self, tenant: Uuid, date: NaiveDate) {
        self.tenant(tenant, |tenant| {
            tenant.removed.remove(&date);
        });
        self.state(State::forget_bodies);
    }

    /// Serves other columns from now on.
    pub fn set_header(&self, header: HeaderGeneration) {
        self.state(|state| {
            state.header = header;
            state.forget_bodies();
        });
    }

    /// Serves the rows newest first, or oldest first.
    pub fn set_newest_first(&self, newest_first: bool) {
        self.state(|state| {
            state.newest_first = newest_first;
            state.forget_bodies();
        });
    }

    /// The rows that a download would carry now, oldest first, in the order of [`COLUMNS`].
    pub fn expected_rows(&self, tenant: Uuid, period: Period) -> Vec<(NaiveDate, Figures)> {
        self.state(|state| {
            let mut rows = state.rows(tenant, period);
            if state.header == HeaderGeneration::WithoutTeams {
                for (_, figures) in &mut rows {
                    figures[6] = None;
                }
            }
            rows
        })
    }

    /// The bytes that a download would carry now; nothing for an unknown tenant.
    pub fn csv(&self, tenant: Uuid, period: Period) -> Bytes {
        self.state(|state| state.csv(tenant, period)).unwrap_or_default()
    }

    /// Replaces the client secret; the old one is refused from now on, tokens live on.
    pub fn rotate_secret(&self, tenant: Uuid, secret: &str) {
        self.state(|state| state.secrets.push(secret.to_owned()));
        self.tenant(tenant, |tenant| {
            secret.clone_into(&mut tenant.secret);
            tenant.secret_expired = false;
        });
    }

    /// Lets the client secret be past its date, or not.
    pub fn set_secret_expired(&self, tenant: Uuid, expired: bool) {
        self.tenant(tenant, |tenant| tenant.secret_expired = expired);
    }

    /// Adds a certificate in PEM to the app registration.
    pub fn add_certificate(&self, tenant: Uuid, pem: &str) {
        self.tenant(tenant, |tenant| tenant.add_certificate(pem).expect("a certificate in PEM"));
    }

    /// Removes every certificate from the app registration.
    pub fn remove_certificates(&self, tenant: Uuid) {
        self.tenant(tenant, |tenant| tenant.certificates.clear());
    }

    /// From now on the application may sign in with tokens of this issuer and subject, made for [`FEDERATION_AUDIENCE`].
    pub fn federate(&self, tenant: Uuid, issuer: &str, subject: &str) {
        let (issuer, subject) = (issuer.to_owned(), subject.to_owned());
        let audience = FEDERATION_AUDIENCE.to_owned();
        self.tenant(tenant, |tenant| tenant.federations.push(Federation { issuer, subject, audience }));
    }

    /// A token of another identity provider, good for so many seconds from now.
    pub fn federated_token(&self, issuer: &str, subject: &str, audience: &str, seconds: i64) -> String {
        self.state(|state| state.federated_token(issuer, subject, audience, seconds))
    }

    /// Gives or takes the administrator's consent to `Reports.Read.All`.
    pub fn set_consent(&self, tenant: Uuid, consent: bool) {
        self.tenant(tenant, |tenant| tenant.consent = consent);
    }

    /// Forgets every access token of every tenant: the next call with one is answered 401.
    pub fn revoke_tokens(&self) {
        self.state(|state| state.tokens.clear());
    }

    /// Lets every download link expire.
    pub fn expire_links(&self) {
        self.state(|state| state.links.clear());
    }

    /// Limits the calls otherwise from now on; `None`: no limit.
    pub fn set_throttle(&self, throttle: Option<Throttle>) {
        self.state(|state| state.throttle = throttle);
    }

    /// Forgets the calls that count towards the limit.
    pub fn reset_throttle(&self) {
        self.state(|state| state.recent_calls.clear());
    }

    /// Adds a fault; of several that match a request the one injected first hits it.
    pub fn inject(&self, fault: Fault) {
        self.state(|state| state.faults.push(fault));
    }

    /// Removes every fault.
    pub fn clear_faults(&self) {
        self.state(|state| state.faults.clear());
    }

    /// The faults that have not been used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.state(|state| state.faults.clone())
    }

    /// The requests of all three hosts, oldest first (the newest 100,000).
    pub fn requests(&self) -> Vec<Request> {
        self.state(|state| state.log.iter().cloned().collect())
    }

    /// How many requests a host has received.
    pub fn calls(&self, host: Host) -> u64 {
        self.state(|state| state.calls.get(&host).copied().unwrap_or(0))
    }

    /// Empties the request log and the counters of [`Sim::calls`].
    pub fn clear_log(&self) {
        self.state(|state| {
            state.log.clear();
            state.calls.clear();
        });
    }

    /// How many requests carried an `Authorization` header to the download host. One is too many.
    pub fn authorization_leaks(&self) -> u64 {
        self.state(|state| state.leaks)
    }

    /// Every secret that was ever in play: client secrets, assertions, access tokens, both halves of every download link.
    pub fn secrets(&self) -> Vec<String> {
        self.state(|state| state.secrets.clone())
    }

    fn state<T>(&self, ask: impl FnOnce(&mut State) -> T) -> T {
        ask(&mut self.shared.state())
    }

    /// Changes a tenant; nothing happens to an unknown one.
    fn tenant(&self, id: Uuid, change: impl FnOnce(&mut Tenant)) {
        self.state(|state| state.tenants.get_mut(&id).map(change));
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}
