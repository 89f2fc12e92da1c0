//! Rows in the binary format of `COPY` (<https://www.postgresql.org/docs/current/sql-copy.html>): the fastest way in.

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Rows being written down for `COPY ... FROM STDIN (FORMAT binary)`. Every field is a 4-byte length and its bytes.
pub(super) struct CopyRows {
    bytes: Vec<u8>,
    fields: i16,
}

impl CopyRows {
    /// For rows of that many columns.
    pub(super) fn new(fields: i16) -> Self {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        Self { bytes, fields }
    }

    /// Begins a row; its fields follow in order.
    pub(super) fn row(&mut self) -> &mut Self {
        self.bytes.extend(self.fields.to_be_bytes());
        self
    }

    fn field<const N: usize>(&mut self, bytes: [u8; N]) -> &mut Self {
        let length = i32::try_from(N).unwrap_or(i32::MAX);
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(bytes);
        self
    }

    pub(super) fn null(&mut self) -> &mut Self {
        self.bytes.extend((-1_i32).to_be_bytes());
        self
    }

    pub(super) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.field(value.into_bytes())
    }

    pub(super) fn smallint(&mut self, value: i16) -> &mut Self {
        self.field(value.to_be_bytes())
    }

    pub(super) fn bigint(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.field(value.to_be_bytes()),
            None => self.null(),
        }
    }

    /// Days since 2000-01-01.
    pub(super) fn date(&mut self, value: NaiveDate) -> &mut Self {
        let days = i32::try_from((value - EPOCH.date_naive()).num_days()).unwrap_or(i32::MAX);
        self.field(days.to_be_bytes())
    }

    /// Microseconds since 2000-01-01.
    pub(super) fn timestamptz(&mut self, value: DateTime<Utc>) -> &mut Self {
        let micros = (value - EPOCH).num_microseconds().unwrap_or(i64::MAX);
        self.field(micros.to_be_bytes())
    }

    /// JSON text behind the version byte of `jsonb`.
    pub(super) fn jsonb(&mut self, value: Option<&str>) -> &mut Self {
        let Some(value) = value else { return self.null() };
        let length = i32::try_from(value.len() + 1).unwrap_or(i32::MAX);
        self.bytes.extend(length.to_be_bytes());
        self.bytes.push(1);
        self.bytes.extend(value.as_bytes());
        self
    }

    /// The whole, with its end mark.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend((-1_i16).to_be_bytes());
        self.bytes
    }
}

/// Where Postgres counts days and microseconds from.
const EPOCH: DateTime<Utc> = match DateTime::from_timestamp(946_684_800, 0) {
    Some(epoch) => epoch,
    None => DateTime::<Utc>::UNIX_EPOCH,
};
