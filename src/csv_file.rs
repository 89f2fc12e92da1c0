//! CSV by RFC 4180: a header, CRLF, dates and times by ISO 8601, nothing where there is no figure, and nothing that a
//! spreadsheet would run.

use std::io::Write;

use chrono::SecondsFormat;
use csv::{Terminator, Writer, WriterBuilder};

use crate::store::export::Value;

/// A CSV file in the making.
pub struct CsvFile<W: Write> {
    writer: Writer<W>,
}

impl<W: Write> CsvFile<W> {
    /// Begins with the header.
    pub fn new(out: W, columns: &[&str]) -> csv::Result<Self> {
        let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        writer.write_record(columns.iter().map(|name| guarded((*name).to_owned())))?;
        Ok(Self { writer })
    }

    /// One row, with as many cells as there are columns.
    pub fn row(&mut self, row: impl IntoIterator<Item = Value>) -> csv::Result<()> {
        self.writer.write_record(row.into_iter().map(cell))
    }

    /// After the last row; gives back where it was written to.
    pub fn end(self) -> csv::Result<W> {
        self.writer.into_inner().map_err(|error| error.into_error().into())
    }
}

fn cell(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Text(text) => guarded(text),
        Value::Date(date) => date.to_string(),
        Value::Time(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        Value::Whole(number) => number.to_string(),
        Value::Hundredths(number) => {
            let (sign, size) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
            format!("{sign}{}.{:02}", size / 100, size % 100)
        }
        Value::Boolean(truth) => truth.to_string(),
    }
}

/// Excel and others run text that begins like a formula, also out of a CSV file. An apostrophe keeps it text.
fn guarded(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};

    use super::*;

    #[test]
    fn text_that_looks_like_a_formula_stays_text() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"] {
            assert_eq!(guarded(text.to_owned()), format!("'{text}"));
        }
        for text in ["", "Contoso", "a=1", " =1"] {
            assert_eq!(guarded(text.to_owned()), text);
        }
    }

    #[test]
    fn cells_are_written_as_rfc_4180_says() {
        let mut out = Vec::new();
        let mut file = CsvFile::new(&mut out, &["a", "b", "c", "d", "e", "f", "g"]).unwrap();
        file.row([
            Value::Text("Contoso, \"Ltd\"\r\n".to_owned()),
            Value::Date(NaiveDate::from_ymd_opt(2026, 1, 5).unwrap()),
            Value::Time(DateTime::from_timestamp(1_767_571_200, 0).unwrap()),
            Value::Null,
            Value::Hundredths(-1_205),
            Value::Boolean(true),
            Value::Whole(-7),
        ])
        .unwrap();
        file.end().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a,b,c,d,e,f,g\r\n\"Contoso, \"\"Ltd\"\"\r\n\",2026-01-05,2026-01-05T00:00:00Z,,-12.05,true,-7\r\n"
        );
    }
}
