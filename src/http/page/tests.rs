use std::collections::HashMap;

use askama::Template;
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use uuid::Uuid;

use super::{Browse, CONTENT_SECURITY_POLICY, Listing, Notice, Overview, Range, TenantPage, relative};
use crate::{
    http::{
        NextDue,
        data::{Glimpse, TenantData},
    },
    store::status::{AttemptLine, Day, Gap, TargetStatus, tenant::Change},
};

const REPORT: &str = "office365_active_user_counts";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn first() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 1).unwrap()
}

fn target(tenant: u128, name: &str, days: i16, state: &str) -> TargetStatus {
    let success = (state != "never").then(|| now() - TimeDelta::hours(3));
    TargetStatus {
        tenant_id: Uuid::from_u128(tenant),
        tenant_name: name.to_owned(),
        report: REPORT.to_owned(),
        report_period: days,
        state: state.to_owned(),
        newest_refresh_date: success.map(|at| at.date_naive()),
        days_behind: success.map(|_| 2),
        last_success_at: success,
        last_attempt_at: success,
        last_outcome: success.map(|_| "stored".to_owned()),
        last_error_class: None,
        last_error_message: None,
        last_due_at: success,
        next_try_at: None,
        snapshots: 12,
        interval_seconds: 21_600,
    }
}

fn failing(mut target: TargetStatus, class: &str) -> TargetStatus {
    target.last_outcome = Some("failed".to_owned());
    target.last_error_class = Some(class.to_owned());
    target
}

fn data(targets: Vec<TargetStatus>) -> TenantData {
    let days = (0..100).filter(|n| !(40..44).contains(n)).map(|n| Day {
        report_date: first() + Days::new(n),
        office_365: Some(900),
        exchange: Some(800),
        onedrive: Some(400),
        sharepoint: Some(300),
        skype_for_business: None,
        yammer: Some(1),
        teams: Some(850),
        is_final: n < 97,
    });
    let change = Change {
        report_date: first() + Days::new(98),
        product: "teams".to_owned(),
        old_refresh_date: first() + Days::new(98),
        new_refresh_date: first() + Days::new(99),
        old_value: Some(690),
        new_value: Some(850),
        kind: "refresh".to_owned(),
    };
    TenantData {
        name: targets.first().map_or_else(|| "Contoso".to_owned(), |target| target.tenant_name.clone()),
        targets,
        days: days.collect(),
        attempts: vec![AttemptLine {
            finished_at: now() - TimeDelta::minutes(4),
            tenant_name: "Contoso".to_owned(),
            report: REPORT.to_owned(),
            report_period: 7,
            outcome: "failed".to_owned(),
            error_class: Some("throttled".to_owned()),
            error_message: Some("gave up on https://h.office.com/x?sig=SECRET".to_owned()),
            report_refresh_date: None,
            rows_inserted: 0,
            rows_updated: 0,
            seconds: 1.25,
        }],
        gaps: vec![Gap {
            tenant_id: Uuid::from_u128(1),
            tenant_name: "Contoso".to_owned(),
            report: REPORT.to_owned(),
            gap_start: first() + Days::new(40),
            gap_end: first() + Days::new(43),
            days: 4,
        }],
        changes: Some(vec![change]),
    }
}

fn tenant_page(targets: Vec<TargetStatus>) -> String {
    let (id, data) = (Uuid::from_u128(1), data(targets));
    TenantPage::new(id, &data, Range::default(), false, &NextDue::default(), now()).render().unwrap()
}

fn browse(query: &str) -> Browse {
    let uri: axum::http::Uri = format!("/?{query}").parse().unwrap();
    axum::extract::Query::try_from_uri(&uri).unwrap().0
}

fn overview(targets: &[TargetStatus], query: &str) -> String {
    let browse = browse(query);
    let listing = Listing::new(targets, &browse);
    let glimpse = Glimpse { weeks: (0..26).map(|n| (n != 7).then_some(800 + n)).collect(), missing: 3 };
    let glimpses = HashMap::from([(Uuid::from_u128(1), glimpse)]);
    Overview::new(&listing, &browse, &glimpses, &NextDue::default(), (now(), now())).render().unwrap()
}

fn assert_shows(html: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(html.contains(wanted), "no `{wanted}` in {html}");
    }
}

