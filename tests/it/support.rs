//! What the tests share: a database each, the binary with an environment of its own, and a model of what was served.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use graph_sim::{Config, Figures, Period, Sim, TENANT_ID};
use m365_ledger::config::environment;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};
use url::Url;
use uuid::Uuid;

/// Nothing here takes that long, not even on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub const REPORT: &str = "office365_active_user_counts";
/// Days of all four periods together.
pub const ALL_ROWS: usize = 7 + 30 + 90 + 180;

/// A database of its own, gone at the end of the test, also when that fails.
pub struct TestDb {
    pub url: String,
    pub pool: PgPool,
    server: String,
    name: String,
}

impl TestDb {
    pub async fn create() -> Self {
        let server = environment().remove("DATABASE_URL").expect("DATABASE_URL names a PostgreSQL: run `make test`");
        let name = format!("it_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.expect("the server of DATABASE_URL answers");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&mut admin).await.expect("the role of DATABASE_URL may create databases");
        admin.close().await.expect("the connection ends");
        let mut url: Url = server.parse().expect("DATABASE_URL is a URL");
        url.set_path(&name);
        let pool =
            PgPoolOptions::new().max_connections(2).connect(url.as_str()).await.expect("the new database answers");
        Self { url: url.into(), pool, server, name }
    }

    /// One number.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    /// How many rows the facts, `current`, the superseded table and the ledger hold.
    pub async fn sizes(&self) -> [i64; 4] {
        [
            self.count("SELECT count(*) FROM m365_store.office365_active_user_counts").await,
            self.count("SELECT count(*) FROM m365_store.office365_active_user_counts_current").await,
            self.count("SELECT count(*) FROM m365_store.office365_active_user_counts_superseded").await,
            self.count("SELECT count(*) FROM m365_store.snapshot").await,
        ]
    }

    /// Every fact of a tenant.
    pub async fn facts(&self, tenant: Uuid) -> Bodies {
        let rows = sqlx::query("SELECT * FROM m365_store.office365_active_user_counts WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_all(&self.pool)
            .await
            .expect("the facts can be read");
        let mut bodies = Bodies::new();
        for row in &rows {
            let key = (row.get("report_refresh_date"), row.get("report_period"));
            let doubled = bodies.entry(key).or_default().insert(row.get("report_date"), figures(row));
            assert_eq!(doubled, None, "{key:?} holds a day twice");
        }
        bodies
    }

    /// A tenant's current rows.
    pub async fn current(&self, tenant: Uuid) -> Current {
        sqlx::query("SELECT * FROM m365_store.office365_active_user_counts_current WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_all(&self.pool)
            .await
            .expect("the current rows can be read")
            .iter()
            .map(|row| {
                let from = (row.get("report_refresh_date"), row.get("report_period"));
                (row.get("report_date"), (from, figures(row)))
            })
            .collect()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let drop = async move {
            let mut admin = PgConnection::connect(&server).await?;
            let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            sqlx::query(drop).execute(&mut admin).await?;
            admin.close().await
        };
        // The test's own runtime may be busy or panicking.
        let done = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(drop)
        })
        .join();
        if !matches!(done, Ok(Ok(()))) {
            eprintln!("{} was left behind: {done:?}", self.name);
        }
    }
}

fn figures(row: &sqlx::postgres::PgRow) -> Figures {
    graph_sim::COLUMNS.map(|column| row.get(column))
}

/// Rows by refresh date and period, then by report date.
pub type Bodies = BTreeMap<(NaiveDate, i16), BTreeMap<NaiveDate, Figures>>;
/// By report date: the refresh date and period a current row comes from, and its figures.
pub type Current = BTreeMap<NaiveDate, ((NaiveDate, i16), Figures)>;

/// A body, by report date.
pub fn body(sim: &Sim, tenant: Uuid, period: Period) -> BTreeMap<NaiveDate, Figures> {
    sim.expected_rows(tenant, period).into_iter().collect()
}

/// What the stand-in has served of a tenant: the model that the database is compared with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Served {
    pub bodies: Bodies,
}

impl Served {
    /// All that is served now.
    pub fn of(sim: &Sim, tenant: Uuid) -> Self {
        let mut served = Self::default();
        served.note(sim, tenant, &Period::ALL);
        served
    }

    /// Adds what is served now; another body of the same refresh date takes its predecessor's place.
    pub fn note(&mut self, sim: &Sim, tenant: Uuid, periods: &[Period]) {
        for &period in periods {
            let days = i16::try_from(period.days()).expect("180 at the most");
            self.bodies.insert((sim.refresh_date_for(tenant, period), days), body(sim, tenant, period));
        }
    }

    /// The newest row of each day: newest refresh, then longest period.
    pub fn current(&self) -> Current {
        // In ascending order of the key, so that the best comes last and stays.
        self.bodies.iter().flat_map(|(key, rows)| rows.iter().map(|(date, row)| (*date, (*key, *row)))).collect()
    }

