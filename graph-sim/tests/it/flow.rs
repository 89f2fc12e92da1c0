//! What Microsoft does on a good day, and its proper refusals.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use graph_sim::{CLIENT_ID, CLIENT_SECRET, Config, HeaderGeneration, Host, Period, Sim, TENANT_ID};
use reqwest::Response;
use serde_json::Value;

use crate::client::{ask_token, call, date, fetch, http, link, location, report, rows, start, token};

async fn error_code(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["innerError"]["request-id"].is_string(), "{body}");
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_earns_a_link_and_a_link_earns_a_csv() {
    let sim = start();
    let token = token(&sim).await;
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert!(response.headers().contains_key("request-id"));
    let link = location(&response);
    assert!(link.starts_with(&format!("{}/data/download/", sim.download_url())), "{link}");

    let csv = http(None).get(&link).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(csv, sim.csv(TENANT_ID, Period::D7));
    let log = sim.requests();
    let seen: Vec<_> = log.iter().map(|request| (request.host, request.status, request.had_authorization)).collect();
    assert_eq!(seen, [(Host::Login, 200, false), (Host::Graph, 302, true), (Host::Download, 200, false)]);
    assert!(log.iter().all(|request| request.tenant == Some(TENANT_ID)));
    assert_eq!(log[2].period, Some(Period::D7));
    let secrets = sim.secrets();
    assert!(secrets.contains(&token) && secrets.contains(&CLIENT_SECRET.to_owned()));
    assert_eq!(secrets.iter().filter(|secret| link.contains(secret.as_str())).count(), 2);
}

#[tokio::test]
async fn every_period_has_its_days_newest_first() {
    let sim = start();
    for period in Period::ALL {
        let csv = fetch(&sim, period).await;
        let mut expected = sim.expected_rows(TENANT_ID, period);
        assert_eq!(expected.len(), usize::from(period.days()));
        assert_eq!(expected.last().unwrap().0, date("2026-10-01"));
        expected.reverse();
        assert_eq!(rows(&csv), expected);
    }
    sim.set_newest_first(false);
    assert_eq!(rows(&fetch(&sim, Period::D7).await), sim.expected_rows(TENANT_ID, Period::D7));
}

#[tokio::test]
async fn the_csv_has_a_bom_crlf_and_the_header_of_its_generation() {
    let sim = start();
    let header = |products: &str| {
        format!(
            "\u{feff}Report Refresh Date,Office 365,Exchange,OneDrive,SharePoint,Skype For Business,Yammer{products},\
             Report Date,Report Period\r\n"
        )
    };
    let csv = fetch(&sim, Period::D7).await;
    assert!(csv.starts_with(&header(",Teams")), "{csv}");
    assert!(csv.ends_with(",2026-09-25,7\r\n"), "{csv}");
    assert_eq!(csv.matches('\n').count(), csv.matches("\r\n").count());

    sim.set_header(HeaderGeneration::WithoutTeams);
    let csv = fetch(&sim, Period::D7).await;
    assert!(csv.starts_with(&header("")), "{csv}");
    assert!(csv.lines().all(|line| line.split(',').count() == 9), "{csv}");
    assert!(sim.expected_rows(TENANT_ID, Period::D7).iter().all(|(_, figures)| figures[6].is_none()));

    sim.set_header(HeaderGeneration::Extra("Viva Engage".to_owned()));
    let csv = fetch(&sim, Period::D7).await;
    assert!(csv.starts_with(&header(",Teams,Viva Engage")), "{csv}");
    assert!(csv.lines().all(|line| line.split(',').count() == 11), "{csv}");
}

