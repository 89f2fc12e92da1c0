//! Each fault, looked at as bytes on the wire.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use graph_sim::{Config, Fault, FaultKind, Host, Period, Sim, TENANT_ID};

use crate::client::{fetch, http, link, location, raw_get, report, start, token};

/// The head and the rest of what a download sends under this fault.
async fn download(sim: &Sim, kind: FaultKind) -> (String, Vec<u8>) {
    sim.inject(Fault::once(Host::Download, kind));
    let bytes = raw_get(&link(sim, Period::D7).await).await.unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end..].to_vec())
}

#[tokio::test]
async fn a_cut_body_is_shorter_than_promised() {
    let sim = start();
    let csv = sim.csv(TENANT_ID, Period::D7);
    let (head, body) = download(&sim, FaultKind::CutAt(200)).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", csv.len())), "{head}");
    assert_eq!(body, csv[..200]);

    sim.inject(Fault::once(Host::Download, FaultKind::CutAt(200)));
    let response = http(None).get(link(&sim, Period::D7).await).send().await.unwrap();
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn a_cut_chunked_body_has_no_last_chunk() {
    let sim = start();
    let (head, body) = download(&sim, FaultKind::CutChunked(200)).await;
    assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
    let csv = sim.csv(TENANT_ID, Period::D7);
    assert_eq!(body, [b"c8\r\n", &csv[..200], b"\r\n"].concat());
}

#[tokio::test]
async fn a_close_delimited_body_has_no_length_at_all() {
    let sim = start();
    let csv = sim.csv(TENANT_ID, Period::D7);
    for (end, expected) in [(None, &csv[..]), (Some(321), &csv[..321])] {
        let (head, body) = download(&sim, FaultKind::CloseDelimited(end)).await;
        assert!(head.contains("Connection: close\r\n"), "{head}");
        assert!(!head.contains("Content-Length") && !head.contains("Transfer-Encoding"), "{head}");
        assert_eq!(body, expected);
    }
    // A client cannot tell the second from a whole body.
    sim.inject(Fault::once(Host::Download, FaultKind::CloseDelimited(Some(321))));
    let response = http(None).get(link(&sim, Period::D7).await).send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap().len(), 321);
}

#[tokio::test]
async fn an_absurd_length_is_only_promised() {
    let sim = start();
    let (head, body) = download(&sim, FaultKind::HugeContentLength).await;
    assert!(head.contains("Content-Length: 8796093022208\r\n"), "{head}");
    assert_eq!(body, sim.csv(TENANT_ID, Period::D7));
}

#[tokio::test]
async fn a_reset_comes_instead_of_an_answer() {
    let sim = start();
    let link = link(&sim, Period::D7).await;
    sim.inject(Fault::always(Host::Download, FaultKind::ResetBeforeHeaders));
    assert_eq!(raw_get(&link).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(sim.requests().last().unwrap().status, 0);
    sim.clear_faults();
    assert_eq!(http(None).get(&link).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn silence_lasts_and_a_trickle_trickles() {
    let sim = start();
    let link = link(&sim, Period::D7).await;
    let patience = Duration::from_millis(300);
    sim.inject(Fault::once(Host::Download, FaultKind::Hang));
    assert!(http(None).get(&link).timeout(patience).send().await.unwrap_err().is_timeout());
    sim.inject(Fault::once(Host::Download, FaultKind::SlowLoris));
    let response = http(None).get(&link).timeout(patience).send().await.unwrap();
    assert!(response.bytes().await.unwrap_err().is_timeout());

    sim.inject(Fault::once(Host::Download, FaultKind::Delay(patience)));
    let begin = Instant::now();
    assert_eq!(http(None).get(&link).send().await.unwrap().status(), 200);
    assert!(begin.elapsed() >= patience);
}

#[tokio::test]
async fn an_endless_body_does_not_end() {
    let sim = start();
    sim.inject(Fault::once(Host::Download, FaultKind::Endless));
    let mut response = http(None).get(link(&sim, Period::D7).await).send().await.unwrap();
    let mut received = 0;
    while received < 8 << 20 {
        received += response.chunk().await.unwrap().unwrap().len();
    }
}

#[tokio::test]
async fn gzip_is_declared_and_a_bomb_is_small() {
    let sim = start();
    let (head, body) = download(&sim, FaultKind::Gzip).await;
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert_eq!(body[..2], [0x1f, 0x8b]);
    let (head, body) = download(&sim, FaultKind::GzipBomb(64)).await;
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    assert!(body.len() < 1 << 20, "{}", body.len());
}

#[tokio::test]
async fn graph_can_answer_in_every_other_shape() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).unwrap();
    let token = token(&sim).await;
    let evil = "http://169.254.169.254/latest";
    sim.inject(Fault::once(Host::Graph, FaultKind::Location(evil.to_owned())));
    assert_eq!(location(&report(&sim, &token, Period::D7).await), evil);

    sim.inject(Fault::once(Host::Graph, FaultKind::NoLocation));
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.status(), 302);
    assert!(!response.headers().contains_key("location"));

    sim.inject(Fault::once(Host::Graph, FaultKind::DirectCsv));
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.bytes().await.unwrap(), sim.csv(TENANT_ID, Period::D7));

    for (header, expected) in [(Some("2.128"), "2.128"), (None, "")] {
        sim.inject(Fault::once(Host::Graph, FaultKind::Throttle(header.map(str::to_owned))));
        let response = report(&sim, &token, Period::D7).await;
        assert_eq!(response.status(), 429);
        let found = response.headers().get("retry-after").map_or("", |value| value.to_str().unwrap());
        assert_eq!(found, expected);
    }

    for (kind, status) in [
        (FaultKind::Status(500, String::new()), 500),
        (FaultKind::Status(502, "<html>Bad gateway</html>".to_owned()), 502),
        (FaultKind::unavailable(), 503),
        (FaultKind::Status(204, String::new()), 204),
        (FaultKind::Status(304, String::new()), 304),
        (FaultKind::missing_credentials(), 403),
    ] {
        sim.inject(Fault::once(Host::Graph, kind));
        assert_eq!(report(&sim, &token, Period::D7).await.status(), status);
    }
}

#[tokio::test]
async fn a_download_can_be_anything() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).unwrap();
    for text in ["", "Report Refresh Date,Office 365", "https://example.com/download"] {
        sim.inject(Fault::once(Host::Download, FaultKind::body(text)));
        assert_eq!(fetch(&sim, Period::D7).await, text);
    }
    let (head, body) = download(&sim, FaultKind::html("<html></html>")).await;
    assert!(head.contains("Content-Type: text/html; charset=utf-8\r\n"), "{head}");
    assert_eq!(body, b"<html></html>");
}

#[tokio::test]
async fn a_fault_hits_only_what_it_names_and_only_so_often() {
    let sim = Sim::start(Config::many(2).without_throttle()).unwrap();
    let token = token(&sim).await;
    sim.inject(Fault::times(2, Host::Graph, FaultKind::unavailable()).period(Period::D30));
    let other = sim.config().tenants[1].id;
    sim.inject(Fault::always(Host::Graph, FaultKind::unavailable()).tenant(other));
    let mut seen = Vec::new();
    for period in [Period::D7, Period::D30, Period::D30, Period::D30] {
        seen.push(report(&sim, &token, period).await.status().as_u16());
    }
    assert_eq!(seen, [302, 503, 503, 302]);
    assert_eq!(sim.faults().len(), 1);
    assert_eq!(sim.calls(Host::Graph), 4);
    sim.clear_log();
    assert_eq!(sim.calls(Host::Graph), 0);
}
