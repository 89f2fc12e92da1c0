//! Tests of the schema `m365_v1`: that it stays what it was, and that its trends say what they should.

mod golden;
mod trends;
