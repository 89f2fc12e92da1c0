//! `demo`: the whole system without a tenant. A stand-in plays Microsoft; everything else is real.

use std::process::ExitCode;

use crate::cli::DemoArgs;

#[cfg(not(feature = "demo"))]
#[expect(clippy::unused_async, reason = "the same shape as with the feature")]
pub async fn demo(_: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build carries no stand-in for Microsoft: `make demo`, or build with `--features demo`")
}

#[cfg(feature = "demo")]
pub async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    simulated::demo(args).await
}

#[cfg(feature = "demo")]
mod simulated {
    use std::{
        io::{IsTerminal, stdout},
        path::Path,
        process::ExitCode,
    };

    use chrono::{NaiveDate, TimeDelta};
    use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
    use graph_sim::{Config, Sim};
    use indicatif::ProgressBar;
    use tokio_util::sync::CancellationToken;

    use super::super::{
        run,
        service::{Database, Sources, Staffed},
        sparkline::{sparkline, weekly_averages},
    };
    use crate::{
        cli::DemoArgs,
        clock::Clock,
        config::{Settings, environment, load_from},
        daemon::lifecycle::Lifecycle,
        graph::Graph,
        ingest::Patience,
        store::{
            self, demo as demo_store,
            local::{LocalServer, Options},
            status::{self, Day, PRODUCTS},
        },
    };

    /// A folder of its own: invented figures never come near real ones.
    const DATA_DIR: &str = "./m365-ledger-demo";
    /// How far Microsoft's refresh date lags behind the day.
    const LAG: TimeDelta = TimeDelta::days(2);
    /// Days shown in the table.
    const SHOWN: usize = 14;

    pub async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
        let days = i64::from(args.days);
        let now = Clock::System.now();
        let begin = now - TimeDelta::days(days);
        let sim = Sim::start(Config::one_tenant().refresh_date((begin - LAG).date_naive()).without_throttle())?;
        let settings = settings(&sim, &args)?;
        let sources = Sources::new(&settings)?;

        println!("starting a stand-in for Microsoft at {} and a PostgreSQL in {DATA_DIR}", sim.graph_url());
        let server = LocalServer::start(Path::new(DATA_DIR), Options { durable: true, movable: true }).await?;
        let url = server.url();
        let pool = store::connect(&url, &settings.database)?;
        let database = Database { pool, url, local: Some(server) };
        demo_store::reset(&database.pool, graph_sim::TENANT_ID).await?;
        store::ensure_current(&database.url, true).await?;

        println!("living through {days} days of refreshes, each day all four periods");
        simulate(&settings, &sources, &sim, &database, Clock::simulated(begin), days).await?;
        show(&settings, &database).await?;

        let code = if stdout().is_terminal() {
            println!("The service runs on; Ctrl-C ends it.");
            let life = Lifecycle::install()?;
            let graph = Graph::new(&settings.graph, Clock::System)?;
            run::serve(&settings, &sources, graph, &database, &Clock::System, life).await.map(ExitCode::from)
        } else {
            Ok(ExitCode::SUCCESS)
        };
        database.close().await;
        sim.shutdown().await;
        code
    }

    fn settings(sim: &Sim, args: &DemoArgs) -> anyhow::Result<Settings> {
        let own = [
            ("GRAPH__BASE_URL", sim.graph_url()),
            ("GRAPH__LOGIN_URL", sim.login_url()),
            ("GRAPH__DOWNLOAD_HOSTS", "127.0.0.1".to_owned()),
            ("GRAPH__ALLOW_INSECURE_LOOPBACK", "true".to_owned()),
            ("TENANT__ID", graph_sim::TENANT_ID.to_string()),
            ("TENANT__NAME", "Contoso (simulated)".to_owned()),
            ("TENANT__CLIENT_ID", graph_sim::CLIENT_ID.to_owned()),
            ("TENANT__CLIENT_SECRET", graph_sim::CLIENT_SECRET.to_owned()),
            ("HTTP__LISTEN", args.listen.to_string()),
        ];
        // Of the real environment only what is about logging: a demo must never speak to a real tenant or database.
        let mut variables = environment();
        variables.retain(|name, _| name.starts_with("M365_LEDGER__LOG__"));
        variables.extend(own.into_iter().map(|(name, value)| (format!("M365_LEDGER__{name}"), value)));
        Ok(load_from(None, variables)?.settings)
    }

    /// The daemon's own looks, once a simulated day.
    async fn simulate(
        settings: &Settings,
        sources: &Sources,
        sim: &Sim,
        database: &Database,
        clock: Clock,
        days: i64,
    ) -> anyhow::Result<()> {
        sources.register(&database.pool, &clock).await?;
        let graph = Graph::new(&settings.graph, clock.clone())?;
        let patience = Patience::new(&settings.schedule, None);
        let stop = CancellationToken::new();
        let staff = Staffed::sign_on(settings, sources, graph, &database.pool, &clock, patience, stop).await?;
        let scheduler = sources.scheduler(settings, &database.pool, &clock);
        let bar = if stdout().is_terminal() {
            ProgressBar::new(u64::try_from(days).unwrap_or_default())
        } else {
            ProgressBar::hidden()
        };
        for _ in 0..days {
            clock.advance(TimeDelta::days(1));
            sim.advance_days(1);
            scheduler.catch_up(&staff.worker).await?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        staff.sign_off().await;
        Ok(())
    }

    async fn show(settings: &Settings, database: &Database) -> anyhow::Result<()> {
        let days = status::days(&database.pool, graph_sim::TENANT_ID, i32::from(i16::MAX)).await?;
        let totals = demo_store::totals(&database.pool).await?;
        println!("\nDaily active users of Contoso (simulated), the last {SHOWN} days held:\n");
        println!("{}", table(&days));
        println!("  ~ may still change: Microsoft revises the last days.  - no value, which is not zero.\n");
        if let (Some(first), Some(last)) = (days.first(), days.last()) {
            println!("All {} days held, {} to {}:\n", days.len(), first.report_date, last.report_date);
            for (number, (_, name)) in PRODUCTS.iter().enumerate() {
                let values: Vec<_> = days.iter().map(|day| day.figures()[number]).collect();
                println!("  {name:<11} {}", sparkline(&weekly_averages(&values)));
            }
        }
        println!(
            "\n{} snapshots, {} rows kept; {} figures were revised by Microsoft after their first report.",
            totals.snapshots, totals.facts, totals.revisions
        );
        if let Some(server) = &database.local {
            println!("\nLook into it:   {}", server.psql_hint());
            println!("  for example   SELECT * FROM m365_v1.active_users_daily ORDER BY report_date DESC LIMIT 7;");
        }
        println!("Status page:    http://{}/  (while the service runs)", settings.http.listen);
        Ok(())
    }

    fn table(days: &[Day]) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["Day"].into_iter().chain(PRODUCTS.map(|(_, name)| name)));
        for number in 1..=PRODUCTS.len() {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for day in days.iter().rev().take(SHOWN).rev() {
            let mark = if day.is_final { "" } else { " ~" };
            let date: NaiveDate = day.report_date;
            let mut cells = vec![format!("{} {}{mark}", date.format("%a"), date)];
            cells.extend(day.figures().map(|value| value.map_or_else(|| "-".to_owned(), |value| value.to_string())));
            table.add_row(cells);
        }
        table
    }
}
