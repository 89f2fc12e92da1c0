use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{assert_fits, contrast::assert_readable, days_ago};
use crate::{browser::Browser, support::eventually};

/// 9,999 further tenants, beside the one of the stand-in; every 1,600th cannot sign in, every 300th waits for Microsoft.
const SEED: [&str; 7] = [
    "CREATE TABLE seed AS
     SELECT n, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid AS tenant_id,
            (ARRAY['A. Datum', 'Adatum', 'Adventure Works', 'Alpine Ski House', 'Bellows', 'Blue Yonder', 'City Power',
                   'Coho', 'Contoso', 'Fabrikam', 'First Up', 'Fourth Coffee', 'Humongous', 'Lamna', 'Liberty', 'Litware',
                   'Lucerne', 'Margie', 'Munson', 'Nod', 'Northwind', 'Proseware', 'Relecloud', 'Tailspin', 'VanArsdel',
                   'Wingtip', 'Woodgrove'])[1 + n % 27]
            || ' ' || (ARRAY['Aarhus', 'Bergen', 'Bilbao', 'Bremen', 'Cork', 'Delft', 'Essen', 'Gdansk', 'Ghent', 'Graz',
                   'Leeds', 'Linz', 'Lyon', 'Malmo', 'Nantes', 'Oulu', 'Porto', 'Turin', 'Zwolle'])[1 + n % 19]
            || ' ' || (ARRAY['Bank', 'Bikes', 'Care', 'Coffee', 'Energy', 'Film', 'Foods', 'Group', 'Health', 'Labs', 'Legal',
                   'Media', 'Paper', 'Rail', 'Schools', 'Ships', 'Tools', 'Toys', 'Travel', 'Trust'])[1 + n / 513] AS name,
            n % 1600 = 0 AS locked_out, n % 300 = 1 AS waits
     FROM generate_series(1, 9999) n",
    "INSERT INTO m365_store.tenant SELECT tenant_id, name, 'global', now() FROM seed",
    "INSERT INTO m365_store.target
     SELECT tenant_id, 'office365_active_user_counts', period, true, 21600
     FROM seed, unnest(ARRAY[7, 30, 90, 180]::smallint[]) AS period",
    "INSERT INTO m365_store.snapshot (tenant_id, report, report_period, report_refresh_date, revision, row_count,
         first_report_date, last_report_date, content_hash, source_columns, attempt_id, first_fetched_at, fetched_at)
     SELECT tenant_id, report, report_period, refresh, 1, report_period, refresh - report_period + 1, refresh, sha256('x'),
            '{}', gen_random_uuid(), at, at
     FROM seed JOIN m365_store.target USING (tenant_id),
          LATERAL (SELECT current_date - CASE WHEN waits THEN 8 ELSE 2 END,
                          now() - make_interval(hours => 1 + n % 5 + CASE WHEN locked_out THEN 20 + n / 1600 * 17 ELSE 0 END))
              AS x (refresh, at)",
    "INSERT INTO m365_store.attempt (attempt_id, tenant_id, report, report_period, due_at, worker_id, started_at,
         finished_at, outcome, graph_calls, error_class, error_message, report_refresh_date)
     SELECT gen_random_uuid(), tenant_id, report, report_period, at, gen_random_uuid(), at, at,
            CASE WHEN locked_out THEN 'failed' ELSE 'unchanged' END, 1,
            CASE WHEN locked_out THEN CASE n % 3 WHEN 0 THEN 'auth_forbidden' ELSE 'auth_invalid_client' END END,
            CASE WHEN locked_out THEN 'refused' END, report_refresh_date
     FROM seed JOIN m365_store.snapshot USING (tenant_id), generate_series(0, 3) AS turn,
          LATERAL (SELECT now() - make_interval(hours => 6 * turn, mins => 20 + n % 300)) AS x (at)",
    "INSERT INTO m365_store.slot (tenant_id, report, report_period, due_at, origin, not_before)
     SELECT tenant_id, report, report_period, at, 'schedule', at
     FROM seed JOIN m365_store.target USING (tenant_id),
          LATERAL (SELECT now() + make_interval(hours => 2, mins => 30 + n % 10)) AS x (at)",
    "INSERT INTO m365_store.office365_active_user_counts_current
     SELECT tenant_id, day, day + 5, 180, users, users * 9 / 10, users / 2, users / 3, NULL, users / 50, users * 8 / 10,
            NULL, now()
     FROM seed, generate_series(2, 200) AS ago,
          LATERAL (SELECT current_date - ago - CASE WHEN waits THEN 6 ELSE 0 END) AS d (day),
          LATERAL (SELECT (100 + n * 7919 % 900) * (1000 - ago * (n * 37 % 7 - 2) + 90 * sin(n + ago / 23.0)
                              + 60 * sin(n * 3 + ago / 9.0))::bigint / 1000
                          / CASE WHEN extract(isodow FROM day) > 5 THEN 7 ELSE 1 END) AS u (users)
     WHERE (waits OR locked_out OR name < 'Adatum') AND NOT (n % 900 = 1 AND ago BETWEEN 40 AND 44)",
];

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tenants_are_found_at_once() {
    let shown = days_ago(0).await.shown().await;
    for sql in SEED {
        sqlx::query(sql).execute(&shown.db.pool).await.expect(sql);
    }
    sqlx::query("ANALYZE").execute(&shown.db.pool).await.expect("analyzed");
    eventually("all are known", async || shown.body("/").await.1.contains("of 10,000 tenants")).await;

    let mut took = Vec::new();
    let mut sizes = Vec::new();
    for path in ["/", "/", "/?page=50", "/?q=zwolle", "/tenants.csv", "/metrics"] {
        let begun = Instant::now();
        let (code, body) = shown.body(path).await;
        took.push((path, begun.elapsed()));
        sizes.push((path, body.len()));
        assert_eq!(code, 200, "{path}");
    }
    eprintln!("{took:?}\n{sizes:?}");
    for (path, took) in &took {
        assert!(*took < Duration::from_secs(8), "{path} took {took:?}");
    }
    for (path, bytes) in &sizes {
        let most = if *path == "/tenants.csv" { 3_000_000 } else { 300_000 };
        assert!(*bytes < most, "{path} has {bytes} bytes");
    }
    let (_, csv) = shown.body("/tenants.csv?state=attention").await;
    assert_eq!(csv.lines().count(), 1 + 6);
    let (code, status) = shown.body("/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((code, status["targets"].as_array().map(Vec::len)), (200, Some(40_000)));
    assert_eq!(status["coverage_gaps_total"], json!(12));
    assert_eq!(status["coverage_gaps"].as_array().map(Vec::len), Some(12));

    let Some(browser) = Browser::start().await else { return };
    browser.open(&shown.origin).await;
    assert_eq!(browser.text("h1").await, "6 of 10,000 tenants need attention");
    assert_eq!(browser.count(".tenants tbody tr").await, 100);
    assert_eq!(browser.count(".tenants .badge.bad").await, 6);
    assert_eq!(browser.count(".tenants .badge.wait").await, 34);
    assert!(browser.text(".tenants tbody").await.contains("Reports.Read.All"));
    assert!(browser.text("#tenants").await.contains("1 to 100 of 10,000"));
    assert_eq!(browser.count(".tenants .trend svg").await, 100);
    browser.picture("many-tenants", ".tenants tbody tr:nth-child(14)").await;
    assert_readable(&browser).await;
    assert_fits(&browser, 390).await;

    // Everything by keyboard: the search, then a name.
    browser.script("document.querySelector('#q').focus()").await;
    browser.press("zwolle labs").await;
    browser.enter().await;
    browser.until("it is searched", "return location.search === '?q=zwolle+labs'").await;
    let names = "return [...document.querySelectorAll('.tenants tbody th')].map(name => name.textContent)";
    let found: Vec<String> = serde_json::from_value(browser.script(names).await).expect("names");
    assert!(found.len() > 20 && found.iter().all(|name| name.contains("Zwolle Labs")), "{found:?}");
    browser.open(&format!("{}/", shown.origin)).await;
    browser.click(".filters li:nth-child(3) a").await;
    browser.until("it is narrowed", "return location.search === '?state=waiting'").await;
    assert_eq!(browser.count(".tenants tbody tr").await, 34);
    assert_eq!(browser.text(".filters [aria-current]").await, "Waiting 34");
    browser.click(".tenants tbody a").await;
    browser.until("the tenant is shown", "return location.pathname.startsWith('/tenants/')").await;
    assert!(browser.text("h1").await.ends_with(": waiting for Microsoft"));
    browser.follow("All tenants").await;
    browser.until("all are shown", "return location.pathname === '/'").await;
    browser.follow("Next").await;
    browser.until("the next page is shown", "return location.search === '?page=2'").await;
    assert!(browser.text("#tenants").await.contains("101 to 200 of 10,000"));
    browser.assert_quiet(&shown.origin).await;
    browser.close().await;
}
