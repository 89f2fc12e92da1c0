//! The status page, as people see it: in a real Chromium, of the real service.

mod contrast;
mod many;
mod one;
mod password;
mod trouble;

use std::net::SocketAddr;

use chrono::{Days, NaiveDate, Utc};
use graph_sim::{Config, Sim};
use sqlx::PgPool;

use crate::{
    browser::Browser,
    support::{Background, Scene, TestDb, eventually, free_address, get},
};

/// How far Microsoft is behind, as a rule.
const LAG: Days = Days::new(2);

#[expect(clippy::disallowed_methods, reason = "the page compares with the real today")]
fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// A service with its page.
struct Shown {
    sim: Sim,
    db: TestDb,
    address: SocketAddr,
    origin: String,
    // Killed when it is dropped.
    _service: Background,
    scene: crate::support::Program,
}

/// One tenant whose newest refresh is `days` days before today's, before anything was fetched.
async fn days_ago(days: u64) -> Scene {
    let config = Config::one_tenant().users(4_200).refresh_date(today() - LAG - Days::new(days)).without_throttle();
    Scene::with(config).await
}

impl Scene {
    /// Fetches today's refresh, then lets `days` days pass. What was fetched before moves into the past.
    async fn fetch_and_let_pass(&self, days: u64) {
        self.program.once(&[]).await;
        self.sim.advance_days(i64::try_from(days).expect("a few"));
        pass(&self.db.pool, days).await;
    }

    /// Starts the service and waits until its first pass is done: every target has been tried once more.
    async fn shown(self) -> Shown {
        let address = free_address();
        let Self { sim, db, program } = self;
        let program = program.with("HTTP__LISTEN", address.to_string());
        let service = program.spawn(&["run"]);
        eventually("every target is tried", async || {
            let tried = "SELECT count(DISTINCT report_period) FROM m365_store.slot
                         WHERE origin = 'schedule' AND outcome IS NOT NULL";
            matches!(get(address, "/readyz").await, Some((200, _))) && db.count(tried).await == 4
        })
        .await;
        Shown { sim, db, address, origin: format!("http://{address}"), _service: service, scene: program }
    }
}

impl Shown {
    async fn body(&self, path: &str) -> (u16, String) {
        get(self.address, path).await.unwrap_or_else(|| panic!("{path} is not answered"))
    }
}

/// Moves all that was done into the past.
async fn pass(pool: &PgPool, days: u64) {
    let days = i32::try_from(days).expect("a few");
    for sql in [
        "UPDATE m365_store.attempt SET due_at = due_at - make_interval(days => $1),
             started_at = started_at - make_interval(days => $1), finished_at = finished_at - make_interval(days => $1)",
        "UPDATE m365_store.slot SET due_at = due_at - make_interval(days => $1),
             not_before = not_before - make_interval(days => $1), closed_at = closed_at - make_interval(days => $1)",
        "UPDATE m365_store.snapshot SET first_fetched_at = first_fetched_at - make_interval(days => $1),
             fetched_at = fetched_at - make_interval(days => $1)",
    ] {
        sqlx::query(sql).bind(days).execute(pool).await.expect("time passes");
    }
}

/// The page scrolls down only, however narrow the window is: wide tables scroll by themselves.
async fn assert_fits(browser: &Browser, width: u32) {
    browser.window(width, 844).await;
    let wide = browser.script("return [document.documentElement.scrollWidth, innerWidth]").await;
    assert_eq!(wide, serde_json::json!([width, width]), "nothing sticks out");
    browser.window(1180, 900).await;
}
