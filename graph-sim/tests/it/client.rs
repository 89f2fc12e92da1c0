//! A client that does as it is told: no redirects, no retries.

use std::time::Duration;

use chrono::NaiveDate;
use graph_sim::{CLIENT_ID, CLIENT_SECRET, Config, Figures, Period, Sim, TENANT_ID};
use reqwest::{
    Certificate, Client, Response,
    header::{AUTHORIZATION, LOCATION},
    redirect::Policy,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub(crate) fn start() -> Sim {
    Sim::start(Config::one_tenant().refresh_date(date("2026-10-01"))).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the client of these tests, not the product's")]
pub(crate) fn http(ca_pem: Option<&str>) -> Client {
    // Fails where another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().redirect(Policy::none()).no_proxy().timeout(Duration::from_secs(10));
    let builder = match ca_pem {
        Some(pem) => builder.tls_certs_only([Certificate::from_pem(pem.as_bytes()).unwrap()]),
        None => builder,
    };
    builder.build().unwrap()
}

pub(crate) async fn ask_token(sim: &Sim, tenant: &str, client: &str, secret: &str) -> Response {
    let form = [
        ("client_id", client),
        ("client_secret", secret),
        ("scope", "https://graph.microsoft.com/.default"),
        ("grant_type", "client_credentials"),
    ];
    let url = format!("{}/{tenant}/oauth2/v2.0/token", sim.login_url());
    http(sim.ca_pem()).post(url).form(&form).send().await.unwrap()
}

pub(crate) async fn token(sim: &Sim) -> String {
    let response = ask_token(sim, &TENANT_ID.to_string(), CLIENT_ID, CLIENT_SECRET).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

/// Calls a path of Graph.
pub(crate) async fn call(sim: &Sim, token: &str, path: &str) -> Response {
    let request = http(sim.ca_pem()).get(format!("{}{path}", sim.graph_url()));
    request.header(AUTHORIZATION, format!("Bearer {token}")).send().await.unwrap()
}

pub(crate) async fn report(sim: &Sim, token: &str, period: Period) -> Response {
    call(sim, token, &format!("/v1.0/reports/getOffice365ActiveUserCounts(period='{period}')")).await
}

pub(crate) fn location(response: &Response) -> String {
    assert_eq!(response.status(), 302);
    response.headers()[LOCATION].to_str().unwrap().to_owned()
}

/// A fresh download link.
pub(crate) async fn link(sim: &Sim, period: Period) -> String {
    location(&report(sim, &token(sim).await, period).await)
}

/// Both legs.
pub(crate) async fn fetch(sim: &Sim, period: Period) -> String {
    let response = http(sim.ca_pem()).get(link(sim, period).await).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    // Not `text()`, which would drop the BOM.
    let body = response.bytes().await.unwrap();
    assert_eq!(body.len(), length);
    String::from_utf8(body.to_vec()).unwrap()
}

/// The rows of a CSV with today's columns, in the file's order.
pub(crate) fn rows(csv: &str) -> Vec<(NaiveDate, Figures)> {
    let lines = csv.trim_start_matches('\u{feff}').lines().skip(1);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), 10, "{line}");
            let figures = std::array::from_fn(|column| match cells[column + 1] {
                "" => None,
                figure => Some(figure.parse().unwrap()),
            });
            (date(cells[8]), figures)
        })
        .collect()
}

/// Everything that comes over the wire for a GET of a plain URL, until the other side closes.
pub(crate) async fn raw_get(url: &str) -> std::io::Result<Vec<u8>> {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.unwrap()?;
    Ok(bytes)
}
