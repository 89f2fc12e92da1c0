//! What can be made to go wrong, where, and how often.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    config::Period,
    wire::{Framing, Response},
};

/// One of Microsoft's three hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Host {
    /// Where tokens come from.
    Login,
    /// Where reports are asked for.
    Graph,
    /// Where their bytes come from.
    Download,
}

/// How often a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Count {
    /// The next so many matching requests.
    Times(u32),
    /// Until [`crate::Sim::clear_faults`].
    #[default]
    Always,
}

/// A fault: which requests it hits, and what they get instead of an answer. The first that matches wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The host that fails.
    #[serde(alias = "stage")]
    pub host: Host,
    /// Only for this tenant.
    #[serde(default)]
    pub tenant: Option<Uuid>,
    /// Only for this period (which a request for a token does not have).
    #[serde(default)]
    pub period: Option<Period>,
    /// How often.
    #[serde(default)]
    pub count: Count,
    /// What happens.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault of every tenant and period, until it is cleared.
    pub const fn always(host: Host, kind: FaultKind) -> Self {
        Self { host, tenant: None, period: None, count: Count::Always, kind }
    }

    /// A fault of the next request to `host`.
    pub const fn once(host: Host, kind: FaultKind) -> Self {
        Self::times(1, host, kind)
    }

    /// A fault of the next `times` requests to `host`.
    pub const fn times(times: u32, host: Host, kind: FaultKind) -> Self {
        Self { host, tenant: None, period: None, count: Count::Times(times), kind }
    }

    /// Narrows it to one tenant.
    #[must_use]
    pub const fn tenant(mut self, tenant: Uuid) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Narrows it to one period.
    #[must_use]
    pub const fn period(mut self, period: Period) -> Self {
        self.period = Some(period);
        self
    }

    pub(crate) fn hits(&self, host: Host, tenant: Option<Uuid>, period: Option<Period>) -> bool {
        self.host == host
            && (self.tenant.is_none() || self.tenant == tenant)
            && (self.period.is_none() || self.period == period)
    }
}

/// What happens instead of the proper answer. From [`FaultKind::CutAt`] on, that answer stays what it is, and only its
/// way over the wire is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// This status, with this body (JSON if it begins with a brace, else HTML).
    Status(u16, String),
    /// 429, with this `Retry-After` (any text) or without one.
    Throttle(Option<String>),
    /// A redirect to any place. The real link is not issued.
    Location(String),
    /// A redirect without `Location`.
    NoLocation,
    /// The CSV at once, with 200: no redirect. Of Graph only.
    DirectCsv,
    /// 200 with other bytes: HTML, JSON, a URL, nothing, half a CSV.
    Body {
        /// The bytes; text in JSON.
        #[serde(with = "text")]
        bytes: Bytes,
        /// Their `Content-Type`; `None`: that of a CSV download.
        #[serde(default)]
        content_type: Option<String>,
    },
    /// The proper answer, `Content-Encoding: gzip`.
    Gzip,
    /// 200, gzipped: the CSV and so many mebibytes of zeros behind it, which compress to about a thousandth.
    GzipBomb(usize),
    /// The proper answer, late; milliseconds in JSON.
    #[serde(with = "millis")]
    Delay(Duration),
    /// No answer, and the connection stays open.
    Hang,
    /// No answer, and the connection is reset.
    ResetBeforeHeaders,
    /// The whole `Content-Length` is promised; the connection closes after so many bytes of the body.
    CutAt(usize),
    /// Chunked; the connection closes after so many bytes of the body, without the last chunk.
    CutChunked(usize),
    /// Neither length nor chunks: the body ends, whole or after so many bytes, where the connection does.
    CloseDelimited(Option<usize>),
    /// The body, then more and more of it.
    Endless,
    /// One byte of the body a second.
    SlowLoris,
    /// 8 TiB of `Content-Length`, then the body, then a close.
    HugeContentLength,
}

