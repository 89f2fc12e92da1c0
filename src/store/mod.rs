//! Everything Postgres. SQL lives in this room and nowhere else; a function is one statement, named for what it does.
//!
//! Other programs read the views of schema `m365_v1`; schema `m365_store` is ours alone.

mod attempts;
mod connect;
#[cfg(test)]
mod contract;
mod copy;
#[cfg(feature = "demo")]
pub mod demo;
mod error;
pub mod export;
mod group;
pub mod local;
mod migrate;
mod purge;
mod rows;
pub mod slots;
mod snapshots;
pub mod status;
pub mod targets;
pub mod verify;

pub use attempts::{Finished, QUARANTINE_BYTES, Receipt, Served, Unstored};
pub use connect::connect;
pub use error::StoreError;
pub use group::{Committer, Pending};
pub use migrate::{MIGRATOR, SchemaState, ensure_current, migrate, schema_state};
pub use purge::purge;
