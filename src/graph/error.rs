//! What can go wrong with Microsoft, in words for whoever is on call, and classed for the ledger.

use std::{error::Error as _, fmt, io, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use url::Url;
use uuid::Uuid;

use crate::outcome::ErrorClass;

/// A setting that cannot work, found at start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A value is wrong.
    #[error("{setting}: {why}")]
    Setting {
        /// The setting, as it is written in the file.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The additional certificates cannot be used.
    #[error("graph.extra_ca_file: {}: {why}", path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No HTTP client can be had.
    #[error("cannot set up TLS for Microsoft's hosts: {0}")]
    Tls(String),
}

impl SetupError {
    pub(super) fn setting(setting: &'static str, why: impl Into<String>) -> Self {
        Self::Setting { setting, why: why.into() }
    }
}

/// Which of Microsoft's services was spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Microsoft Entra ID, for a token.
    Login,
    /// Graph, for a download link.
    Graph,
    /// The host the report is downloaded from.
    Download,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Login => "the login service",
            Self::Graph => "Graph",
            Self::Download => "the download host",
        })
    }
}

/// A call that did not give what was asked for. Its text never holds a token, a secret, or a URL beyond its origin.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct GraphError(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    leg: Leg,
    class: ErrorClass,
    message: String,
    http_status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    client_request_id: Option<Uuid>,
    retry_after: Option<Duration>,
    refreshable: bool,
}

impl GraphError {
    pub(super) fn new(leg: Leg, class: ErrorClass, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            leg,
            class,
            message: message.into(),
            http_status: None,
            code: None,
            request_id: None,
            client_request_id: None,
            retry_after: None,
            refreshable: false,
        }))
    }

    /// The one way from `reqwest`'s error, whose own text would hold the URL, to ours.
    pub(super) fn transport(leg: Leg, error: reqwest::Error) -> Self {
        let error = error.without_url();
        let cause = Cause::of(&error);
        let (class, what) = if cause.private_address {
            (ErrorClass::RedirectRefused, format!("{leg} is not a public address"))
        } else if error.is_timeout() {
            (ErrorClass::Timeout, format!("{leg} did not answer in time"))
        } else if cause.tls {
            (ErrorClass::Tls, format!("no trusted TLS connection to {leg}"))
        } else if error.is_body() || error.is_decode() {
            (ErrorClass::Truncated, format!("the answer of {leg} broke off"))
        } else if error.is_builder() {
            (ErrorClass::Internal, format!("the request to {leg} cannot be made"))
        } else if error.is_connect() {
            (ErrorClass::Connection, format!("cannot connect to {leg}"))
        } else {
            (ErrorClass::Connection, format!("the connection to {leg} broke off"))
        };
        let message = if cause.text.is_empty() { what } else { format!("{what}: {}", cause.text) };
        Self::new(leg, class, message)
    }

    pub(super) fn with_status(mut self, status: reqwest::StatusCode) -> Self {
        self.0.http_status = Some(status.as_u16());
        self
    }

    pub(super) fn with_code(mut self, code: Option<String>) -> Self {
        self.0.code = code;
        self
    }

    pub(super) fn with_request_id(mut self, id: Option<String>) -> Self {
        self.0.request_id = id;
        self
    }

    pub(super) fn with_client_request_id(mut self, id: Uuid) -> Self {
        self.0.client_request_id = Some(id);
        self
    }

    pub(super) fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    pub(super) fn refreshable_if(mut self, refreshable: bool) -> Self {
        self.0.refreshable = refreshable;
        self
    }

    /// Its class in the closed list.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// The service that failed.
    pub fn leg(&self) -> Leg {
        self.0.leg
    }

    /// How long Microsoft asked to wait, counted from the answer. Not capped to anything sensible: an absurd value
    /// means that the next slot is the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The HTTP status, if there was an answer.
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }

    /// Microsoft's own word for the error, such as `S2SUnauthorized` or `AADSTS7000215`.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// Microsoft's id of the request, for their support.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Whether a fresh token may help: Graph answered 401.
    pub fn refreshable(&self) -> bool {
        self.0.refreshable
    }

    fn text(&self) -> String {
        let mut text = self.0.message.clone();
        let ids = [
            self.0.request_id.as_ref().map(|id| format!("request-id {id}")),
            self.0.client_request_id.map(|id| format!("client-request-id {id}")),
        ];
        let ids: Vec<_> = ids.into_iter().flatten().collect();
        if !ids.is_empty() {
            text.push_str(" [");
            text.push_str(&ids.join(", "));
            text.push(']');
        }
        text
    }
}

