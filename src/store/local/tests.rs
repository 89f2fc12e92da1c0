//! With a real PostgreSQL.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::*;

const QUICK: Options = Options { durable: false, movable: false };

/// A folder every account may enter, with a data directory to be.
fn place() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let data = home.path().join("the data");
    (home, data)
}

async fn connect(server: &LocalServer) -> PgConnection {
    PgConnection::connect(server.url().expose_secret()).await.expect("connects")
}

/// What `kill -9` does: the kernel drops the locks, and the server goes on.
fn killed(mut server: LocalServer) -> i32 {
    drop(server.user.take());
    server.child.take();
    server.postmaster.pid
}

#[tokio::test]
async fn from_nothing_to_a_database_and_again_with_its_data() {
    let (_home, data) = place();
    let server = LocalServer::start(&data, Options::default()).await.expect("starts");
    let (port, version) = (server.port(), server.version().to_owned());
    assert!(version.chars().next().is_some_and(|c| c.is_ascii_digit()), "{version}");
    let mut connection = connect(&server).await;
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 'ä' AS what").execute(&mut connection).await.expect("created");
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut connection).await.expect("shown");
    assert_eq!(fsync, "on");
    let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut connection).await.expect("shown");
    assert_eq!(encoding, "UTF8");

    let password = fs::metadata(server.password_file()).expect("there");
    assert_eq!(password.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&data).expect("there").permissions().mode() & 0o777, 0o700);
    assert_ne!(password.uid(), 0, "the server's files are not root's");
    let said = format!("{} {server:?}", server.psql_hint());
    assert!(!said.contains(server.password.expose_secret()), "{said}");
    let pid = server.postmaster.pid;
    if geteuid().is_root() {
        assert_ne!(fs::metadata(format!("/proc/{pid}")).expect("it runs").uid(), 0);
    }
    let group = nix::unistd::getpgid(Some(Pid::from_raw(pid))).expect("it runs");
    assert_ne!(group, nix::unistd::getpgrp(), "Ctrl-C must not reach it");

    server.stop().await.expect("stops");
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "nobody listens any more");

    let server = LocalServer::start(&data, Options::default()).await.expect("starts again");
    assert_eq!(server.port(), port);
    let kept: String =
        sqlx::query_scalar("SELECT what FROM kept").fetch_one(&mut connect(&server).await).await.expect("kept");
    assert_eq!(kept, "ä");
    drop(server);
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "a drop stops it too");
}

#[tokio::test]
async fn a_server_left_behind_is_taken_over_and_stopped() {
    let (_home, data) = place();
    let first = LocalServer::start(&data, QUICK).await.expect("starts");
    let port = first.port();
    let pid = killed(first);
    let second = LocalServer::start(&data, QUICK).await.expect("takes over");
    assert_eq!((second.postmaster.pid, second.port()), (pid, port));
    connect(&second).await;
    second.stop().await.expect("stops");
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
}

#[tokio::test]
async fn the_last_of_two_programs_stops_it() {
    let (_home, data) = place();
    let (first, second) = tokio::join!(LocalServer::start(&data, QUICK), LocalServer::start(&data, QUICK));
    let (first, second) = (first.expect("starts"), second.expect("joins"));
    assert_eq!(first.postmaster.pid, second.postmaster.pid);
    let port = first.port();
    first.stop().await.expect("lets go");
    connect(&second).await;
    second.stop().await.expect("stops");
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
}

#[tokio::test]
async fn after_the_loss_of_the_server_and_its_port_it_starts_anew() {
    let (_home, data) = place();
    let server = LocalServer::start(&data, QUICK).await.expect("starts");
    let port = server.port();
    let mut child = {
        let mut server = server;
        drop(server.user.take());
        server.child.take().expect("ours")
    };
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).expect("killed");
    child.wait().expect("dead");
    // The number of the dead process now belongs to somebody else: to us.
    let file = data.join("cluster/postmaster.pid");
    let text = fs::read_to_string(&file).expect("left behind");
    let rest = text.split_once('\n').expect("lines").1;
    fs::write(&file, format!("{}\n{rest}", std::process::id())).expect("written");
    let squatter = (0..200).find_map(|_| {
        thread::sleep(POLL);
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
    });
    assert!(squatter.is_some(), "the port is free once the children are gone");
    let server = LocalServer::start(&data, QUICK).await.expect("recovers");
    assert_ne!(server.port(), port);
    connect(&server).await;
}

#[tokio::test]
async fn data_of_another_version_is_refused() {
    let (_home, data) = place();
    LocalServer::start(&data, QUICK).await.expect("starts").stop().await.expect("stops");
    fs::write(data.join("cluster/PG_VERSION"), "9\n").expect("written");
    let error = LocalServer::start(&data, QUICK).await.expect_err("refused");
    assert!(matches!(error, LocalError::Version { data: 9, .. }), "{error}");
}

#[tokio::test]
async fn a_setting_that_postgres_refuses_is_shown_with_its_words() {
    let (_home, data) = place();
    LocalServer::start(&data, QUICK).await.expect("starts").stop().await.expect("stops");
    fs::write(data.join("cluster/postgresql.auto.conf"), "shared_buffers = 'lots'\n").expect("written");
    let error = LocalServer::start(&data, QUICK).await.expect_err("refused").to_string();
    assert!(error.contains("shared_buffers") && error.contains("postgresql.log"), "{error}");
}

#[tokio::test]
async fn root_in_a_closed_folder_gets_a_place_outside() {
    if !geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("closed");
    let data = home.path().join("data");
    let movable = Options { movable: true, ..QUICK };
    let server = LocalServer::start(&data, movable).await.expect("starts elsewhere");
    let elsewhere = server.data_dir().to_owned();
    assert!(elsewhere.starts_with("/var/lib/m365-ledger") && !data.exists(), "{}", elsewhere.display());
    server.stop().await.expect("stops");
    let again = LocalServer::start(&data, movable).await.expect("finds it again");
    assert_eq!(again.data_dir(), elsewhere);
    drop(again);
    fs::remove_dir_all(&elsewhere).expect("removed");
}
