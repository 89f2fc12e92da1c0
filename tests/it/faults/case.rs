//! One fault, what is to come of it, and how that is looked at.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use graph_sim::{Config, Fault, FaultKind, Host, Period, Sim, TenantConfig};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::rig::{Setup, TestDb, assert_verified, column, count, stored_rows};

/// The period that is hit; the one before it and the one behind it in the pass are not.
pub(super) const HIT: Period = Period::D30;
/// Cases at the same time.
const AT_ONCE: usize = 4;

pub(super) const STORED: &str = "stored";
pub(super) const TRUNCATED: [&str; 3] = ["failed/truncated"; 3];
pub(super) const HALF_READ: [&str; 3] = ["rejected/truncated"; 3];

pub(super) type Prepare = Box<dyn Fn(&Sim, Uuid) -> Vec<Fault> + Send + Sync>;

/// A fault, and what is to come of it.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) prepare: Prepare,
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// What the attempts at the slot came to, one after the other.
    pub(super) attempts: Vec<&'static str>,
    pub(super) graph_calls: usize,
    /// Only the period that is hit is asked for: where the fault would hit the others too, or for the exit code.
    pub(super) alone: bool,
    /// The next run stores the report.
    pub(super) heals: bool,
    /// Least time between two calls of Graph.
    pub(super) pause: Duration,
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        attempts: &[&'static str],
        graph_calls: usize,
        prepare: Prepare,
    ) -> Self {
        Self {
            name: name.into(),
            prepare,
            settings: Vec::new(),
            attempts: attempts.to_vec(),
            graph_calls,
            alone: false,
            heals: true,
            pause: Duration::ZERO,
        }
    }

    /// The same fault at each request to a host.
    pub(super) fn always(
        host: Host,
        name: &str,
        kind: FaultKind,
        attempts: &[&'static str],
        graph_calls: usize,
    ) -> Self {
        Self::new(name, attempts, graph_calls, Box::new(move |_, _| vec![Fault::always(host, kind.clone())]))
    }

    /// The fault at the first requests only.
    pub(super) fn times(
        n: u32,
        host: Host,
        name: &str,
        kind: FaultKind,
        attempts: &[&'static str],
        graph_calls: usize,
    ) -> Self {
        Self::new(name, attempts, graph_calls, Box::new(move |_, _| vec![Fault::times(n, host, kind.clone())]))
    }

    /// Other bytes, made of the proper ones.
    pub(super) fn body(
        name: &str,
        attempt: &'static str,
        change: impl Fn(&mut Vec<String>) + Send + Sync + 'static,
    ) -> Self {
        let prepare = move |sim: &Sim, tenant| {
            let bytes = sim.csv(tenant, HIT);
            let mut lines: Vec<String> =
                std::str::from_utf8(&bytes).expect("text").lines().map(str::to_owned).collect();
            change(&mut lines);
            let mut body = lines.join("\r\n");
            body.push_str("\r\n");
            vec![Fault::always(Host::Download, FaultKind::body(body))]
        };
        Self::new(name, &[attempt], 1, Box::new(prepare))
    }

    pub(super) fn set(mut self, setting: &'static str, value: &'static str) -> Self {
        self.settings.push((setting, value));
        self
    }

    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    pub(super) fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(super) fn lasting(mut self) -> Self {
        self.heals = false;
        self
    }

    pub(super) fn last(&self) -> (&'static str, Option<&'static str>) {
        let last = self.attempts.last().expect("at least one attempt");
        last.split_once('/').map_or((last, None), |(outcome, class)| (outcome, Some(class)))
    }

    pub(super) fn exit_code(&self) -> i32 {
        match self.last() {
            ("stored" | "empty", _) => 0,
            (_, Some("connection" | "timeout" | "tls" | "graph_5xx")) if self.alone => 69,
            _ => 1,
        }
    }

    pub(super) async fn run(&self, db: &TestDb, tenant: TenantConfig) {
        let id = tenant.id;
        let sim = Sim::start(Config { tenants: vec![tenant], ..Config::one_tenant().without_throttle() });
        let sim = sim.expect("ports are free");
        for fault in (self.prepare)(&sim, id) {
            // A request for a token is not about a period, and nobody knows whose report a made-up link is.
            sim.inject(if self.alone { fault } else { fault.period(HIT) });
        }
        let mut setup = Setup::new(&db.url, &sim);
        for (setting, value) in &self.settings {
            setup = setup.set(setting, value);
        }
        let alone = ["once", "--json", "--period", "D30"];
        let with_others = ["once", "--json", "--period", "D90", "--period", "D30", "--period", "D7"];
        let ran = setup.run(if self.alone { &alone } else { &with_others }).await;

        let name = &self.name;
        let shown = format!("{name}: {ran:#?}");
        assert_eq!(self.of_hit(db, id).await, self.attempts, "{shown}");
        assert_eq!(ran.code, Some(self.exit_code()), "{shown}");
        let (outcome, class) = self.last();
        let json = ran.json();
        for line in json["targets"].as_array().expect("lines") {
            let is_hit = line["period"] == "D30";
            assert_eq!(line["outcome"], if is_hit { outcome } else { STORED }, "{shown}");
            assert_eq!(line["error_class"].as_str(), if is_hit { class } else { None }, "{shown}");
        }
        let calls = sim.requests().iter().filter(|call| call.host == Host::Graph && call.period == Some(HIT)).count();
        assert_eq!(calls, self.graph_calls, "{shown}");
        self.assert_pauses(&sim, &shown);
        assert_eq!(sim.authorization_leaks(), 0, "{shown}");
        self.assert_quarantine(db, &sim, id, &shown).await;
        assert_eq!(class.is_none(), self.assert_stored(db, &sim, id, &shown).await, "{shown}");
        if !self.alone {
            for period in [Period::D7, Period::D90] {
                let stored = stored_rows(&db.pool, id, period, sim.refresh_date()).await;
                assert_eq!(stored, sim.expected_rows(id, period), "{period} of {shown}");
            }
        }
        if self.heals && class.is_some() {
            sim.clear_faults();
            let again = setup.run(&alone).await.ends(0);
            assert!(self.assert_stored(db, &sim, id, &shown).await, "{name}, then: {again:#?}");
        }
    }

    pub(super) async fn of_hit(&self, db: &TestDb, tenant: Uuid) -> Vec<String> {
        let sql = "SELECT outcome || coalesce('/' || error_class, '') FROM m365_store.attempt";
        column(&db.pool, &format!("{sql} WHERE tenant_id = '{tenant}' AND report_period = 30 ORDER BY started_at"))
            .await
    }

    pub(super) fn assert_pauses(&self, sim: &Sim, shown: &str) {
        let calls: Vec<_> = sim.requests().into_iter().filter(|call| call.host == Host::Graph).collect();
        let at: Vec<_> = calls.iter().filter(|call| call.period == Some(HIT)).map(|call| call.at).collect();
        let pause = TimeDelta::from_std(self.pause).expect("short");
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= pause), "too early: {at:?} of {shown}");
        if let ([first, ..], false) = (at.as_slice(), pause.is_zero()) {
            // What Microsoft wants holds for all of the tenant's calls.
            let early = calls.iter().filter(|call| call.at > *first && call.at < *first + pause).count();
            assert_eq!(early, 0, "{shown}");
        }
    }

    /// A body is kept where it was refused as a body, and only there.
    pub(super) async fn assert_quarantine(&self, db: &TestDb, sim: &Sim, tenant: Uuid, shown: &str) {
        let refused = self.attempts.iter().filter_map(|attempt| attempt.strip_prefix("rejected/"));
        let refused: Vec<_> = refused.collect();
        let of_tenant = format!("FROM m365_store.quarantine WHERE tenant_id = '{tenant}'");
        let kept = column(&db.pool, &format!("SELECT error_class {of_tenant} AND octet_length(body) <= 262144")).await;
        assert_eq!(kept, refused, "{shown}");
        for body in column(&db.pool, &format!("SELECT encode(body, 'escape') {of_tenant}")).await {
            assert!(!body.is_empty(), "{shown}");
            assert!(sim.secrets().iter().all(|secret| !body.contains(secret)), "a secret in {body}: {shown}");
            assert!(!body.contains("canary"), "{body}: {shown}");
        }
    }

    /// Whether the report that was hit is stored: whole, or not at all.
    pub(super) async fn assert_stored(&self, db: &TestDb, sim: &Sim, tenant: Uuid, shown: &str) -> bool {
        let of_hit = format!("WHERE tenant_id = '{tenant}' AND report_period = 30");
        let ledger = count(&db.pool, &format!("SELECT count(*) FROM m365_store.snapshot {of_hit}")).await;
        let facts = "SELECT count(*) FROM m365_store.office365_active_user_counts";
        let facts = count(&db.pool, &format!("{facts} {of_hit}")).await;
        if ledger == 0 {
            assert_eq!(facts, 0, "{shown}");
            return false;
        }
        assert_eq!((ledger, facts), (1, 30), "{shown}");
        let stored = stored_rows(&db.pool, tenant, HIT, sim.refresh_date()).await;
        assert_eq!(stored, sim.expected_rows(tenant, HIT), "{shown}");
        true
    }
}

/// Runs them all in one database, each with a tenant and a stand-in of its own.
pub(super) async fn run(what: &str, cases: Vec<Case>) {
    let db = TestDb::new(what).await;
    let tenants = Config::many(u32::try_from(cases.len()).expect("few")).tenants;
    {
        let sim = Sim::start(Config::one_tenant()).expect("ports are free");
        Setup::new(&db.url, &sim).run(&["migrate"]).await.ends(0);
    }
    let db = Arc::new(db);
    let mut running = JoinSet::new();
    for (case, tenant) in cases.into_iter().zip(tenants) {
        if running.len() >= AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done.expect("a case");
        }
        let db = Arc::clone(&db);
        running.spawn(async move { case.run(&db, tenant).await });
    }
    while let Some(done) = running.join_next().await {
        done.expect("a case");
    }
    let sim = Sim::start(Config::one_tenant()).expect("ports are free");
    assert_verified(&Setup::new(&db.url, &sim), what).await;
}
