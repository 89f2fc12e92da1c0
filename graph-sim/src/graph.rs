//! The reports endpoint: checks the token and the call, then redirects to a download link.

use percent_encoding::percent_decode_str;
use serde_json::json;
use uuid::Uuid;

use crate::{
    config::{Config, Period},
    fault::Host,
    state::{Grant, State, now},
    wire::{Request, Response},
};

/// The names of the one report this stand-in has: today's, the one of 2017, and the one generated SDKs use.
const FUNCTIONS: [&str; 3] =
    ["getOffice365ActiveUserCounts", "Office365ActiveUserCounts", "microsoft.graph.getOffice365ActiveUserCounts"];

/// What a path asks for.
enum Call {
    Report(Period),
    BadPeriod(String),
    Unknown,
}

/// Answers `GET /v1.0/reports/getOffice365ActiveUserCounts(period='D7')`; also says whose report it was about.
pub(crate) fn answer(
    config: &Config,
    state: &mut State,
    download_url: &str,
    request: &Request,
) -> (Option<Uuid>, Option<Period>, Response) {
    let call = parse(&request.path);
    let period = if let Call::Report(period) = call { Some(period) } else { None };
    let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let grant = token.and_then(|token| state.tokens.get(token));
    let tenant = grant.map(|grant| grant.tenant);
    let valid = grant.is_some_and(Grant::is_valid);
    // Calls that end in any other error count as well.
    let wait = tenant.filter(|_| period.is_some()).and_then(|tenant| state.count_call(tenant));

    let response = state.answer(Host::Graph, tenant, period, |state| {
        let Some(tenant) = tenant.filter(|_| valid) else {
            let message = if token.is_some() {
                "Lifetime validation failed, the token is expired."
            } else {
                "Access token is empty."
            };
            return error(401, "InvalidAuthenticationToken", message, request);
        };
        let period = match call {
            _ if request.method != "GET" => return Response::empty(405),
            Call::Unknown => {
                return error(404, "ResourceNotFound", "Resource not found for the segment.", request);
            }
            Call::BadPeriod(period) => {
                let message = format!("Invalid period value '{period}' specified: use D7, D30, D90 or D180.");
                return error(400, "BadRequest", &message, request);
            }
            Call::Report(period) => period,
        };
        if let Some(seconds) = wait {
            return too_many_requests().with("Retry-After", seconds.to_string());
        }
        if !state.tenants.get(&tenant).is_some_and(|tenant| tenant.consent) {
            let inner = json!({ "error": { "code": "S2SUnauthorized", "message": "Invalid permission." } });
            return error(403, "UnknownError", &inner.to_string(), request);
        }
        let (name, signature) = state.issue_link(tenant, period, config.link_lifetime);
        Response::empty(302)
            .with("Content-Type", "text/plain")
            .with("Location", format!("{download_url}/data/download/{name}?token={signature}"))
    });
    let response =
        response.with("request-id", Uuid::new_v4().to_string()).with("client-request-id", client_request_id(request));
    (tenant, period, response)
}

fn parse(path: &str) -> Call {
    let path = percent_decode_str(path).decode_utf8_lossy();
    let call = path.strip_prefix("/v1.0/reports/").or_else(|| path.strip_prefix("/beta/reports/"));
    let Some((function, arguments)) = call.and_then(|call| call.split_once('(')) else { return Call::Unknown };
    if !FUNCTIONS.contains(&function) {
        return Call::Unknown;
    }
    match arguments.strip_prefix("period='").and_then(|rest| rest.strip_suffix("')")) {
        Some(period) => period.parse().map_or_else(|_| Call::BadPeriod(period.to_owned()), Call::Report),
        None => Call::BadPeriod(arguments.to_owned()),
    }
}

fn client_request_id(request: &Request) -> String {
    request.header("client-request-id").map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Graph's envelope for errors.
fn error(status: u16, code: &str, message: &str, request: &Request) -> Response {
    Response::json(
        status,
        &json!({
            "error": {
                "code": code,
                "message": message,
                "innerError": {
                    "date": now().format("%Y-%m-%dT%H:%M:%S").to_string(),
                    "request-id": Uuid::new_v4(),
                    "client-request-id": client_request_id(request),
                },
            },
        }),
    )
}

/// The documented body of a throttled call, without `Retry-After`.
pub(crate) fn too_many_requests() -> Response {
    Response::json(
        429,
        &json!({
            "error": {
                "code": "TooManyRequests",
                "innerError": {
                    "code": "429",
                    "date": now().format("%Y-%m-%dT%H:%M:%S").to_string(),
                    "message": "Please retry after",
                    "request-id": Uuid::new_v4(),
                    "status": "429",
                },
                "message": "Please retry again later.",
            },
        }),
    )
}
