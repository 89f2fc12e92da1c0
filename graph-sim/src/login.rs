//! The token endpoint: client credentials with a secret, a certificate or another provider's token.

use serde_json::json;
use uuid::Uuid;

use crate::{
    assertion::{self, Fault},
    config::Config,
    fault::Host,
    state::{State, now},
    wire::{Request, Response, form_value},
};

/// Answers `POST /{tenant}/oauth2/v2.0/token`; also says which tenant it was about.
pub(crate) fn answer(config: &Config, origin: &str, state: &mut State, request: &Request) -> (Option<Uuid>, Response) {
    let Some(tenant) = request.path.strip_prefix('/').and_then(|path| path.strip_suffix("/oauth2/v2.0/token")) else {
        return (None, Response::empty(404));
    };
    let id = tenant.parse().ok();
    let response = state.answer(Host::Login, id, None, |state| {
        if request.method != "POST" {
            return Response::empty(405);
        }
        match grant(state, origin, tenant, id, &request.body) {
            Ok(id) => {
                let token = state.issue_token(id, config.token_lifetime);
                let seconds = config.token_lifetime.as_secs();
                Response::json(
                    200,
                    &json!({
                        "token_type": "Bearer",
                        "expires_in": seconds,
                        "ext_expires_in": seconds,
                        "access_token": token,
                    }),
                )
            }
            Err(refusal) => refusal.response(),
        }
    });
    (id, response.with("Cache-Control", "no-store, no-cache"))
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Why there is no token.
struct Refusal {
    status: u16,
    error: &'static str,
    code: u32,
    message: String,
}

impl Refusal {
    fn new(status: u16, error: &'static str, code: u32, message: impl Into<String>) -> Self {
        Self { status, error, code, message: message.into() }
    }

    fn response(self) -> Response {
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let timestamp = now().format("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = format!(
            "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
            self.code, self.message
        );
        Response::json(
            self.status,
            &json!({
                "error": self.error,
                "error_description": description,
                "error_codes": [self.code],
                "timestamp": timestamp,
                "trace_id": trace,
                "correlation_id": correlation,
                "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
            }),
        )
    }
}

/// The tenant that the form earns a token of.
fn grant(state: &mut State, origin: &str, name: &str, id: Option<Uuid>, form: &[u8]) -> Result<Uuid, Refusal> {
    let field = |name: &str| form_value(form, name).filter(|value| !value.is_empty());
    let Some((id, tenant)) = id.and_then(|id| Some((id, state.tenants.get(&id)?))) else {
        let message = format!("Tenant '{name}' not found. Check to make sure you have the correct tenant ID.");
        return Err(Refusal::new(400, "invalid_request", 90_002, message));
    };
    if field("grant_type").as_deref() != Some("client_credentials") {
        return Err(Refusal::new(
            400,
            "unsupported_grant_type",
            70_003,
            "The app requested an unsupported grant type.",
        ));
    }
    let client = field("client_id").unwrap_or_default();
    if !client.eq_ignore_ascii_case(&tenant.config.client_id) {
        let message = format!("Application with identifier '{client}' was not found in the directory '{name}'.");
        return Err(Refusal::new(400, "unauthorized_client", 700_016, message));
    }
    let scope = field("scope").unwrap_or_default();
    if !scope.ends_with("/.default") {
        let message = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with \
             /.default suffixed to the resource identifier (application ID URI)."
        );
        return Err(Refusal::new(400, "invalid_scope", 1_002_012, message));
    }
    // The name in the address is the audience: one tenant's assertion is worth nothing in another.
    if field("client_assertion_type").as_deref() == Some(ASSERTION_TYPE)
        && let Some(assertion) = field("client_assertion")
    {
        let audience = format!("{origin}/{name}/oauth2/v2.0/token");
        let checked = assertion::check(tenant, &client, &audience, &assertion);
        state.secrets.push(assertion);
        return checked.map(|()| id).map_err(|Fault(code, message)| Refusal::new(401, "invalid_client", code, message));
    }
    let Some(secret) = field("client_secret") else {
        let message = "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' \
                       grant type.";
        return Err(Refusal::new(401, "invalid_client", 7_000_216, message));
    };
    if secret != tenant.secret {
        let message = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, \
             not the client secret ID, for a secret added to app '{client}'."
        );
        return Err(Refusal::new(401, "invalid_client", 7_000_215, message));
    }
    if tenant.secret_expired {
        let message = format!("The provided client secret keys for app '{client}' are expired.");
        return Err(Refusal::new(401, "invalid_client", 7_000_222, message));
    }
    Ok(id)
}
