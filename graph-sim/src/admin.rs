//! The same levers as [`crate::Sim`], over HTTP, for a stand-in that runs as a process of its own.
//!
//! | lever, below `/_sim/` of the Graph origin | what it does |
//! |---|---|
//! | `GET state` | refresh dates, tenants, open faults, counters |
//! | `GET requests`, `DELETE requests` | the request log; empties it |
//! | `GET rows?tenant=&period=` | the rows that a download would carry now |
//! | `POST advance?days=` | moves every refresh date |
//! | `POST refresh?date=` (`&tenant=&period=`) | sets every refresh date, or one |
//! | `POST reissue?tenant=` | other numbers under the same refresh date |
//! | `POST rotate-secret?tenant=&secret=` | a new client secret |
//! | `POST certificate?tenant=` | adds the certificate in the body (PEM) to the app registration |
//! | `DELETE certificates?tenant=` | removes them all |
//! | `POST federation?tenant=&issuer=&subject=&audience=` | trusts the tokens of another identity provider |
//! | `GET federated-token?issuer=&subject=&audience=&seconds=` | such a token |
//! | `POST consent?tenant=&given=true` | gives or takes consent |
//! | `POST fault`, `DELETE faults` | adds a [`Fault`] in JSON, or removes them all |
//! | `POST reset-throttle` | forgets the calls that count towards the limit |

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    config::{Config, Period},
    fault::{Fault, Host},
    state::{Federation, State},
    wire::{Request, Response},
};

/// Everything below this path of the Graph origin is ours, not Microsoft's.
pub(crate) const PREFIX: &str = "/_sim/";

/// Answers a request below [`PREFIX`].
pub(crate) fn answer(config: &Config, state: &mut State, request: &Request) -> Response {
    let path = request.path.strip_prefix(PREFIX).unwrap_or_default();
    let done = match (request.method.as_str(), path) {
        ("GET", "state") => return Response::json(200, &overview(config, state)),
        ("GET", "requests") => return Response::json(200, &json!(state.log)),
        ("GET", "rows") => return rows(state, request),
        ("POST", "advance") => parameter(request, "days").map(|days| state.advance(days)),
        ("POST", "refresh") => refresh(state, request),
        ("POST", "reissue") => with_tenant(state, request, |tenant| tenant.revision += 1),
        ("POST", "rotate-secret") => rotate_secret(state, request),
        ("POST", "certificate") => add_certificate(state, request),
        ("DELETE", "certificates") => with_tenant(state, request, |tenant| tenant.certificates.clear()),
        ("POST", "federation") => federate(state, request),
        ("GET", "federated-token") => return federated_token(state, request),
        ("POST", "consent") => {
            parameter(request, "given").and_then(|given| with_tenant(state, request, |tenant| tenant.consent = given))
        }
        ("POST", "fault") => serde_json::from_slice::<Fault>(&request.body)
            .map(|fault| state.faults.push(fault))
            .map_err(|error| error.to_string()),
        ("DELETE", "faults") => {
            state.faults.clear();
            Ok(())
        }
        ("DELETE", "requests") => {
            state.log.clear();
            state.calls.clear();
            Ok(())
        }
        ("POST", "reset-throttle") => {
            state.recent_calls.clear();
            Ok(())
        }
        _ => return Response::json(404, &json!({ "error": format!("no such lever: {} {path}", request.method) })),
    };
    match done {
        Ok(()) => Response::json(200, &overview(config, state)),
        Err(error) => Response::json(400, &json!({ "error": error })),
    }
}

fn overview(config: &Config, state: &State) -> Value {
    let tenants: Vec<Value> = config
        .tenants
        .iter()
        .filter_map(|tenant| state.tenants.get(&tenant.id))
        .map(|tenant| {
            let refresh: Map<String, Value> =
                tenant.refresh.iter().map(|(period, date)| (period.to_string(), json!(date))).collect();
            json!({
                "id": tenant.config.id,
                "client_id": tenant.config.client_id,
                "users": tenant.config.users,
                "revision": tenant.revision,
                "consent": tenant.consent,
                "secret_expired": tenant.secret_expired,
                "certificates": tenant.certificates.len(),
                "federations": tenant.federations.len(),
                "refresh_dates": refresh,
                "removed_dates": tenant.removed,
            })
        })
        .collect();
    let calls = |host| state.calls.get(&host).copied().unwrap_or(0);
    json!({
        "refresh_date": state.refresh_date,
        "tenants": tenants,
        "faults": state.faults,
        "calls": { "login": calls(Host::Login), "graph": calls(Host::Graph), "download": calls(Host::Download) },
        "authorization_leaks": state.leaks,
    })
}

/// The rows a tenant and period would be served now.
fn rows(state: &State, request: &Request) -> Response {
    match (parameter::<Uuid>(request, "tenant"), parameter::<Period>(request, "period")) {
        (Ok(tenant), Ok(period)) => Response::json(200, &json!(state.rows(tenant, period))),
        (Err(error), _) | (_, Err(error)) => Response::json(400, &json!({ "error": error })),
    }
}

/// Moves everybody to a refresh date, or with `tenant` and `period` only those.
fn refresh(state: &mut State, request: &Request) -> Result<(), String> {
    let date = parameter(request, "date")?;
    if request.parameter("tenant").is_none() {
        state.set_refresh_date(date);
        return Ok(());
    }
    let period = parameter(request, "period")?;
    with_tenant(state, request, |tenant| {
        tenant.refresh.insert(period, date);
    })
}

fn rotate_secret(state: &mut State, request: &Request) -> Result<(), String> {
    let secret: String = parameter(request, "secret")?;
    state.secrets.push(secret.clone());
    with_tenant(state, request, |tenant| {
        tenant.secret = secret;
        tenant.secret_expired = false;
    })
}

fn add_certificate(state: &mut State, request: &Request) -> Result<(), String> {
    let pem = String::from_utf8_lossy(&request.body).into_owned();
    let mut added = Ok(());
    with_tenant(state, request, |tenant| added = tenant.add_certificate(&pem))?;
    added
}

fn federate(state: &mut State, request: &Request) -> Result<(), String> {
    let federation = Federation {
        issuer: parameter(request, "issuer")?,
        subject: parameter(request, "subject")?,
        audience: parameter(request, "audience")?,
    };
    with_tenant(state, request, |tenant| tenant.federations.push(federation))
}

fn federated_token(state: &mut State, request: &Request) -> Response {
    let mut issue = || {
        let [issuer, subject, audience]: [String; 3] =
            [parameter(request, "issuer")?, parameter(request, "subject")?, parameter(request, "audience")?];
        Ok(state.federated_token(&issuer, &subject, &audience, parameter(request, "seconds")?))
    };
    match issue() {
        Ok(token) => Response::json(200, &json!({ "token": token })),
        Err::<_, String>(error) => Response::json(400, &json!({ "error": error })),
    }
}

fn with_tenant(
    state: &mut State,
    request: &Request,
    change: impl FnOnce(&mut crate::state::Tenant),
) -> Result<(), String> {
    let id: Uuid = parameter(request, "tenant")?;
    change(state.tenants.get_mut(&id).ok_or_else(|| format!("no such tenant: {id}"))?);
    Ok(())
}

fn parameter<T: std::str::FromStr<Err: std::fmt::Display>>(request: &Request, name: &str) -> Result<T, String> {
    let text = request.parameter(name).ok_or_else(|| format!("the query lacks `{name}`"))?;
    text.parse().map_err(|error| format!("`{name}`: {error}"))
}