/// The resolver refused to hand out an address. Travels inside `reqwest::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0} resolves to private addresses only")]
pub(super) struct PrivateAddress(pub(super) String);

/// What the chain of sources under a transport error tells.
struct Cause {
    private_address: bool,
    tls: bool,
    text: String,
}

impl Cause {
    fn of(error: &reqwest::Error) -> Self {
        /// Layers that say less than our own words before them.
        const NOISE: [&str; 3] =
            ["client error (Connect)", "client error (SendRequest)", "request or response body error"];
        let mut cause = Self { private_address: false, tls: false, text: String::new() };
        let mut texts: Vec<String> = Vec::new();
        let mut next = error.source();
        while let Some(source) = next {
            cause.private_address |= source.is::<PrivateAddress>();
            cause.tls |= is_tls(source);
            let text = sanitise(&source.to_string());
            if !NOISE.contains(&text.as_str()) && !texts.iter().any(|known| known.contains(&text)) {
                texts.push(text);
            }
            next = source.source();
        }
        cause.text = sanitise(&texts.join(": "));
        cause
    }
}

/// Whether an error is one of `rustls`. It comes wrapped in `io::Error`s, which do not name it as their source.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<rustls::Error>()
        || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_tls(inner))
}

/// Text from outside, fit for a log line and a row: one line, at most 300 characters, no control or bidirectional
/// characters, and of every URL only the origin.
pub(super) fn sanitise(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut clean = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c)).filter(|w| !w.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(&cut_urls(word));
        if clean.len() > 4 * LONGEST {
            break;
        }
    }
    match clean.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

/// Characters that are not seen but change how the rest is seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A word without what may be a secret: a URL loses all after its origin, anything else its query.
fn cut_urls(word: &str) -> String {
    let Some(at) = word.find("://") else {
        return word.split_once('?').map_or_else(
            || word.to_owned(),
            |(before, query)| if query.is_empty() { word.to_owned() } else { format!("{before}?…") },
        );
    };
    let start = word[..at]
        .rfind(|c: char| !c.is_ascii_alphanumeric())
        .map_or(0, |before| before + word[before..].chars().next().map_or(1, char::len_utf8));
    let url = word[start..].split(['"', '\'', '<', '>']).next().unwrap_or_default();
    match Url::parse(url).map(|url| url.origin()) {
        Ok(origin @ url::Origin::Tuple(..)) => format!("{}{}/…", &word[..start], origin.ascii_serialization()),
        _ => format!("{}…", &word[..at]),
    }
}

/// Microsoft's wish to wait: seconds, also with decimals
/// (<https://learn.microsoft.com/graph/throttling> shows `2.128`), or an HTTP date. `None` when absent or nonsense.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    /// Keeps the caller's date arithmetic in range.
    const LONGEST: Duration = Duration::from_hours(366 * 24);
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let seconds: f64 = text.parse().ok()?;
        return Some(Duration::try_from_secs_f64(seconds).map_or(LONGEST, |wait| wait.min(LONGEST)));
    }
    let at = DateTime::<Utc>::from(httpdate::parse_http_date(text).ok()?);
    Some((at - now).to_std().unwrap_or(Duration::ZERO).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_becomes_one_harmless_line() {
        for (given, clean) in [
            ("plain text.", "plain text."),
            ("a\u{0}b\r\nc\u{1b}[31m\u{202e}d\u{200b}", "a b c [31m d"),
            ("see https://h.example/p?sig=1#x for more", "see https://h.example/… for more"),
            ("(https://user:pw@h.example:8443/p)", "(https://h.example:8443/…"),
            ("url=https://h.example/p", "url=https://h.example/…"),
            ("HTTPS://H.EXAMPLE/p", "https://h.example/…"),
            ("\"http://h.example\",", "\"http://h.example/…"),
            ("GET /data/download?token=1 failed?", "GET /data/download?… failed?"),
            ("postgres://user:pw@h/db", "postgres…"),
            ("://x ü://y", "… ü…"),
        ] {
            assert_eq!(sanitise(given), clean, "{given}");
        }
        let long = sanitise(&"ü".repeat(1000));
        assert_eq!(long.chars().count(), 301);
        assert_eq!(sanitise(&"a ".repeat(100_000)).chars().count(), 301);
    }

    proptest::proptest! {
        #[test]
        fn no_path_or_query_of_a_url_survives(before in "\\PC{0,20}", host in "[a-z]{1,9}", after in "\\PC{0,9}") {
            let clean = sanitise(&format!("{before}https://{host}.example/canary?canary=canary {after}"));
            proptest::prop_assert!(!clean.contains("canary"), "{clean}");
        }
    }
}
