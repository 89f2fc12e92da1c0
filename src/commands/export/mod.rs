//! `export`: a view of the contract as a file.

mod parquet_file;

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use sqlx::PgPool;

use self::parquet_file::ParquetFile;
use super::service::Database;
use crate::{
    cli::{ExportArgs, ExportFormat},
    config::{ConfigError, Settings},
    csv_file::CsvFile,
    store::{
        self, StoreError,
        export::{self, Column, Stopped, Value},
    },
};

/// Where rows go to.
trait Sink {
    /// One row.
    fn row(&mut self, row: Vec<Value>) -> anyhow::Result<()>;
    /// After the last one.
    fn end(self: Box<Self>) -> anyhow::Result<()>;
}

impl<W: Write> Sink for CsvFile<W> {
    fn row(&mut self, row: Vec<Value>) -> anyhow::Result<()> {
        Ok(Self::row(self, row)?)
    }

    fn end(self: Box<Self>) -> anyhow::Result<()> {
        Ok(Self::end(*self).map(drop)?)
    }
}

/// Writes a view to a file or to stdout. Memory does not grow with the rows.
pub async fn export(settings: &Settings, args: &ExportArgs) -> anyhow::Result<ExitCode> {
    if args.format == ExportFormat::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        return Err(wrong("parquet is not for a terminal: say --output FILE, or send it through a pipe".to_owned()));
    }
    let database = Database::open(settings).await?;
    export::expect_long_statements(&database.pool);
    let done = from(&database, settings, args).await;
    database.close().await;
    match done {
        // `| head` has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

async fn from(database: &Database, settings: &Settings, args: &ExportArgs) -> anyhow::Result<()> {
    store::ensure_current(&database.url, database.may_migrate(settings)).await?;
    let columns = columns(&database.pool, &args.view).await?;
    let tenant = match &args.tenant {
        Some(tenant) => Some(tenant_id(&database.pool, &args.view, &columns, tenant).await?),
        None => None,
    };
    let Some(path) = &args.output else {
        write(&database.pool, args, &columns, tenant.as_deref(), io::stdout()).await?;
        return Ok(());
    };
    // Under its own name only when it is whole.
    let part = part_of(path);
    let file = File::create(&part).with_context(|| format!("creating {}", part.display()))?;
    let written = write(&database.pool, args, &columns, tenant.as_deref(), file).await;
    let renamed = written.and_then(|rows| {
        fs::rename(&part, path).with_context(|| format!("renaming {} to {}", part.display(), path.display()))?;
        eprintln!("{rows} rows of {} written to {}", args.view, path.display());
        Ok(())
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed
}

async fn write(
    pool: &PgPool,
    args: &ExportArgs,
    columns: &[Column],
    tenant: Option<&str>,
    out: impl Write + Send + 'static,
) -> anyhow::Result<u64> {
    let out = BufWriter::with_capacity(1 << 16, out);
    let mut sink: Box<dyn Sink> = match args.format {
        ExportFormat::Csv => {
            let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
            Box::new(CsvFile::new(out, &names)?)
        }
        ExportFormat::Parquet => Box::new(ParquetFile::new(out, &args.view, columns)?),
    };
    let rows =
        export::rows(pool, &args.view, columns, tenant, |row| sink.row(row)).await.map_err(|error| match error {
            Stopped::Reading(cause) => StoreError::during("reading the view")(cause).into(),
            Stopped::Writing(cause) => cause,
        })?;
    sink.end()?;
    Ok(rows)
}

/// The view's columns; only views there are can be asked for.
async fn columns(pool: &PgPool, view: &str) -> anyhow::Result<Vec<Column>> {
    let failed = StoreError::during("reading the contract");
    let views = export::views(pool).await.map_err(&failed)?;
    if !views.iter().any(|name| name == view) {
        return Err(wrong(format!("--view {view}: no such view; there are {}", views.join(", "))));
    }
    Ok(export::columns(pool, view).await.map_err(&failed)?)
}

async fn tenant_id(pool: &PgPool, view: &str, columns: &[Column], wanted: &str) -> anyhow::Result<String> {
    if !columns.iter().any(|column| column.name == "tenant_id") {
        return Err(wrong(format!("--tenant {wanted}: {view} knows no tenants")));
    }
    let tenants = export::tenants(pool).await.map_err(StoreError::during("reading the tenants"))?;
    let mut found = tenants.iter().filter(|tenant| {
        tenant.tenant_id.eq_ignore_ascii_case(wanted) || tenant.tenant_name.eq_ignore_ascii_case(wanted)
    });
    match (found.next(), found.next()) {
        (Some(tenant), None) => Ok(tenant.tenant_id.clone()),
        (Some(_), Some(_)) => Err(wrong(format!("--tenant {wanted}: several have that name; say the ID"))),
        (None, _) => {
            let some = tenants.iter().take(10).map(|tenant| tenant.tenant_name.as_str()).collect::<Vec<_>>();
            Err(wrong(format!("--tenant {wanted}: nothing is held of such a tenant; there are {}", some.join(", "))))
        }
    }
}

fn wrong(text: String) -> anyhow::Error {
    ConfigError::Invalid(text).into()
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let csv = cause.downcast_ref::<csv::Error>().and_then(|error| match error.kind() {
            csv::ErrorKind::Io(error) => Some(error.kind()),
            _ => None,
        });
        io.or(csv) == Some(io::ErrorKind::BrokenPipe)
    })
}
