//! The program as it is shipped, against a stateful stand-in for Microsoft and a real PostgreSQL.

mod crash;
mod faults;
mod lifecycle;
mod replicas;
mod rig;
mod secrets;
