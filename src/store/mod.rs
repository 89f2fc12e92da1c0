//! Everything Postgres. SQL lives in this room and nowhere else; each function is one statement, named for what it does.
pub mod status;
pub mod verify;
