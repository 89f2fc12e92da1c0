//! Fetching what a link leads to, without credentials.

use std::time::Instant;

use reqwest::StatusCode;

use super::{
    Graph, Trace, body,
    error::{GraphError, Leg, retry_after},
    location::Link,
};
use crate::{outcome::ErrorClass, report::Body};

/// Most links followed for one report, Graph's own included.
const MAX_HOPS: u8 = 3;

impl Graph {
    /// The body behind a link, within the deadline of one request and the largest size. Redirects are checked like the
    /// first link. The link is used up: it is valid for a few minutes only.
    pub async fn download(&self, mut link: Link, trace: &mut Trace) -> Result<Body, GraphError> {
        let deadline = Instant::now() + self.request_timeout;
        for _ in 0..MAX_HOPS {
            let left = deadline.saturating_duration_since(Instant::now());
            let response = self
                .downloads
                .get(link.url().clone())
                .timeout(left)
                .send()
                .await
                .map_err(|error| GraphError::transport(Leg::Download, error))?;
            let status = response.status();
            trace.http_status = Some(status.as_u16());
            tracing::debug!(status = status.as_u16(), from = ?link, "the download host answered");
            match status.as_u16() {
                200 | 204 => return body::read(Leg::Download, response, self.max_body_bytes).await,
                301 | 302 | 303 | 307 | 308 => {
                    link = Link::from_headers(response.headers(), &self.endpoints, Leg::Download)
                        .map_err(|error| error.with_status(status))?;
                }
                _ => {
                    let wait = retry_after(response.headers(), self.clock.now());
                    return Err(refused(status).with_status(status).with_retry_after(wait));
                }
            }
        }
        let text = format!("the download host redirected more than {} times", MAX_HOPS - 1);
        Err(GraphError::new(Leg::Download, ErrorClass::RedirectRefused, text))
    }
}

/// An answer without the report. What an expired link is answered with is documented nowhere, so every refusal of the
/// link itself counts as expired: a new link is the only cure there is.
fn refused(status: StatusCode) -> GraphError {
    let (class, hint) = match status.as_u16() {
        407 => (ErrorClass::Connection, "the proxy wants a user name"),
        408 => (ErrorClass::Timeout, "it gave up waiting"),
        429 => (ErrorClass::Throttled, "it asks to slow down"),
        500.. => (ErrorClass::Graph5xx, "the fault is on Microsoft's side"),
        400.. => (ErrorClass::UrlExpired, "it does not accept the download link, or no longer"),
        206 => (ErrorClass::Truncated, "only a part of the report was sent"),
        _ => (ErrorClass::RedirectMissing, "neither a report nor a link came"),
    };
    GraphError::new(Leg::Download, class, format!("the download host answered {}; {hint}", status.as_u16()))
}
