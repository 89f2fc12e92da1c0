//! Calendar, rolling averages, weeks and months, against values worked out by hand.

use chrono::NaiveDate;
use sqlx::PgPool;

const CONTOSO: &str = "00000000-0000-0000-0000-00000000000a";

fn date(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap()
}

/// Contoso and Fabrikam. Contoso holds 1 December 2025 (a Monday) to 4 January 2026. Exchange counts up from 1, Teams is
/// 100 from Monday to Friday and blank at weekends, Yammer is blank on 20 December, and everything is missing on
/// 30 December.
async fn five_weeks(pool: &PgPool) {
    for sql in [
        "INSERT INTO m365_store.tenant VALUES
             ('00000000-0000-0000-0000-00000000000a', 'Contoso', 'global', '2026-01-01Z'),
             ('00000000-0000-0000-0000-00000000000b', 'Fabrikam', 'global', '2026-01-01Z')",
        "INSERT INTO m365_store.office365_active_user_counts_current
         SELECT '00000000-0000-0000-0000-00000000000a', d, '2026-01-07', 180, 1000, n, 50, 7, 0,
                CASE WHEN d <> '2025-12-20' THEN 10 END, CASE WHEN extract(isodow FROM d) < 6 THEN 100 END,
                CASE WHEN n > 28 THEN jsonb_build_object('Loop', n) END, now()
         FROM generate_series(1, 35) n, LATERAL (SELECT date '2025-11-30' + n) AS x (d) WHERE d <> '2025-12-30'",
        "INSERT INTO m365_store.office365_active_user_counts_current
         VALUES ('00000000-0000-0000-0000-00000000000b', '2025-12-31', '2026-01-07', 180, 5, 99999999999, 3, 2, 0, 1, 4, NULL, now())",
    ] {
        sqlx::query(sql).execute(pool).await.unwrap();
    }
}

/// `avg_daily_7d`, `avg_daily_28d`, `weekday_avg_28d` as text, `days_in_7d`, `days_in_28d`.
type Rolling = (Option<String>, Option<String>, Option<String>, i32, i32);

