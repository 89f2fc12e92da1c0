//! Asking Graph for a report.

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{
    Graph, Trace, body,
    credential::Token,
    error::{GraphError, Leg, retry_after, sanitise},
    location::Link,
};
use crate::{
    outcome::ErrorClass,
    report::{Body, Period},
};

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
/// Largest error body that is looked at.
const MOST_ERROR_BYTES: usize = 64 * 1024;

/// What Graph gives for a report.
#[derive(Debug)]
pub enum Answer {
    /// 302: where to fetch it, checked.
    Link(Link),
    /// 200: the report itself. Documented for a few newer reports only, seen with others.
    Body(Body),
    /// 204, or 304: there is nothing (new).
    NoData,
}

impl Graph {
    /// `GET {base}/{version}/reports/{function}(period='D7')`
    /// (<https://learn.microsoft.com/graph/api/reportroot-getoffice365activeusercounts>): one call, counted in the
    /// trace before it is made. Nothing is followed.
    pub async fn ask(
        &self,
        token: &Token,
        function: &str,
        period: Period,
        trace: &mut Trace,
    ) -> Result<Answer, GraphError> {
        trace.graph_calls += 1;
        let response = self
            .api
            .get(format!("{}{function}(period='{period}')", self.reports_url))
            .bearer_auth(token.expose())
            .header(CLIENT_REQUEST_ID, trace.client_request_id.to_string())
            .send()
            .await
            .map_err(|error| {
                GraphError::transport(Leg::Graph, error).with_client_request_id(trace.client_request_id)
            })?;
        let status = response.status();
        trace.http_status = Some(status.as_u16());
        trace.request_id = request_id(response.headers());
        tracing::debug!(status = status.as_u16(), request_id = trace.request_id, "Graph answered");
        let identify = |error: GraphError| {
            error
                .with_status(status)
                .with_request_id(trace.request_id.clone())
                .with_client_request_id(trace.client_request_id)
        };
        match status.as_u16() {
            301 | 302 | 303 | 307 | 308 => {
                Link::from_headers(response.headers(), &self.endpoints, Leg::Graph).map(Answer::Link).map_err(identify)
            }
            200 => body::read(Leg::Graph, response, self.max_body_bytes).await.map(Answer::Body).map_err(identify),
            204 | 304 => Ok(Answer::NoData),
            _ => {
                let wait = retry_after(response.headers(), self.clock.now());
                let body = body::read(Leg::Graph, response, MOST_ERROR_BYTES).await;
                let envelope = Envelope::parse(&body.map(|body| body.bytes).unwrap_or_default());
                trace.request_id = trace.request_id.take().or(envelope.request_id.clone());
                Err(refused(status, envelope)
                    .with_status(status)
                    .with_request_id(trace.request_id.clone())
                    .with_client_request_id(trace.client_request_id)
                    .with_retry_after(wait))
            }
        }
    }
}

/// An answer that is neither a report nor a link to one.
fn refused(status: StatusCode, envelope: Envelope) -> GraphError {
    let (class, hint) = match status.as_u16() {
        401 => (ErrorClass::AuthInvalidClient, "the token was not accepted"),
        403 => (
            ErrorClass::AuthForbidden,
            "the application needs the Microsoft Graph application permission Reports.Read.All and admin consent \
             for it",
        ),
        404 => (ErrorClass::NotFound, "there is no such report here"),
        407 => (ErrorClass::Connection, "the proxy wants a user name"),
        408 => (ErrorClass::Timeout, "Graph gave up waiting"),
        429 => (ErrorClass::Throttled, "Graph asks to slow down"),
        500.. => (ErrorClass::Graph5xx, "the fault is on Microsoft's side"),
        400.. => (ErrorClass::BadRequest, "Graph does not offer this report or period so"),
        206 => (ErrorClass::Truncated, "only a part of the report was sent"),
        _ => (ErrorClass::RedirectMissing, "no report and no link to one was sent"),
    };
    let mut text = format!("Graph answered {}", status.as_u16());
    for (before, part) in [(" ", &envelope.code), (": ", &envelope.message)] {
        if let Some(part) = part {
            text.push_str(before);
            text.push_str(part.trim_end_matches('.'));
        }
    }
    text.push_str("; ");
    text.push_str(hint);
    GraphError::new(Leg::Graph, class, text).with_code(envelope.code).refreshable_if(status == StatusCode::UNAUTHORIZED)
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get("request-id").and_then(|id: &HeaderValue| id.to_str().ok()).map(sanitise)
}

/// Graph's error object (<https://learn.microsoft.com/graph/errors>), read leniently: the reports service wraps a
/// second one as text in the message of the first.
#[derive(Debug, Default, PartialEq, Eq)]
struct Envelope {
    code: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
}

impl Envelope {
    fn parse(body: &Bytes) -> Self {
        serde_json::from_slice(body).ok().and_then(|json: Value| Self::from_json(&json, 0)).unwrap_or_default()
    }

    fn from_json(json: &Value, depth: u8) -> Option<Self> {
        let error = json.get("error").filter(|error| error.is_object())?;
        let text = |object: &Value, key: &str| {
            object.get(key).and_then(Value::as_str).map(sanitise).filter(|text| !text.is_empty())
        };
        let raw = error.get("message").and_then(Value::as_str).unwrap_or_default();
        let nested = (depth < 2).then(|| serde_json::from_str(raw).ok()).flatten();
        let nested = nested.and_then(|json: Value| Self::from_json(&json, depth + 1));
        let inner = ["innerError", "innererror"].iter().find_map(|key| error.get(key));
        let request_id = inner.and_then(|inner| ["request-id", "requestId"].iter().find_map(|key| text(inner, key)));
        let outer = Self { code: text(error, "code"), message: text(error, "message"), request_id };
        Some(match nested {
            None => outer,
            Some(nested) => Self {
                code: nested.code.or(outer.code),
                message: nested.message,
                request_id: outer.request_id.or(nested.request_id),
            },
        })
    }
}
