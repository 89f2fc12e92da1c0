//! `export`: files that hold what was served.

use std::fs;

use graph_sim::{Config, Period, Sim, TENANT_ID};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::Field,
};

use crate::support::{Program, Scene, TestDb};

const DAILY: &str = "tenant_id,report_date,report_time,office_365,exchange,onedrive,sharepoint,skype_for_business,yammer,\
                     teams,report_refresh_date,age_days_at_refresh,is_final,fetched_at,tenant_name";

fn records(text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|record| record.expect("a record").iter().map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_holds_the_figures_that_were_served() {
    let Scene { sim, db: _db, program } = Scene::new().await;
    program.once(&[]).await;
    let run = program.run(&["export", "--view", "active_users_daily"]).await.expect_code(0);
    assert!(run.stdout.starts_with(&format!("{DAILY}\r\n")) && run.stdout.ends_with("\r\n"), "{}", run.stdout);
    assert_eq!(run.stdout.matches('\n').count(), run.stdout.matches("\r\n").count());
    let found: Vec<Vec<String>> = records(&run.stdout).into_iter().skip(1).collect();
    let expected = sim.expected_rows(TENANT_ID, Period::D180);
    assert_eq!(found.len(), expected.len());
    let blank = |figure: Option<i64>| figure.map_or_else(String::new, |figure| figure.to_string());
    for (row, (date, figures)) in found.iter().zip(expected) {
        assert_eq!(row[..3], [TENANT_ID.to_string(), date.to_string(), format!("{date}T00:00:00Z")]);
        assert_eq!(row[3..10], figures.map(blank), "{date}");
        assert_eq!(row[10], sim.refresh_date().to_string());
        assert_eq!(row[12], ((sim.refresh_date() - date).num_days() >= 3).to_string());
        assert_eq!(row[14], "Contoso");
    }
    assert!(found.iter().any(|row| row[8].is_empty()), "a blank is empty");

    // To a file, under its name only when it is whole.
    let run = program.run(&["export", "--view", "active_users_daily", "--output", "daily.csv"]).await.expect_code(0);
    assert_eq!(run.stdout, "");
    run.expect_stderr(&["180 rows", "daily.csv"]);
    let file = fs::read_to_string(program.home.path().join("daily.csv")).expect("the file");
    assert_eq!(records(&file)[1..], found);
    let left: Vec<_> =
        fs::read_dir(program.home.path()).expect("the home").flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");

    let run = program.run(&["export", "--view", "active_users_weekly"]).await.expect_code(0);
    let averages = records(&run.stdout);
    assert_eq!(averages[0][4], "avg_daily_active_users");
    let full = averages.iter().find(|row| row[3] == "exchange" && row[8] == "true").expect("a whole week");
    let week: chrono::NaiveDate = full[1].parse().expect("a date");
    let days: Vec<i64> = sim
        .expected_rows(TENANT_ID, Period::D180)
        .into_iter()
        .filter(|(date, _)| (0..7).contains(&(*date - week).num_days()))
        .map(|(_, figures)| figures[1].expect("a figure"))
        .collect();
    let hundredths = (days.iter().sum::<i64>() * 100 * 2 + 7) / (7 * 2);
    assert_eq!(full[4], format!("{}.{:02}", hundredths / 100, hundredths % 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_holds_the_figures_that_were_served() {
    let Scene { sim, db: _db, program } = Scene::new().await;
    program.once(&[]).await;
    let flags = ["export", "--view", "active_users_daily", "--format", "parquet", "--output", "daily.parquet"];
    program.run(&flags).await.expect_code(0).expect_stderr(&["180 rows"]);
    let file = fs::File::open(program.home.path().join("daily.parquet")).expect("the file");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let names: Vec<_> =
        reader.metadata().file_metadata().schema().get_fields().iter().map(|f| f.name().to_owned()).collect();
    assert_eq!(names.join(","), DAILY);
    let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
    let expected = sim.expected_rows(TENANT_ID, Period::D180);
    assert_eq!(rows.len(), expected.len());
    for (row, (date, figures)) in rows.iter().zip(expected) {
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let days = date.signed_duration_since(chrono::NaiveDate::default()).num_days();
        assert_eq!(*fields[0], Field::Str(TENANT_ID.to_string()));
        assert_eq!(*fields[1], Field::Date(i32::try_from(days).expect("a date")));
        assert_eq!(*fields[2], Field::TimestampMicros(days * 86_400_000_000));
        let figures = figures.map(|figure| figure.map_or(Field::Null, Field::Long));
        assert!(fields[3..10].iter().copied().eq(&figures), "{date}: {fields:?}");
        assert_eq!(*fields[12], Field::Bool((sim.refresh_date() - date).num_days() >= 3));
    }

    // Averages are decimals, and every view fits.
    for view in
        ["active_users_rolling", "active_users_monthly", "freshness", "calendar", "contract_info", "coverage_gaps"]
    {
        let run = program.run(&["export", "--view", view, "--format", "parquet", "--output", "x"]).await.expect_code(0);
        let file = fs::File::open(program.home.path().join("x")).expect("the file");
        let reader = SerializedFileReader::new(file).expect("it is Parquet");
        let held = reader.metadata().file_metadata().num_rows();
        run.expect_stderr(&[&format!("{held} rows of {view}")]);
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
        assert_eq!(i64::try_from(rows.len()), Ok(held), "{view}");
        let decimal =
            |row: &parquet::record::Row| row.get_column_iter().any(|(_, field)| matches!(field, Field::Decimal(_)));
        assert_eq!(
            rows.iter().any(decimal),
            ["active_users_rolling", "active_users_monthly"].contains(&view),
            "{view}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_chosen_by_id_or_name() {
    let sim = Sim::start(Config::many(2).without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    let program = Program::towards(&sim).database(&db.url);
    program.run(&["migrate"]).await.expect_code(0);
    sqlx::raw_sql(
        "INSERT INTO m365_store.tenant VALUES
             ('00000000-0000-0000-0000-00000000000a', '=cmd|'' /C calc''!A0', 'global', now()),
             ('00000000-0000-0000-0000-00000000000b', 'Fabrikam, Inc.', 'global', now()),
             ('00000000-0000-0000-0000-00000000000c', 'Twin', 'global', now()),
             ('00000000-0000-0000-0000-00000000000d', 'twin', 'global', now());
         INSERT INTO m365_store.office365_active_user_counts_current (tenant_id, report_date, report_refresh_date,
             report_period, teams, fetched_at)
         SELECT tenant_id, date '2026-01-05', '2026-01-07', 7, 5, '2026-01-07 09:00:00.25Z' FROM m365_store.tenant",
    )
    .execute(&db.pool)
    .await
    .expect("tenants");
    for wanted in ["fabrikam, inc.", "00000000-0000-0000-0000-00000000000B"] {
        let run = program.run(&["export", "--view", "active_users_daily", "--tenant", wanted]).await.expect_code(0);
        let rows = records(&run.stdout);
        assert_eq!(rows.len(), 2, "{}", run.stdout);
        assert_eq!(rows[1][9..], ["5", "2026-01-07", "2", "false", "2026-01-07T09:00:00.250Z", "Fabrikam, Inc."]);
    }
    // A name that a spreadsheet would run.
    let run = program.run(&["export", "--view", "tenants"]).await.expect_code(0);
    assert_eq!(records(&run.stdout)[1][1], "'=cmd|' /C calc'!A0");

    for (flags, said) in [
        (&["--view", "tenant"][..], "active_users_daily, "),
        (&["--view", "tenants\"; DROP SCHEMA m365_v1; --"], "no such view"),
        (&["--view", "pg_roles"], "no such view"),
        (&["--view", "active_users_daily", "--tenant", "Nobody"], "Fabrikam, Inc."),
        (&["--view", "active_users_daily", "--tenant", "twin"], "several"),
        (&["--view", "calendar", "--tenant", "Twin"], "knows no tenants"),
    ] {
        let run = program.run(&[&["export"], flags].concat()).await.expect_code(78);
        run.expect_stderr(&[said]);
        assert_eq!(run.stdout, "");
    }
    program
        .run(&["export", "--view", "tenants", "--output", "no/where.csv"])
        .await
        .expect_code(1)
        .expect_stderr(&["no/where.csv"]);
    assert!(sim.requests().is_empty(), "it asks Microsoft for nothing");
}