impl FaultKind {
    /// 403 as in the incident of March 2023, when valid tokens were not seen.
    pub fn missing_credentials() -> Self {
        let body = r#"{"error":{"code":"MissingCredentials","message":"Valid Authorization header is needed."}}"#;
        Self::Status(403, body.to_owned())
    }

    /// 503 as the reports service gives it in trouble.
    pub fn unavailable() -> Self {
        Self::Status(503, r#"{"error":{"code":"UnknownError","message":""}}"#.to_owned())
    }

    /// 200 with these bytes, as a CSV download would come.
    pub fn body(bytes: impl Into<Bytes>) -> Self {
        Self::Body { bytes: bytes.into(), content_type: None }
    }

    /// 200 with an HTML page.
    pub fn html(page: &str) -> Self {
        Self::Body { bytes: page.to_owned().into(), content_type: Some("text/html; charset=utf-8".to_owned()) }
    }

    /// The answer to a request that this fault hits; `proper` gives the one it would have had, `csv` its report.
    pub(crate) fn apply(self, proper: impl FnOnce() -> Response, csv: Option<Bytes>) -> Response {
        let framed = |framing| Response { framing, ..Response::default() };
        match self {
            Self::Status(status, body) if body.is_empty() => Response::empty(status),
            Self::Status(status, body) => {
                let json = body.trim_start().starts_with('{');
                Response::new(status, if json { "application/json" } else { "text/html; charset=utf-8" }, body)
            }
            Self::Throttle(retry_after) => {
                let response = crate::graph::too_many_requests();
                match retry_after {
                    Some(text) => response.with("Retry-After", text),
                    None => response,
                }
            }
            Self::Location(to) => Response::empty(302).with("Content-Type", "text/plain").with("Location", to),
            Self::NoLocation => Response::empty(302).with("Content-Type", "text/plain"),
            Self::DirectCsv => match csv {
                Some(csv) => Response::new(200, crate::download::CSV_TYPE, csv),
                None => proper(),
            },
            Self::Body { bytes, content_type } => {
                Response::new(200, content_type.as_deref().unwrap_or(crate::download::CSV_TYPE), bytes)
            }
            Self::Gzip => {
                let mut response = proper();
                response.body = gzip(&response.body, 1);
                response.with("Content-Encoding", "gzip")
            }
            Self::GzipBomb(mebibytes) => {
                let csv = csv.unwrap_or_default();
                let filler = vec![b'0'; 1 << 20];
                let bomb = bomb(&csv, &filler, mebibytes);
                Response::new(200, crate::download::CSV_TYPE, bomb).with("Content-Encoding", "gzip")
            }
            Self::Delay(delay) => {
                let mut response = proper();
                response.delay += delay;
                response
            }
            Self::Hang => framed(Framing::Hang),
            Self::ResetBeforeHeaders => framed(Framing::Reset),
            Self::CutAt(end) => Response { framing: Framing::CutAt(end), ..proper() },
            Self::CutChunked(end) => Response { framing: Framing::CutChunked(end), ..proper() },
            Self::CloseDelimited(end) => Response { framing: Framing::CloseDelimited(end), ..proper() },
            Self::Endless => Response { framing: Framing::Endless, ..proper() },
            Self::SlowLoris => Response { framing: Framing::Trickle, ..proper() },
            Self::HugeContentLength => Response { framing: Framing::Huge, ..proper() },
        }
    }
}

fn gzip(bytes: &[u8], times: usize) -> Bytes {
    bomb(&[], bytes, times)
}

/// `first`, then `times` times `filler`, compressed.
fn bomb(first: &[u8], filler: &[u8], times: usize) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(first);
    for _ in 0..times {
        let _ = encoder.write_all(filler);
    }
    encoder.finish().unwrap_or_default().into()
}

mod text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        String::deserialize(deserializer).map(Bytes::from)
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(delay: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
