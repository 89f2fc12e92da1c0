//! Everything Microsoft: signing in, asking for a report, and downloading it.
//!
//! [`Graph::fetch`] is the way from a tenant and a report to the bytes Microsoft sent. The token goes to Graph and to
//! nobody else; the download link is a secret, is checked before anything connects, and is followed by a client that
//! carries no credentials.
//!
//! ```text
//! token (login)  ->  ask (Graph): a checked link  ->  download (its host): a body within bounds
//! ```

mod body;
mod certificate;
mod client;
mod cloud;
mod credential;
mod download;
mod entra;
mod error;
mod location;
mod proof;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transport;

use std::time::{Duration, Instant};

use uuid::Uuid;

pub use client::Answer;
pub use cloud::{Endpoints, HostRule};
pub use credential::Token;
pub use error::{GraphError, Leg, SetupError};
pub use location::{Link, Refusal};
pub use proof::credential_end;

use crate::{
    clock::Clock,
    config,
    outcome::ErrorClass,
    report::{Body, Period},
};

/// Most calls to Graph for one attempt: the first, and two for a fresh token or a new link. All count against
/// Microsoft's limit of 14 calls per report in 10 minutes (<https://learn.microsoft.com/graph/throttling-limits>).
pub const MAX_CALLS_PER_ATTEMPT: u16 = 3;

/// Microsoft's services, as the settings describe them. One for the process: it holds the connections and the tokens.
#[derive(Debug)]
pub struct Graph {
    endpoints: Endpoints,
    /// What stands before the function's name in a call.
    reports_url: String,
    max_body_bytes: usize,
    request_timeout: Duration,
    clock: Clock,
    /// Carries tokens and secrets, to login and Graph only.
    api: reqwest::Client,
    /// Carries nothing.
    downloads: reqwest::Client,
    tokens: credential::Tokens,
}

/// What [`Graph::fetch`] brings.
#[derive(Debug)]
pub enum Fetched {
    /// The bytes, not yet looked at.
    Body(Body),
    /// Microsoft has no report to give.
    NoData,
}

/// What happened on the way, filled in as it happens: of use also when the end is an error.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Sent to Graph as `client-request-id` with every call.
    pub client_request_id: Uuid,
    /// Calls made to Graph.
    pub graph_calls: u16,
    /// Status of the last answer of Graph or the download host.
    pub http_status: Option<u16>,
    /// Microsoft's id of the last call to Graph.
    pub request_id: Option<String>,
    /// Time spent on tokens.
    pub token: Duration,
    /// Time spent on calls to Graph.
    pub graph: Duration,
    /// Time spent on downloads.
    pub download: Duration,
    /// Size of the body, in bytes after decompression.
    pub body_bytes: Option<u64>,
}

impl Trace {
    /// An empty one.
    pub fn new(client_request_id: Uuid) -> Self {
        Self {
            client_request_id,
            graph_calls: 0,
            http_status: None,
            request_id: None,
            token: Duration::ZERO,
            graph: Duration::ZERO,
            download: Duration::ZERO,
            body_bytes: None,
        }
    }
}

impl Graph {
    /// Checks the settings and builds the clients. A cryptography provider for `rustls` must be installed before.
    pub fn new(settings: &config::Graph, clock: Clock) -> Result<Self, SetupError> {
        let endpoints = Endpoints::new(settings)?;
        let tls = transport::tls(settings)?;
        let base = endpoints.base.as_str().trim_end_matches('/');
        Ok(Self {
            reports_url: format!("{base}/{}/reports/", endpoints.version),
            max_body_bytes: settings.max_body_bytes.get(),
            request_timeout: settings.request_timeout,
            clock,
            api: transport::api_client(settings, &endpoints, tls.clone())?,
            downloads: transport::download_client(settings, &endpoints, tls)?,
            tokens: credential::Tokens::default(),
            endpoints,
        })
    }

    /// Where this goes.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Fetches a report: token, link, download. A refused token is replaced once, a refused link twice, and never more
    /// than [`MAX_CALLS_PER_ATTEMPT`] calls are made; all other waiting and retrying is the caller's.
    pub async fn fetch(
        &self,
        tenant: &config::Tenant,
        function: &str,
        period: Period,
        trace: &mut Trace,
    ) -> Result<Fetched, GraphError> {
        let mut token = self.timed_token(tenant, trace).await?;
        let mut fresh = false;
        loop {
            let answer = match self.timed_ask(&token, function, period, trace).await {
                Err(error) if error.refreshable() && !fresh && trace.graph_calls < MAX_CALLS_PER_ATTEMPT => {
                    self.forget(tenant.id, &token).await;
                    token = self.timed_token(tenant, trace).await?;
                    fresh = true;
                    continue;
                }
                answer => answer?,
            };
            let body = match answer {
                Answer::NoData => return Ok(Fetched::NoData),
                Answer::Body(body) => body,
                Answer::Link(link) => match self.timed_download(link, trace).await {
                    Err(error)
                        if error.class() == ErrorClass::UrlExpired && trace.graph_calls < MAX_CALLS_PER_ATTEMPT =>
                    {
                        continue;
                    }
                    body => body?,
                },
            };
            trace.body_bytes = Some(body.bytes.len() as u64);
            return Ok(Fetched::Body(body));
        }
    }

    async fn timed_token(&self, tenant: &config::Tenant, trace: &mut Trace) -> Result<Token, GraphError> {
        let started = Instant::now();
        let token = self.token(tenant).await;
        trace.token += started.elapsed();
        if let Err(error) = &token {
            trace.http_status = error.http_status();
        }
        token
    }

    async fn timed_ask(
        &self,
        token: &Token,
        function: &str,
        period: Period,
        trace: &mut Trace,
    ) -> Result<Answer, GraphError> {
        let started = Instant::now();
        let answer = self.ask(token, function, period, trace).await;
        trace.graph += started.elapsed();
        answer
    }

    async fn timed_download(&self, link: Link, trace: &mut Trace) -> Result<Body, GraphError> {
        let started = Instant::now();
        let body = self.download(link, trace).await;
        trace.download += started.elapsed();
        body
    }
}
