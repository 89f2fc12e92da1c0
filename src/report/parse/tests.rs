use proptest::prelude::*;

use super::*;
use crate::report::catalogue::OFFICE365_ACTIVE_USER_COUNTS as REPORT;

const TODAY: &str = "Report Refresh Date,Office 365,Exchange,OneDrive,SharePoint,Skype For Business,Yammer,Teams,Report Date,Report Period";
const OF_2017: &str =
    "Report Refresh Date,Office 365,Exchange,OneDrive,SharePoint,Skype For Business,Yammer,Report Date,Report Period";

fn now() -> NaiveDate {
    day("2022-10-28")
}

fn day(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

fn read(body: impl Into<Bytes>) -> Result<Option<Snapshot>, Rejection> {
    parse(&REPORT, Period::D7, &Body { bytes: body.into(), framed: true }, now())
}

fn good(body: &str) -> Snapshot {
    read(body.to_owned()).expect("accepted").expect("rows")
}

fn class(body: impl Into<Bytes>) -> ErrorClass {
    let class = read(body).expect_err("refused").class;
    assert!(class.refuses_bodies(), "{class}");
    class
}

fn week(header: &str, row: impl Fn(NaiveDate) -> String) -> String {
    let mut text = format!("\u{feff}{header}\r\n");
    for back in 0..7 {
        let date = day("2022-10-25") - Days::new(back);
        text.push_str(&row(date));
        text.push_str("\r\n");
    }
    text
}

#[test]
fn the_published_row_is_read() {
    let snapshot = good(&format!("\u{feff}{TODAY}\r\n2022-10-25,1,5,4,3,2,3,1,2022-10-19,7\r\n"));
    assert_eq!(snapshot.refresh_date, day("2022-10-25"));
    assert_eq!(snapshot.rows.len(), 1);
    assert_eq!(snapshot.rows[0].report_date, day("2022-10-19"));
    assert_eq!(snapshot.rows[0].values, [1, 5, 4, 3, 2, 3, 1].map(Some));
    assert_eq!(snapshot.rows[0].extra, None);
    assert_eq!(snapshot.source_columns[0], "Report Refresh Date");
}

#[test]
fn columns_are_found_by_name_whatever_their_order_case_and_spaces() {
    let body = "report  period , TEAMS,Report Date,Microsoft 365,Report Refresh Date,exchange\n7,9,2022-10-24,3,2022-10-25,4\n";
    let snapshot = good(body);
    assert_eq!(snapshot.rows[0].values, [Some(3), Some(4), None, None, None, None, Some(9)]);
}

#[test]
fn the_header_of_2017_has_no_teams_and_that_is_no_value() {
    let snapshot = good(&week(OF_2017, |date| format!("2022-10-25,1,5,4,3,2,3,{date},7")));
    assert_eq!(snapshot.rows.len(), 7);
    assert_eq!(snapshot.rows[0].report_date, day("2022-10-19"), "oldest first");
    assert!(snapshot.rows.iter().all(|row| row.values[6].is_none()));
}

#[test]
fn blank_is_no_value_and_zero_is_zero() {
    let snapshot = good(&format!("{TODAY}\n2022-10-25,0,5,4,3,,  ,1,2022-10-19,7"));
    assert_eq!(snapshot.rows[0].values, [Some(0), Some(5), Some(4), Some(3), None, None, Some(1)]);
}

#[test]
fn an_unknown_column_is_kept_under_its_header() {
    let header = TODAY.replace("Teams,", "Teams,Viva \"Engage\",Loop,Planner,");
    let header = header.replace("Viva \"Engage\"", "\"Viva \"\"Engage\"\"\"");
    let snapshot = good(&format!("{header}\n2022-10-25,1,5,4,3,2,3,1,12,,007,2022-10-19,7\n"));
    assert_eq!(snapshot.rows[0].extra.as_deref(), Some(r#"{"Loop":null,"Planner":"007","Viva \"Engage\"":12}"#));
    assert_eq!(snapshot.rows[0].values[6], Some(1));
}

#[test]
fn line_ends_blank_lines_and_times_of_day_do_not_matter() {
    let row = "2022-10-25T00:00:00Z,1,5,4,3,2,3,1,2022-10-19,7";
    let plain = good(&format!("{TODAY}\r\n{row}\r\n"));
    for body in
        [format!("{TODAY}\n\n{row}\n\n"), format!("{TODAY}\n{row}"), format!("\u{feff}{TODAY}\r\n \r\n{row}\r\n")]
    {
        assert_eq!(good(&body).rows, plain.rows);
    }
}

#[test]
fn no_bytes_and_the_header_alone_are_empty() {
    for body in ["", "\u{feff}", "\r\n", TODAY, &format!("\u{feff}{TODAY}\r\n")] {
        assert_eq!(read(body.to_owned()), Ok(None), "{body:?}");
    }
}

#[test]
fn what_is_no_csv_is_told_apart() {
    for body in [
        "<!DOCTYPE html><html></html>",
        "  {\"error\":{\"code\":\"x\"}}",
        "[]",
        "https://reports.office.com/data/download/canary",
        "hello world",
        "a,b,c\n1,2,3\n",
        "Report\0 Refresh Date",
    ] {
        assert_eq!(class(body.to_owned()), ErrorClass::NotCsv, "{body}");
    }
    assert_eq!(class(&b"\xff\xfeR\0e\0"[..]), ErrorClass::NotCsv);
    let error = read("https://reports.office.com/data/download/canary").expect_err("refused");
    assert!(!error.to_string().contains("canary"), "the link is a credential: {error}");
}

#[test]
fn a_key_column_must_be_there_exactly_once() {
    let row = "2022-10-25,1,5,4,3,2,3,1,2022-10-19,7";
    for key in ["Report Refresh Date", "Report Date", "Report Period"] {
        assert_eq!(class(format!("{}\n{row}\n", TODAY.replace(key, "Other"))), ErrorClass::BadHeader, "{key}");
        assert_eq!(class(format!("{TODAY},{key}\n{row},7\n")), ErrorClass::BadHeader, "{key} twice");
    }
    assert_eq!(class(format!("{TODAY},Microsoft 365\n{row},7\n")), ErrorClass::BadHeader, "both aliases");
    assert_eq!(class(format!("{TODAY},Teams\n{row},7\n")), ErrorClass::BadHeader, "a measure twice");
    assert_eq!(class(format!("{TODAY},\n{row},\n")), ErrorClass::BadHeader, "no name");
    assert_eq!(
        class("Report Refresh Date,Report Date,Report Period,Files\n2022-10-25,2022-10-19,7,1\n"),
        ErrorClass::BadHeader
    );
    let wide = format!("{TODAY}{}\n", ",x".repeat(300));
    assert_eq!(class(wide), ErrorClass::BadHeader);
}

#[test]
fn one_bad_cell_refuses_the_whole_body() {
    for cell in ["x", "-1", "+1", "1,5", "1.0", "1e9", "9223372036854775808", "0x10", "=1+1", "NaN"] {
        let body = week(TODAY, |date| {
            let bad = if date == day("2022-10-21") { format!("\"{cell}\"") } else { "5".to_owned() };
            format!("2022-10-25,1,{bad},4,3,2,3,1,{date},7")
        });
        let error = read(body).expect_err("refused");
        assert_eq!(error.class, ErrorClass::BadRow, "{cell}");
        assert!(error.reason.contains("row 5") && error.reason.contains("Exchange"), "{error}");
    }
    for (from, to) in [
        ("2022-10-25,1", "25.10.2022,1"),
        ("2022-10-25,1", ",1"),
        ("2022-10-25,1", "2022-02-30,1"),
        ("2022-10-25,1", "2099-10-25,1"),
        ("2022-10-19", ""),
        ("2022-10-19", "2022-10-26"),
        ("2022-10-19,7", "2022-10-19,seven"),
        ("2022-10-19,7", "2022-10-19,"),
        ("2022-10-19,7", "2022-10-19,7,8"),
    ] {
        let row = "2022-10-25,1,5,4,3,2,3,1,2022-10-19,7".replace(from, to);
        assert_eq!(class(format!("{TODAY}\n{row}\n")), ErrorClass::BadRow, "{row}");
    }
    assert_eq!(class(format!("{TODAY}\n2022-10-25,1,5,4,3,2,3,1,2022-10-19,30\n")), ErrorClass::PeriodMismatch);
}

#[test]
fn refreshes_are_never_mixed() {
    let body = week(TODAY, |date| {
        let refreshed = if date == day("2022-10-20") { "2022-10-24" } else { "2022-10-25" };
        format!("{refreshed},1,5,4,3,2,3,1,{date},7")
    });
    assert_eq!(class(body), ErrorClass::MixedRefresh);
}

#[test]
fn a_row_may_stand_twice_but_not_contradict_itself() {
    let row = "2022-10-25,1,5,4,3,2,3,1,2022-10-19,7";
    assert_eq!(good(&format!("{TODAY}\n{row}\n{row}\n")).rows.len(), 1);
    assert_eq!(class(format!("{TODAY}\n{row}\n{}\n", row.replace(",5,", ",6,"))), ErrorClass::ConflictingRows);
}

#[test]
fn more_rows_than_the_report_can_have_are_refused() {
    let row = |back| format!("2022-10-25,1,5,4,3,2,3,1,{},7\n", day("2022-10-25") - Days::new(back));
    let rows: Vec<_> = (0..1_001).map(row).collect();
    assert_eq!(class(format!("{TODAY}\n{}", rows.concat())), ErrorClass::TooLarge);
}

#[test]
fn a_missing_day_is_stored_when_the_end_was_proven() {
    let body = week(TODAY, |date| format!("2022-10-25,1,5,4,3,2,3,1,{date},7"));
    let holed: String = body.split_inclusive("\r\n").filter(|line| !line.contains(",2022-10-22,")).collect();
    assert_eq!(good(&holed).rows.len(), 6);
    let unproven = parse(&REPORT, Period::D7, &Body { bytes: holed.into(), framed: false }, now());
    assert_eq!(unproven.expect_err("refused").class, ErrorClass::Truncated);
}

/// Cut anywhere, a body whose end nothing proves is either refused, or lacks only oldest days.
#[test]
fn a_cut_without_framing_never_changes_a_figure() {
    let whole = week(TODAY, |date| format!("2022-10-25,11,15,14,13,12,13,11,{date},7"));
    let full = good(&whole);
    for at in 0..whole.len() {
        let body = Body { bytes: Bytes::copy_from_slice(&whole.as_bytes()[..at]), framed: false };
        if let Ok(Some(snapshot)) = parse(&REPORT, Period::D7, &body, now()) {
            assert!(full.rows.ends_with(&snapshot.rows), "cut at {at}");
            assert!(whole[..at].ends_with(['\r', '\n']), "cut within a row at {at}");
        }
        let framed = read(Bytes::copy_from_slice(&whole.as_bytes()[..at]));
        if let Ok(Some(snapshot)) = framed {
            for row in &snapshot.rows {
                assert!(full.rows.contains(row), "cut at {at} changed a figure");
            }
        }
    }
    let body = Body { bytes: whole.into(), framed: false };
    assert_eq!(parse(&REPORT, Period::D7, &body, now()), Ok(Some(full)));
}

#[test]
fn the_content_hash_knows_every_figure_and_no_order() {
    let body = week(TODAY, |date| format!("2022-10-25,1,5,4,3,2,,1,{date},7"));
    let mut lines: Vec<_> = body.split_inclusive("\r\n").collect();
    let hash = good(&body).content_hash();
    lines[1..].reverse();
    assert_eq!(good(&lines.concat()).content_hash(), hash);
    assert_ne!(good(&body.replacen(",5,", ",6,", 1)).content_hash(), hash);
    assert_ne!(good(&body.replacen(",2,,1", ",2,0,1", 1)).content_hash(), hash, "blank is not zero");
    assert_ne!(good(&body.replacen(",2,,1", ",,2,1", 1)).content_hash(), hash, "the place counts");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), framed: bool) {
        let _ = parse(&REPORT, Period::D7, &Body { bytes: bytes.into(), framed }, now());
    }

    #[test]
    fn arbitrary_tables_under_a_true_header_never_panic(text in "[0-9,\"\r\n T-]{0,400}", framed: bool) {
        let body = format!("{TODAY}\n{text}");
        let _ = parse(&REPORT, Period::D7, &Body { bytes: body.into(), framed }, now());
    }

    #[test]
    fn what_was_written_is_what_is_read(
        figures in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0..i64::MAX), 7), 1..180),
        order in any::<u64>(),
    ) {
        let refreshed = day("2022-10-25");
        let mut lines: Vec<String> = figures.iter().enumerate().map(|(back, values)| {
            let cells: Vec<_> = values.iter().map(|v| v.map_or(String::new(), |v| v.to_string())).collect();
            format!("{refreshed},{},{},180", cells.join(","), refreshed - Days::new(back as u64))
        }).collect();
        let turn = usize::try_from(order % 180).expect("small") % lines.len();
        lines.rotate_left(turn);
        let body = format!("\u{feff}{TODAY}\r\n{}\r\n", lines.join("\r\n"));
        let snapshot = parse(&REPORT, Period::D180, &Body { bytes: body.into(), framed: true }, now())
            .expect("accepted").expect("rows");
        prop_assert_eq!(snapshot.rows.len(), figures.len());
        for (row, values) in snapshot.rows.iter().rev().zip(&figures) {
            prop_assert_eq!(&row.values, values);
        }
    }
}
