//! Secrets stay in: whatever happens, none is written anywhere.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use graph_sim::{AppCertificate, FEDERATION_AUDIENCE, Fault, FaultKind, Host, Period, Sim, TENANT_ID};
use sqlx::PgPool;
use uuid::Uuid;

use crate::rig::{Daemon, OwnServer, PATIENCE, Setup, TestDb, column, count, eventually, sim, statement};

/// Stands in everything that is made up here and secret.
const CANARY: &str = "canary0f7a";

/// What opens the status page.
const PAGE_TOKEN: &str = "page-token-0c4d";
/// See [`PAGE_TOKEN`].
const PAGE_PASSWORD: &str = "page-password-91be";

/// Every place of the tables and views where a needle stands.
async fn found_in_database(pool: &PgPool, needles: &[String]) -> Vec<String> {
    let columns = "SELECT concat_ws('|', quote_ident(table_schema) || '.' || quote_ident(table_name),
                       CASE WHEN data_type = 'bytea' THEN 'encode(' || quote_ident(column_name) || ', ''escape'')'
                            ELSE quote_ident(column_name) || '::text' END)
                   FROM information_schema.columns WHERE table_schema IN ('m365_store', 'm365_v1')
                   ORDER BY 1";
    let columns = column(pool, columns).await;
    assert!(columns.len() > 100, "{columns:?}");
    let mut found = Vec::new();
    for place in columns {
        let (table, value) = place.split_once('|').expect("two parts");
        let text = column(pool, &format!("SELECT coalesce(string_agg({value}, chr(10)), '') FROM {table}")).await;
        found.extend(found_in(&place, &text.concat(), needles));
    }
    found
}

fn found_in(place: &str, text: &str, needles: &[String]) -> Vec<String> {
    let around = |needle: &String| {
        let at = text.find(needle)?;
        let before: String = text[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
        let behind: String = text[at..].chars().take(300).collect();
        Some(format!("{needle} in {place}: {before}{behind}"))
    };
    needles.iter().filter_map(around).collect()
}

/// Faults of each leg, with canaries in what is answered where an answer could hold one.
fn faults(sim: &Sim) -> Vec<Fault> {
    let link = format!("{}/data/download/{CANARY}?token={CANARY}", sim.download_url());
    let evil = format!("https://user:{CANARY}@evil.example/{CANARY}?token={CANARY}#{CANARY}");
    let error = format!(r#"{{"error":{{"code":"x","message":"see https://h.example/{CANARY}?sig={CANARY} now"}}}}"#);
    let page = format!("<html><a href='https://h.example/{CANARY}?sig={CANARY}'>here</a></html>");
    vec![
        Fault::always(Host::Login, FaultKind::Status(400, error.clone())),
        Fault::always(Host::Login, FaultKind::html(&page)),
        Fault::always(Host::Login, FaultKind::ResetBeforeHeaders),
        Fault::always(Host::Graph, FaultKind::Status(403, error.clone())),
        Fault::always(Host::Graph, FaultKind::Status(500, page.clone())),
        Fault::always(Host::Graph, FaultKind::ResetBeforeHeaders),
        Fault::always(Host::Graph, FaultKind::Location(evil.clone())),
        Fault::always(Host::Graph, FaultKind::Location(format!("/{CANARY}?{CANARY}"))),
        Fault::always(Host::Graph, FaultKind::Location(format!("ftp://x/{CANARY}"))),
        Fault::always(Host::Graph, FaultKind::html(&page)),
        Fault::always(Host::Download, FaultKind::Location(evil)),
        Fault::always(Host::Download, FaultKind::Location(link.clone())),
        Fault::always(Host::Download, FaultKind::Status(403, error)),
        Fault::always(Host::Download, FaultKind::Status(503, page.clone())),
        Fault::always(Host::Download, FaultKind::ResetBeforeHeaders),
        Fault::always(Host::Download, FaultKind::CutAt(100)),
        Fault::always(Host::Download, FaultKind::Hang),
        Fault::always(Host::Download, FaultKind::body(link.clone())),
        Fault::always(Host::Download, FaultKind::body(format!("\"{link}\"\r\n"))),
        Fault::always(Host::Download, FaultKind::body(format!("Moved to {link}"))),
        Fault::always(Host::Download, FaultKind::body(format!("{{\"url\":\"{link}\"}}"))),
        Fault::always(Host::Download, FaultKind::html(&page)),
    ]
}

/// Certificates and federated tokens: taken, refused, and unusable. What the program said, and the lines of the key.
async fn sign_in_without_a_secret(sim: &Sim, setup: &Setup) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("credential");
    let own = AppCertificate::until("2035-01-01T00:00:00Z".parse().expect("a time"), 0);
    sim.federate(TENANT_ID, "https://issuer", "subject");
    let token = |subject: &str| sim.federated_token("https://issuer", subject, FEDERATION_AUDIENCE, 3600);
    let setup = setup.clone().set("TENANT__CLIENT_SECRET", "");
    let mut said = String::new();
    for (setting, credential, is_sent) in [
        ("CERTIFICATE_FILE", own.pem(), true),
        ("CERTIFICATE_FILE", format!("{}{CANARY}", own.key), false),
        ("CERTIFICATE_FILE", own.pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), false),
        ("FEDERATED_TOKEN_FILE", token("subject"), true),
        ("FEDERATED_TOKEN_FILE", token("nobody"), true),
        ("FEDERATED_TOKEN_FILE", format!("{CANARY}.not a token"), false),
    ] {
        std::fs::write(&file, credential).expect("written");
        let setup = setup.clone().set(&format!("TENANT__{setting}"), file.to_str().expect("a path"));
        // The certificate is refused first, and taken once it is registered.
        for _ in 0..2 {
            let before = sim.calls(Host::Login);
            for command in [&["once", "--json", "--period", "D7"][..], &["doctor"]] {
                let ran = setup.run(command).await;
                assert!(matches!(ran.code, Some(0 | 1)), "{ran:#?}");
                said.push_str(&ran.stdout);
                said.push_str(&ran.stderr);
            }
            assert_eq!(sim.calls(Host::Login) > before, is_sent, "{setting}");
            sim.add_certificate(TENANT_ID, &own.certificate);
        }
    }
    assert!(said.contains("AADSTS700027") && said.contains("AADSTS700213"), "both were refused once");
    (said, own.key.lines().filter(|line| line.len() > 40).map(str::to_owned).collect())
}