async fn rolling(pool: &PgPool, product: &str, day: NaiveDate) -> Rolling {
    let sql = "SELECT avg_daily_7d::text, avg_daily_28d::text, weekday_avg_28d::text, days_in_7d, days_in_28d
               FROM m365_v1.active_users_rolling WHERE tenant_id = $1 AND product = $2 AND report_date = $3";
    sqlx::query_as(sql).bind(CONTOSO).bind(product).bind(day).fetch_one(pool).await.unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where a null may stand")]
fn some(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[sqlx::test]
async fn a_rolling_average_waits_until_its_window_is_complete(pool: PgPool) {
    five_weeks(&pool).await;
    let december = |day| date(2025, 12, day);
    assert_eq!(rolling(&pool, "exchange", december(6)).await, (None, None, None, 6, 6));
    assert_eq!(rolling(&pool, "exchange", december(7)).await, (some("4.00"), None, None, 7, 7));
    // 1 to 28: 14.5. Without the weekends (6, 7, 13, 14, 20, 21, 27, 28): (406 - 136) / 20.
    assert_eq!(rolling(&pool, "exchange", december(28)).await, (some("25.00"), some("14.50"), some("13.50"), 7, 28));
    // The 30th is missing: the windows hold days, not rows, and wait until it has left them.
    assert_eq!(rolling(&pool, "exchange", december(29)).await, (some("26.00"), some("15.50"), some("14.90"), 7, 28));
    assert_eq!(rolling(&pool, "exchange", december(31)).await, (None, None, None, 6, 27));
    assert_eq!(rolling(&pool, "exchange", date(2026, 1, 4)).await, (None, None, None, 6, 27));
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM m365_v1.active_users_rolling WHERE report_date = '2025-12-30'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(rows, 0, "no row is invented");
}

#[sqlx::test]
async fn blank_is_not_zero_in_a_rolling_average(pool: PgPool) {
    five_weeks(&pool).await;
    // Blank at weekends: never seven days in a row, but twenty weekdays.
    let teams = rolling(&pool, "teams", date(2025, 12, 28)).await;
    assert_eq!(teams, (None, None, some("100.00"), 5, 20));
    assert_eq!(rolling(&pool, "teams", date(2025, 12, 25)).await, (None, None, None, 5, 19));
    // One blank Saturday.
    assert_eq!(rolling(&pool, "yammer", date(2025, 12, 19)).await, (some("10.00"), None, None, 7, 19));
    assert_eq!(rolling(&pool, "yammer", date(2025, 12, 28)).await, (some("10.00"), None, some("10.00"), 7, 27));
    assert_eq!(rolling(&pool, "yammer", date(2025, 12, 25)).await, (None, None, None, 6, 24));
    assert_eq!(rolling(&pool, "skype_for_business", date(2025, 12, 28)).await.0, some("0.00"));
    // A product that this version does not know, from the 29th: 29, 31, 32, 33, 34, 35.
    assert_eq!(rolling(&pool, "Loop", date(2026, 1, 4)).await, (None, None, None, 6, 6));
}

/// Start, average as text, peak, peak date, days, complete.
type Span = (NaiveDate, Option<String>, Option<i64>, Option<NaiveDate>, i32, bool);

async fn spans(pool: &PgPool, view: &str, product: &str) -> Vec<Span> {
    let start = view.replace("ly", "_start");
    let sql = format!(
        "SELECT {start}, avg_daily_active_users::text, peak_daily_active_users, peak_date, days_with_data, is_complete
         FROM m365_v1.active_users_{view} WHERE tenant_id = $1 AND product = $2 ORDER BY 1"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(CONTOSO).bind(product).fetch_all(pool).await.unwrap()
}

#[sqlx::test]
async fn weeks_run_from_monday_through_the_turn_of_the_year(pool: PgPool) {
    five_weeks(&pool).await;
    let weeks = spans(&pool, "weekly", "exchange").await;
    let full =
        |day, average, peak| (date(2025, 12, day), some(average), Some(peak), Some(date(2025, 12, day + 6)), 7, true);
    let last = (date(2025, 12, 29), some("32.33"), Some(35), Some(date(2026, 1, 4)), 6, false);
    assert_eq!(
        weeks,
        [full(1, "4.00", 7), full(8, "11.00", 14), full(15, "18.00", 21), full(22, "25.00", 28), last],
        "the week of New Year is one week; (29 + 31 + 32 + 33 + 34 + 35) / 6 without the missing day"
    );
    // The first of several peaks; blanks are neither counted nor averaged.
    let teams = spans(&pool, "weekly", "teams").await;
    assert_eq!(teams[0], (date(2025, 12, 1), some("100.00"), Some(100), Some(date(2025, 12, 1)), 5, false));
    let new = spans(&pool, "weekly", "Loop").await;
    assert_eq!(new, [(date(2025, 12, 29), some("32.33"), Some(35), Some(date(2026, 1, 4)), 6, false)]);
}

#[sqlx::test]
async fn months_are_complete_when_every_day_has_a_figure(pool: PgPool) {
    five_weeks(&pool).await;
    let january = (date(2026, 1, 1), some("33.50"), Some(35), Some(date(2026, 1, 4)), 4, false);
    let december = |average| (date(2025, 12, 1), some(average), Some(31), Some(date(2025, 12, 31)), 30, false);
    // (1 + … + 31 - 30) / 30.
    assert_eq!(spans(&pool, "monthly", "exchange").await, [december("15.53"), january.clone()]);
    sqlx::query(
        "INSERT INTO m365_store.office365_active_user_counts_current (tenant_id, report_date, report_refresh_date,
             report_period, exchange, fetched_at)
         VALUES ('00000000-0000-0000-0000-00000000000a', '2025-12-30', '2026-01-07', 180, 30, now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut whole = december("16.00");
    (whole.4, whole.5) = (31, true);
    assert_eq!(spans(&pool, "monthly", "exchange").await, [whole, january]);
    assert_eq!(spans(&pool, "monthly", "onedrive").await[0].4, 30, "blank on the day that came");
}

#[sqlx::test]
async fn a_figure_out_of_all_proportion_stops_no_view(pool: PgPool) {
    five_weeks(&pool).await;
    for view in ["weekly", "monthly"] {
        let sql = format!(
            "SELECT avg_daily_active_users::text, peak_daily_active_users FROM m365_v1.active_users_{view}
             WHERE tenant_name = 'Fabrikam' AND product = 'exchange'"
        );
        let row: (Option<String>, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap();
        assert_eq!(row, (None, 99_999_999_999));
    }
    sqlx::query("SELECT * FROM m365_v1.active_users_rolling").execute(&pool).await.unwrap();
}

/// `week_start`, `month_start`, `quarter_start`, `iso_year`, `iso_week`, `day_of_week`, `is_weekend`.
type CalendarDay = (NaiveDate, NaiveDate, NaiveDate, i32, i32, i32, bool);

#[sqlx::test]
async fn the_calendar_has_whole_years_and_iso_weeks(pool: PgPool) {
    let size = "SELECT count(*), min(date), max(date), count(DISTINCT date) FROM m365_v1.calendar";
    let empty: (i64, Option<NaiveDate>, Option<NaiveDate>, i64) = sqlx::query_as(size).fetch_one(&pool).await.unwrap();
    assert_eq!(empty, (0, None, None, 0));
    five_weeks(&pool).await;
    let two: (i64, Option<NaiveDate>, Option<NaiveDate>, i64) = sqlx::query_as(size).fetch_one(&pool).await.unwrap();
    assert_eq!(two, (730, Some(date(2025, 1, 1)), Some(date(2026, 12, 31)), 730));

    let sql = "SELECT week_start, month_start, quarter_start, iso_year, iso_week, day_of_week, is_weekend
               FROM m365_v1.calendar WHERE date = $1";
    let quarter = (date(2025, 10, 1), date(2026, 1, 1));
    for (day, expected) in [
        // A Wednesday in December that belongs to week 1 of the next year.
        (date(2025, 12, 31), (date(2025, 12, 29), date(2025, 12, 1), quarter.0, 2026, 1, 3, false)),
        (date(2025, 12, 28), (date(2025, 12, 22), date(2025, 12, 1), quarter.0, 2025, 52, 7, true)),
        (date(2026, 1, 3), (date(2025, 12, 29), date(2026, 1, 1), quarter.1, 2026, 1, 6, true)),
        (date(2026, 12, 31), (date(2026, 12, 28), date(2026, 12, 1), date(2026, 10, 1), 2026, 53, 4, false)),
    ] {
        let found: CalendarDay = sqlx::query_as(sql).bind(day).fetch_one(&pool).await.unwrap();
        assert_eq!(found, expected, "{day}");
    }
}

#[sqlx::test]
async fn time_zones_move_no_trend(pool: PgPool) {
    five_weeks(&pool).await;
    let sql = "SELECT md5(string_agg(r, '|' ORDER BY r)) FROM (
                   SELECT w::text AS r FROM (SELECT week_start, product, peak_date, days_with_data FROM m365_v1.active_users_weekly) w
                   UNION ALL SELECT m::text FROM (SELECT month_start, product, peak_date, days_with_data FROM m365_v1.active_users_monthly) m
                   UNION ALL SELECT c::text FROM m365_v1.calendar c) x";
    let mut connection = pool.acquire().await.unwrap();
    let mut sums = Vec::new();
    for zone in ["SET TIME ZONE 'UTC'", "SET TIME ZONE 'Pacific/Auckland'", "SET TIME ZONE 'America/Los_Angeles'"] {
        sqlx::query(zone).execute(&mut *connection).await.unwrap();
        sums.push(sqlx::query_scalar::<_, String>(sql).fetch_one(&mut *connection).await.unwrap());
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let sql = "SELECT bool_and(report_time = (week_start::text || ' 00:00:00+00')::timestamptz) FROM m365_v1.active_users_weekly";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await.unwrap());
}