    pub async fn assert_stored(&self, db: &TestDb, tenant: Uuid) {
        assert_eq!(db.facts(tenant).await, self.bodies, "the facts are what was served");
        assert_eq!(db.current(tenant).await, self.current(), "`current` is the newest of what was served");
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Stdout as the one JSON document it is.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn expect_stderr(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "no `{text}` in:\n{}", self.stderr);
        }
    }
}

/// The binary and the environment it is started with: nothing but `PATH`, a home of its own, and what a test adds.
pub struct Program {
    pub home: TempDir,
    variables: BTreeMap<String, String>,
}

impl Program {
    pub fn bare() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = environment().remove("PATH").unwrap_or_default();
        let variables = [("PATH".to_owned(), path), ("HOME".to_owned(), home.path().display().to_string())].into();
        Self { home, variables }
    }

    /// Set up for the stand-in's hosts, with neither tenant nor database.
    pub fn towards(sim: &Sim) -> Self {
        Self::bare()
            .with("GRAPH__BASE_URL", sim.graph_url())
            .with("GRAPH__LOGIN_URL", sim.login_url())
            .with("GRAPH__DOWNLOAD_HOSTS", "127.0.0.1")
            .with("GRAPH__ALLOW_INSECURE_LOOPBACK", "true")
            .with("SCHEDULE__BACKOFF", "20ms")
    }

    /// And for its first tenant, under the name Contoso.
    pub fn for_one_tenant(sim: &Sim) -> Self {
        Self::towards(sim)
            .with("TENANT__ID", TENANT_ID.to_string())
            .with("TENANT__NAME", "Contoso")
            .with("TENANT__CLIENT_ID", graph_sim::CLIENT_ID)
            .with("TENANT__CLIENT_SECRET", graph_sim::CLIENT_SECRET)
    }

    /// Sets `M365_LEDGER__{name}`.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(format!("M365_LEDGER__{name}"), value.into());
        self
    }

    /// Sets a variable that is no setting.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Removes it again.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(&format!("M365_LEDGER__{name}"));
        self
    }

    pub fn database(mut self, url: &str) -> Self {
        self.variables.insert("DATABASE_URL".to_owned(), url.to_owned());
        self
    }

    /// Writes a file into the home.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).expect("a file in the home can be written");
        path
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_m365-ledger"));
        command
            .args(arguments)
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Run {
        let begun = Instant::now();
        let output = tokio::time::timeout(PATIENCE, self.command(arguments).output())
            .await
            .unwrap_or_else(|_| panic!("{arguments:?} did not end"))
            .expect("the binary starts");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
            took: begun.elapsed(),
        }
    }

    /// `once --json` with these flags; it must end with 0. Returns its document.
    pub async fn once(&self, flags: &[&str]) -> Value {
        self.run(&[&["once", "--json"], flags].concat()).await.expect_code(0).json()
    }

    /// `verify --json` finds no violation. Returns its document.
    pub async fn verify(&self) -> Value {
        let verdict = self.run(&["verify", "--json"]).await.expect_code(0).json();
        assert_eq!(verdict["violations"], serde_json::json!([]));
        verdict
    }

    /// Starts a command that does not end by itself; its output goes to files.
    pub fn spawn(&self, arguments: &[&str]) -> Background {
        let log = self.home.path().join("background.log");
        let out = fs::File::create(&log).expect("a log in the home");
        let err = out.try_clone().expect("the log twice");
        let child = self.command(arguments).stdout(out).stderr(err).spawn().expect("the binary starts");
        Background { child, log }
    }
}

/// A command at work.
pub struct Background {
    pub child: Child,
    log: PathBuf,
}

impl Background {
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.child.id().expect("it still runs")).expect("a process number");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).expect("it can be signalled");
    }

    pub async fn code(mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("it did not end:\n{}", self.log())).expect("it can be waited for").code()
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        let read = fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        read.map_or_else(|error| error.to_string(), |_| text)
    }
}

/// The usual scene: one tenant, a database, the binary.
pub struct Scene {
    pub sim: Sim,
    pub db: TestDb,
    pub program: Program,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(Config::one_tenant().without_throttle()).await
    }

    pub async fn with(config: Config) -> Self {
        let sim = Sim::start(config).expect("the stand-in starts");
        let db = TestDb::create().await;
        let program = Program::for_one_tenant(&sim).database(&db.url);
        Self { sim, db, program }
    }

    /// Changes what the binary is started with.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.program = self.program.with(name, value);
        self
    }
}

/// Waits until it comes true.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An address that nobody listens on now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// The status and the body of a page; `None`: nobody there.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A folder that every account may enter.
pub fn open_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new().prefix("m365-ledger-it-").tempdir_in("/tmp").expect("a folder in /tmp");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// The processes whose command line names a path.
pub fn processes_of(path: &Path) -> Vec<String> {
    let wanted = path.display().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&wanted))
        .collect()
}

/// An entry of `once --json` by period.
#[track_caller]
pub fn line<'a>(document: &'a Value, period: &str) -> &'a Value {
    let lines = document["targets"].as_array().expect("targets");
    let mut found = lines.iter().filter(|line| line["period"] == period);
    let line = found.next().unwrap_or_else(|| panic!("no {period} in {document:#}"));
    assert!(found.next().is_none(), "several {period} in {document:#}");
    line
}
