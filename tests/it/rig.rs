//! What the tests of faults, crashes and replicas stand on: databases that go away by themselves, the real binary, and
//! questions to the tables.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use graph_sim::{Config, Figures, Host, Period, Sim, TenantConfig};
use m365_ledger::{
    config::environment,
    store::local::{LocalServer, Options},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
};
use uuid::Uuid;

/// No test waits longer for anything that is to happen.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until `question` is answered with something; `what` is told when it never is.
pub async fn eventually<T>(what: &str, within: Duration, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// ---- Databases --------------------------------------------------------------------------------------------------------

/// A database of one test's own, dropped with it.
#[derive(Debug)]
pub struct TestDb {
    server: String,
    name: String,
    pub url: String,
    pub pool: PgPool,
}

impl TestDb {
    /// An empty one on the server of `DATABASE_URL`.
    pub async fn new(what: &str) -> Self {
        let server = environment().remove("DATABASE_URL").expect("DATABASE_URL: run scripts/test-db.sh, or make test");
        Self::on(&server, what).await
    }

    /// An empty one on another server.
    pub async fn on(server: &str, what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("it_{what}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        statement(server, &format!("CREATE DATABASE {name}")).await;
        let (front, _) = server.rsplit_once('/').expect("a URL with a database");
        let url = format!("{front}/{name}");
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await.expect("connects");
        Self { server: server.to_owned(), name, url, pool }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A thread, because a test's runtime may be one that is already ending.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect(&server).await {
                    let _ = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await;
                }
            });
        });
        let _ = dropper.join();
    }
}

/// Runs SQL on a connection of its own.
pub async fn statement(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("closes");
}

/// One number.
pub async fn count(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The first column of each row, as text.
pub async fn column(pool: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A PostgreSQL of one test's own, for tests that stop it.
pub struct OwnServer {
    home: TempDir,
    server: Option<LocalServer>,
    pub url: String,
}

impl OwnServer {
    pub async fn start() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("opened to all");
        let mut own = Self { home, server: None, url: String::new() };
        own.up().await;
        own
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Starts it where it was.
    pub async fn up(&mut self) {
        // What was committed must survive a crash of the server here, so not without fsync.
        let server = LocalServer::start(&self.folder(), Options::default()).await.expect("PostgreSQL starts");
        let url = server.url().expose_secret().to_owned();
        assert!(self.url.is_empty() || self.url == url, "the port has changed hands");
        self.url = url;
        self.server = Some(server);
    }

    /// Stops it in an orderly way.
    pub async fn down(&mut self) {
        self.server.take().expect("it runs").stop().await.expect("it stops");
    }

    /// `pg_ctl restart -m immediate`: every session is cut, nothing is written, and the next start recovers.
    pub async fn crash_and_restart(&mut self) {
        let server = self.server.take().expect("it runs");
        let file = server.data_dir().join("cluster/postmaster.pid");
        let pid = std::fs::read_to_string(&file).expect("it runs");
        let pid: i32 = pid.lines().next().expect("a line").parse().expect("a number");
        kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("it can be stopped");
        server.stop().await.expect("it ends");
        self.up().await;
    }
}

// ---- The program ------------------------------------------------------------------------------------------------------

/// How the program is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    environment: BTreeMap<String, String>,
    folder: Option<Arc<TempDir>>,
}

impl Setup {
    /// One tenant, the stand-in's first.
    pub fn new(database: &str, sim: &Sim) -> Self {
        let setup = Self { environment: BTreeMap::new(), folder: None };
        let setup = setup
            .set("DATABASE__URL", database)
            .set("GRAPH__BASE_URL", &sim.graph_url())
            .set("GRAPH__LOGIN_URL", &sim.login_url())
            .set("GRAPH__DOWNLOAD_HOSTS", "127.0.0.1")
            .set("GRAPH__ALLOW_INSECURE_LOOPBACK", "true")
            // The stand-in has its own idea of the limit, where a test is about it.
            .set("GRAPH__CALLS_PER_10_MINUTES", "10000")
            .set("SCHEDULE__BACKOFF", "50ms")
            .set("SCHEDULE__JITTER", "0s")
            .set("LOG__FORMAT", "json");
        setup.tenant(&sim.config().tenants[0])
    }

    /// As if `M365_LEDGER__…` were set so.
    pub fn set(mut self, setting: &str, value: &str) -> Self {
        self.environment.insert(format!("M365_LEDGER__{setting}"), value.to_owned());
        self
    }

    /// This one tenant.
    pub fn tenant(self, tenant: &TenantConfig) -> Self {
        self.set("TENANT__ID", &tenant.id.to_string())
            .set("TENANT__CLIENT_ID", &tenant.client_id)
            .set("TENANT__CLIENT_SECRET", &tenant.client_secret)
    }

    /// All of these, by a configuration file.
    pub fn tenants(mut self, tenants: &[TenantConfig]) -> Self {
        self.environment.retain(|key, _| !key.starts_with("M365_LEDGER__TENANT__"));
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = String::new();
        for (number, tenant) in tenants.iter().enumerate() {
            let TenantConfig { id, client_id, client_secret, .. } = tenant;
            let secret = folder.path().join(format!("secret-{number}"));
            std::fs::write(&secret, client_secret).expect("written");
            writeln!(
                text,
                "[[tenants]]\nid = \"{id}\"\nname = \"Tenant {number}\"\nclient_id = \"{client_id}\"\n\
                 client_secret_file = \"{}\"",
                secret.display()
            )
            .expect("a String takes it");
        }
        std::fs::write(folder.path().join("config.toml"), text).expect("written");
        self.folder = Some(Arc::new(folder));
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_m365-ledger"));
        command.env_clear().envs(&self.environment).args(arguments).kill_on_drop(true).stdin(Stdio::null());
        if let Some(folder) = &self.folder {
            command.arg("--config").arg(folder.path().join("config.toml"));
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let output = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("it starts");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the service.
    pub fn daemon(&self) -> Daemon {
        let port = free_port();
        let setup = self.clone().set("HTTP__LISTEN", &format!("127.0.0.1:{port}"));
        let mut child = setup.command(&["run"]).spawn().expect("it starts");
        let pid = Pid::from_raw(i32::try_from(child.id().expect("it runs")).expect("a pid"));
        let output = Arc::default();
        let readers =
            vec![listen(child.stdout.take(), Arc::clone(&output)), listen(child.stderr.take(), Arc::clone(&output))];
        Daemon { child, pid, port, output, readers, setup }
    }
}

/// A port below those that the system gives to clients, and above those of the tests' PostgreSQL.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 9_000).expect("below 9,000");
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn listen(stream: Option<impl AsyncRead + Unpin + Send + 'static>, output: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let mut stream = stream.expect("a pipe");
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read) = stream.read(&mut buffer).await
            && read > 0
        {
            output.lock().expect("nobody panicked").extend_from_slice(&buffer[..read]);
        }
    })
}

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// A running service.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pid: Pid,
    port: u16,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    setup: Setup,
}

