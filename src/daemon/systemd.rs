//! Telling systemd how it goes, where it is systemd that started the program (`Type=notify`). Elsewhere nothing happens.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::http::Health;

/// The schema fits and the work begins.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("running")]);
}

/// Until a stop: feeds systemd's watchdog, if there is one, for as long as `/livez` would say 200. At the stop: says so.
pub async fn accompany(health: Arc<Health>, soft: CancellationToken) {
    notify(&[NotifyState::Status("waiting for Postgres")]);
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else {
        soft.cancelled().await;
        return stopping();
    };
    let mut feed = tokio::time::interval((within / 3).max(Duration::from_millis(1)));
    while soft.run_until_cancelled(feed.tick()).await.is_some() {
        if health.live().is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
    stopping();
}

fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = %error, "systemd could not be told");
    }
}
