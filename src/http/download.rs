//! What the pages show, as CSV.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::NaiveDate;
use tracing::error;
use uuid::Uuid;

use super::{
    NextDue,
    page::{Range, Summary},
};
use crate::{
    csv_file::CsvFile,
    store::{
        export::Value,
        status::{Day, PRODUCTS},
    },
};

/// The days of one tenant from the first to the last, one row each. A day that is not held has a row without figures, so
/// that a spreadsheet's chart shows the hole, too.
pub fn active_users(id: Uuid, name: &str, days: &[Day], range: Range) -> Response {
    let columns: Vec<&str> = ["report_date"]
        .into_iter()
        .chain(PRODUCTS.map(|(column, _)| column))
        .chain(["state", "tenant_id", "tenant_name"])
        .collect();
    let write = || {
        let mut file = CsvFile::new(Vec::new(), &columns)?;
        let mut held = days.iter().peekable();
        let last = days.last().map(|day| day.report_date);
        let dates = std::iter::successors(days.first().map(|day| day.report_date), NaiveDate::succ_opt);
        for date in dates.take_while(|date| Some(*date) <= last) {
            let day = held.next_if(|day| day.report_date == date);
            let state = match day {
                Some(day) if day.is_final => "final",
                Some(_) => "may still change",
                None => "no figures held",
            };
            let figures = day.map_or([None; 7], Day::figures).map(|figure| figure.map_or(Value::Null, Value::Whole));
            let front = [Value::Date(date)].into_iter().chain(figures);
            file.row(front.chain([text(state), text(&id.to_string()), text(name)]))?;
        }
        file.end()
    };
    answer(write(), &format!("active-users-{id}-{}.csv", range.name()))
}

/// One row for each of these tenants, in their order.
pub fn tenants(found: &[Summary<'_>], next: &NextDue) -> Response {
    const COLUMNS: [&str; 10] = [
        "tenant_id",
        "tenant_name",
        "state",
        "periods",
        "error_class",
        "advice",
        "newest_refresh_date",
        "days_behind",
        "last_success_at",
        "next_due_at",
    ];
    let write = || {
        let mut file = CsvFile::new(Vec::new(), &COLUMNS)?;
        for summary in found {
            let tenant = &summary.targets[0];
            let reason = summary.reasons().into_iter().next();
            let (periods, class, advice) =
                reason.map_or((None, None, None), |reason| (reason.periods, reason.error_class, reason.advice));
            let newest = summary.newest_refresh();
            file.row([
                text(&tenant.tenant_id.to_string()),
                text(&tenant.tenant_name),
                text(summary.standing.words()),
                periods.map_or(Value::Null, Value::Text),
                class.map_or(Value::Null, Value::Text),
                advice.map_or(Value::Null, text),
                newest.map_or(Value::Null, |(date, _)| Value::Date(date)),
                newest.map_or(Value::Null, |(_, days)| Value::Whole(days.into())),
                summary.last_success.map_or(Value::Null, Value::Time),
                summary.next_due(next).map_or(Value::Null, Value::Time),
            ])?;
        }
        file.end()
    };
    answer(write(), "tenants.csv")
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn answer(written: csv::Result<Vec<u8>>, name: &str) -> Response {
    match written {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
                (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
            ];
            (headers, bytes).into_response()
        }
        Err(fault) => {
            error!(error = &fault as &dyn std::error::Error, "the CSV cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the CSV cannot be written\n").into_response()
        }
    }
}
