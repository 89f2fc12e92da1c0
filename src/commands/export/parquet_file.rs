//! Parquet: the types of the view, Snappy, row groups small enough to be held in memory.

use std::{io::Write, sync::Arc};

use chrono::NaiveDate;
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::Type,
};

use super::Sink;
use crate::store::export::{Column, Kind, Value};

/// Rows held until they are written: a few megabytes.
const GROUP: usize = 50_000;

/// A Parquet file in the making.
pub struct ParquetFile<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<(Kind, Vec<Value>)>,
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins with the schema.
    pub fn new(out: W, view: &str, columns: &[Column]) -> anyhow::Result<Self> {
        let fields = columns.iter().map(|column| Ok(Arc::new(field(column)?))).collect::<Result<_, ParquetError>>()?;
        let schema = Type::group_type_builder(view).with_fields(fields).build()?;
        let source = KeyValue::new("m365_ledger.view".to_owned(), format!("m365_v1.{view}"));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("m365-ledger ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![source]))
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        Ok(Self { writer, columns: columns.iter().map(|column| (column.kind, Vec::new())).collect() })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for (kind, values) in &mut self.columns {
            let values = std::mem::take(values);
            match kind {
                Kind::Text => write::<ByteArrayType, _>(&mut group, values, |value| match value {
                    Value::Text(text) => Some(ByteArray::from(text.into_bytes())),
                    _ => None,
                })?,
                Kind::Date => write::<Int32Type, _>(&mut group, values, |value| match value {
                    Value::Date(date) => Some(days(date)),
                    _ => None,
                })?,
                Kind::Integer => write::<Int32Type, _>(&mut group, values, |value| match value {
                    Value::Whole(number) => i32::try_from(number).ok(),
                    _ => None,
                })?,
                Kind::Boolean => write::<BoolType, _>(&mut group, values, |value| match value {
                    Value::Boolean(truth) => Some(truth),
                    _ => None,
                })?,
                Kind::Time | Kind::Long | Kind::Hundredths => {
                    write::<Int64Type, _>(&mut group, values, |value| match value {
                        Value::Time(time) => Some(time.timestamp_micros()),
                        Value::Whole(number) | Value::Hundredths(number) => Some(number),
                        _ => None,
                    })?;
                }
            }
        }
        group.close()?;
        Ok(())
    }
}

impl<W: Write + Send> Sink for ParquetFile<W> {
    fn row(&mut self, row: Vec<Value>) -> anyhow::Result<()> {
        for ((_, values), value) in self.columns.iter_mut().zip(row) {
            values.push(value);
        }
        if self.columns.first().is_some_and(|(_, values)| values.len() >= GROUP) {
            self.write_group()?;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> anyhow::Result<()> {
        if self.columns.first().is_some_and(|(_, values)| !values.is_empty()) {
            self.write_group()?;
        }
        self.writer.finish()?;
        Ok(self.writer.inner_mut().flush()?)
    }
}

fn days(date: NaiveDate) -> i32 {
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).unwrap_or(i32::MAX)
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Date => (Physical::INT32, Some(LogicalType::Date)),
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        Kind::Long => (Physical::INT64, None),
        Kind::Integer => (Physical::INT32, None),
        Kind::Hundredths => (Physical::INT64, Some(LogicalType::decimal(2, 12))),
        Kind::Boolean => (Physical::BOOLEAN, None),
    };
    let mut field = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    if column.kind == Kind::Hundredths {
        field = field.with_precision(12).with_scale(2);
    }
    field.build()
}

/// One column of a row group; what `plain` gives nothing for is null.
fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Vec<Value>,
    plain: impl Fn(Value) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let mut levels = Vec::with_capacity(values.len());
    let mut known = Vec::with_capacity(values.len());
    for value in values {
        let value = plain(value);
        levels.push(i16::from(value.is_some()));
        known.extend(value);
    }
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("the file has fewer columns than the view".to_owned()));
    };
    column.typed::<T>().write_batch(&known, Some(&levels), None)?;
    column.close()
}
