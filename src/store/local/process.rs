//! Starting, finding and telling apart the server's processes.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::Rng as _;

use super::{LocalError, NAME, Options, binaries::Installation, error::io_error, folder::Folder};

pub(super) const CLUSTER: &str = "cluster";
pub(super) const SETTINGS: &str = "m365-ledger.conf";
const LOG: &str = "postgresql.log";
/// Held while a server is being started or stopped.
pub(super) const STARTING: &str = "starting.lock";
const START_LIMIT: Duration = Duration::from_mins(2);
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(15);
pub(super) const POLL: Duration = Duration::from_millis(20);
/// A log file larger than this is put aside at the next start.
const LOG_LIMIT: u64 = 16 << 20;
/// Longest path of a Unix socket that every system takes, in bytes.
const SOCKET_LIMIT: usize = 103;

const README: &str = "The PostgreSQL of m365-ledger: everything it ever stored is here.\n\
    cluster/ is the database cluster, password the password of its role m365_ledger.\n";

/// What a server says of itself in `postmaster.pid`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) port: u16,
    ready: bool,
}

/// Waits for the right to start or stop the server of this folder.
pub(super) fn lock(folder: &Folder) -> Result<File, LocalError> {
    let file = folder.open(STARTING)?;
    let until = Instant::now() + START_LIMIT + STOP_LIMIT;
    while file.try_lock().is_err() {
        if Instant::now() > until {
            return Err(LocalError::Busy { data_dir: folder.path.clone() });
        }
        thread::sleep(POLL);
    }
    Ok(file)
}

/// One of PostgreSQL's programs: without our environment, which holds secrets, and out of reach of a terminal's Ctrl-C,
/// which is for us alone.
fn command(folder: &Folder, installation: &Installation, program: &str) -> Command {
    let mut command = Command::new(installation.program(program));
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin");
    command.current_dir(&folder.path).stdin(Stdio::null()).process_group(0);
    if let Some(account) = &folder.account {
        account.drop_to(&mut command);
    }
    command
}

/// Makes the cluster beside its final place, and moves it there when it is whole.
pub(super) fn initialise(folder: &Folder, installation: &Installation, options: Options) -> Result<(), LocalError> {
    let unfinished = folder.path.join("cluster.new");
    folder.write("README", README)?;
    let mut bytes = [0_u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    folder.write("password", &bytes.map(|byte| format!("{byte:02x}")).concat())?;
    let mut said = String::new();
    for locale in ["C.UTF-8", "C"] {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io_error(&unfinished))?;
        }
        let mut initdb = command(folder, installation, "initdb");
        initdb.args(["--username", NAME, "--pwfile", "password", "--auth", "scram-sha-256", "--encoding", "UTF8"]);
        initdb.args(["--locale", locale, "--data-checksums", "-D", "cluster.new"]);
        if !options.durable {
            initdb.arg("--no-sync");
        }
        let output = initdb.output().map_err(io_error(&installation.program("initdb")))?;
        if output.status.success() {
            let file = unfinished.join("postgresql.conf");
            let text = fs::read_to_string(&file).map_err(io_error(&file))?;
            let text =
                format!("{text}\n# Settings of your own go below this line.\ninclude_if_exists '../{SETTINGS}'\n");
            folder.write("cluster.new/postgresql.conf", &text)?;
            let cluster = folder.path.join(CLUSTER);
            return fs::rename(&unfinished, &cluster).map_err(io_error(&cluster));
        }
        String::from_utf8_lossy(&output.stderr).trim().clone_into(&mut said);
        if !said.contains("locale") {
            break;
        }
    }
    Err(LocalError::Init { data_dir: folder.path.clone(), said })
}

/// Starts the server and waits until it answers.
pub(super) fn launch(
    folder: &Folder,
    program: &Installation,
    options: Options,
) -> Result<(Postmaster, Child), LocalError> {
    let cluster = folder.path.join(CLUSTER);
    let log = folder.path.join(LOG);
    if fs::metadata(&log).is_ok_and(|log| log.len() > LOG_LIMIT) {
        fs::rename(&log, log.with_extension("log.old")).map_err(io_error(&log))?;
    }
    let until = Instant::now() + START_LIMIT;
    for attempt in 0_u16.. {
        let port = port(folder, attempt)?;
        folder.write(SETTINGS, &settings(folder, port, options))?;
        folder.write("port", &port.to_string())?;
        let mut out = folder.open(LOG)?;
        let before = out.seek(SeekFrom::End(0)).map_err(io_error(&log))?;
        let error = out.try_clone().map_err(io_error(&log))?;
        let mut postgres = command(folder, program, "postgres");
        postgres.args(["-D", CLUSTER]).stdout(out).stderr(error);
        let mut child = postgres.spawn().map_err(io_error(&program.program("postgres")))?;
        while child.try_wait().map_err(io_error(&cluster))?.is_none() {
            if let Some(found) = read(&cluster)
                && found.ready
                && u32::try_from(found.pid) == Ok(child.id())
            {
                return Ok((found, child));
            }
            if Instant::now() > until {
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGQUIT);
                let _ = child.wait();
                return Err(LocalError::Start { said: since(&log, before), log });
            }
            thread::sleep(POLL);
        }
        let said = since(&log, before);
        // The port was taken in between, or the children of a server that was killed are still on their way out.
        let passes = said.contains("could not bind") || said.contains("shared memory block");
        if !passes || attempt >= 20 {
            return Err(LocalError::Start { log, said });
        }
        thread::sleep(POLL * 10);
    }
    unreachable!("the loop above returns")
}

