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

#[cfg(test)]
mod tests {
    use std::{io::Write as _, num::NonZeroUsize, time::Duration};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::graph::testing::{CSV, Reply, Server, clock, fetch, graph, microsoft, trace};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    /// Fetches a report whose download is answered so, with at most 1000 bytes.
    async fn fetched(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Result<Body, GraphError> {
        let downloads = Server::start(answer).await;
        let server = microsoft(&downloads).await;
        let graph = graph(&server, clock(), |settings| {
            settings.max_body_bytes = NonZeroUsize::new(1000).expect("not zero");
            settings.request_timeout = Duration::from_secs(5);
        });
        fetch(&graph, &mut trace()).await
    }

    #[tokio::test]
    async fn compressed_bodies_keep_the_proof_of_their_end() {
        let packed = gzip(CSV.as_bytes());
        for coding in ["gzip", "GZIP", "x-gzip"] {
            let packed = packed.clone();
            let head = format!("200 OK\nContent-Encoding: {coding}");
            let body = fetched(move |_, _| Reply::whole(&head, &packed)).await.expect("a body");
            assert_eq!((&body.bytes[..], body.framed), (CSV.as_bytes(), true), "{coding}");
        }
        let mut bare = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
        let head = bare.len();
        bare.extend_from_slice(&packed);
        let whole = bare.clone();
        let body = fetched(move |_, _| Reply::raw(&whole[..])).await.expect("a body");
        assert_eq!((&body.bytes[..], body.framed), (CSV.as_bytes(), false));
        let length = bare.len();
        let downloads = Server::start(move |_, number| Reply::raw(&bare[..head + 1 + number])).await;
        let graph = graph(&microsoft(&downloads).await, clock(), |_| {});
        for cut in head + 1..length {
            let error = fetch(&graph, &mut trace()).await.expect_err("cut");
            assert_eq!(error.class(), ErrorClass::Truncated, "{cut}: {error}");
        }
    }

    #[tokio::test]
    async fn large_bodies_are_refused_in_every_form() {
        let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
        let endless = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(1000));
        for reply in [
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\nx"),
            Reply::whole("200 OK", vec![b'x'; 1001]),
            Reply::raw(endless),
            Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1001))),
            Reply::whole("200 OK\nContent-Encoding: gzip", gzip(&vec![0; 1001])),
            Reply::whole("200 OK\nContent-Encoding: gzip", gzip(&vec![0; 500_000])),
        ] {
            let error = fetched(move |_, _| reply.clone()).await.expect_err("too large");
            assert_eq!(error.class(), ErrorClass::TooLarge, "{error}");
        }
        for body in [vec![b'x'; 1000], Vec::new()] {
            let reply = Reply::whole("200 OK", &body);
            let fetched = fetched(move |_, _| reply.clone()).await.expect("just right");
            assert_eq!((&fetched.bytes[..], fetched.framed), (&body[..], true));
        }
    }

    #[tokio::test]
    async fn a_second_redirect_is_checked_and_the_chain_is_short() {
        for (redirects, reached) in [(1, true), (2, true), (3, false), (10, false)] {
            let result = fetched(move |request, number| {
                let host = request.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
                if number < redirects {
                    return Reply::whole(&format!("307 Moved\nLocation: http://{host}/{number}?token=canary"), "");
                }
                Reply::whole("200 OK", CSV)
            })
            .await;
            match result {
                Ok(body) => assert!(reached && body.bytes == CSV),
                Err(error) => {
                    assert!(!reached && error.class() == ErrorClass::RedirectRefused, "{error}");
                    assert!(!error.to_string().contains("canary"), "{error}");
                }
            }
        }
        for location in ["https://evil.example/canary", "/relative", "http://169.254.169.254/latest"] {
            let error = fetched(move |_, _| Reply::whole(&format!("302 Found\nLocation: {location}"), "")).await;
            let error = error.expect_err(location);
            assert_eq!(error.class(), ErrorClass::RedirectRefused, "{error}");
            assert!(error.to_string().starts_with("the download host gave a download link that "), "{error}");
        }
        let error = fetched(|_, _| Reply::whole("302 Found", "")).await.expect_err("no location");
        assert_eq!(error.class(), ErrorClass::RedirectMissing, "{error}");
    }

    #[tokio::test]
    async fn every_answer_of_the_download_host_has_its_class() {
        for (head, class) in [
            ("204 No Content", None),
            ("206 Partial Content", Some(ErrorClass::Truncated)),
            ("408 Request Timeout", Some(ErrorClass::Timeout)),
            ("429 Too Many Requests\nRetry-After: 3", Some(ErrorClass::Throttled)),
            ("500 Internal Server Error", Some(ErrorClass::Graph5xx)),
            ("503 Service Unavailable\nRetry-After: 3", Some(ErrorClass::Graph5xx)),
            ("404 Not Found", Some(ErrorClass::UrlExpired)),
            ("304 Not Modified", Some(ErrorClass::RedirectMissing)),
        ] {
            match fetched(move |_, _| Reply::whole(head, "")).await {
                Ok(body) => assert!(class.is_none() && body.bytes.is_empty(), "{head}"),
                Err(error) => {
                    assert_eq!(Some(error.class()), class, "{error}");
                    assert_eq!(error.retry_after().is_some(), head.contains("Retry"), "{error}");
                }
            }
        }
    }
}
