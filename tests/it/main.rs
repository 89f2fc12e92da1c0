//! The program as a person runs it: the real binary against the stand-in for Microsoft and a real PostgreSQL.

mod columns;
mod commands;
mod downtime;
mod history;
mod local_postgres;
mod once;
mod restore;
mod service;
mod support;
mod systemd;
mod tenants;
mod throttling;
mod tls;
