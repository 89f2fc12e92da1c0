//! What this program says of itself while it runs: log lines and metrics. Knows only the ground floor.

pub mod json;
pub mod logs;
pub mod metrics;
mod scrub;
pub mod targets;

pub use scrub::scrub;
