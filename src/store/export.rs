//! Whole views of the contract, row by row, for files.

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgRow},
};

/// What a column holds. The contract has no other types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A day.
    Date,
    /// A point in time.
    Time,
    /// A whole number of up to 64 bits.
    Long,
    /// A whole number of up to 32 bits.
    Integer,
    /// `numeric(12,2)`, as hundredths.
    Hundredths,
    /// True or false.
    Boolean,
}

/// A column of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// A figure, a date or a word of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Null.
    Null,
    /// Text.
    Text(String),
    /// A day.
    Date(NaiveDate),
    /// A point in time.
    Time(DateTime<Utc>),
    /// Of either length.
    Whole(i64),
    /// Hundredths.
    Hundredths(i64),
    /// True or false.
    Boolean(bool),
}

/// A tenant, as far as it takes to choose one.
#[derive(Debug)]
pub struct Named {
    /// Its directory id.
    pub tenant_id: String,
    /// Its name.
    pub tenant_name: String,
}

/// Lets connections opened from now on take their time: a whole view is no slow statement to be warned of.
pub fn expect_long_statements(pool: &PgPool) {
    let options = PgConnectOptions::clone(&pool.connect_options());
    pool.set_connect_options(options.disable_statement_logging());
}

/// The views there are, by name.
pub async fn views(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT viewname::text AS "name!" FROM pg_views WHERE schemaname = 'm365_v1' ORDER BY viewname"#
    )
    .fetch_all(pool)
    .await
}

/// The tenants there are, by name.
pub async fn tenants(pool: &PgPool) -> Result<Vec<Named>, sqlx::Error> {
    sqlx::query_as!(
        Named,
        r#"SELECT tenant_id AS "tenant_id!", tenant_name AS "tenant_name!" FROM m365_v1.tenants ORDER BY 2, 1"#
    )
    .fetch_all(pool)
    .await
}