/// Every page there is, asked for in every way.
async fn all_pages(daemon: &Daemon, tenant: Uuid, basic: &str) -> String {
    let tenant = format!("/tenants/{tenant}");
    let figures = format!("{tenant}/active-users.csv");
    let all = ["/", &tenant, &figures, "/tenants.csv", "/status", "/metrics", "/livez", "/readyz", "/nothing"];
    let authorized = ["Bearer wrong", &format!("Bearer {PAGE_TOKEN}"), &format!("Basic {basic}")]
        .map(|how| format!("Authorization: {how}\r\n"));
    let mut pages = String::new();
    for headers in authorized.iter().map(String::as_str).chain([""]) {
        for page in all {
            let (code, text) = daemon.get_with(page, headers).await.expect("it answers");
            assert!(code == 401 || text.len() > 100, "{page}: {text}");
            pages.push_str(&text);
        }
    }
    pages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_anywhere() {
    // A server of its own, because its password is one of the secrets.
    let server = OwnServer::start().await;
    let db = TestDb::on(&server.url, "secrets").await;
    let password = server.url.split([':', '@']).nth(2).expect("a password").to_owned();
    assert!(password.len() >= 32, "{password}");
    let sim = sim();
    let tenant = &sim.config().tenants[0];
    let setup = Setup::new(&db.url, &sim)
        .set("LOG__FILTER", "trace")
        .set("HTTP__TOKEN", PAGE_TOKEN)
        .set("HTTP__PASSWORD", PAGE_PASSWORD)
        .set("GRAPH__REQUEST_TIMEOUT", "1s")
        .set("SCHEDULE__MAX_ATTEMPTS", "2")
        .set("SCHEDULE__CRON", "*/3 * * * * *");
    let mut said = String::new();
    let mut run = async |setup: &Setup, arguments: &[&str]| {
        let ran = setup.run(arguments).await;
        said.push_str(&ran.stdout);
        said.push_str(&ran.stderr);
        ran
    };

    run(&setup, &["once", "--json"]).await.ends(0);
    run(&setup.clone().set("LOG__FORMAT", "text"), &["once"]).await.ends(0);
    for fault in faults(&sim) {
        sim.clear_faults();
        sim.inject(fault.clone());
        let ran = run(&setup, &["once", "--json", "--period", "D7"]).await;
        assert!(matches!(ran.code, Some(1 | 69)), "{fault:?}: {ran:#?}");
    }
    sim.clear_faults();
    for command in [&["status"][..], &["verify"], &["doctor"], &["config", "show"], &["config", "check"]] {
        run(&setup, command).await;
    }
    let wrong = |setting: &str, value: &str| setup.clone().set("DATABASE__CONNECT_TIMEOUT", "1s").set(setting, value);
    run(&wrong("TENANT__CLIENT_SECRET", &format!("{CANARY}~secret")), &["once", "--json"]).await.ends(1);
    run(&wrong("TENANT__CLIENT_SECRET", &format!("{CANARY}~secret")), &["doctor"]).await;
    let wrong_password = db.url.replace(&password, CANARY);
    run(&wrong("DATABASE__URL", &wrong_password), &["once"]).await.ends(69);
    run(&wrong("DATABASE__URL", &format!("postgres://u:{CANARY}@127.0.0.1:1/x")), &["once"]).await.ends(69);
    run(&wrong("DATABASE__URL", &format!("postgres://u:{CANARY}@[bad")), &["once"]).await;
    run(&wrong("DATABASE__URL", &format!("mysql://u:{CANARY}@x/y")), &["doctor"]).await;

    let (told, key) = sign_in_without_a_secret(&sim, &setup).await;
    said.push_str(&told);

    // The service, in good times and in bad.
    sim.advance_days(1);
    sim.inject(
        Fault::always(Host::Download, FaultKind::body(format!("{}/{CANARY}", sim.download_url()))).period(Period::D7),
    );
    sim.inject(Fault::times(2, Host::Download, FaultKind::Status(403, CANARY.to_owned())));
    let count_of = |outcome: &str| {
        format!(
            "SELECT count(*) FROM m365_store.attempt a JOIN m365_store.slot s USING (tenant_id, report, report_period, due_at)
             WHERE s.origin = 'schedule' AND a.outcome = '{outcome}'"
        )
    };
    let (stored, rejected) = (count_of("stored"), count_of("rejected"));
    let mut daemon = setup.daemon();
    daemon.answers("/readyz", 200, PATIENCE).await;
    eventually("a pass", PATIENCE, async || {
        (count(&db.pool, &stored).await >= 3 && count(&db.pool, &rejected).await >= 1).then_some(())
    })
    .await;
    let basic = BASE64_STANDARD.encode(format!("x:{PAGE_PASSWORD}"));
    let pages = all_pages(&daemon, tenant.id, &basic).await;
    daemon.stop().await;
    said.push_str(&daemon.output());

    let mut needles = sim.secrets();
    let assertions: Vec<_> = needles.iter().filter(|needle| needle.matches('.').count() == 2).cloned().collect();
    assert!(assertions.len() > 5, "{assertions:?}");
    needles.extend(assertions.iter().map(|assertion| assertion.rsplit('.').next().expect("a signature").to_owned()));
    needles.extend(key);
    needles.extend([password, CANARY.to_owned(), tenant.client_secret.clone(), "not-a-real-secret".to_owned()]);
    needles.extend([PAGE_TOKEN, PAGE_PASSWORD, &basic].map(str::to_owned));
    assert!(needles.len() > 100 && needles.iter().all(|needle| needle.len() >= 10), "{}", needles.len());
    let found = [found_in("output", &said, &needles), found_in("pages", &pages, &needles)].concat();
    assert_eq!(found, [""; 0]);
    assert_eq!(found_in_database(&db.pool, &needles).await, [""; 0]);
    assert_eq!(sim.authorization_leaks(), 0);

    // This search can find something: what is there, and what is put there.
    assert!(said.contains("\"level\":\"TRACE\"") || said.contains("\"level\":\"DEBUG\""), "the filter was heeded");
    let id = [tenant.id.to_string()];
    assert!(!found_in("output", &said, &id).is_empty() && !found_in("pages", &pages, &id).is_empty());
    assert!(found_in_database(&db.pool, &id).await.len() > 10);
    let quarantined = "SELECT count(*) FROM m365_store.quarantine WHERE encode(body, 'escape') LIKE '%/[cut]%'";
    assert!(count(&db.pool, quarantined).await > 3);
    let secret = needles[0].clone();
    statement(
        &db.url,
        &format!(
            "CREATE TABLE m365_store.control AS
             SELECT '{secret}' AS a, '{secret}'::bytea AS b, jsonb_build_object('c', '{secret}') AS c, ARRAY['{secret}'] AS d"
        ),
    )
    .await;
    assert_eq!(found_in_database(&db.pool, &[secret]).await.len(), 4);
}
