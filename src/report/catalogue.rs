//! Every report there is. A new one is an entry here and a migration.

use super::{Column, ColumnKind::Count, Key, Period, Report};

/// How many people used Microsoft 365, as a whole and per product, on each day.
///
/// Columns and meaning: <https://learn.microsoft.com/graph/api/reportroot-getoffice365activeusercounts>. `Office 365`
/// counts people active in *any* of the products: it is a union, not the sum of the others.
pub static OFFICE365_ACTIVE_USER_COUNTS: Report = Report {
    name: "office365_active_user_counts",
    function: "getOffice365ActiveUserCounts",
    table: "office365_active_user_counts",
    key: Key { refresh_date: "Report Refresh Date", report_date: "Report Date", report_period: "Report Period" },
    columns: &[
        Column { name: "office_365", headers: &["Office 365", "Microsoft 365"], kind: Count },
        Column { name: "exchange", headers: &["Exchange"], kind: Count },
        Column { name: "onedrive", headers: &["OneDrive"], kind: Count },
        Column { name: "sharepoint", headers: &["SharePoint"], kind: Count },
        Column { name: "skype_for_business", headers: &["Skype For Business"], kind: Count },
        Column { name: "yammer", headers: &["Yammer"], kind: Count },
        Column { name: "teams", headers: &["Teams"], kind: Count },
    ],
    periods: &Period::LONGEST_FIRST,
    max_rows: 1_000,
};

/// All reports, in the order they are fetched.
pub static REPORTS: &[&Report] = &[&OFFICE365_ACTIVE_USER_COUNTS];

/// The report of that name.
pub fn find(name: &str) -> Option<&'static Report> {
    REPORTS.iter().copied().find(|report| report.name == name)
}
