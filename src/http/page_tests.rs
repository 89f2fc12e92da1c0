use askama::Template;
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use uuid::Uuid;

use super::{CONTENT_SECURITY_POLICY, Page, base64, relative};
use crate::{
    http::{NextDue, data::Details},
    store::status::{AttemptLine, Day, Gap, TargetStatus},
};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn target(tenant: u128, name: &str, days: i16, state: &str) -> TargetStatus {
    let success = (state != "never").then(|| now() - TimeDelta::hours(3));
    TargetStatus {
        tenant_id: Uuid::from_u128(tenant),
        tenant_name: name.to_owned(),
        report: "office365_active_user_counts".to_owned(),
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

fn details() -> Details {
    let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    let days = (0..100).filter(|n| !(40..44).contains(n)).map(|n| Day {
        report_date: first + Days::new(n),
        office_365: Some(900),
        exchange: Some(800),
        onedrive: Some(400),
        sharepoint: Some(300),
        skype_for_business: None,
        yammer: Some(1),
        teams: Some(850),
        is_final: true,
    });
    Details {
        attempts: vec![AttemptLine {
            finished_at: now() - TimeDelta::minutes(4),
            tenant_name: "Contoso".to_owned(),
            report: "office365_active_user_counts".to_owned(),
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
            report: "office365_active_user_counts".to_owned(),
            gap_start: first + Days::new(40),
            gap_end: first + Days::new(43),
            days: 4,
        }],
        days: days.collect(),
    }
}

fn render(targets: &[TargetStatus]) -> String {
    Page::new(targets, Some(&details()), &NextDue::default(), now()).render().unwrap()
}

#[test]
fn one_tenant_in_order() {
    let next = NextDue::default();
    let targets: Vec<_> = [180, 90, 30, 7].map(|days| target(1, "Contoso", days, "ok")).into();
    next.set(Uuid::from_u128(1), "office365_active_user_counts", 7, now() + TimeDelta::minutes(90));
    let html = Page::new(&targets, Some(&details()), &next, now()).render().unwrap();
    for wanted in [
        "All 4 targets are up to date",
        "D180",
        "3 hours ago",
        "in 1 hour",
        "No figures from 2026-02-10 to 2026-02-13",
        "<svg",
        "throttled: gave up on https://h.office.com/x?***",
        "4 minutes ago",
    ] {
        assert!(html.contains(wanted), "no `{wanted}` in {html}");
    }
    assert!(!html.contains("SECRET"));
}

#[test]
fn the_page_is_complete_in_itself() {
    let html = render(&[target(1, "Contoso", 7, "ok")]);
    for banned in ["<script", "http-equiv", "src=", "href=", " style=", "@import", "url("] {
        assert!(!html.contains(banned), "{banned} in {html}");
    }
    assert_eq!(html.matches("<table").count(), html.matches("<caption").count());
    assert!(!html.contains("<th>"), "every header says what it heads");
}

#[test]
fn an_error_that_needs_a_person_comes_first_and_with_advice() {
    let mut broken = target(2, "Fabrikam", 7, "ok");
    broken.last_outcome = Some("failed".to_owned());
    broken.last_error_class = Some("auth_forbidden".to_owned());
    let html = render(&[target(1, "Contoso", 7, "ok"), broken]);
    assert!(html.contains("1 of 2 targets needs attention"));
    assert!(html.contains("auth_forbidden") && html.contains("Reports.Read.All"));
    let (fabrikam, contoso) = (html.find("Fabrikam").unwrap(), html.find("Up to date</span>").unwrap());
    assert!(fabrikam < contoso);
}

#[test]
fn a_hostile_name_is_text() {
    let html = render(&[target(1, "<script>alert(1)</script>\"'&", 7, "stale")]);
    assert!(!html.contains("<script"));
    assert!(html.contains("&#60;script&#62;") || html.contains("&lt;script&gt;"), "{html}");
}

#[test]
fn of_very_many_the_worst_are_listed_and_all_are_counted() {
    let mut targets: Vec<_> =
        (0..500).flat_map(|n| [180, 90, 30, 7].map(|days| target(n, &format!("Tenant {n:03}"), days, "ok"))).collect();
    for late in &mut targets[1_600..1_603] {
        late.state = "late".to_owned();
    }
    targets[1_999].state = "stale".to_owned();
    targets[1_998].state = "stale".to_owned();
    let html = render(&targets);
    assert!(html.contains("2 of 2,000 targets need attention"));
    assert_eq!(html.matches("<tr class=\"target\">").count(), 50);
    assert!(html.contains("Tenant 499") && html.contains("Tenant 400"));
    assert!(html.len() < 100_000, "{} bytes", html.len());
}

#[test]
fn before_the_first_fetch_nothing_is_wrong() {
    let mut first = target(1, "Contoso", 7, "never");
    assert!(render(std::slice::from_ref(&first)).contains("Not fetched yet"));
    first.last_outcome = Some("empty".to_owned());
    assert!(render(&[first]).contains("No data yet"));
    let html = Page::new(&[], Some(&Details::default()), &NextDue::default(), now()).render().unwrap();
    assert!(html.contains("Nothing is to be fetched yet") && !html.contains("<table"));
}

#[test]
fn a_ledger_that_cannot_be_read_says_so() {
    let html = Page::unreadable(now()).render().unwrap();
    assert!(html.contains("The database does not answer"));
    assert!(!html.contains("<table"));
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
fn hashes_are_base64() {
    for (given, wanted) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
        assert_eq!(base64(given.as_bytes()), wanted);
    }
    assert!(CONTENT_SECURITY_POLICY.contains("style-src 'sha256-") && CONTENT_SECURITY_POLICY.contains("=';"));
}
