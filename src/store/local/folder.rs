//! Where the data lies, and whose it is.
//!
//! PostgreSQL refuses to run as root. Started as root, the server gets an unprivileged account, which then owns the data
//! directory. Root writes into a folder that somebody else owns, so nothing here follows a symbolic link at the end of
//! a path.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::{
        self,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    libc,
    unistd::{Uid, User, geteuid},
};
use sha2::{Digest as _, Sha256};

use super::{LocalError, error::io_error};

/// `database.data_dir` as `config/default.toml` has it.
const DEFAULT: &str = "./m365-ledger-data";
/// Where data goes when root starts the program in a folder that only root may enter, such as /root.
const FALLBACK: &str = "/var/lib/m365-ledger";
const MARKER: &str = "README";
const MARKER_TEXT: &str = "The PostgreSQL of m365-ledger: everything it ever stored is here.\n\
    cluster/ is the database cluster, password the password of its role m365_ledger.\n";

/// The account the server runs as when the program is root.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    name: String,
}

impl Account {
    /// Makes a command run as this account.
    pub(super) fn drop_to(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// The data directory, ready to be used.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) account: Option<Account>,
}

impl Folder {
    /// Makes the data directory, or takes the one that is there. `postgres` is any program the account may run.
    pub(super) fn prepare(requested: &Path, movable: bool, postgres: &Path) -> Result<Self, LocalError> {
        let wanted = std::path::absolute(requested).map_err(io_error(requested))?;
        match Self::at(&wanted, postgres) {
            Err(LocalError::Unreachable { folder, account, .. }) if movable || requested == Path::new(DEFAULT) => {
                let elsewhere = fallback(&wanted);
                tracing::warn!(
                    data_dir = %elsewhere.display(),
                    "the account {account} may not enter {}: the data goes elsewhere. Set database.data_dir to choose",
                    folder.display()
                );
                Self::at(&elsewhere, postgres)
            }
            other => other,
        }
    }

    fn at(path: &Path, postgres: &Path) -> Result<Self, LocalError> {
        let account = if geteuid().is_root() { Some(account_for(path)?) } else { None };
        let parent = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(io_error(parent))?;
        if let Some(account) = &account {
            reachable(parent, path, postgres, account)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io_error(path)(error)),
            _ => {}
        }
        let folder = Self { path: fs::canonicalize(path).map_err(io_error(path))?, account };
        folder.own()?;
        Ok(folder)
    }

    /// Sees to it that the folder is ours, and nobody else's business.
    fn own(&self) -> Result<(), LocalError> {
        let path = &self.path;
        let owner = fs::metadata(path).map_err(io_error(path))?.uid();
        let server = self.account.as_ref().map_or(geteuid().as_raw(), |account| account.uid);
        if owner != server && owner != geteuid().as_raw() {
            let owner = name_of(owner);
            return Err(LocalError::ForeignOwner { data_dir: path.clone(), owner });
        }
        let marked = fs::symlink_metadata(path.join(MARKER)).is_ok();
        if !marked && fs::read_dir(path).map_err(io_error(path))?.next().is_some() {
            return Err(LocalError::NotOurs { data_dir: path.clone() });
        }
        if let Some(account) = &self.account {
            unix::fs::lchown(path, Some(account.uid), Some(account.gid)).map_err(io_error(path))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error(path))?;
        if marked { Ok(()) } else { self.write(MARKER, MARKER_TEXT) }
    }

    /// A file of this folder as the server's account sees it, readable by nobody else; whole or not at all.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), LocalError> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}.new"));
        let written = || -> io::Result<()> {
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            self.give(&unfinished)?;
            fs::rename(&unfinished, &path)
        };
        written().map_err(io_error(&path))
    }

    /// Opens a file of this folder, made if need be, to append to it or to lock it.
    pub(super) fn open(&self, name: &str) -> Result<File, LocalError> {
        let path = self.path.join(name);
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .and_then(|file| self.give(&path).map(|()| file));
        opened.map_err(io_error(&path))
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match &self.account {
            Some(account) => unix::fs::lchown(path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    }
}

/// Whoever owns the data, if that is an unprivileged account; else `postgres` or `nobody`.
fn account_for(path: &Path) -> Result<Account, LocalError> {
    if let Ok(data) = fs::metadata(path)
        && data.uid() != 0
    {
        return Ok(Account { uid: data.uid(), gid: data.gid(), name: name_of(data.uid()) });
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name })
        .ok_or(LocalError::NoAccount)
}

fn name_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Tries to stand in a folder as the account: the only test that knows every kind of permission there is.
fn reachable(folder: &Path, data_dir: &Path, postgres: &Path, account: &Account) -> Result<(), LocalError> {
    let stand_in = |folder: &Path| {
        let mut command = Command::new(postgres);
        account.drop_to(&mut command);
        let (null, none) = (Stdio::null(), Stdio::null());
        command.arg("--version").current_dir(folder).stdin(Stdio::null()).stdout(null).stderr(none).status().map(drop)
    };
    match stand_in(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        other => return other.map_err(io_error(postgres)),
    }
    stand_in(Path::new("/")).map_err(io_error(postgres))?;
    let mut parents: Vec<&Path> = folder.ancestors().collect();
    parents.reverse();
    let closed = parents.into_iter().find(|parent| stand_in(parent).is_err()).unwrap_or(folder);
    Err(LocalError::Unreachable {
        data_dir: data_dir.to_owned(),
        folder: closed.to_owned(),
        account: account.name.clone(),
    })
}

/// One folder for each place the program is started in.
fn fallback(wanted: &Path) -> PathBuf {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    let hash = Sha256::digest(wanted.as_os_str().as_bytes());
    let name = hash.iter().take(8).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    });
    Path::new(FALLBACK).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_is_the_start_of_the_sha256_of_the_path() {
        // printf %s /root/m365-ledger/m365-ledger-data | sha256sum | cut -c1-16, as `make clean-db` does it.
        let folder = fallback(Path::new("/root/m365-ledger/m365-ledger-data"));
        assert_eq!(folder, Path::new("/var/lib/m365-ledger/55a8ecffe9faed28"));
    }

    #[test]
    fn a_folder_with_other_things_in_it_is_left_alone() {
        let home = tempfile::tempdir().expect("a folder");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        let data = home.path().join("data");
        fs::create_dir(&data).expect("made");
        fs::write(data.join("thesis.txt"), "mine").expect("written");
        let error = Folder::prepare(&data, false, Path::new("/bin/true")).expect_err("not ours");
        assert!(matches!(error, LocalError::NotOurs { .. }), "{error}");
        assert_eq!(fs::metadata(&data).expect("there").uid(), geteuid().as_raw());
    }

    #[test]
    fn root_is_told_which_folder_is_closed() {
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().expect("a folder");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("closed");
        let error = Folder::prepare(&home.path().join("a/data"), false, Path::new("/bin/true")).expect_err("closed");
        let LocalError::Unreachable { folder, .. } = &error else { panic!("{error}") };
        assert_eq!(folder, home.path());
        assert!(error.to_string().contains("database.data_dir"), "{error}");
    }
}
