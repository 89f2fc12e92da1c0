//! What works through PgBouncer, as docs/operations.md says. Needs Debian's package; without it: `--skip pooler`.

use std::{net::SocketAddr, os::unix::process::CommandExt as _, process::Stdio};

use graph_sim::{Config, Sim};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use url::Url;

use crate::support::{ALL_ROWS, Program, TestDb, eventually, free_address, open_folder};

/// The line that docs/operations.md gives.
const IGNORE: &str = "ignore_startup_parameters = extra_float_digits, options";

struct Pooler {
    url: String,
    _folder: TempDir,
    _process: Child,
}

impl Pooler {
    async fn start(db: &TestDb, mode: &str, further: &str) -> Self {
        let behind: Url = db.url.parse().expect("a URL");
        let address = free_address();
        let folder = open_folder();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n{} = host={} port={} user={}{}\n\
             [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n{further}\n",
            behind.path().trim_start_matches('/'),
            behind.host_str().expect("a host"),
            behind.port().unwrap_or(5432),
            behind.username(),
            behind.password().map(|password| format!(" password={password}")).unwrap_or_default(),
            address.ip(),
            address.port(),
        );
        std::fs::write(&file, settings).expect("the settings can be written");
        let mut command = std::process::Command::new("/usr/sbin/pgbouncer");
        if nix::unistd::geteuid().is_root() {
            // It refuses to be root.
            let nobody =
                nix::unistd::User::from_name("nobody").expect("accounts can be read").expect("there is nobody");
            command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        }
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Command::from(command).kill_on_drop(true).spawn().expect("pgbouncer is installed");
        eventually("PgBouncer listens", || listens(address)).await;
        let mut url = behind;
        url.set_ip_host(address.ip()).expect("the URL has a host");
        url.set_port(Some(address.port())).expect("the URL has a port");
        Self { url: url.into(), _folder: folder, _process: process }
    }
}

async fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_enough() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    let pooler = Pooler::start(&db, "session", IGNORE).await;
    let program = Program::for_one_tenant(&sim).database(&pooler.url);
    assert_eq!(program.once(&[]).await["totals"]["rows_inserted"], ALL_ROWS);
    program.verify().await;
    let page = include_str!("../../docs/operations.md");
    assert!(page.contains(IGNORE), "docs/operations.md gives the line that was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_is_said_with_its_cure() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    Program::for_one_tenant(&sim).database(&db.url).run(&["migrate"]).await.expect_code(0);

    let strict = Pooler::start(&db, "session", "").await;
    let program = Program::for_one_tenant(&sim).database(&strict.url);
    let refused = program.run(&["once"]).await.expect_code(69);
    refused.expect_stderr(&["unsupported startup parameter", "PgBouncer", "ignore_startup_parameters"]);
    let found = program.run(&["doctor"]).await.expect_code(1);
    assert!(found.stdout.contains("ignore_startup_parameters"), "{}", found.stdout);

    let shared = Pooler::start(&db, "transaction", &format!("{IGNORE}\ndefault_pool_size = 1")).await;
    let program = Program::for_one_tenant(&sim).database(&shared.url);
    // The first to come finds a session that nobody has used.
    let mut last = program.run(&["once"]).await;
    while last.code == Some(0) {
        last = program.run(&["once"]).await;
    }
    last.expect_code(69).expect_stderr(&["prepared statement", "pool_mode = session"]);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.attempt WHERE error_class = 'internal'").await, 0);
}