/// A view's columns in their order.
pub async fn columns(pool: &PgPool, view: &str) -> Result<Vec<Column>, sqlx::Error> {
    let columns = sqlx::query!(
        r#"SELECT column_name::text AS "name!", data_type::text AS "data_type!" FROM information_schema.columns
           WHERE table_schema = 'm365_v1' AND table_name = $1 ORDER BY ordinal_position"#,
        view
    )
    .fetch_all(pool)
    .await?;
    let kind = |data_type: &str| match data_type {
        "date" => Kind::Date,
        "timestamp with time zone" => Kind::Time,
        "bigint" => Kind::Long,
        "integer" | "smallint" => Kind::Integer,
        "numeric" => Kind::Hundredths,
        "boolean" => Kind::Boolean,
        _ => Kind::Text,
    };
    Ok(columns.into_iter().map(|column| Column { kind: kind(&column.data_type), name: column.name }).collect())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Each column in the form in which it is read, in the order of the leading columns, which are the key.
fn statement(view: &str, columns: &[Column], of_one_tenant: bool) -> String {
    let read = |column: &Column| {
        let name = quoted(&column.name);
        match column.kind {
            Kind::Text => format!("{name}::text"),
            Kind::Date | Kind::Time | Kind::Boolean => name,
            Kind::Long | Kind::Integer => format!("{name}::bigint"),
            Kind::Hundredths => format!("({name} * 100)::bigint"),
        }
    };
    let order = |column: &Column| {
        let name = quoted(&column.name);
        if column.kind == Kind::Text { format!("v.{name} COLLATE \"C\"") } else { format!("v.{name}") }
    };
    let list =
        |each: &dyn Fn(&Column) -> String, columns: &[Column]| columns.iter().map(each).collect::<Vec<_>>().join(", ");
    let filter = if of_one_tenant { " WHERE tenant_id = $1" } else { "" };
    let key = &columns[..columns.len().min(4)];
    format!("SELECT {} FROM m365_v1.{} v{filter} ORDER BY {}", list(&read, columns), quoted(view), list(&order, key))
}

fn value(row: &PgRow, number: usize, kind: Kind) -> Result<Value, sqlx::Error> {
    let value = match kind {
        Kind::Text => row.try_get::<Option<_>, _>(number)?.map(Value::Text),
        Kind::Date => row.try_get::<Option<_>, _>(number)?.map(Value::Date),
        Kind::Time => row.try_get::<Option<_>, _>(number)?.map(Value::Time),
        Kind::Long | Kind::Integer => row.try_get::<Option<_>, _>(number)?.map(Value::Whole),
        Kind::Hundredths => row.try_get::<Option<_>, _>(number)?.map(Value::Hundredths),
        Kind::Boolean => row.try_get::<Option<_>, _>(number)?.map(Value::Boolean),
    };
    Ok(value.unwrap_or(Value::Null))
}

/// Why an export ended early.
#[derive(Debug)]
pub enum Stopped<E> {
    /// Postgres.
    Reading(sqlx::Error),
    /// Whoever took the rows.
    Writing(E),
}

/// Hands every row of a view to `take`, one at a time, from one read-only view of the data. `view` and `columns` are to
/// come from [`views`] and [`columns()`].
pub async fn rows<E>(
    pool: &PgPool,
    view: &str,
    columns: &[Column],
    tenant_id: Option<&str>,
    take: impl FnMut(Vec<Value>) -> Result<(), E>,
) -> Result<u64, Stopped<E>> {
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(Stopped::Reading)?;
    // As long as it takes: the reader of a pipe may be slow.
    sqlx::query!("SET LOCAL statement_timeout = 0").execute(&mut *tx).await.map_err(Stopped::Reading)?;
    let count = stream(&mut tx, view, columns, tenant_id, take).await?;
    tx.rollback().await.map_err(Stopped::Reading)?;
    Ok(count)
}

async fn stream<E>(
    connection: &mut PgConnection,
    view: &str,
    columns: &[Column],
    tenant_id: Option<&str>,
    mut take: impl FnMut(Vec<Value>) -> Result<(), E>,
) -> Result<u64, Stopped<E>> {
    // The names are the database's own, and quoted.
    let mut query = sqlx::query(AssertSqlSafe(statement(view, columns, tenant_id.is_some())));
    if let Some(tenant_id) = tenant_id {
        query = query.bind(tenant_id);
    }
    let mut rows = query.fetch(connection);
    let mut count = 0;
    while let Some(row) = rows.try_next().await.map_err(Stopped::Reading)? {
        let values = columns.iter().enumerate().map(|(number, column)| value(&row, number, column.kind));
        let values = values.collect::<Result<Vec<_>, _>>().map_err(Stopped::Reading)?;
        take(values).map_err(Stopped::Writing)?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_the_key_leads() {
        let columns = [("tenant_id", Kind::Text), ("a\"b", Kind::Hundredths)]
            .map(|(name, kind)| Column { name: name.to_owned(), kind });
        assert_eq!(
            statement("x\"; DROP", &columns, true),
            "SELECT \"tenant_id\"::text, (\"a\"\"b\" * 100)::bigint FROM m365_v1.\"x\"\"; DROP\" v WHERE tenant_id = $1 \
             ORDER BY v.\"tenant_id\" COLLATE \"C\", v.\"a\"\"b\""
        );
    }

    #[sqlx::test(fixtures("good"))]
    async fn every_view_can_be_read_to_its_end(pool: PgPool) {
        let views = views(&pool).await.unwrap();
        assert!(views.len() >= 15, "{views:?}");
        for view in views {
            let columns = columns(&pool, &view).await.unwrap();
            let mut held = 0;
            let count = rows(&pool, &view, &columns, None, |row| {
                assert_eq!(row.len(), columns.len());
                held += 1;
                Ok::<_, ()>(())
            });
            assert_eq!(count.await.unwrap(), held, "{view}");
            let expected = format!("SELECT count(*) FROM m365_v1.{view}");
            let expected: i64 = sqlx::query_scalar(AssertSqlSafe(expected)).fetch_one(&pool).await.unwrap();
            assert_eq!(i64::try_from(held), Ok(expected), "{view}");
        }
        assert_eq!(columns(&pool, "nothing").await.unwrap(), []);
    }
}
