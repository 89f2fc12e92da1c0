//! The download host: a link is all it takes, and nothing else may come along.

use uuid::Uuid;

use crate::{
    config::Period,
    fault::Host,
    state::{Grant, State},
    wire::{Request, Response},
};

/// The `Content-Type` of a report.
pub(crate) const CSV_TYPE: &str = "application/octet-stream";

/// Answers `GET /data/download/{name}?token={signature}`; also says whose report it was about.
pub(crate) fn answer(state: &mut State, request: &Request) -> (Option<Uuid>, Option<Period>, Response) {
    let link = request.path.strip_prefix("/data/download/").and_then(|name| state.links.get(name));
    let (tenant, period) = (link.map(|link| link.tenant), link.and_then(|link| link.period));
    let signature = request.parameter("token");
    let valid = link.is_some_and(|link| Grant::is_valid(link) && signature.as_ref() == Some(&link.signature));
    let leak = request.header("authorization").is_some();
    if leak {
        state.leaks += 1;
    }
    let response = state.answer(Host::Download, tenant, period, |state| {
        if leak {
            return page(400, "This link needs no Authorization header.");
        }
        if request.method != "GET" {
            return Response::empty(405);
        }
        let csv = match (tenant, period) {
            (Some(tenant), Some(period)) if valid => state.csv(tenant, period),
            _ => None,
        };
        match csv {
            Some(csv) => Response::new(200, CSV_TYPE, csv),
            None => page(403, "The link is not valid or has expired."),
        }
    });
    (tenant, period, response)
}

fn page(status: u16, text: &str) -> Response {
    let page = format!("<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>{text}</h1></body></html>");
    Response::new(status, "text/html; charset=utf-8", page)
}
