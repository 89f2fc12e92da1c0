//! Everything Microsoft, or what stands between, has been seen to answer instead of a report: what the program says of
//! it, what it stores (nothing), what it keeps for a person to look at, how often it asks, and that neither the tenant's
//! other periods nor the run after the fault suffer from it.

mod case;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use graph_sim::{Config, Fault, FaultKind, Host, Sim};
use m365_ledger::clock::Clock;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::rig::{Setup, TestDb, assert_complete, assert_verified, graph_calls, sim, stored_rows};

use self::case::{Case, HALF_READ, HIT, Prepare, STORED, TRUNCATED, run};

/// Where the n-th line of the proper body ends.
fn end_of_line(sim: &Sim, tenant: Uuid, n: usize) -> usize {
    let bytes = sim.csv(tenant, HIT);
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(n - 1).expect("that many lines").0 + 1
}

fn cut(name: &str, attempts: &[&'static str], kind: fn(usize) -> FaultKind, at: fn(&Sim, Uuid) -> usize) -> Case {
    let calls = attempts.len();
    let prepare = move |sim: &Sim, tenant| vec![Fault::always(Host::Download, kind(at(sim, tenant)))];
    Case::new(name, attempts, calls, Box::new(prepare))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_is_never_taken_for_a_report() {
    let at_half: fn(&Sim, Uuid) -> usize = |sim, tenant| end_of_line(sim, tenant, 16);
    let in_a_row: fn(&Sim, Uuid) -> usize = |sim, tenant| end_of_line(sim, tenant, 16) + 17;
    let in_a_number: fn(&Sim, Uuid) -> usize = |sim, tenant| sim.csv(tenant, HIT).len() - 3;
    let before_last: fn(&Sim, Uuid) -> usize = |sim, tenant| end_of_line(sim, tenant, 30);
    let close: fn(usize) -> FaultKind = |at| FaultKind::CloseDelimited(Some(at));
    let oldest_first = |case: Case| {
        let Case { prepare, .. } = case;
        let prepare: Prepare = Box::new(move |sim, tenant| {
            sim.set_newest_first(false);
            prepare(sim, tenant)
        });
        Case { prepare, ..Case::new(case.name, &case.attempts, case.graph_calls, Box::new(|_, _| Vec::new())) }
    };
    run(
        "cuts",
        vec![
            cut("length, nothing came", &TRUNCATED, FaultKind::CutAt, |_, _| 0),
            cut("length, one byte came", &TRUNCATED, FaultKind::CutAt, |_, _| 1),
            cut("length, cut in the header", &TRUNCATED, FaultKind::CutAt, |_, _| 50),
            cut("length, cut in a row", &TRUNCATED, FaultKind::CutAt, in_a_row),
            cut("length, cut between rows", &TRUNCATED, FaultKind::CutAt, at_half),
            cut("length, the last line is missing", &TRUNCATED, FaultKind::CutAt, before_last),
            cut("length, the last byte is missing", &TRUNCATED, FaultKind::CutAt, |sim, id| sim.csv(id, HIT).len() - 1),
            cut("chunked, nothing came", &TRUNCATED, FaultKind::CutChunked, |_, _| 0),
            cut("chunked, cut in a row", &TRUNCATED, FaultKind::CutChunked, in_a_row),
            cut("chunked, cut between rows", &TRUNCATED, FaultKind::CutChunked, at_half),
            cut("chunked, all but the last chunk", &TRUNCATED, FaultKind::CutChunked, |sim, id| sim.csv(id, HIT).len()),
            Case::always(Host::Download, "unframed, whole", FaultKind::CloseDelimited(None), &[STORED], 1),
            cut("unframed, cut in a row", &HALF_READ, close, in_a_row),
            cut("unframed, cut in the last number", &HALF_READ, close, in_a_number),
            oldest_first(cut("unframed, cut between rows", &HALF_READ, close, at_half)),
            Case::times(1, Host::Download, "cut once", FaultKind::CutAt(100), &["failed/truncated", STORED], 2),
        ],
    )
    .await;
}

/// Newest first, a cut between two rows leaves a body like that of a younger tenant. It is taken, because such tenants
/// exist: what is stored lacks the oldest days, has no wrong figure, and is put right by the next whole body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_nothing_shows_costs_the_oldest_days_until_the_next_run() {
    let db = TestDb::new("unshown").await;
    let sim = sim();
    let tenant = sim.config().tenants[0].id;
    let setup = Setup::new(&db.url, &sim);
    let at = end_of_line(&sim, tenant, 16);
    sim.inject(Fault::once(Host::Download, FaultKind::CloseDelimited(Some(at))));
    setup.run(&["once", "--period", "D30"]).await.ends(0);
    let whole = sim.expected_rows(tenant, HIT);
    assert_eq!(stored_rows(&db.pool, tenant, HIT, sim.refresh_date()).await, whole[15..]);
    let again = setup.run(&["once", "--period", "D30", "--json"]).await.ends(0).json();
    assert_eq!((&again["totals"]["rows_inserted"], &again["totals"]["rows_unchanged"]), (&15.into(), &15.into()));
    assert_complete(&db.pool, &sim, &[tenant], &[HIT]).await;
    assert_verified(&setup, "after the whole body").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_taken_whole_or_not_at_all() {
    let page = "<html><a href=\"https://reports.office.com/canary?token=canary\">moved</a></html>";
    let json = r#"{"error":{"code":"x","message":"see https://u:canary@h.example/canary?sig=canary"}}"#;
    let link = |sim: &Sim, _| {
        let link = format!("{}/data/download/canary?token=canary", sim.download_url());
        vec![Fault::always(Host::Download, FaultKind::body(link))]
    };
    let not_csv = |name: &str, kind| Case::always(Host::Download, name, kind, &["rejected/not_csv"], 1);
    let of_graph = |name: &str, kind, attempt| Case::always(Host::Graph, name, kind, &[attempt], 1);
    let too_large = |name: &str, kind| Case::always(Host::Download, name, kind, &["failed/too_large"], 1);
    let mebibytes_9 = || {
        let mut text = String::from("Report Refresh Date,Report Date,Report Period\r\n");
        text.push_str(&"2026-01-01,2026-01-01,30\r\n".repeat(9 << 20 >> 4));
        FaultKind::body(text)
    };
    run(
        "bodies",
        vec![
            not_csv("a page", FaultKind::html(page)),
            not_csv("a message in JSON", FaultKind::body(json)),
            not_csv("bytes that are no text", FaultKind::body(vec![0xff, 0xfe, 0x00, 0xd8])),
            not_csv(
                "a page in Latin-1",
                FaultKind::body(b"<p>f\xfcr https://h.example/canary?sig=canary</p>".to_vec()),
            ),
            Case::new("a link", &["rejected/not_csv"], 1, Box::new(link)),
            of_graph("a page of Graph", FaultKind::html(page), "rejected/not_csv"),
            of_graph("the report of Graph itself", FaultKind::DirectCsv, STORED),
            Case::always(Host::Download, "packed", FaultKind::Gzip, &[STORED], 1),
            Case::always(Host::Download, "no bytes", FaultKind::body(""), &["empty/empty_report"], 1),
            Case::body("the header alone", "empty/empty_report", |lines| lines.truncate(1)),
            Case::body("a cell that is no number", "rejected/bad_row", |lines| {
                lines[9] = lines[9].replacen(',', ",n/a", 1);
            }),
            Case::body("a negative number", "rejected/bad_row", |lines| lines[3] = lines[3].replacen(',', ",-", 1)),
            Case::body("a number beyond 2^63", "rejected/bad_row", |lines| {
                lines[3] = lines[3].replacen(',', ",99999999999999999999", 1);
            }),
            Case::body("a row too long", "rejected/bad_row", |lines| lines[3].push_str(",1")),
            Case::body("a key column is missing", "rejected/bad_header", |lines| {
                lines[0] = lines[0].replace("Report Date", "Day");
            }),
            Case::body("a header stands twice", "rejected/bad_header", |lines| {
                lines[0] = lines[0].replace("Yammer", "Exchange");
            }),
            Case::body("another period", "rejected/period_mismatch", |lines| {
                lines[7] = format!("{},90", lines[7].strip_suffix(",30").expect("of D30"));
            }),
            Case::body("two refreshes", "rejected/mixed_refresh", |lines| {
                let other = lines[7].split_once(',').expect("cells").1.to_owned();
                lines[7] = format!("2026-01-01,{}", other.replace(&other[other.len() - 13..], "2026-01-01,30"));
            }),
            Case::body("two rows of one day", "rejected/conflicting_rows", |lines| {
                lines.push(lines[5].replacen(',', ",9", 1));
            }),
            Case::body("one row twice", STORED, |lines| lines.push(lines[5].clone())),
            Case::body("more than 1,000 rows", "rejected/too_large", |lines| {
                let refresh: chrono::NaiveDate = lines[1][..10].parse().expect("a date");
                let days = refresh.iter_days().rev().take(1_001);
                let rows: Vec<_> = days.map(|day| format!("{refresh},1,1,1,1,1,1,1,{day},30")).collect();
                lines.truncate(1);
                lines.extend(rows);
            }),
            too_large("more than 8 MiB", mebibytes_9()),
            too_large("a bomb", FaultKind::GzipBomb(64)),
            too_large("no end", FaultKind::Endless),
            too_large("8 TiB announced", FaultKind::HugeContentLength),
        ],
    )
    .await;
}

fn json(code: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"No."}}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_status_has_its_answer() {
    let status = |status, code: &str| FaultKind::Status(status, json(code));
    let graph =
        |name: &str, kind, attempts: &[&'static str], calls| Case::always(Host::Graph, name, kind, attempts, calls);
    let once =
        |host, name: &str, kind, attempts: &[&'static str], calls| Case::times(1, host, name, kind, attempts, calls);
    let unavailable = ["failed/graph_5xx"; 3];
    let mut cases = vec![
        graph("403", status(403, "Authorization_RequestDenied"), &["failed/auth_forbidden"], 1),
        graph("401 for ever", status(401, "InvalidAuthenticationToken"), &["failed/auth_invalid_client"], 2),
        once(Host::Graph, "401 once: a fresh token", status(401, "InvalidAuthenticationToken"), &[STORED], 2),
        graph("404", status(404, "ResourceNotFound"), &["failed/not_found"], 1),
        graph("400", status(400, "BadRequest"), &["failed/bad_request"], 1),
        graph("503 for ever", FaultKind::unavailable(), &unavailable, 3),
        graph("503 for ever, and nothing else", FaultKind::unavailable(), &unavailable, 3).alone(),
        Case::times(2, Host::Graph, "502 twice", status(502, "x"), &[unavailable[0], unavailable[0], STORED], 3),
        once(Host::Download, "503 of the download host", status(503, "x"), &[unavailable[0], STORED], 2),
        once(Host::Download, "an expired link", status(403, "x"), &[STORED], 2),
        Case::times(2, Host::Download, "two expired links", status(404, "x"), &[STORED], 3),
        once(Host::Download, "the incident of 2023", FaultKind::missing_credentials(), &[STORED], 2),
        Case::always(Host::Download, "410 for ever", status(410, "x"), &["failed/url_expired"; 3], 9),
        graph("a redirect to nowhere", FaultKind::NoLocation, &["failed/redirect_missing"], 1),
        Case::always(
            Host::Login,
            "an unknown client",
            status(401, "invalid_client"),
            &["failed/auth_invalid_client"],
            0,
        )
        .alone(),
        Case::always(Host::Login, "503 of the login host", status(503, "x"), &unavailable, 0).alone(),
        Case::new(
            "no consent",
            &["failed/auth_forbidden"],
            1,
            Box::new(|sim, tenant| {
                sim.set_consent(tenant, false);
                Vec::new()
            }),
        )
        .alone()
        .lasting(),
        Case::new(
            "an expired secret",
            &["failed/auth_invalid_client"],
            0,
            Box::new(|sim, tenant| {
                sim.set_secret_expired(tenant, true);
                Vec::new()
            }),
        )
        .alone()
        .lasting(),
    ];
    for code in [500, 502, 503, 504] {
        cases.push(once(Host::Graph, &format!("{code} once"), status(code, "x"), &[unavailable[0], STORED], 2));
    }
    run("statuses", cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_called_before_the_time_microsoft_asked_for() {
    let asked = |name: &str, retry_after: &str, pause: Duration| {
        let kind = FaultKind::Throttle(Some(retry_after.to_owned()));
        Case::times(1, Host::Graph, name, kind, &["failed/throttled", STORED], 2).pause(pause)
    };
    let date: Prepare = Box::new(|_, _| {
        let date = (Clock::System.now() + TimeDelta::seconds(4)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        vec![Fault::once(Host::Graph, FaultKind::Throttle(Some(date)))]
    });
    let again = ["failed/throttled", STORED];
    run(
        "pauses",
        vec![
            asked("whole seconds", "2", Duration::from_secs(2)),
            asked("seconds with a fraction", "1.5", Duration::from_millis(1_500)),
            asked("not at all", "0", Duration::ZERO),
            Case::new("a date", &again, 2, date),
            Case::times(1, Host::Graph, "without a time", FaultKind::Throttle(None), &again, 2),
            Case::times(1, Host::Download, "of the download host", FaultKind::Throttle(Some("1".into())), &again, 2)
                .pause(Duration::from_secs(1)),
            Case::always(Host::Graph, "for ever", FaultKind::Throttle(Some("0".into())), &["failed/throttled"; 3], 3),
            Case::always(Host::Graph, "30 days", FaultKind::Throttle(Some("2592000".into())), &["failed/throttled"], 1)
                .alone()
                .lasting(),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_does_nothing_ends_at_its_deadline() {
    let slow = |case: Case| case.set("GRAPH__REQUEST_TIMEOUT", "2s").set("SCHEDULE__MAX_ATTEMPTS", "2");
    let hang = |host, name: &str, calls, kind| Case::always(host, name, kind, &["failed/timeout"; 2], calls);
    let reset = FaultKind::ResetBeforeHeaders;
    run(
        "hangs",
        vec![
            slow(hang(Host::Login, "the login host hangs", 0, FaultKind::Hang)).alone(),
            slow(hang(Host::Graph, "Graph hangs", 2, FaultKind::Hang)),
            slow(hang(Host::Download, "the download host hangs", 2, FaultKind::Hang)),
            slow(hang(Host::Download, "one byte a second", 2, FaultKind::SlowLoris)).alone(),
            Case::always(Host::Login, "the login host resets", reset.clone(), &["failed/connection"; 3], 0).alone(),
            Case::always(Host::Graph, "Graph resets", reset.clone(), &["failed/connection"; 3], 3),
            Case::always(Host::Download, "the download host resets", reset.clone(), &["failed/connection"; 3], 3),
            Case::times(1, Host::Download, "one reset", reset, &["failed/connection", STORED], 2),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_location_leads_anywhere_else() {
    let trap = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = trap.local_addr().expect("bound").port();
    let caught = Arc::new(AtomicUsize::new(0));
    let trapped = tokio::spawn({
        let caught = Arc::clone(&caught);
        async move {
            while trap.accept().await.is_ok() {
                caught.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let evil = [
        format!("http://127.0.0.2:{port}/data/download/canary?token=canary"),
        format!("https://127.0.0.2:{port}/"),
        format!("http://localhost:{port}/"),
        format!("https://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.2]:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://127.0.0.1@127.0.0.2:{port}/"),
        format!("http://user:pass@127.0.0.1:{port}/"),
        format!("http://127.0.0.1.evil.example:{port}/"),
        format!("https://reports.office.com.evil.example:{port}/"),
        format!("https://reports.office.com@127.0.0.2:{port}/"),
        format!("//127.0.0.2:{port}/x"),
        format!("http:/127.0.0.1:{port}/x"),
        format!("http:\\\\127.0.0.1:{port}\\x"),
        format!("http://127.0.0.1:{port}/x#fragment"),
        format!("http://2130706434:{port}/"),
        format!("ftp://127.0.0.1:{port}/x"),
        "http://reports.office.com/x".to_owned(),
        "https://reports.office.com:8443/x".to_owned(),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "https://xn--rports-4ya.office.com.example/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "data:text/csv,Report%20Refresh%20Date".to_owned(),
        "/data/download/canary?token=canary".to_owned(),
        "data/download/canary".to_owned(),
        "?token=canary".to_owned(),
    ];
    let refused = |host, location: &String| {
        let (name, kind) = (format!("{host:?}: {location}"), FaultKind::Location(location.clone()));
        Case::always(host, &name, kind, &["failed/redirect_refused"], 1)
    };
    let mut cases: Vec<_> = evil.iter().map(|location| refused(Host::Graph, location)).collect();
    // The download host may redirect too, but nowhere else either.
    cases.extend([0, 2, 6, 21].map(|place| refused(Host::Download, &evil[place])));
    cases.push(
        Case::new(
            "a circle",
            &["failed/redirect_refused"],
            1,
            Box::new(|sim, _| {
                let here = format!("{}/data/download/x?token=x", sim.download_url());
                vec![Fault::always(Host::Download, FaultKind::Location(here))]
            }),
        )
        .alone(),
    );
    run("evil", cases).await;
    assert_eq!(caught.load(Ordering::SeqCst), 0, "somebody connected");
    trapped.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_tokens_are_replaced_and_throttling_is_obeyed() {
    let db = TestDb::new("throttle").await;
    // Microsoft's own limit: 14 calls in ten minutes. The program stays below by itself.
    let sim = Sim::start(Config::one_tenant()).expect("ports are free");
    let tenant = sim.config().tenants[0].id;
    let setup = Setup::new(&db.url, &sim);
    for pass in 1..=3 {
        sim.revoke_tokens();
        let ran = setup.run(&["once", "--json"]).await.ends(0);
        assert_eq!(graph_calls(&sim, tenant), 4 * pass, "{ran:?}");
    }
    let too_many = setup.run(&["once", "--json"]).await.ends(1);
    let json = too_many.json();
    assert_eq!((&json["totals"]["unchanged"], &json["totals"]["failed"]), (&2.into(), &2.into()), "{too_many:?}");
    // Two passed, the third was refused, and the fourth was not tried.
    assert_eq!(graph_calls(&sim, tenant), 15);
    assert_verified(&setup, "throttled").await;
}
