//! Keeps it going: wake-ups, workers, and an orderly end.

pub mod scheduler;
pub mod worker;
