use std::{net::SocketAddr, sync::Arc, time::Duration};

use chrono::DateTime;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::load_from,
    http::{AppState, Guard, Health, probe, serve},
    telemetry::metrics::Metrics,
};

struct Running {
    address: SocketAddr,
    health: Arc<Health>,
    draining: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// A server whose database is not there: nobody listens on port 1.
    async fn without_database() -> Self {
        Self::guarded(Guard::default()).await
    }

    async fn guarded(guard: Guard) -> Self {
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1).username("nobody");
        let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100)).connect_lazy_with(options);
        let clock = Clock::simulated(DateTime::from_timestamp(1_780_000_000, 0).unwrap());
        let (health, draining, stop) = (Arc::<Health>::default(), CancellationToken::new(), CancellationToken::new());
        let state =
            AppState::new(pool, clock, Arc::clone(&health), Metrics::local(|| {}), draining.clone()).guarded(guard);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, state, stop.clone()));
        Self { address, health, draining, stop, task }
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        self.ask_as(method, path, "").await
    }

    /// With further header lines, each with its line end.
    async fn ask_as(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path).await
    }
}

#[tokio::test]
async fn probes_follow_the_life_of_the_process() {
    let server = Running::without_database().await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(probe::check(server.address).await, Ok(()));
    assert_eq!(server.get("/startupz").await.0, 503);
    let (code, answer) = server.get("/readyz").await;
    assert!(code == 503 && answer.contains("schema"), "{answer}");

    server.health.schema_ok();
    assert_eq!(server.get("/startupz").await.0, 200);
    assert_eq!(server.get("/readyz").await.0, 200);

    server.draining.cancel();
    let (code, answer) = server.get("/readyz").await;
    assert!(code == 503 && answer.ends_with("stopping\n"), "{answer}");
    assert_eq!(server.get("/livez").await.0, 200);

    server.stop.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn without_a_database_everything_still_answers() {
    let server = Running::without_database().await;
    let (code, page) = server.get("/").await;
    assert_eq!(code, 503);
    assert!(page.contains("The database does not answer") && page.contains("<!DOCTYPE html>"));
    let (code, json) = server.get("/status").await;
    assert!(code == 503 && json.contains("\"error\":\"the database does not answer\""), "{json}");
    let (code, metrics) = server.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(metrics.contains("m365_ledger_build_info{") && metrics.contains("content-type: text/plain; version=0.0.4"));
    for answer in [page, json, metrics] {
        assert!(!answer.contains("127.0.0.1") && !answer.contains("nobody"), "{answer}");
    }
}

#[tokio::test]
async fn only_reads_are_answered_and_browsers_are_held_short() {
    let server = Running::without_database().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(server.ask(method, "/status").await.0, 405, "{method}");
    }
    assert_eq!(server.ask("HEAD", "/livez").await.0, 200);
    let (code, answer) = server.get("/.env").await;
    assert_eq!(code, 404);
    for header in [
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(answer.contains(header), "no `{header}` in {answer}");
    }
}

#[tokio::test]
async fn with_a_password_only_the_probes_are_open() {
    let settings = [("M365_LEDGER__HTTP__PASSWORD", "open sesame"), ("M365_LEDGER__HTTP__TOKEN", "t0ken")];
    let environment = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let settings = load_from(None, environment).unwrap().settings;
    let server = Running::guarded(Guard::new(&settings.http).unwrap()).await;
    server.health.schema_ok();
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    assert_eq!(probe::check(server.address).await, Ok(()));
    let id = "00000000-0000-0000-0000-000000000001";
    let (page, csv) = (format!("/tenants/{id}"), format!("/tenants/{id}/active-users.csv"));
    for path in ["/", "/tenants.csv", &page, &csv, "/icon.svg", "/status", "/metrics", "/nothing", "/livez/../status"] {
        let (code, answer) = server.get(path).await;
        assert_eq!(code, 401, "{path}: {answer}");
        assert!(answer.contains("www-authenticate: Basic realm=\"m365-ledger\", charset=\"UTF-8\""), "{answer}");
        assert!(answer.contains("www-authenticate: Bearer") && answer.contains("content-security-policy"), "{answer}");
        assert!(!answer.contains("sesame") && !answer.contains("t0ken"));
    }
    // anyone:open sesame
    let basic = "authorization: Basic YW55b25lOm9wZW4gc2VzYW1l\r\n";
    for header in [basic, "authorization: Bearer t0ken\r\n"] {
        assert_eq!(server.ask_as("GET", "/metrics", header).await.0, 200, "{header}");
    }
    assert_eq!(server.ask_as("GET", "/metrics", "authorization: Bearer t0ken2\r\n").await.0, 401);
    assert_eq!(server.ask("POST", "/status").await.0, 401);
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_up_the_end() {
    let server = Running::without_database().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    server.stop.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap().unwrap();
}
