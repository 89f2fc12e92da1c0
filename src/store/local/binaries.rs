//! Which PostgreSQL programs this machine has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::LocalError;
use crate::config;

/// Folders where packagers put PostgreSQL. A `*` stands for the version.
const USUAL_FOLDERS: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql*/bin",
];

/// One installed PostgreSQL.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub(super) folder: PathBuf,
    /// 15, 17, …
    pub(super) major: u32,
}

impl Installation {
    /// Looks into one folder.
    fn at(folder: &Path) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let major = major(&output(Command::new(folder.join("postgres")).arg("--version"))?)?;
        Some(Self { folder: folder.to_owned(), major })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The folders to look into, best first: what `pg_config` says, `PATH`, where packagers put it.
pub(super) fn folders() -> Vec<PathBuf> {
    let asked = output(Command::new("pg_config").arg("--bindir")).map(|text| PathBuf::from(text.trim()));
    asked
        .into_iter()
        .chain(config::search_path())
        .chain(USUAL_FOLDERS.iter().flat_map(|folder| expand(folder)))
        .collect()
}

/// The installations in these folders, in their order, one for each version. At least one.
pub(super) fn find(folders: &[PathBuf]) -> Result<Vec<Installation>, LocalError> {
    let mut found: Vec<Installation> = Vec::new();
    for installation in folders.iter().filter_map(|folder| Installation::at(folder)) {
        if found.iter().all(|known| known.major != installation.major) {
            found.push(installation);
        }
    }
    if found.is_empty() { Err(LocalError::NoBinaries) } else { Ok(found) }
}

/// The installation for a data directory: the same version where there is data, else the first.
pub(super) fn choose(found: &[Installation], data_dir: &Path, cluster: &Path) -> Result<Installation, LocalError> {
    let data = fs::read_to_string(cluster.join("PG_VERSION")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let fits = found.iter().find(|one| data.is_none_or(|version| version == one.major));
    fits.cloned().ok_or_else(|| LocalError::Version {
        data_dir: data_dir.to_owned(),
        data: data.unwrap_or_default(),
        installed: found.iter().map(|one| one.major.to_string()).collect::<Vec<_>>().join(", "),
    })
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `postgres (PostgreSQL) 17beta2 (Debian …)` is 17.
fn major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folders that fit a pattern with one `*` in one of its parts, highest number first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let mut names: Vec<_> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    let number = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
    names.sort_by_key(|name| std::cmp::Reverse(number(name)));
    names.iter().map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta2"), Some(19));
        assert_eq!(major("bash: postgres: command not found"), None);
    }

    #[test]
    fn the_newest_folder_comes_first() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["9", "15", "17", "other"] {
            fs::create_dir(root.path().join(format!("pg-{name}"))).expect("made");
        }
        let found = expand(&format!("{}/pg-*/bin", root.path().display()));
        let names: Vec<_> = found.iter().map(|path| path.parent().and_then(Path::file_name).expect("a name")).collect();
        assert_eq!(names, ["pg-17", "pg-15", "pg-9", "pg-other"]);
    }

    #[test]
    fn without_binaries_the_error_names_the_package() {
        let nothing = tempfile::tempdir().expect("a folder");
        let error = find(&[nothing.path().to_owned()]).expect_err("nothing there").to_string();
        for text in ["apt-get install postgresql", "dnf install postgresql-server", "brew install postgresql"] {
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn data_of_another_version_is_refused_and_of_a_known_one_preferred() {
        let data = tempfile::tempdir().expect("a folder");
        let cluster = data.path().join("cluster");
        fs::create_dir(&cluster).expect("made");
        let found = [17, 15].map(|major| Installation { folder: PathBuf::from("/x"), major });
        assert_eq!(choose(&found, data.path(), &cluster).expect("new data").major, 17);
        fs::write(cluster.join("PG_VERSION"), "15\n").expect("written");
        assert_eq!(choose(&found, data.path(), &cluster).expect("old data").major, 15);
        fs::write(cluster.join("PG_VERSION"), "13\n").expect("written");
        let error = choose(&found, data.path(), &cluster).expect_err("too old").to_string();
        for text in [&data.path().display().to_string(), "PostgreSQL 13", "17, 15", "pg_upgrade"] {
            assert!(error.contains(text), "{error}");
        }
    }
}
