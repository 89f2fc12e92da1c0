//! Signing in without a client secret, and knowing when a credential ends.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use graph_sim::{AppCertificate, FEDERATION_AUDIENCE, Host, Sim, TENANT_ID};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::{PATIENCE, Ran, Setup, TestDb, assert_complete, count, eventually, sim, sim_of};

const ISSUER: &str = "https://cluster.example/";
const SUBJECT: &str = "system:serviceaccount:m365-ledger:m365-ledger";

/// The program, the stand-in, and a folder for credentials.
struct Scene {
    sim: Sim,
    db: TestDb,
    folder: TempDir,
    setup: Setup,
}

impl Scene {
    /// One tenant, without a credential so far.
    async fn new() -> Self {
        let (sim, db) = (sim(), TestDb::new("credentials").await);
        let setup = Setup::new(&db.url, &sim).set("TENANT__CLIENT_SECRET", "");
        Self { sim, db, folder: tempfile::tempdir().expect("a folder"), setup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As whoever rotates a credential should do it: the file is never half there.
        let half = self.path("half");
        std::fs::write(&half, text).expect("written");
        std::fs::rename(half, self.path(name)).expect("renamed");
    }

    fn with_file(&self, setting: &str, name: &str) -> Setup {
        self.setup.clone().set(setting, text(&self.path(name)))
    }

    async fn stored(&self) -> i64 {
        count(&self.db.pool, "SELECT count(*) FROM m365_store.snapshot").await
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[expect(clippy::disallowed_methods, reason = "certificates end by the machine's clock")]
fn in_days(days: i64) -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(days)
}

/// `once --json` failed everywhere for this reason.
#[track_caller]
fn assert_refused(ran: &Ran, words: &str) {
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let document = ran.json();
    let targets = document["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 4, "{document:#}");
    for target in targets {
        assert_eq!(target["error_class"], json!("auth_invalid_client"), "{document:#}");
        assert!(target["message"].as_str().is_some_and(|message| message.contains(words)), "{words}: {document:#}");
    }
}

fn check<'a>(document: &'a Value, what: &str) -> &'a Value {
    let checks = document["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["what"].as_str().is_some_and(|have| have.starts_with(what)))
        .unwrap_or(&Value::Null)
}

/// The service signs in again, takes a new refresh with it, and was not restarted.
async fn assert_goes_on(scene: &Scene, before: i64) {
    scene.sim.advance_days(1);
    scene.sim.revoke_tokens();
    eventually("the new refresh is stored", PATIENCE, async || (scene.stored().await >= before + 4).then_some(()))
        .await;
    assert_complete(&scene.db.pool, &scene.sim, &[TENANT_ID], &graph_sim::Period::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_signs_in_and_is_rotated_without_a_restart() {
    let scene = Scene::new().await;
    let (soon, late) = (in_days(90), in_days(200));
    let (first, second) = (AppCertificate::until(soon, 0), AppCertificate::until(late, 1));
    scene.sim.add_certificate(TENANT_ID, &first.certificate);
    scene.write("app.pem", &first.pem());
    let setup = scene.with_file("TENANT__CERTIFICATE_FILE", "app.pem");
    setup.run(&["once", "--json"]).await.ends(0);
    let document = setup.run(&["doctor", "--json"]).await.ends(0).json();
    let good = format!("good until {}", soon.date_naive());
    assert_eq!(check(&document, "credential of")["detail"], json!(good), "{document:#}");
    assert_eq!(check(&document, "tenant ")["ok"], json!(true), "{document:#}");

    let mut daemon = setup.set("SCHEDULE__CRON", "*/2 * * * * *").daemon();
    daemon.answers("/readyz", 200, PATIENCE).await;
    let expiry =
        format!("\nm365_ledger_credential_expiry_timestamp_seconds{{tenant=\"{TENANT_ID}\"}} {}\n", soon.timestamp());
    eventually("the end is exported", PATIENCE, async || {
        daemon.get("/metrics").await?.1.contains(&expiry).then_some(())
    })
    .await;
    scene.write("app.pem", &second.pem());
    scene.sim.remove_certificates(TENANT_ID);
    scene.sim.add_certificate(TENANT_ID, &second.certificate);
    assert_goes_on(&scene, scene.stored().await).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_used_is_explained() {
    let scene = Scene::new().await;
    let (own, other) = (AppCertificate::until(in_days(90), 0), AppCertificate::until(in_days(90), 1));
    scene.sim.add_certificate(TENANT_ID, &own.certificate);
    let setup = scene.with_file("TENANT__CERTIFICATE_FILE", "app.pem");
    let once = async |pem: &str| {
        scene.write("app.pem", pem);
        setup.run(&["once", "--json"]).await
    };
    let yesterday = in_days(-1);
    let ended = AppCertificate::until(yesterday, 0);
    let local = [
        (ended.pem(), format!("the certificate ended on {}", yesterday.date_naive())),
        (own.certificate.clone(), "no private key stands there".to_owned()),
        (format!("{}{}", own.certificate, other.key), "belongs to none of the certificates".to_owned()),
    ];
    for (pem, words) in &local {
        assert_refused(&once(pem).await, words);
        let document = setup.run(&["doctor", "--json"]).await.ends(1).json();
        let credential = check(&document, "credential of");
        assert_eq!((&credential["ok"], &credential["error_class"]), (&json!(false), &json!("auth_invalid_client")));
        assert_eq!(check(&document, "tenant "), &Value::Null, "it is not sent: {document:#}");
    }
    assert_eq!(scene.sim.calls(Host::Login), 0, "what cannot be right is not sent");

    assert_refused(&once(&other.pem()).await, "AADSTS700027: the certificate is not the application's");
    scene.sim.add_certificate(TENANT_ID, &other.certificate);
    once(&other.pem()).await.ends(0);

    // The key in a file of its own.
    scene.write("tls.crt", &own.certificate);
    scene.write("tls.key", &own.key);
    let apart = scene.with_file("TENANT__CERTIFICATE_FILE", "tls.crt");
    let apart = apart.set("TENANT__CERTIFICATE_KEY_FILE", text(&scene.path("tls.key")));
    apart.run(&["doctor"]).await.ends(0);

    let nowhere = scene.with_file("TENANT__CERTIFICATE_FILE", "nothing").run(&["once"]).await.ends(78);
    assert!(nowhere.stderr.contains("tenant.certificate_file: cannot read the secret file"), "{nowhere:#?}");
    let both = setup.clone().set("TENANT__CLIENT_SECRET", "s").run(&["once"]).await.ends(78);
    assert!(both.stderr.contains("client_secret and certificate_file are both set"), "{both:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_identity_signs_in_with_what_azure_puts_into_the_pod() {
    let scene = Scene::new().await;
    scene.sim.federate(TENANT_ID, ISSUER, SUBJECT);
    let token = |subject: &str, audience: &str, seconds| scene.sim.federated_token(ISSUER, subject, audience, seconds);
    // Nothing of the tenant's is set by ourselves.
    let bare = scene.setup.clone().set("TENANT__ID", "").set("TENANT__CLIENT_ID", "").set("GRAPH__LOGIN_URL", "");
    let tenant = &scene.sim.config().tenants[0];
    let run = async |arguments: &[&str]| {
        let mut command = bare.command(arguments);
        command
            .env("AZURE_FEDERATED_TOKEN_FILE", scene.path("token"))
            .env("AZURE_CLIENT_ID", &tenant.client_id)
            .env("AZURE_TENANT_ID", TENANT_ID.to_string())
            .env("AZURE_AUTHORITY_HOST", format!("{}/", scene.sim.login_url()));
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
        let say = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), stdout: say(output.stdout), stderr: say(output.stderr) }
    };
    let missing = run(&["once"]).await.ends(78);
    assert!(missing.stderr.contains("tenant.federated_token_file: cannot read the secret file"), "{missing:#?}");
    scene.write("token", "\n");
    let empty = run(&["once"]).await.ends(78);
    assert!(empty.stderr.contains("is empty"), "{empty:#?}");

    for (token, words) in [
        ("no token".to_owned(), "what stands there is no token"),
        (token(SUBJECT, FEDERATION_AUDIENCE, -3600), "AADSTS700024: the assertion is not valid at this time"),
        (token("system:serviceaccount:m365-ledger:default", FEDERATION_AUDIENCE, 3600), "AADSTS700213"),
        (token(SUBJECT, "https://kubernetes.default.svc", 3600), "AADSTS700212: the application has no federated"),
    ] {
        scene.write("token", &token);
        assert_refused(&run(&["once", "--json"]).await, words);
    }
    scene.write("token", &token(SUBJECT, FEDERATION_AUDIENCE, 3600));
    run(&["once", "--json"]).await.ends(0);
    let document = run(&["doctor", "--json"]).await.ends(0).json();
    assert_eq!(check(&document, "credential of")["detail"], json!("a token that somebody else renews"));
    assert_complete(&scene.db.pool, &scene.sim, &[TENANT_ID], &graph_sim::Period::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_renewed_in_its_file_is_taken_up() {
    let scene = Scene::new().await;
    scene.sim.federate(TENANT_ID, ISSUER, SUBJECT);
    scene.write("token", &scene.sim.federated_token(ISSUER, SUBJECT, FEDERATION_AUDIENCE, -3600));
    let setup = scene.with_file("TENANT__FEDERATED_TOKEN_FILE", "token").set("SCHEDULE__CRON", "*/2 * * * * *");
    let mut daemon = setup.daemon();
    daemon.answers("/readyz", 200, PATIENCE).await;
    let failed = "SELECT count(*) FROM m365_store.attempt WHERE error_message LIKE '%AADSTS700024%'";
    eventually("an attempt", PATIENCE, async || (count(&scene.db.pool, failed).await > 0).then_some(())).await;
    assert_eq!(scene.stored().await, 0);
    scene.write("token", &scene.sim.federated_token(ISSUER, SUBJECT, FEDERATION_AUDIENCE, 3600));
    assert_goes_on(&scene, 0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tenants_share_one_credential() {
    let (sim, db) = (sim_of(3), TestDb::new("credentials").await);
    let folder = tempfile::tempdir().expect("a folder");
    let (token, certificate) = (folder.path().join("token"), folder.path().join("app.pem"));
    std::fs::write(&token, sim.federated_token(ISSUER, SUBJECT, FEDERATION_AUDIENCE, 3600)).expect("written");
    let own = AppCertificate::until(in_days(90), 1);
    std::fs::write(&certificate, own.pem()).expect("written");
    let mut config = format!("[tenant]\nfederated_token_file = {token:?}\n");
    for (number, tenant) in sim.config().tenants.iter().enumerate() {
        writeln!(config, "[[tenants]]\nid = \"{}\"\nclient_id = \"{}\"", tenant.id, tenant.client_id).expect("written");
        if number == 2 {
            writeln!(config, "certificate_file = {certificate:?}").expect("written");
            sim.add_certificate(tenant.id, &own.certificate);
        } else {
            sim.federate(tenant.id, ISSUER, SUBJECT);
        }
    }
    let file = folder.path().join("config.toml");
    std::fs::write(&file, config).expect("written");
    let setup = ["ID", "CLIENT_ID", "CLIENT_SECRET"]
        .into_iter()
        .fold(Setup::new(&db.url, &sim), |setup, key| setup.set(&format!("TENANT__{key}"), ""));
    setup.run(&["once", "--json", "--config", text(&file)]).await.ends(0);
    let tenants: Vec<_> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    assert_complete(&db.pool, &sim, &tenants, &graph_sim::Period::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_warns_before_a_credential_ends() {
    let scene = Scene::new().await;
    let end = in_days(20);
    let soon = AppCertificate::until(end, 0);
    scene.sim.add_certificate(TENANT_ID, &soon.certificate);
    scene.write("app.pem", &soon.pem());
    let setup = scene.with_file("TENANT__CERTIFICATE_FILE", "app.pem");
    let document = setup.run(&["doctor", "--json"]).await.ends(0).json();
    let credential = check(&document, "credential of");
    assert_eq!(credential["ok"], json!(true), "{document:#}");
    assert!(credential["advice"].as_str().is_some_and(|advice| advice.contains("renew it")), "{document:#}");
    let told = setup.run(&["doctor"]).await.ends(0).stdout;
    assert!(told.contains(&format!("warn credential of {TENANT_ID}: it ends on {}", end.date_naive())), "{told}");

    // The service says so in its log.
    let mut daemon = setup.daemon();
    eventually("a warning", PATIENCE, async || {
        let output = daemon.output();
        output.lines().any(|line| line.contains("\"WARN\"") && line.contains("a credential ends soon")).then_some(())
    })
    .await;
    daemon.stop().await;

    let secret = &scene.sim.config().tenants[0].client_secret;
    let setup = scene.setup.clone().set("TENANT__CLIENT_SECRET", secret);
    for (expires, code, words) in [
        (None, 0, "nobody wrote down".to_owned()),
        (Some(in_days(90)), 0, "good until".to_owned()),
        (Some(in_days(-1)), 1, "it ended on".to_owned()),
    ] {
        let expires = expires.map(|day| day.date_naive().to_string()).unwrap_or_default();
        let ran = setup.clone().set("TENANT__CLIENT_SECRET_EXPIRES", &expires).run(&["doctor", "--json"]).await;
        let document = ran.ends(code).json();
        assert!(check(&document, "credential of")["detail"].as_str().is_some_and(|detail| detail.contains(&words)));
        assert_eq!(check(&document, "tenant ")["ok"], json!(true), "the date may be out of date: {document:#}");
    }
}
