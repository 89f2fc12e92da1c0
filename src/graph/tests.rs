//! The whole way, against listeners that answer with raw bytes.

use super::{
    testing::{CSV, Reply, Server, clock, fetch, granted, graph, is_login, microsoft, tenant, trace},
    *,
};

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
            move |request, _| match request {
                login if is_login(login) => granted("canary-token", 3599),
                _ => Reply::whole(&format!("302 Found\nLocation: {location}"), ""),
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

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    for (refused, calls) in [(1, 2), (9, 2)] {
        let downloads = Server::start(|_, _| Reply::whole("200 OK", CSV)).await;
        let link = downloads.url("/x");
        let server = Server::start(move |request, number| match request {
            login if is_login(login) => granted(&format!("t{number}"), 3599),
            _ if number / 2 < refused => Reply::whole("401 Unauthorized", ""),
            _ => Reply::whole(&format!("302 Found\nLocation: {link}"), ""),
        })
        .await;
        let graph = graph(&server, clock(), |_| {});
        let mut trace = trace();
        let result = fetch(&graph, &mut trace).await;
        assert_eq!(
            result.as_ref().err().map(GraphError::class),
            (refused > 1).then_some(ErrorClass::AuthInvalidClient)
        );
        assert_eq!(trace.graph_calls, calls);
        let requests = server.requests();
        assert_eq!(requests.len(), 4);
        assert!(requests[1].contains("Bearer t0") && requests[3].contains("Bearer t2"));
    }
}

#[tokio::test]
async fn a_refused_link_is_replaced_twice() {
    for status in ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"] {
        for (refused, calls) in [(1, 2), (2, 3), (9, 3)] {
            let downloads = Server::start(move |_, number| match number {
                number if number < refused => Reply::whole(status, r#"{"error":{"code":"MissingCredentials"}}"#),
                _ => Reply::whole("200 OK", CSV),
            })
            .await;
            let server = microsoft(&downloads).await;
            let mut trace = trace();
            let result = fetch(&graph(&server, clock(), |_| {}), &mut trace).await;
            assert_eq!(result.err().map(|error| error.class()), (refused > 2).then_some(ErrorClass::UrlExpired));
            assert_eq!((trace.graph_calls, downloads.requests().len()), (calls, usize::from(calls)));
            assert!(!downloads.requests().join("").to_lowercase().contains("authorization"));
        }
    }
}

#[tokio::test]
async fn token_and_link_together_stay_within_the_calls_of_an_attempt() {
    let downloads = Server::start(|_, _| Reply::whole("403 Forbidden", "")).await;
    let link = downloads.url("/x");
    let server = Server::start(move |request, number| match request {
        login if is_login(login) => granted("t", 3599),
        _ if number == 1 => Reply::whole("401 Unauthorized", ""),
        _ => Reply::whole(&format!("302 Found\nLocation: {link}"), ""),
    })
    .await;
    let mut trace = trace();
    let error = fetch(&graph(&server, clock(), |_| {}), &mut trace).await.expect_err("refused");
    assert_eq!((error.class(), trace.graph_calls), (ErrorClass::UrlExpired, MAX_CALLS_PER_ATTEMPT));
}

#[tokio::test]
async fn a_direct_report_and_no_report_are_told_apart() {
    let server = Server::start(|request, number| match request {
        login if is_login(login) => granted("t", 3599),
        _ if number == 1 => Reply::whole("200 OK\nContent-Type: text/csv", CSV),
        _ if number == 2 => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n"),
    })
    .await;
    let graph = graph(&server, clock(), |_| {});
    assert_eq!(fetch(&graph, &mut trace()).await.expect("a body").bytes, CSV);
    for _ in 0..2 {
        let fetched = graph.fetch(&tenant(), "getX", Period::D180, &mut trace()).await.expect("an answer");
        assert!(matches!(fetched, Fetched::NoData));
    }
    assert!(server.requests()[3].starts_with("GET /v1.0/reports/getX(period='D180') HTTP/1.1"));
}

#[tokio::test]
async fn broken_connections_are_classed() {
    for (answer, class) in [
        (&b""[..], ErrorClass::Connection),
        (b"HTTP/1.1 20", ErrorClass::Connection),
        (b"SSH-2.0-OpenSSH\r\n", ErrorClass::Connection),
        (b"HTTP/1.1 302 Found\r\nLocation: htt", ErrorClass::Connection),
    ] {
        let server = Server::start(move |request, _| match request {
            login if is_login(login) => granted("t", 3599),
            _ => Reply::raw(answer),
        })
        .await;
        let error = fetch(&graph(&server, clock(), |_| {}), &mut trace()).await.expect_err("broken");
        assert_eq!(error.class(), class, "{error}");
        assert!(!error.to_string().contains("://"), "{error}");
    }
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let no_tls = plain.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let server = Server::start(|_, _| granted("t", 3599)).await;
    for (url, class) in
        [(format!("http://{dead}"), ErrorClass::Connection), (format!("https://{no_tls}"), ErrorClass::Tls)]
    {
        let url = url.parse().expect("a URL");
        let graph = graph(&server, clock(), |settings| settings.base_url = Some(url));
        let error = fetch(&graph, &mut trace()).await.expect_err("no connection");
        assert_eq!(error.class(), class, "{error}");
    }
}

#[tokio::test]
async fn nothing_secret_is_traced_or_shown_on_the_way() {
    let log = Log::default();
    // With one subscriber only, a call site first met on another test's thread would be switched off for this one too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer({
        let log = log.clone();
        move || log.clone()
    });
    let guard = tracing::subscriber::set_default(subscriber.finish());
    let downloads = Server::start(|_, number| match number {
        0 => Reply::whole("403 Forbidden", "canary-link"),
        1 => Reply::whole("200 OK", CSV),
        _ => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    })
    .await;
    let server = microsoft(&downloads).await;
    let graph = graph(&server, clock(), |_| {});
    let mut trace = trace();
    fetch(&graph, &mut trace).await.expect("a body");
    let error = fetch(&graph, &mut trace).await.expect_err("truncated");
    drop(guard);
    let seen = format!("{error} {error:?} {trace:?} {graph:?} {}", log.text());
    assert!(seen.contains("Graph answered") && seen.contains("the download host answered"), "{seen}");
    assert!(!seen.contains("canary"), "{seen}");
}

#[derive(Debug, Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("a lock")).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("a lock").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
