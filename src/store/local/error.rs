//! What can go wrong, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why there is no local PostgreSQL. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// PostgreSQL is not installed.
    #[error(
        "no database is configured (database.url), and PostgreSQL is not installed here. Install it: `apt-get install \
         postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora, RHEL), `brew install postgresql` (macOS); \
         or set DATABASE_URL"
    )]
    NoBinaries,
    /// The data was written by a version that is not installed.
    #[error(
        "the data in {} was written by PostgreSQL {data}, and this machine has {installed}. Install PostgreSQL {data}, \
         or move the data to the newer version with pg_upgrade (the cluster is {}/cluster)",
        data_dir.display(), data_dir.display()
    )]
    Version {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version that wrote it.
        data: u32,
        /// The major versions installed.
        installed: String,
    },
    /// Started as root, and the server's account cannot get to the data directory.
    #[error(
        "PostgreSQL does not run as root, and the account {account}, which it would run as, may not enter {}, so that \
         {} cannot hold its data. Set database.data_dir to a folder outside, for example /var/lib/m365-ledger/data, or \
         run `chmod o+x` on the closed folder",
        folder.display(), data_dir.display()
    )]
    Unreachable {
        /// The data directory asked for.
        data_dir: PathBuf,
        /// The folder that is closed.
        folder: PathBuf,
        /// The account.
        account: String,
    },
    /// Started as root, and there is no account to run the server as.
    #[error("PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody` here")]
    NoAccount,
    /// The folder holds other things.
    #[error(
        "{} is not empty and not a data directory of m365-ledger: it is left alone. Set database.data_dir to a folder \
         that is empty or does not exist", data_dir.display()
    )]
    NotOurs {
        /// The folder.
        data_dir: PathBuf,
    },
    /// The data directory belongs to another account.
    #[error("{} belongs to {owner}. Run the program as {owner} or root, or set database.data_dir", data_dir.display())]
    ForeignOwner {
        /// The data directory.
        data_dir: PathBuf,
        /// Its owner.
        owner: String,
    },
    /// Another program has been starting or stopping this server for too long.
    #[error("another program is starting or stopping the PostgreSQL in {} and does not finish", data_dir.display())]
    Busy {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// `initdb` failed.
    #[error("PostgreSQL cannot create its data in {}: {said}", data_dir.display())]
    Init {
        /// The data directory.
        data_dir: PathBuf,
        /// What it said.
        said: String,
    },
    /// The server does not start.
    #[error("PostgreSQL does not start. The end of {}:\n{said}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The end of it.
        said: String,
    },
    /// The server did not stop in time.
    #[error("the PostgreSQL of {} (process {pid}) does not stop", data_dir.display())]
    Stop {
        /// The data directory.
        data_dir: PathBuf,
        /// The process.
        pid: i32,
    },
    /// The server runs and refuses us.
    #[error("the local PostgreSQL runs, but cannot be used: {0}")]
    Refused(#[from] sqlx::Error),
    /// A file or a program cannot be used.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> LocalError {
    let path = path.to_owned();
    move |cause| LocalError::Io { path: path.clone(), cause }
}
