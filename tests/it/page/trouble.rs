use chrono::Days;
use graph_sim::TENANT_ID;
use serde_json::json;

use super::{contrast::assert_readable, days_ago, today};
use crate::browser::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn a_late_source_is_told_from_a_late_service() {
    let Some(browser) = Browser::start().await else { return };
    let scene = days_ago(11).await;
    for _ in 0..4 {
        scene.fetch_and_let_pass(1).await;
    }
    // Microsoft stands still, and is asked all the same.
    scene.program.once(&[]).await;
    super::pass(&scene.db.pool, 6).await;
    scene.program.once(&[]).await;
    super::pass(&scene.db.pool, 1).await;
    let shown = scene.shown().await;
    browser.open(&shown.origin).await;
    assert_eq!(browser.text("h1").await, "Contoso: waiting for Microsoft");
    let told = browser.text(".headline").await;
    assert!(told.contains("9 days behind today") && told.contains("Last success just now"), "{told}");
    assert!(told.contains("Microsoft has published nothing newer"), "{told}");
    assert_eq!(browser.count("tr.target .badge.wait").await, 4);
    assert_readable(&browser).await;
    browser.picture("late-source", "section:nth-of-type(3)").await;
    browser.assert_quiet(&shown.origin).await;

    // The terminal uses the same words.
    let run = shown.scene.run(&["status"]).await.expect_code(0);
    assert!(
        run.stdout.contains("Waiting for Microsoft") && run.stdout.contains("published nothing newer"),
        "{}",
        run.stdout
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_a_gap_and_not_zero() {
    let Some(browser) = Browser::start().await else { return };
    let scene = days_ago(3).await;
    let gone: Vec<_> = (52..59).chain([100]).map(|days| today() - Days::new(days)).collect();
    for date in &gone {
        scene.sim.remove_date(TENANT_ID, *date);
    }
    for _ in 0..3 {
        scene.fetch_and_let_pass(1).await;
    }
    let shown = scene.shown().await;
    browser.open(&shown.origin).await;
    assert_eq!(browser.count(".gap").await, 2);
    let titles =
        browser.script("return [...document.querySelectorAll('.gap title')].map(title => title.textContent)").await;
    assert_eq!(
        titles,
        json!([format!("No figures for {}", gone[7]), format!("No figures from {} to {}", gone[6], gone[0]),])
    );
    let pens =
        "return document.querySelector('.chart [data-product=\"Office 365\"]').getAttribute('d').split('M').length - 1";
    assert_eq!(browser.script(pens).await, json!(3), "the pen is lifted twice");
    let lowest = "return Math.max(...[...document.querySelectorAll('.chart .s1 .mark')].map(mark => mark.getCTM().f)) - \
                  document.querySelector('.chart').getCTM().f";
    assert!(browser.script(lowest).await.as_f64().is_some_and(|bottom| bottom < 340.0));
    let told = browser.text(".headline").await;
    assert!(told.contains("up to date") && told.contains("8 days without figures"), "{told}");
    assert_eq!(browser.count(".headline a[href='#gaps']").await, 1);
    let table = browser.text("table.narrow").await;
    assert!(table.contains("8 days between") && table.contains(&format!("{} {} 7", gone[6], gone[0])), "{table}");
    assert_readable(&browser).await;
    browser.picture("gap", "section:nth-of-type(2)").await;
    browser.assert_quiet(&shown.origin).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_credential_says_what_to_do() {
    let Some(browser) = Browser::start().await else { return };
    let scene = days_ago(5).await;
    for _ in 0..3 {
        scene.fetch_and_let_pass(1).await;
    }
    scene.program.once(&[]).await;
    super::pass(&scene.db.pool, 2).await;
    scene.sim.set_secret_expired(TENANT_ID, true);
    let shown = scene.shown().await;
    browser.open(&shown.origin).await;
    assert_eq!(browser.text("h1").await, "Contoso: needs attention");
    let told = browser.text(".headline").await;
    assert!(told.contains("auth_invalid_client: check tenant.id"), "{told}");
    assert!(told.contains("may have ended") && told.contains("Last success 2 days ago"), "{told}");
    assert_eq!(browser.count("tr.target .badge.bad").await, 4);
    let attempt = browser.text("#attempts ~ tbody tr").await;
    assert!(attempt.contains("failed auth_invalid_client") && attempt.contains("What to do: "), "{attempt}");
    assert_readable(&browser).await;
    browser.picture("failing-credential", "#attempts ~ tbody tr:nth-child(8)").await;
    browser.assert_quiet(&shown.origin).await;
    browser.close().await;
}
