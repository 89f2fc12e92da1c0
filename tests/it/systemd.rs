//! `run` under systemd's eyes: what it says on `NOTIFY_SOCKET`.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::support::{PATIENCE, Scene, free_address};

/// Waits for a message with this line; returns those before it.
async fn until(socket: &UnixDatagram, line: &str) -> Vec<String> {
    let mut before = Vec::new();
    let wait = async {
        loop {
            let mut message = [0; 4096];
            let length = socket.recv(&mut message).await.expect("the socket is read");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|have| have == line) {
                return;
            }
            before.push(message);
        }
    };
    let heard = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(heard, "no {line} in {before:?}");
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_start_life_and_stop() {
    let Scene { sim: _sim, db: _db, program } = Scene::new().await.set("HTTP__LISTEN", &free_address().to_string());
    let path = program.home.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket in the home");
    let program =
        program.variable("NOTIFY_SOCKET", path.to_str().expect("the path is text")).variable("WATCHDOG_USEC", "300000");
    let service = program.spawn(&["run"]);

    until(&socket, "READY=1").await;
    until(&socket, "WATCHDOG=1").await;
    until(&socket, "WATCHDOG=1").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    service.signal(Signal::SIGTERM);
    let before = until(&socket, "STOPPING=1").await;
    assert!(before.iter().all(|message| message.contains("WATCHDOG=1")), "{before:?}");
    assert_eq!(service.code().await, Some(0));
}
