//! The whole way, against listeners that answer with raw bytes.

use chrono::{DateTime, Utc};

use super::{
    testing::{Reply, Server, granted, graph, is_login, tenant, trace},
    *,
};
use crate::report::Period;

const FUNCTION: &str = "getOffice365ActiveUserCounts";
const CSV: &str = "Report Refresh Date,Office 365\r\n2026-11-20,7\r\n2026-11-20,8\r\n";

fn now() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

fn clock() -> Clock {
    Clock::simulated(now())
}

/// A login service and Graph that gives links to the download host.
async fn microsoft(downloads: &Server) -> Server {
    let link = downloads.url("/data/download?token=canary-link");
    Server::start(move |request, _| {
        if is_login(request) {
            granted("canary-token", 3599)
        } else {
            Reply::whole(&format!("302 Found\nLocation: {link}\nrequest-id: r-1"), "")
        }
    })
    .await
}

async fn fetch(graph: &Graph, trace: &mut Trace) -> Result<Body, GraphError> {
    match graph.fetch(&tenant(), FUNCTION, Period::D7, trace).await? {
        Fetched::Body(body) => Ok(body),
        Fetched::NoData => panic!("no data"),
    }
}

#[tokio::test]
async fn the_token_goes_to_graph_only_and_the_report_comes_back() {
    let downloads = Server::start(|_, _| Reply::whole("200 OK", CSV)).await;
    let server = microsoft(&downloads).await;
    let graph = graph(&server, clock(), |_| {});
    let mut trace = trace();
    let body = fetch(&graph, &mut trace).await.expect("a body");
    assert_eq!(body.bytes, CSV);
    assert!(body.framed);

    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].contains("client_secret=canary-secret"));
    assert!(requests[0].contains("scope=https%3A%2F%2Fgraph.microsoft.com%2F.default"));
    assert!(requests[1].starts_with("GET /v1.0/reports/getOffice365ActiveUserCounts(period='D7') HTTP/1.1"));
    let asked = requests[1].to_lowercase();
    assert!(asked.contains("authorization: bearer canary-token"));
    assert!(asked.contains("client-request-id: 00000000-0000-0000-0000-000000000007"));
    let fetched = downloads.requests().join("").to_lowercase();
    for leak in ["authorization", "canary-token", "canary-secret", "referer", "cookie"] {
        assert!(!fetched.contains(leak), "{fetched}");
    }
    assert_eq!((trace.graph_calls, trace.http_status, trace.body_bytes), (1, Some(200), Some(CSV.len() as u64)));
    assert_eq!(trace.request_id.as_deref(), Some("r-1"));
}

#[tokio::test]
async fn an_evil_location_is_refused_before_anything_connects() {
    let evil = Server::start(|_, _| Reply::whole("200 OK", CSV)).await;
    let port = evil.url("").rsplit(':').next().expect("a port").to_owned();
    for location in [
        format!("http://127.0.0.2:{port}/x"),
        format!("http://localhost:{port}/x"),
        format!("http://user@127.0.0.1:{port}/x"),
        format!("https://reports.office.com@127.0.0.1:{port}/x"),
        format!("http://reports.office.com:{port}/x"),
        format!("//127.0.0.1:{port}/x"),
        "/relative".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let server = Server::start({
            let location = location.clone();
            move |request, _| match is_login(request) {
                true => granted("canary-token", 3599),
                false => Reply::whole(&format!("302 Found\nLocation: {location}"), ""),
            }
        })
        .await;
        let error = fetch(&graph(&server, clock(), |_| {}), &mut trace()).await.expect_err(&location);
        assert_eq!(error.class(), ErrorClass::RedirectRefused, "{location}: {error}");
    }
    assert_eq!(evil.connections(), 0);
}

#[tokio::test]
async fn a_body_cut_at_any_byte_is_truncated_or_unproven() {
    let chunked = format!("{:x}\r\n{CSV}\r\n0\r\n\r\n", CSV.len());
    let sized = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{CSV}", CSV.len());
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    let bare = format!("HTTP/1.1 200 OK\r\n\r\n{CSV}");
    for answer in [sized, chunked, bare] {
        let head = answer.find("\r\n\r\n").expect("a head") + 4;
        let downloads = Server::start({
            let answer = answer.clone();
            move |_, number| Reply::raw(&answer.as_bytes()[..head + number])
        })
        .await;
        let server = microsoft(&downloads).await;
        let graph = graph(&server, clock(), |_| {});
        let has_framing = !answer.starts_with("HTTP/1.1 200 OK\r\n\r\n");
        for cut in head..=answer.len() {
            let result = fetch(&graph, &mut trace()).await;
            match result {
                Ok(body) if !has_framing => {
                    assert!(!body.framed);
                    assert_eq!(body.bytes, answer.as_bytes()[head..cut]);
                }
                Ok(body) => {
                    assert_eq!(body.bytes, CSV);
                    assert!(body.framed && cut == answer.len(), "accepted at {cut} of {}", answer.len());
                }
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::Truncated, "{cut}: {error}");
                    assert!(has_framing && cut < answer.len(), "{cut}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_slow_download_ends_at_the_deadline() {
    let downloads = Server::start(|_, _| Reply::whole("200 OK", CSV).trickle(1, Duration::from_millis(50))).await;
    let server = microsoft(&downloads).await;
    let graph = graph(&server, clock(), |settings| settings.request_timeout = Duration::from_millis(300));
    let started = Instant::now();
    let mut trace = trace();
    let error = fetch(&graph, &mut trace).await.expect_err("too slow");
    assert_eq!(error.class(), ErrorClass::Timeout, "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(trace.download >= Duration::from_millis(250));
}
