//! A PostgreSQL of the program's own, for those who have given it none.
//!
//! It is the PostgreSQL installed on this machine, with a data directory, a port on 127.0.0.1 and a password of its own;
//! durable like any other. It is stopped by the last program that uses it. A server left behind by a program that was
//! killed is taken over at the next start, and several programs on one data directory share one server. Who uses it
//! is told by locks on two files, which the kernel drops when a process dies, however it dies.

mod binaries;
mod error;
mod folder;
mod process;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

pub use self::error::LocalError;
use self::{
    error::io_error,
    folder::Folder,
    process::{CLUSTER, POLL, Postmaster, SETTINGS, STOP_LIMIT, initialise, launch, lives, lock, running, settings},
};

/// The role, and the database.
const NAME: &str = "m365_ledger";
/// Held, shared, by each program that uses the server.
const USERS: &str = "users.lock";

/// How to run the server.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether what is committed survives a loss of power. `false` only for data that may be lost.
    pub durable: bool,
    /// Whether the data goes under `/var/lib/m365-ledger` where root asks for a folder that only root may enter. Say `true`
    /// for a folder nobody chose; for the default of `database.data_dir` it is so anyway.
    pub movable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true, movable: false }
    }
}

/// A running PostgreSQL. Dropped, it is stopped like with [`LocalServer::stop`], and the drop waits for that.
#[derive(Debug)]
pub struct LocalServer {
    folder: Folder,
    postmaster: Postmaster,
    /// Where this process started the server; then it must also take note of its end.
    child: Option<Child>,
    /// The shared lock; `None` once the server is let go.
    user: Option<File>,
    /// The right to start and stop it, until it is ready for all.
    starting: Option<File>,
    password: SecretString,
    version: String,
}

impl LocalServer {
    /// The server of this data directory: created, started, or taken over. The database `m365_ledger` is there and empty
    /// when it was created.
    ///
    /// Where the data really is, says [`LocalServer::data_dir`]: see [`Options::movable`].
    pub async fn start(data_dir: &Path, options: Options) -> Result<Self, LocalError> {
        let data_dir = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::open(&data_dir, options, &binaries::folders()));
        let mut server = opened.await.map_err(|error| io_error(Path::new("postgres"))(io::Error::other(error)))??;
        server.version = server.database().await?;
        server.starting = None;
        tracing::info!(data_dir = %server.data_dir().display(), port = server.port(), "the local PostgreSQL is ready");
        Ok(server)
    }

    /// `postgres://m365_ledger:…@127.0.0.1:PORT/m365_ledger`.
    pub fn url(&self) -> SecretString {
        let password = self.password.expose_secret();
        SecretString::from(format!("postgres://{NAME}:{password}@127.0.0.1:{}/{NAME}", self.port()))
    }

    /// A shell command that opens `psql`; it names the file of the password and does not show it.
    pub fn psql_hint(&self) -> String {
        let file = self.password_file().display().to_string().replace('\'', r"'\''");
        format!("PGPASSWORD=\"$(cat '{file}')\" psql -h 127.0.0.1 -p {} -U {NAME} {NAME}", self.port())
    }

    /// The file that holds the password, and nothing else.
    pub fn password_file(&self) -> PathBuf {
        self.folder.path.join("password")
    }

    /// The server's version as it writes it, for example `17.2 (Debian 17.2-1)`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The port on 127.0.0.1. The same at each start, unless another program has taken it.
    pub fn port(&self) -> u16 {
        self.postmaster.port
    }

    /// Where the data really is.
    pub fn data_dir(&self) -> &Path {
        &self.folder.path
    }

    /// Stops the server, unless another program uses it. Sessions are cut, transactions rolled back (PostgreSQL's fast
    /// mode); close pools first.
    pub async fn stop(mut self) -> Result<(), LocalError> {
        let stopped = tokio::task::spawn_blocking(move || self.close());
        stopped.await.map_err(|error| io_error(Path::new("postgres"))(io::Error::other(error)))?
    }

    fn open(requested: &Path, options: Options, folders: &[PathBuf]) -> Result<Self, LocalError> {
        let found = binaries::find(folders)?;
        let folder = Folder::prepare(requested, options.movable, &found[0].program("postgres"))?;
        let cluster = folder.path.join(CLUSTER);
        let starting = lock(&folder)?;
        let program = binaries::choose(&found, &folder.path, &cluster)?;
        if !cluster.join("PG_VERSION").exists() {
            initialise(&folder, &program, options)?;
        }
        let password = folder.path.join("password");
        let password = fs::read_to_string(&password).map_err(io_error(&password))?;
        let user = folder.open(USERS)?;
        user.lock_shared().map_err(io_error(&folder.path.join(USERS)))?;

        let (postmaster, child) = match running(&cluster)? {
            Some(postmaster) => {
                tracing::info!(pid = postmaster.pid, "a PostgreSQL runs on this data directory already: using it");
                folder.write(SETTINGS, &settings(&folder, postmaster.port, options))?;
                let _ = kill(Pid::from_raw(postmaster.pid), Signal::SIGHUP);
                (postmaster, None)
            }
            None => launch(&folder, &program, options).map(|(postmaster, child)| (postmaster, Some(child)))?,
        };
        let password = SecretString::from(password.trim_end().to_owned());
        Ok(Self {
            folder,
            postmaster,
            child,
            user: Some(user),
            starting: Some(starting),
            password,
            version: String::new(),
        })
    }

    /// Creates the database where it is missing; the server's version.
    async fn database(&self) -> Result<String, LocalError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port())
            .username(NAME)
            .password(self.password.expose_secret())
            .ssl_mode(PgSslMode::Disable);
        let mut connection = PgConnection::connect_with(&options.database("postgres")).await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'm365_ledger')")
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            sqlx::raw_sql("CREATE DATABASE m365_ledger").execute(&mut connection).await?;
        }
        let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(version)
    }

    fn close(&mut self) -> Result<(), LocalError> {
        let Some(user) = self.user.take() else { return Ok(()) };
        let _starting = match self.starting.take() {
            Some(starting) => starting,
            None => lock(&self.folder)?,
        };
        let users = self.folder.path.join(USERS);
        user.unlock().map_err(io_error(&users))?;
        if user.try_lock().is_err() {
            tracing::info!("another program uses the local PostgreSQL: leaving it to that");
            return Ok(());
        }
        for (signal, limit) in [(Signal::SIGINT, STOP_LIMIT), (Signal::SIGQUIT, STOP_LIMIT / 3)] {
            let _ = kill(Pid::from_raw(self.postmaster.pid), signal);
            let until = Instant::now() + limit;
            while Instant::now() < until {
                if self.gone() {
                    return Ok(());
                }
                thread::sleep(POLL);
            }
        }
        Err(LocalError::Stop { data_dir: self.folder.path.clone(), pid: self.postmaster.pid })
    }

    fn gone(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(Some(_)) | Err(_)),
            None => !lives(self.postmaster.pid, &self.folder.path.join(CLUSTER)),
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests;
