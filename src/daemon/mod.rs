//! What keeps the program going until it is told to stop.

pub mod lifecycle;