#[tokio::test]
async fn a_later_refresh_revises_recent_days_and_a_reissue_the_same_refresh() {
    let sim = start();
    let first = rows(&fetch(&sim, Period::D7).await);
    sim.advance_days(1);
    let second = rows(&fetch(&sim, Period::D7).await);
    assert_eq!(second[0].0, date("2026-10-02"));
    let revised = first.iter().filter(|row| !second.contains(row)).count();
    // Three days, and the one that has left the period.
    assert_eq!(revised, 4);

    sim.reissue(TENANT_ID);
    let third = fetch(&sim, Period::D7).await;
    assert!(third.contains("2026-10-02,"));
    assert!(rows(&third).iter().zip(&second).all(|(new, old)| new.0 == old.0 && new.1 != old.1));

    sim.set_refresh_date_for(TENANT_ID, Period::D7, date("2026-09-20"));
    assert_eq!(rows(&fetch(&sim, Period::D7).await)[0].0, date("2026-09-20"));
    assert_eq!(rows(&fetch(&sim, Period::D30).await)[0].0, date("2026-10-02"));
    sim.advance_days(2);
    assert_eq!(sim.refresh_date_for(TENANT_ID, Period::D7), date("2026-09-22"));

    sim.remove_date(TENANT_ID, date("2026-09-20"));
    let left: BTreeSet<_> = rows(&fetch(&sim, Period::D7).await).into_iter().map(|row| row.0).collect();
    assert_eq!(left.len(), 6);
    assert!(!left.contains(&date("2026-09-20")));
}

#[tokio::test]
async fn login_refuses_as_entra_does() {
    let sim = start();
    let id = TENANT_ID.to_string();
    let unknown = "11111111-2222-4333-8444-555555555555";
    let refused = async |tenant: &str, client: &str, secret: &str| {
        let response = ask_token(&sim, tenant, client, secret).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        let code = body["error_codes"][0].as_u64().unwrap();
        assert!(body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{code}: ")), "{body}");
        (status, body["error"].as_str().unwrap().to_owned(), code)
    };
    assert_eq!(refused(&id, CLIENT_ID, "wrong").await, (401, "invalid_client".to_owned(), 7_000_215));
    assert_eq!(refused(&id, unknown, CLIENT_SECRET).await, (400, "unauthorized_client".to_owned(), 700_016));
    assert_eq!(refused(unknown, CLIENT_ID, CLIENT_SECRET).await, (400, "invalid_request".to_owned(), 90_002));
    sim.set_secret_expired(TENANT_ID, true);
    assert_eq!(refused(&id, CLIENT_ID, CLIENT_SECRET).await, (401, "invalid_client".to_owned(), 7_000_222));
    sim.rotate_secret(TENANT_ID, "a new+secret&=");
    assert_eq!(refused(&id, CLIENT_ID, CLIENT_SECRET).await, (401, "invalid_client".to_owned(), 7_000_215));
    assert_eq!(ask_token(&sim, &id, CLIENT_ID, "a new+secret&=").await.status(), 200);
}

#[tokio::test]
async fn graph_checks_token_consent_and_call() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).unwrap();
    let token = token(&sim).await;
    let get = "getOffice365ActiveUserCounts";
    for path in [
        format!("/beta/reports/{get}(period='D30')"),
        format!("/v1.0/reports/{get}%28period%3D%27D180%27%29"),
        "/v1.0/reports/Office365ActiveUserCounts(period='D7')".to_owned(),
        format!("/v1.0/reports/microsoft.graph.{get}(period='D90')"),
    ] {
        assert_eq!(call(&sim, &token, &path).await.status(), 302, "{path}");
    }
    for (path, status, code) in [
        (format!("/v1.0/reports/{get}(period='D8')"), 400, "BadRequest"),
        (format!("/v1.0/reports/{get}()"), 400, "BadRequest"),
        ("/v1.0/reports/getTeamsUserActivityCounts(period='D7')".to_owned(), 404, "ResourceNotFound"),
    ] {
        let response = call(&sim, &token, &path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(error_code(response).await, code);
    }

    sim.set_consent(TENANT_ID, false);
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.status(), 403);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "UnknownError");
    let inner: Value = serde_json::from_str(body["error"]["message"].as_str().unwrap()).unwrap();
    assert_eq!(inner["error"]["code"], "S2SUnauthorized");
    sim.set_consent(TENANT_ID, true);

    sim.revoke_tokens();
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.status(), 401);
    assert_eq!(error_code(response).await, "InvalidAuthenticationToken");
}

