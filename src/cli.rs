//! The commands and their flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::report::Period;

/// Keeps the history of Microsoft 365 usage reports in your own Postgres, for ever.
#[derive(Debug, Parser)]
#[command(
    name = "m365-ledger",
    version,
    arg_required_else_help = true,
    after_help = "Settings come from built-in defaults, then --config FILE, then the environment (M365_LEDGER__SECTION__KEY,\n\
                  DATABASE_URL). Without a database the program runs a PostgreSQL of its own.\n\n\
                  Exit codes: 0 done, 1 some targets failed or a check found something, 2 wrong usage,\n\
                  69 Postgres or Microsoft cannot be reached, 78 the configuration or the schema does not fit,\n\
                  130 and 143 a second SIGINT or SIGTERM.\n\n\
                  Examples:\n  \
                  m365-ledger doctor                 is everything in place?\n  \
                  m365-ledger once                   fetch every report now, once\n  \
                  m365-ledger run --config c.toml    the service\n  \
                  m365-ledger status                 what is held, and how fresh it is"
)]
pub struct Cli {
    /// A TOML file with settings; docs/configuration.md has all of them, `config show` those in force.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: fetch on schedule, until stopped.
    ///
    /// Health, metrics and the status page are at <http://127.0.0.1:8365/> unless http.listen says otherwise. The first
    /// SIGTERM or Ctrl-C lets what is in flight be written, the second ends the program at once.
    #[command(
        after_help = "Examples:\n  m365-ledger run\n  m365-ledger run --config /etc/m365-ledger.toml --no-migrate"
    )]
    Run {
        /// Do not apply pending migrations; refuse to start while there are any.
        #[arg(long)]
        no_migrate: bool,
    },
    /// Fetch every target now, once, and say what came of it.
    ///
    /// A target is a tenant, a report and a period (D7, D30, D90 or D180).
    #[command(after_help = "Examples:\n  m365-ledger once\n  m365-ledger once --period D7 --period D30\n  \
                            m365-ledger once --tenant Contoso --json | jq .totals")]
    Once(OnceArgs),
    /// Fetch the longest period of every report now: all that Microsoft still remembers.
    ///
    /// With all periods configured, the same as `once --period D180`. The service does it by itself at its first start and
    /// after an outage.
    #[command(after_help = "Examples:\n  m365-ledger backfill\n  m365-ledger backfill --tenant Contoso")]
    Backfill(OnceArgs),
    /// Show what is held and how fresh it is.
    ///
    /// Each tenant with the trend of every product, one mark a week; of the first ten tenants by name.
    #[command(after_help = "Examples:\n  m365-ledger status\n  m365-ledger status --watch 5\n  \
                            m365-ledger status --json | jq '.targets[] | select(.state != \"ok\")'")]
    Status {
        /// One JSON document on stdout.
        #[arg(long)]
        json: bool,
        /// Show it anew every so many seconds, until Ctrl-C.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10", conflicts_with = "json",
              value_parser = clap::value_parser!(u16).range(1..=3600))]
        watch: Option<u16>,
    },
    /// Write a view of the contract to a file, as CSV or Parquet.
    ///
    /// Reads only, row by row, and needs no more memory for more rows. In CSV, text that a spreadsheet would take for a
    /// formula gets a leading apostrophe, and what is unknown is empty. docs/data-model.md lists the views.
    #[command(after_help = "Examples:\n  m365-ledger export --view active_users_daily > daily.csv\n  \
                            m365-ledger export --view active_users_daily_long --tenant Contoso --output long.csv\n  \
                            m365-ledger export --view active_users_snapshots --format parquet --output all.parquet")]
    Export(ExportArgs),
    /// Check what is stored against the ledger: nothing lost, nothing mixed, nothing doubled.
    ///
    /// Changes no figure. Exit code 1 means that something is violated; notes alone leave it at 0.
    #[command(after_help = "Examples:\n  m365-ledger verify\n  m365-ledger verify --json | jq .violations")]
    Verify {
        /// One JSON document on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration, the database, the sign-in and the permission, without storing anything.
    ///
    /// Signs in to the first 20 tenants and downloads one report of each. Says what to do where the way is blocked.
    #[command(after_help = "Examples:\n  m365-ledger doctor\n  m365-ledger doctor --config c.toml --json")]
    Doctor {
        /// One JSON document on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Bring the database's schema up to date.
    #[command(after_help = "Examples:\n  m365-ledger migrate\n  \
                            DATABASE_URL=postgres://owner@db.example.com/m365 m365-ledger migrate")]
    Migrate,
    /// Ask the running service whether it lives (http.listen); for containers.
    #[command(after_help = "Examples:\n  m365-ledger healthcheck\n  \
                            M365_LEDGER__HTTP__LISTEN=127.0.0.1:9000 m365-ledger healthcheck")]
    Healthcheck,
    /// Show or check the settings.
    #[command(after_help = "Examples:\n  m365-ledger config show\n  m365-ledger config check --config c.toml")]
    Config {
        /// What to do with them.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Show the whole system without a tenant: a stand-in for Microsoft, simulated days, a real PostgreSQL.
    ///
    /// Its data goes to ./m365-ledger-demo and is renewed each time. No setting of a real tenant or database is used. On
    /// a terminal the service runs on until Ctrl-C; otherwise the program ends. Only in builds with `--features demo`.
    #[command(after_help = "Examples:\n  m365-ledger demo\n  m365-ledger demo --days 200 --listen 127.0.0.1:9000")]
    Demo(DemoArgs),
}

/// What to do with the settings.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigAction {
    /// Print every setting in force and where it came from; secrets as ***.
    #[command(after_help = "Examples:\n  m365-ledger config show\n  m365-ledger config show | grep environment")]
    Show,
    /// Check that the settings are complete; needs neither network nor database.
    #[command(after_help = "Examples:\n  m365-ledger config check\n  m365-ledger config check --config c.toml")]
    Check,
}

/// Which targets, and how to tell.
#[derive(Debug, Args)]
pub struct OnceArgs {
    /// Only this tenant, by ID or name; repeatable.
    #[arg(long, value_name = "ID|NAME")]
    pub tenant: Vec<String>,
    /// Only this report; repeatable.
    #[arg(long, value_name = "NAME")]
    pub report: Vec<String>,
    /// Only this period (D7, D30, D90, D180); repeatable.
    #[arg(long, value_name = "PERIOD")]
    pub period: Vec<Period>,
    /// One JSON document on stdout; logs go to stderr.
    #[arg(long)]
    pub json: bool,
    /// Do not apply pending migrations.
    #[arg(long)]
    pub no_migrate: bool,
}

/// What is exported, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The view.
    #[arg(long, value_name = "VIEW")]
    pub view: String,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub format: ExportFormat,
    /// Only this tenant, by ID or name.
    #[arg(long, value_name = "ID|NAME")]
    pub tenant: Option<String>,
    /// The file, replaced when all of it is written; stdout without.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Formats of `export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Text with commas, for spreadsheets.
    Csv,
    /// Columns with types, for notebooks and data lakes.
    Parquet,
}

/// How the demonstration runs.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Simulated days of refreshes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=720))]
    pub days: u16,
    /// Where the status page listens.
    #[arg(long, default_value = "127.0.0.1:8365")]
    pub listen: std::net::SocketAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
