//! How an attempt can end: the one closed list shared by the ledger, the metrics, the logs and the documentation.

use std::fmt;

use serde::Serialize;

/// What one attempt at a slot came to. Stored in `attempt.outcome`, and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A snapshot was written: a new refresh date, or other numbers under a known one.
    Stored,
    /// Microsoft served what the ledger already holds; nothing was written.
    Unchanged,
    /// Microsoft had no rows to give. Not a failure, but not a success for freshness either.
    Empty,
    /// A body came and was refused whole; it is kept in quarantine.
    Rejected,
    /// No body was obtained or stored.
    Failed,
    /// The slot was passed over because a newer one took its place.
    Skipped,
    /// The process that held the slot died or lost its lease.
    Abandoned,
}

impl Outcome {
    /// The name used in SQL, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unchanged => "unchanged",
            Self::Empty => "empty",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether the data are as fresh as Microsoft's after this outcome.
    pub const fn is_fresh(self) -> bool {
        matches!(self, Self::Stored | Self::Unchanged)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// When it makes sense to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The fault is likely to pass: try again within this slot, after a back-off.
    Now,
    /// Trying at once would change nothing: wait for the next slot.
    Later,
    /// A person has to change something. Still tried at every slot, because the cure shows itself only so.
    NeedsHuman,
}

/// Why an attempt did not end in a stored snapshot. Stored in `attempt.error_class`, and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Microsoft Entra ID refused the application's credential, or Graph refused a fresh token.
    AuthInvalidClient,
    /// The application may not read reports: permission or admin consent is missing.
    AuthForbidden,
    /// Graph does not know the request: the function or the period is not offered, or it is our bug.
    BadRequest,
    /// Graph answered 404.
    NotFound,
    /// Graph answered 429.
    Throttled,
    /// Graph, the login service or the download host answered 5xx.
    #[serde(rename = "graph_5xx")]
    Graph5xx,
    /// A deadline passed.
    Timeout,
    /// No connection, or it broke off.
    Connection,
    /// The peer's certificate was not accepted, or no TLS connection came about.
    Tls,
    /// A 302 without a usable `Location`.
    RedirectMissing,
    /// A `Location` that is not an allowed download host.
    RedirectRefused,
    /// The pre-authenticated download URL was refused, and so were the new ones asked for.
    UrlExpired,
    /// The body broke off before its end.
    Truncated,
    /// The body or its rows exceed the bounds.
    TooLarge,
    /// Something else than CSV came with 200: a page, JSON, a URL.
    NotCsv,
    /// A key column is missing, or a header stands twice.
    BadHeader,
    /// A cell cannot be read.
    BadRow,
    /// The rows are of another period than was asked for.
    PeriodMismatch,
    /// Several refresh dates in one body.
    MixedRefresh,
    /// Two rows with one key and different values.
    ConflictingRows,
    /// A body without rows.
    EmptyReport,
    /// Postgres could not be reached, or the connection broke.
    DbUnavailable,
    /// Postgres only takes reads: a standby, or a read-only setting.
    DbReadonly,
    /// Postgres has no space left.
    DbFull,
    /// The tables are not those this program was built for.
    SchemaMismatch,
    /// Another process took the slot over in the meantime; nothing was written.
    Fenced,
    /// The program was told to stop.
    Shutdown,
    /// A fault of this program.
    Internal,
}

