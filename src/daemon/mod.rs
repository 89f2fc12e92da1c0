//! Keeps it going: wake-ups, workers, and an orderly end.

pub mod asked;
pub mod credentials;
pub mod lifecycle;
pub mod scheduler;
pub mod systemd;
pub mod worker;
