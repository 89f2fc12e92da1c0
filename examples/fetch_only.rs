//! Token, call and download for every target, and nothing else: nothing is parsed and nothing is stored. What `make bench`
//! measures `m365-ledger once` against.
//!
//!     cargo run --release --example fetch_only -- config.toml

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, ensure};
use m365_ledger::{
    clock::Clock,
    config,
    graph::{Fetched, Graph, Trace},
};
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let path: PathBuf = std::env::args_os().nth(1).context("which configuration file?")?.into();
    ensure!(rustls::crypto::ring::default_provider().install_default().is_ok(), "the TLS provider is there already");
    let settings = config::load(Some(&path))?.settings;
    let graph = Arc::new(Graph::new(&settings.graph, Clock::System)?);
    let places = Arc::new(Semaphore::new(settings.graph.parallel_tenants.get()));
    let reports = Arc::new(settings.reports()?);

    let mut tenants = JoinSet::new();
    for tenant in settings.tenants()? {
        let (graph, places, reports) = (graph.clone(), places.clone(), reports.clone());
        tenants.spawn(async move {
            let _place = places.acquire().await?;
            let mut bytes = 0;
            for report in reports.iter() {
                for &period in &report.periods {
                    let mut trace = Trace::new(Uuid::new_v4());
                    if let Fetched::Body(body) = graph.fetch(&tenant, &report.function, period, &mut trace).await? {
                        bytes += body.bytes.len();
                    }
                }
            }
            anyhow::Ok(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(done) = tenants.join_next().await {
        bytes += done??;
    }
    println!("{bytes} bytes");
    Ok(ExitCode::SUCCESS)
}