#[test]
fn a_tenant_in_order() {
    let next = NextDue::default();
    let targets = [180, 90, 30, 7].map(|days| target(1, "Contoso", days, "ok")).into();
    next.set(Uuid::from_u128(1), REPORT, 7, now() + TimeDelta::minutes(90));
    let html = TenantPage::new(Uuid::from_u128(1), &data(targets), Range::Year, true, &next, now()).render().unwrap();
    assert_shows(
        &html,
        &[
            "<h1>Contoso: up to date</h1>",
            "2 days behind today",
            "D180",
            "3 hours ago",
            "in 1 hour",
            "No figures from 2026-02-10 to 2026-02-13",
            "<td colspan=\"7\" class=\"none\">no figures held</td>",
            "may still change",
            "href=\"/tenants/00000000-0000-0000-0000-000000000001?days=365#chart\" aria-current=\"page\"",
            "active-users.csv?days=365",
            "throttled</code><span class=\"advice\">gave up on https://h.office.com/x?***",
            "What to do: nothing to do: the next try waits",
            "4 minutes ago",
            "Refresh 2026-04-10",
            "<b>850</b><small class=\"block\">+160</small>",
        ],
    );
    assert!(!html.contains("SECRET") && !html.contains("class=\"crumbs\""));
}

#[test]
fn pages_are_complete_in_themselves() {
    let targets = [target(1, "Contoso", 7, "ok"), target(2, "Fabrikam", 7, "ok")];
    let pages =
        [tenant_page(targets[..1].to_vec()), overview(&targets, ""), Notice::unreadable(now()).render().unwrap()];
    for html in pages {
        for banned in ["<script", "http-equiv", "src=", " style=", "@import", "http://", "https://h.office.com/x?sig"] {
            assert!(!html.contains(banned), "{banned} in {html}");
        }
        let foreign = html.split("href=\"").skip(1).find(|link| !link.starts_with(['/', '#']));
        assert_eq!(foreign, None);
        assert_eq!(html.matches("<table").count(), html.matches("<caption").count());
        assert!(!html.contains("<th>"), "every header says what it heads");
        assert_eq!(html.matches("<h1").count(), 1);
        assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
    }
}

#[test]
fn an_error_that_needs_a_person_comes_first_and_with_advice() {
    let targets = [target(1, "Contoso", 7, "ok"), failing(target(2, "Fabrikam", 7, "ok"), "auth_forbidden")];
    let html = overview(&targets, "");
    assert_shows(&html, &["1 of 2 tenants needs attention", "auth_forbidden", "Reports.Read.All"]);
    assert!(html.find("Fabrikam").unwrap() < html.find("Contoso").unwrap());

    let of_one = [180, 90].map(|days| failing(target(1, "Contoso", days, "ok"), "auth_forbidden"));
    let html = tenant_page([&of_one[..], &[target(1, "Contoso", 7, "late")]].concat());
    assert_shows(
        &html,
        &[
            "<h1>Contoso: needs attention</h1>",
            "This is about 2 of 3 targets",
            "<b>D180, D90</b>: <code>auth_forbidden</code>: give the application",
            "What to do: nothing to do: it is fetched in time, but Microsoft has published nothing newer",
        ],
    );
}

#[test]
fn a_hostile_name_is_text() {
    let name = "<script>alert(1)</script>\"'&";
    for html in [
        overview(&[target(1, name, 7, "stale"), target(2, "B", 7, "ok")], ""),
        tenant_page(vec![target(1, name, 7, "ok")]),
    ] {
        assert!(!html.contains("<script"));
        assert!(html.contains("&#60;script&#62;"), "{html}");
    }
    let html = overview(&[target(1, "A", 7, "ok"), target(2, "B", 7, "ok")], "q=%22%3E%3Cb%3E%26x");
    assert_shows(
        &html,
        &["value=\"&#34;&#62;&#60;b&#62;&#38;x\"", "q=%22%3E%3Cb%3E%26x&#38;state=fresh", "No tenant fits"],
    );
}

fn many() -> Vec<TargetStatus> {
    let mut targets: Vec<_> = (0..2_500)
        .flat_map(|n| [180, 90, 30, 7].map(|days| target(n, &format!("Tenant {n:04}"), days, "ok")))
        .collect();
    for late in &mut targets[8_000..8_012] {
        late.state = "late".to_owned();
    }
    for number in [9_998, 9_999, 9_001] {
        targets[number].state = "stale".to_owned();
    }
    targets[9_001].last_success_at = None;
    targets
}

#[test]
fn of_very_many_the_worst_come_first_and_all_are_counted() {
    let targets = many();
    let html = overview(&targets, "");
    assert_shows(
        &html,
        &[
            "<h1>2 of 2,500 tenants need attention</h1>",
            "1 to 100 of 2,500",
            "Need attention <span class=\"amount\">2</span>",
            "Waiting <span class=\"amount\">3</span>",
            "<a href=\"/?page=2\" rel=\"next\">",
            "2 of 4 targets",
        ],
    );
    assert_eq!(html.matches("<th scope=\"row\">").count(), 100);
    let place = |name: &str| html.find(&format!(">{name}</a>")).unwrap();
    assert!(place("Tenant 2250") < place("Tenant 2499"), "who never succeeded waits longest");
    assert!(place("Tenant 2499") < place("Tenant 2000") && place("Tenant 2002") < place("Tenant 0000"));
    assert!(html.len() < 150_000, "{} bytes", html.len());
    assert_shows(&overview(&targets, "page=25"), &["2,401 to 2,500 of 2,500", "rel=\"prev\""]);
    assert!(!overview(&targets, "page=99999").contains("rel=\"next\""), "the last page");
}

