use chrono::Datelike as _;
use graph_sim::TENANT_ID;
use serde_json::{Value, json};

use super::{assert_fits, contrast::assert_readable, days_ago, today};
use crate::{
    browser::Browser,
    support::{Served, get},
};

/// What the lines of the chart are made of: for each product how many steps its lines go, and how often the pen is set.
const LINES: &str = r"
return Object.fromEntries([...document.querySelectorAll('.chart path[data-product]')].map(path => {
  const open = path.nextElementSibling?.classList.contains('open') ? path.nextElementSibling.getAttribute('d') : '';
  const settled = path.getAttribute('d'), count = (text, sign) => text.split(sign).length - 1;
  return [path.dataset.product, [count(settled, 'l'), count(open, 'l'), count(settled, 'M')]];
}))";

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_is_shown_as_it_is() {
    let Some(browser) = Browser::start().await else { return };
    // A history longer than Microsoft's, the last days of it refresh by refresh.
    let scene = days_ago(124).await;
    scene.fetch_and_let_pass(120).await;
    for _ in 0..4 {
        scene.fetch_and_let_pass(1).await;
    }
    let shown = scene.shown().await;
    browser.open(&shown.origin).await;

    assert_eq!(browser.title().await, "Contoso: Up to date - m365-ledger");
    assert_eq!(browser.text("h1").await, "Contoso: up to date");
    let refresh = shown.sim.refresh_date();
    assert!(browser.text(".headline").await.contains(&format!("{refresh}, 2 days behind today")));
    assert_eq!(browser.count("tr.target").await, 4);
    assert_eq!(browser.count("tr.target .badge.good").await, 4);

    // Each day that has a figure beside another one is a step of the line, and the newest three are not settled yet.
    let served = Served::of(&shown.sim, TENANT_ID).current();
    let lines = browser.script(LINES).await;
    assert_eq!(lines["Office 365"], json!([176, 3, 1]));
    assert_eq!(lines["Teams"], json!([176, 3, 1]));
    let yammer: Vec<bool> = served.values().map(|(_, figures)| figures[5].is_some()).collect();
    let steps = yammer.windows(2).filter(|pair| pair[0] && pair[1]).count();
    let drawn: Vec<u64> = serde_json::from_value(lines["Yammer"].clone()).expect("three numbers");
    assert_eq!(usize::try_from(drawn[0] + drawn[1]), Ok(steps), "blank on weekends: the line is broken, not 0");
    assert!(drawn[2] > 20, "{drawn:?}");
    assert_eq!(browser.count(".chart .s1 .hollow").await, 3);
    let weekends = browser.script("return document.querySelector('.weekends').getAttribute('d').split('M').length - 1");
    let expected = served.keys().filter(|date| date.weekday().number_from_monday() > 5).count();
    assert_eq!(weekends.await, json!(expected));
    assert_eq!(browser.count(".gap").await, 0);
    let (date, (_, figures)) = served.iter().nth_back(5).expect("a day");
    let pointed = format!(
        "return [...document.querySelectorAll('.hover title')].find(title => title.textContent.includes('{date}')).textContent"
    );
    let pointed = browser.script(&pointed).await;
    let office = figures[0].expect("a figure").to_string();
    let told: String = pointed.as_str().expect("a text").replace(',', "");
    assert!(told.contains(&format!("Office 365 {office}")), "{told}");

    // What Microsoft changed: the last four refreshes, each of the days before it.
    assert_eq!(browser.count(".changes .group").await, 4);
    assert!(browser.text(".changes").await.contains(&format!("Refresh {refresh}")));
    assert_readable(&browser).await;
    browser.picture("one-tenant", "section:nth-of-type(3)").await;
    browser.picture_from("revisions", "section:nth-of-type(6)", "section:nth-of-type(6)").await;
    browser.dark(true).await;
    let colours = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]";
    assert_eq!(browser.script(colours).await, json!(["rgb(230, 233, 237)", "rgb(14, 18, 23)"]));
    browser.picture("one-tenant-dark", "section:nth-of-type(2)").await;
    browser.dark(false).await;
    assert_eq!(browser.script(colours).await, json!(["rgb(27, 31, 36)", "rgb(244, 246, 248)"]));
    assert_fits(&browser, 390).await;
    browser.assert_quiet(&shown.origin).await;

    // The address of the tenant has the same page, and others the longer history.
    browser.follow("All").await;
    browser.until("all is drawn", "return location.search === '?days=all'").await;
    // So many days that the lines join the working days only.
    let held = "SELECT count(*) FROM m365_v1.active_users_daily WHERE extract(isodow FROM report_date)";
    let [working, weekends] = [
        crate::rig::count(&shown.db.pool, &format!("{held} < 6")).await,
        crate::rig::count(&shown.db.pool, &format!("{held} > 5")).await,
    ];
    assert_eq!(working + weekends, 304);
    let line = browser.script(LINES).await["Office 365"].clone();
    assert_eq!(
        line[0].as_i64().zip(line[1].as_i64()).map(|(settled, open)| settled + open),
        Some(working - 1),
        "{line}"
    );
    let dots = "return document.querySelector('.rest.s1').getAttribute('d').split('h0').length - 1";
    assert_eq!(browser.script(dots).await, json!(weekends));
    browser.picture("long-history", "section:nth-of-type(2)").await;
    assert_eq!(browser.text(".top [aria-current]").await, "All");
    assert_eq!(browser.count(".crumbs a").await, 1);
    browser.open(&format!("{}/tenants/{TENANT_ID}?days=90", shown.origin)).await;
    assert_eq!(browser.script(LINES).await["Office 365"], json!([86, 3, 1]));
    browser.assert_quiet(&shown.origin).await;

    let (code, page) = shown.body("/tenants/00000000-0000-0000-0000-000000000000").await;
    assert!(code == 404 && page.contains("There is no such tenant") && page.contains("href=\"/\""), "{page}");
    assert_eq!(shown.body("/tenants/%3Cb%3E").await.0, 404);
    assert_eq!(shown.body(&format!("/tenants/{TENANT_ID}?days=100000")).await.0, 400);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_used_without_a_mouse_and_without_eyes() {
    let Some(browser) = Browser::start().await else { return };
    let scene = days_ago(1).await;
    scene.fetch_and_let_pass(1).await;
    let shown = scene.shown().await;
    browser.open(&format!("{}/tenants/{TENANT_ID}", shown.origin)).await;

    // Every stop of the Tab key is named, and can be seen.
    let stop = r"
        const at = document.activeElement, style = getComputedStyle(at), label = at.getAttribute('aria-labelledby');
        const name = at.getAttribute('aria-label') || (label && document.getElementById(label).textContent) || at.textContent;
        return [at.tagName.toLowerCase(), name.trim(), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]";
    let mut stops = Vec::new();
    browser.script("document.body.focus()").await;
    for _ in 0..40 {
        browser.tab().await;
        let found = browser.script(stop).await;
        if found[0] == "body" || stops.len() > 1 && stops[0] == found {
            break;
        }
        assert_eq!(found[2], json!(true), "{found}");
        assert!(found[1].as_str().is_some_and(|name| !name.is_empty()), "{found}");
        stops.push(found);
    }
    let names: Vec<&str> = stops.iter().filter_map(|stop| stop[1].as_str()).collect();
    for wanted in ["Skip to the content", "m365-ledger", "All tenants", "90 days", "Chart", "The figures as a table"] {
        assert!(names.contains(&wanted), "no {wanted} among {names:?}");
    }
    for region in ["How fresh it is", "What Microsoft changed", "Last attempts"] {
        let scrolls = |stop: &&Value| stop[0] == "div" && stop[1].as_str().is_some_and(|name| name.starts_with(region));
        assert!(stops.iter().any(|stop| scrolls(&stop)), "no {region} among {stops:?}");
    }

    // The table opens with the keyboard and says what the chart says.
    browser.script("document.querySelector('summary').focus()").await;
    browser.enter().await;
    browser.until("the table is open", "return document.querySelector('details').open").await;
    let served = Served::of(&shown.sim, TENANT_ID).current();
    let (date, (_, figures)) = served.last_key_value().expect("a day");
    let row = browser.text(".figures tbody tr").await;
    let told: Vec<String> = row.replace(',', "").split_whitespace().map(str::to_owned).collect();
    assert_eq!(told[1], date.to_string());
    assert_eq!(told[2], figures[0].expect("a figure").to_string());
    assert!(row.ends_with("may still change"), "{row}");
    assert_eq!(browser.count(".figures tbody tr").await, 180);

    // What a screen reader is told.
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().expect("nodes");
    let told_as = |role: &str| -> Vec<String> {
        let nodes = nodes.iter().filter(|node| node["role"]["value"] == role && node["ignored"] == false);
        nodes.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (role, wanted) in [("banner", 1), ("main", 1), ("contentinfo", 1)] {
        assert_eq!(told_as(role).len(), wanted, "{role}");
    }
    let image = told_as("image");
    assert!(image.iter().any(|name| name.starts_with("Daily active users of Contoso from")), "{image:?}");
    for table in told_as("table") {
        assert!(!table.is_empty(), "every table has a name");
    }
    let levels = "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(heading => heading.tagName).join()";
    assert_eq!(browser.script(levels).await, json!("H1,H2,H2"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_can_be_had_as_csv() {
    let mut scene = days_ago(0).await;
    scene.program = scene.program.with("TENANT__NAME", "=HYPERLINK(\"http://x\"),\"a\" & <b>");
    let gone = today() - chrono::Days::new(20);
    scene.sim.remove_date(TENANT_ID, gone);
    let shown = scene.shown().await;
    let (code, csv) = shown.body(&format!("/tenants/{TENANT_ID}/active-users.csv?days=90")).await;
    assert_eq!(code, 200);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().expect("a header").clone();
    assert_eq!(header.iter().next(), Some("report_date"));
    let rows: Vec<_> = reader.records().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 90);
    let served = Served::of(&shown.sim, TENANT_ID).current();
    for row in &rows {
        let date = row[0].parse().expect("a date");
        let expected = served.get(&date).map(|(_, figures)| *figures);
        let text = |figure: Option<i64>| figure.map_or_else(String::new, |figure| figure.to_string());
        assert_eq!(row.iter().skip(1).take(7).collect::<Vec<_>>(), expected.unwrap_or([None; 7]).map(text), "{date}");
        let state = &row[8];
        assert_eq!(state == "no figures held", date == gone, "{row:?}");
        assert_eq!(&row[10], "'=HYPERLINK(\"http://x\"),\"a\" & <b>", "no spreadsheet runs it");
    }
    assert_eq!(rows.iter().filter(|row| &row[8] == "may still change").count(), 3);
    let (code, csv) = shown.body("/tenants.csv").await;
    assert!(code == 200 && csv.contains(",\"'=HYPERLINK(\"\"http://x\"\"),"), "{csv}");
    assert_eq!(get(shown.address, "/tenants/x/active-users.csv").await.map(|(code, _)| code), Some(404));

    let Some(browser) = Browser::start().await else { return };
    browser.open(&shown.origin).await;
    assert_eq!(browser.text("h1").await, "=HYPERLINK(\"http://x\"),\"a\" & <b>: up to date");
    assert_eq!(browser.count("b b, h1 b").await, 0);
    browser.assert_quiet(&shown.origin).await;
    browser.close().await;
}
