//! The program as a person runs it: the real binary against the stand-in for Microsoft and a real PostgreSQL.

mod bi;
mod columns;
mod commands;
mod crash;
mod credentials;
mod downtime;
mod export;
mod faults;
mod history;
mod lifecycle;
mod local_postgres;
mod once;
mod pooler;
mod questions;
mod replicas;
mod restore;
mod rig;
mod secrets;
mod service;
mod superset;
mod support;
mod systemd;
mod tenants;
mod throttling;
mod tls;