#[test]
fn a_search_narrows_the_list_and_keeps_the_state_asked_for() {
    let targets = many();
    let html = overview(&targets, "q=tenant%20200&state=waiting");
    assert_eq!(html.matches("<th scope=\"row\">").count(), 3);
    assert_shows(
        &html,
        &[
            "All <span class=\"amount\">10</span>",
            "href=\"/?q=tenant+200&#38;state=waiting\" aria-current=\"page\"",
            "<input type=\"hidden\" name=\"state\" value=\"waiting\">",
            "/tenants.csv?q=tenant+200&#38;state=waiting",
            "2 of 2,500 tenants need attention",
        ],
    );
    let by_id = overview(&targets, "q=0000000009C3");
    assert_eq!(by_id.matches("<th scope=\"row\">").count(), 1, "an ID in any case");
}

#[test]
fn a_trend_is_drawn_and_told() {
    let html = overview(&[target(1, "Contoso", 7, "ok"), target(2, "Fabrikam", 7, "ok")], "");
    assert_shows(&html, &["aria-label=\"from 800 to 825 in 25 weeks\"", "3 days missing"]);
    let path = html.split("<path d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 23), "{path}");
}

#[test]
fn before_the_first_fetch_nothing_is_wrong() {
    let mut first = target(1, "Contoso", 7, "never");
    assert_shows(
        &tenant_page(vec![first.clone()]),
        &["Contoso: not fetched yet", "Nothing to do: it is fetched when it is due"],
    );
    first.last_outcome = Some("empty".to_owned());
    assert_shows(&tenant_page(vec![first]), &["Contoso: no data yet"]);
    let nothing = TenantData { changes: Some(Vec::new()), ..TenantData::default() };
    let html = TenantPage::new(Uuid::nil(), &nothing, Range::All, false, &NextDue::default(), now()).render().unwrap();
    assert_shows(&html, &["no longer fetched", "There is nothing to draw yet", "No later refresh said otherwise"]);
    let html = overview(&[], "");
    assert!(html.contains("Nothing is to be fetched yet") && !html.contains("<table"));
}

#[test]
fn what_took_too_long_is_told() {
    let data = TenantData { changes: None, ..data(vec![target(1, "Contoso", 7, "ok")]) };
    let html = TenantPage::new(Uuid::nil(), &data, Range::All, false, &NextDue::default(), now()).render().unwrap();
    assert_shows(&html, &["The database took too long to tell"]);
}

#[test]
fn ten_years_of_one_tenant_stay_small() {
    let mut data = data(vec![target(1, "Contoso", 7, "ok")]);
    let figure = |n: u64| Some(i64::try_from(n * 7_919 % 90_000).unwrap());
    let day = |n: u64| Day {
        report_date: first() + Days::new(n),
        office_365: figure(n),
        exchange: figure(n + 1),
        onedrive: figure(n + 2),
        sharepoint: figure(n + 3),
        skype_for_business: figure(n + 4),
        yammer: figure(n + 5),
        teams: figure(n + 6),
        is_final: true,
    };
    data.days = (0..3_653).map(day).collect();
    let html = TenantPage::new(Uuid::nil(), &data, Range::All, false, &NextDue::default(), now()).render().unwrap();
    let from = html.find("<svg class=\"chart\"").unwrap();
    let chart = html[from..].find("</svg></div>").unwrap();
    assert!(chart < 250_000, "{chart} bytes");
    assert!(html.len() < 350_000, "{} bytes", html.len());
    assert_shows(&html, &["3,473 days more are in the download"]);
}

#[test]
fn distances_are_words() {
    for (seconds, words) in [
        (0, "just now"),
        (-59, "just now"),
        (30, "in a moment"),
        (-60, "1 minute ago"),
        (7_199, "in 1 hour"),
        (-172_799, "47 hours ago"),
        (-172_800, "2 days ago"),
    ] {
        assert_eq!(relative(TimeDelta::seconds(seconds)), words);
    }
}

#[test]
fn the_policy_names_the_one_style_sheet() {
    assert!(CONTENT_SECURITY_POLICY.contains("style-src 'sha256-") && CONTENT_SECURITY_POLICY.contains("=';"));
}