impl ErrorClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [Self; 28] = [
        Self::AuthInvalidClient,
        Self::AuthForbidden,
        Self::BadRequest,
        Self::NotFound,
        Self::Throttled,
        Self::Graph5xx,
        Self::Timeout,
        Self::Connection,
        Self::Tls,
        Self::RedirectMissing,
        Self::RedirectRefused,
        Self::UrlExpired,
        Self::Truncated,
        Self::TooLarge,
        Self::NotCsv,
        Self::BadHeader,
        Self::BadRow,
        Self::PeriodMismatch,
        Self::MixedRefresh,
        Self::ConflictingRows,
        Self::EmptyReport,
        Self::DbUnavailable,
        Self::DbReadonly,
        Self::DbFull,
        Self::SchemaMismatch,
        Self::Fenced,
        Self::Shutdown,
        Self::Internal,
    ];

    /// The name used in SQL, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthInvalidClient => "auth_invalid_client",
            Self::AuthForbidden => "auth_forbidden",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Throttled => "throttled",
            Self::Graph5xx => "graph_5xx",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::RedirectMissing => "redirect_missing",
            Self::RedirectRefused => "redirect_refused",
            Self::UrlExpired => "url_expired",
            Self::Truncated => "truncated",
            Self::TooLarge => "too_large",
            Self::NotCsv => "not_csv",
            Self::BadHeader => "bad_header",
            Self::BadRow => "bad_row",
            Self::PeriodMismatch => "period_mismatch",
            Self::MixedRefresh => "mixed_refresh",
            Self::ConflictingRows => "conflicting_rows",
            Self::EmptyReport => "empty_report",
            Self::DbUnavailable => "db_unavailable",
            Self::DbReadonly => "db_readonly",
            Self::DbFull => "db_full",
            Self::SchemaMismatch => "schema_mismatch",
            Self::Fenced => "fenced",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }

    /// Whether a body can be refused with it. Every other class is of something else: no body came, or it was not stored.
    pub const fn refuses_bodies(self) -> bool {
        matches!(
            self,
            Self::Truncated
                | Self::TooLarge
                | Self::NotCsv
                | Self::BadHeader
                | Self::BadRow
                | Self::PeriodMismatch
                | Self::MixedRefresh
                | Self::ConflictingRows
        )
    }

    /// The class of this name, if this version knows it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// When trying again makes sense.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Throttled
            | Self::Graph5xx
            | Self::Timeout
            | Self::Connection
            | Self::UrlExpired
            | Self::Truncated
            | Self::DbUnavailable
            | Self::Shutdown => Retry::Now,
            Self::NotFound
            | Self::RedirectMissing
            | Self::TooLarge
            | Self::NotCsv
            | Self::BadRow
            | Self::PeriodMismatch
            | Self::MixedRefresh
            | Self::ConflictingRows
            | Self::EmptyReport
            | Self::DbReadonly
            | Self::DbFull
            | Self::Fenced => Retry::Later,
            Self::AuthInvalidClient
            | Self::AuthForbidden
            | Self::BadRequest
            | Self::Tls
            | Self::RedirectRefused
            | Self::BadHeader
            | Self::SchemaMismatch
            | Self::Internal => Retry::NeedsHuman,
        }
    }

    /// What the person who reads this at night should do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::AuthInvalidClient => {
                "check tenant.id, tenant.client_id and the credential: a secret or a certificate may have ended (Entra ID > App registrations > Certificates & secrets)"
            }
            Self::AuthForbidden => {
                "give the application the Microsoft Graph application permission Reports.Read.All and grant admin consent"
            }
            Self::BadRequest => {
                "check reports.<name>.function and .periods: Graph does not offer this call; national clouds need graph.cloud"
            }
            Self::NotFound => "check reports.<name>.function and graph.base_url: Graph has no such report here",
            Self::Throttled => "nothing to do: the next try waits as long as Microsoft asked for",
            Self::Graph5xx => "nothing to do unless it lasts: Microsoft's side is failing; see the service health page",
            Self::Timeout => "check the network and proxy between this machine and Microsoft",
            Self::Connection => {
                "check DNS, firewall and proxy: Graph, the login host or the download host cannot be reached"
            }
            Self::Tls => {
                "a certificate is not trusted; behind an inspecting proxy set graph.extra_ca_file to the proxy's CA"
            }
            Self::RedirectMissing => "nothing to do unless it lasts: Graph gave no download link",
            Self::RedirectRefused => {
                "Graph named a download host that is not allowed; if it is Microsoft's, add its suffix to graph.download_hosts"
            }
            Self::UrlExpired => "nothing to do unless it lasts: the download links Graph gave were refused",
            Self::Truncated => {
                "nothing to do unless it lasts: the download broke off; check proxies that cut responses"
            }
            Self::TooLarge => "the body is larger than this report can be; look at it in m365_store.quarantine",
            Self::NotCsv => "a page or message came instead of CSV; look at it in m365_store.quarantine",
            Self::BadHeader => {
                "Microsoft changed the columns; look in m365_store.quarantine and update m365-ledger, the body is kept"
            }
            Self::BadRow => "a row cannot be read; look in m365_store.quarantine, the body is kept",
            Self::PeriodMismatch => {
                "Microsoft answered for another period; nothing was stored, the next slot asks again"
            }
            Self::MixedRefresh => {
                "Microsoft mixed two refreshes in one body; nothing was stored, the next slot asks again"
            }
            Self::ConflictingRows => "two rows contradict each other; look in m365_store.quarantine, the body is kept",
            Self::EmptyReport => {
                "Microsoft had no rows; normal for a new tenant, otherwise see the service health page if it lasts"
            }
            Self::DbUnavailable => "check that Postgres runs and database.url is right",
            Self::DbReadonly => "Postgres refuses writes: point database.url at the primary, or end its read-only mode",
            Self::DbFull => "Postgres has no disk space left: make room, the next slot goes on by itself",
            Self::SchemaMismatch => "run `m365-ledger migrate`, or use the program version that fits the database",
            Self::Fenced => "nothing to do: another replica finished this slot",
            Self::Shutdown => "nothing to do: the slot is taken up again at the next start",
            Self::Internal => "a fault of m365-ledger: please report it with the log line",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ErrorClass;

    #[test]
    fn the_list_is_closed_and_its_names_are_those_of_serde() {
        let names: BTreeSet<_> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
        assert_eq!(names.len(), ErrorClass::ALL.len());
        for class in ErrorClass::ALL {
            let json = serde_json::to_string(&class).expect("an enum without data serialises");
            assert_eq!(json.trim_matches('"'), class.as_str());
            assert!(class.advice().len() > 20, "{class} has no advice");
        }
    }

    #[test]
    fn every_class_has_its_section_in_the_documentation() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
        let docs = std::fs::read_to_string(path).expect("the page");
        let headings: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let classes: Vec<String> = ErrorClass::ALL.iter().map(|class| format!("`{class}`")).collect();
        assert_eq!(headings, classes, "one section for each class, in the order of the list");
    }
}