#[tokio::test]
async fn tokens_and_links_live_only_so_long() {
    let short = Duration::from_millis(150);
    let sim = Sim::start(Config::one_tenant().link_lifetime(short)).unwrap();
    let expiring = link(&sim, Period::D7).await;
    assert_eq!(http(None).get(&expiring).send().await.unwrap().status(), 200);
    tokio::time::sleep(short).await;
    assert_eq!(http(None).get(&expiring).send().await.unwrap().status(), 403);

    let fresh = link(&sim, Period::D7).await;
    let forged = fresh.replace("token=", "token=0");
    assert_eq!(http(None).get(forged).send().await.unwrap().status(), 403);
    sim.expire_links();
    assert_eq!(http(None).get(&fresh).send().await.unwrap().status(), 403);

    let sim = Sim::start(Config::one_tenant().token_lifetime(short)).unwrap();
    let token = token(&sim).await;
    tokio::time::sleep(short).await;
    assert_eq!(report(&sim, &token, Period::D7).await.status(), 401);
}

#[tokio::test]
async fn the_download_host_wants_no_token() {
    let sim = start();
    let link = link(&sim, Period::D7).await;
    let response = http(None).get(&link).bearer_auth("a token").send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(sim.authorization_leaks(), 1);
    assert_eq!(http(None).get(&link).send().await.unwrap().status(), 200);
    assert_eq!(sim.authorization_leaks(), 1);
}

#[tokio::test]
async fn the_fifteenth_call_is_refused_and_refused_calls_count() {
    let sim = Sim::start(Config::many(2)).unwrap();
    let token = token(&sim).await;
    for _ in 0..14 {
        assert_eq!(report(&sim, &token, Period::D30).await.status(), 302);
    }
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.status(), 429);
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((590..=600).contains(&seconds), "{seconds}");
    assert_eq!(error_code(response).await, "TooManyRequests");

    let second = &sim.config().tenants[1];
    let response = ask_token(&sim, &second.id.to_string(), &second.client_id, &second.client_secret).await;
    let body: Value = response.json().await.unwrap();
    assert_eq!(report(&sim, body["access_token"].as_str().unwrap(), Period::D7).await.status(), 302);

    sim.reset_throttle();
    assert_eq!(report(&sim, &token, Period::D7).await.status(), 302);
}

#[tokio::test]
async fn the_window_of_the_limit_slides() {
    let sim = Sim::start(Config::one_tenant().throttle(1, Duration::from_millis(900))).unwrap();
    let token = token(&sim).await;
    assert_eq!(report(&sim, &token, Period::D7).await.status(), 302);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let response = report(&sim, &token, Period::D7).await;
    assert_eq!(response.headers()["retry-after"], "1");
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The refused call still counts.
    assert_eq!(report(&sim, &token, Period::D7).await.status(), 429);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(report(&sim, &token, Period::D7).await.status(), 302);
}

#[tokio::test]
async fn https_needs_its_ca() {
    let sim = Sim::start(Config::one_tenant().tls()).unwrap();
    assert!(sim.graph_url().starts_with("https://127.0.0.1:"));
    let csv = fetch(&sim, Period::D90).await;
    assert_eq!(csv.as_bytes(), sim.csv(TENANT_ID, Period::D90));
    assert!(http(None).get(sim.graph_url()).send().await.is_err());
}

#[tokio::test]
async fn latency_is_waited_and_a_stopped_stand_in_frees_its_ports() {
    let sim = Sim::start(Config::one_tenant().latency(Duration::from_millis(100))).unwrap();
    let begin = Instant::now();
    token(&sim).await;
    assert!(begin.elapsed() >= Duration::from_millis(100));
    let ports: Vec<u16> = [sim.login_url(), sim.graph_url(), sim.download_url()]
        .iter()
        .map(|url| url.rsplit_once(':').unwrap().1.parse().unwrap())
        .collect();
    sim.shutdown().await;
    let again = Sim::start(Config::one_tenant().ports(ports.try_into().unwrap())).unwrap();
    token(&again).await;
}