/// The port of the last start if it is free, otherwise one that depends on the folder, so that two ledgers on one machine
/// keep out of each other's way.
fn port(folder: &Folder, attempt: u16) -> Result<u16, LocalError> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let last = fs::read_to_string(folder.path.join("port")).ok().and_then(|text| text.trim().parse().ok());
    if let Some(last) = last.filter(|&port| attempt == 0 && free(port)) {
        return Ok(last);
    }
    let mut hasher = DefaultHasher::new();
    folder.path.hash(&mut hasher);
    let first = u16::try_from(hasher.finish() % 10_000).unwrap_or_default() + 15_000;
    let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    match (attempt..attempt + 10).map(|n| first + n).find(|&port| free(port)) {
        Some(port) => Ok(port),
        None => any().map(|address| address.port()).map_err(io_error(&folder.path)),
    }
}

pub(super) fn settings(folder: &Folder, port: u16, options: Options) -> String {
    let durable = if options.durable { "on" } else { "off" };
    let sockets = folder.path.to_str().filter(|path| {
        path.len() + "/.s.PGSQL.65535".len() <= SOCKET_LIMIT && !path.contains(['"', '\'', '\\', ',', '\n'])
    });
    let sockets = sockets.map(|path| format!("\"{path}\"")).unwrap_or_default();
    format!(
        "# Written anew at each start. Settings of your own go to the end of postgresql.conf.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{sockets}'\n\
         password_encryption = 'scram-sha-256'\n\
         shared_buffers = '64MB'\n\
         max_wal_size = '1GB'\n\
         fsync = {durable}\n\
         synchronous_commit = {durable}\n\
         full_page_writes = {durable}\n\
         log_checkpoints = off\n\
         log_timezone = 'UTC'\n\
         timezone = 'UTC'\n"
    )
}

/// The server that runs on this cluster, once it is ready; what a dead one left lying is removed.
pub(super) fn running(cluster: &Path) -> Result<Option<Postmaster>, LocalError> {
    let file = cluster.join("postmaster.pid");
    let until = Instant::now() + START_LIMIT;
    while file.exists() {
        match read(cluster) {
            Some(found) if lives(found.pid, cluster) => {
                if found.ready {
                    return Ok(Some(found));
                }
                if Instant::now() > until {
                    let log = cluster.with_file_name(LOG);
                    return Err(LocalError::Start { log, said: format!("process {} is not ready", found.pid) });
                }
                thread::sleep(POLL);
            }
            _ => match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&file)(error)),
                _ => {}
            },
        }
    }
    Ok(None)
}

/// `postmaster.pid`: process, data, start time, port, socket folder, address, shared memory, state; a line each.
fn read(cluster: &Path) -> Option<Postmaster> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let port = lines.get(3).and_then(|line| line.parse().ok()).unwrap_or_default();
    Some(Postmaster { pid: lines.first()?.parse().ok()?, port, ready: lines.get(7) == Some(&"ready") })
}

/// Whether this process is the server of this cluster. After a reboot the number may belong to anybody.
pub(super) fn lives(pid: i32, cluster: &Path) -> bool {
    if pid <= 1 || kill(Pid::from_raw(pid), None).is_err() || !cluster.join("postmaster.pid").exists() {
        return false;
    }
    // A server stands in its data directory.
    if let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd")) {
        return folder == cluster;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok().or_else(|| {
        let ps = Command::new("ps").args(["-o", "comm=", "-p", &pid.to_string()]).output().ok()?;
        Some(String::from_utf8_lossy(&ps.stdout).into_owned())
    });
    name.is_none_or(|name| name.contains("postgres"))
}

/// The last lines of a log from a position on.
fn since(log: &Path, position: u64) -> String {
    let mut text = Vec::new();
    let _ = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(position))?;
        file.take(1 << 20).read_to_end(&mut text)
    });
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
