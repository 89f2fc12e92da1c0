//! The stand-in as a process of its own; its levers are then below `/_sim/` of the Graph origin.

use std::{
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDate;
use clap::Parser;
use graph_sim::{Config, Sim};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for Microsoft's login, Graph and report download hosts.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// How many tenants there are.
    #[arg(long, default_value_t = 1)]
    tenants: u32,
    /// The ports of the three hosts; 0 takes any free one.
    #[arg(long, value_name = "LOGIN,GRAPH,DOWNLOAD", value_delimiter = ',', num_args = 1, default_value = "0,0,0")]
    ports: Vec<u16>,
    /// The refresh date served at first; two days ago if absent.
    #[arg(long, value_name = "YYYY-MM-DD")]
    refresh_date: Option<NaiveDate>,
    /// How many users every tenant has.
    #[arg(long)]
    users: Option<u64>,
    /// Serve https, with a CA of its own.
    #[arg(long)]
    tls: bool,
    /// Where to write the CA's certificate.
    #[arg(long, value_name = "PATH", requires = "tls")]
    ca_file: Option<PathBuf>,
    /// Do not limit the calls of a report.
    #[arg(long)]
    no_throttle: bool,
    /// Wait so long before each answer.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// The address to listen on; 0.0.0.0 in containers.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The host name by which clients reach it.
    #[arg(long, value_name = "NAME")]
    public_host: Option<String>,
    /// Where to write the environment that points the ledger here; `-` is standard output.
    #[arg(long, value_name = "PATH", default_value = "-")]
    env_file: PathBuf,
    /// Where to write a settings file with every tenant.
    #[arg(long, value_name = "PATH")]
    config_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let cli = Cli::parse();
    let sim = Sim::start(config(&cli)?)?;
    if let (Some(path), Some(pem)) = (&cli.ca_file, sim.ca_pem()) {
        write(path, pem)?;
    }
    if let Some(path) = &cli.config_file {
        write(path, &settings(&sim, cli.ca_file.as_deref()))?;
    }
    write(&cli.env_file, &environment(&sim, cli.ca_file.as_deref()))?;

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    sim.shutdown().await;
    Ok(())
}

fn config(cli: &Cli) -> io::Result<Config> {
    let ports: [u16; 3] = cli
        .ports
        .clone()
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "--ports takes three, as in 8081,8082,8083"))?;
    let mut config = Config::many(cli.tenants).ports(ports).latency(Duration::from_millis(cli.latency_ms));
    config.tls = cli.tls;
    config.listen = cli.listen;
    config.public_host.clone_from(&cli.public_host);
    if let Some(date) = cli.refresh_date {
        config = config.refresh_date(date);
    }
    if let Some(users) = cli.users {
        config = config.users(users);
    }
    Ok(if cli.no_throttle { config.without_throttle() } else { config })
}

/// The settings of `[graph]` that are texts.
fn graph_settings(sim: &Sim, ca_file: Option<&Path>) -> Vec<(&'static str, String)> {
    let mut settings = vec![("base_url", sim.graph_url()), ("login_url", sim.login_url())];
    if let Some(path) = ca_file {
        settings.push(("extra_ca_file", path.display().to_string()));
    }
    settings
}

fn download_host(sim: &Sim) -> String {
    let url = sim.download_url();
    let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned()
}

fn environment(sim: &Sim, ca_file: Option<&Path>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "M365_LEDGER__{name}={value}");
    };
    for (name, value) in graph_settings(sim, ca_file) {
        line(&format!("GRAPH__{}", name.to_uppercase()), &value);
    }
    line("GRAPH__DOWNLOAD_HOSTS", &download_host(sim));
    line("GRAPH__ALLOW_INSECURE_LOOPBACK", "true");
    if let Some(tenant) = sim.config().tenants.first() {
        line("TENANT__ID", &tenant.id.to_string());
        line("TENANT__CLIENT_ID", &tenant.client_id);
        line("TENANT__CLIENT_SECRET", &tenant.client_secret);
    }
    text
}

fn settings(sim: &Sim, ca_file: Option<&Path>) -> String {
    let mut text = "[graph]\n".to_owned();
    for (name, value) in graph_settings(sim, ca_file) {
        let _ = writeln!(text, "{name} = {value:?}");
    }
    let _ = writeln!(text, "download_hosts = [{:?}]\nallow_insecure_loopback = true", download_host(sim));
    for (number, tenant) in sim.config().tenants.iter().enumerate() {
        let _ = writeln!(
            text,
            "\n[[tenants]]\nid = \"{}\"\nname = \"Tenant {number}\"\nclient_id = {:?}\nclient_secret = {:?}",
            tenant.id, tenant.client_id, tenant.client_secret
        );
    }
    text
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if path == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    fs::write(path, text)
}