impl Daemon {
    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("nobody panicked")).into_owned()
    }

    /// `None`: it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        self.get_with(path, "").await
    }

    /// The same with further header lines, each with its line end.
    pub async fn get_with(&self, path: &str, headers: &str) -> Option<(u16, String)> {
        let answer = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            Some((answer.get(9..12)?.parse().ok()?, answer))
        };
        tokio::time::timeout(Duration::from_secs(15), answer).await.ok()?
    }

    /// Waits until a probe gives this status.
    pub async fn answers(&self, path: &str, status: u16, within: Duration) {
        let what = format!("{path} is {status}");
        eventually(&what, within, async || (self.get(path).await?.0 == status).then_some(())).await;
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it runs");
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; the exit code, and how long it took.
    pub async fn ended(&mut self, within: Duration) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let status = tokio::time::timeout(within, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end within {within:?}: {}", self.output()));
        for reader in self.readers.drain(..) {
            let _ = reader.await;
        }
        (status.expect("a status").code(), started.elapsed())
    }

    /// SIGTERM, and its end.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let (code, _) = self.ended(Duration::from_secs(30)).await;
        assert_eq!(code, Some(0), "{}", self.output());
    }

    /// SIGKILL, and its end.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended(PATIENCE).await;
    }

    /// Once more with the same settings.
    pub fn again(&self) -> Self {
        self.setup.daemon()
    }
}

// ---- What should be there ---------------------------------------------------------------------------------------------

/// The stand-in without a limit of calls.
pub fn sim() -> Sim {
    sim_of(1)
}

/// The stand-in without a limit of calls, with so many tenants.
pub fn sim_of(tenants: u32) -> Sim {
    Sim::start(Config::many(tenants).without_throttle()).expect("ports are free")
}

/// How often Graph was asked for a report of this tenant.
pub fn graph_calls(sim: &Sim, tenant: Uuid) -> usize {
    sim.requests().iter().filter(|request| request.host == Host::Graph && request.tenant == Some(tenant)).count()
}

/// `verify` finds nothing.
pub async fn assert_verified(setup: &Setup, when: &str) {
    let ran = setup.run(&["verify", "--json"]).await;
    assert_eq!(ran.code, Some(0), "{when}: {ran:#?}");
    assert_eq!(ran.json()["violations"], serde_json::json!([]), "{when}: {ran:#?}");
}

/// The stored rows of one snapshot, oldest first.
pub async fn stored_rows(pool: &PgPool, tenant: Uuid, period: Period, refresh: NaiveDate) -> Vec<(NaiveDate, Figures)> {
    let rows = sqlx::query(
        "SELECT report_date, office_365, exchange, onedrive, sharepoint, skype_for_business, yammer, teams
         FROM m365_store.office365_active_user_counts
         WHERE tenant_id = $1 AND report_period = $2 AND report_refresh_date = $3 ORDER BY report_date",
    )
    .bind(tenant)
    .bind(i16::try_from(period.days()).expect("below 181"))
    .bind(refresh)
    .fetch_all(pool)
    .await
    .expect("read");
    rows.iter()
        .map(|row| {
            let mut figures = [None; 7];
            for (place, figure) in figures.iter_mut().enumerate() {
                *figure = row.get(place + 1);
            }
            (row.get(0), figures)
        })
        .collect()
}

/// Every figure that the stand-in serves now is stored, and nothing else of that refresh; no report date is missing.
pub async fn assert_complete(pool: &PgPool, sim: &Sim, tenants: &[Uuid], periods: &[Period]) {
    for &tenant in tenants {
        for &period in periods {
            let refresh = sim.refresh_date_for(tenant, period);
            let stored = stored_rows(pool, tenant, period, refresh).await;
            assert_eq!(stored, sim.expected_rows(tenant, period), "{tenant} {period} {refresh}");
        }
    }
    let gaps = column(pool, "SELECT gap_start::text || ' of ' || tenant_id FROM m365_v1.coverage_gaps").await;
    assert_eq!(gaps, [""; 0]);
    assert_eq!(sim.authorization_leaks(), 0);
}
