//! Parse, run, exit code: everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use m365_ledger::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("m365-ledger: the TLS provider is installed already");
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::execute(cli)),
        Err(error) => {
            eprintln!("m365-ledger: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
