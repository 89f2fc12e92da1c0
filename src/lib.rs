//! `m365-ledger` keeps every usage figure Microsoft 365 ever reported, in your own Postgres.
//!
//! The rooms, from the ground up: [`report`], [`config`], [`clock`], [`outcome`] and [`telemetry`] know nothing of the
//! others; [`graph`] (everything Microsoft), [`store`] (everything Postgres) and [`plan`] stand on them and do not know
//! each other; [`ingest`] is the way of the data from one to the other, and [`csv_file`] how it leaves for a spreadsheet; [`daemon`] and [`http`] keep it going and show it;
//! [`commands`] is what a person calls. No room uses one above it.

pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod csv_file;
pub mod daemon;
pub mod graph;
pub mod http;
pub mod ingest;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod store;
pub mod telemetry;
