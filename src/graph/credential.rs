//! Signing in: client credentials, cached for each tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::{
    Graph, body,
    entra::Refusal,
    error::{GraphError, Leg, retry_after, sanitise},
};
use crate::{
    config::{Secret, SignIn, Tenant},
    outcome::ErrorClass,
};

/// Largest answer of the login service; a token has some 2 KB.
const MOST_BYTES: usize = 64 * 1024;

/// An access token for Graph. Never shown, cheap to clone.
#[derive(Debug, Clone)]
pub struct Token(Arc<SecretString>);

impl Token {
    /// The text for the `Authorization` header.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The tokens in hand, one place for each tenant. Whoever holds a place's lock is the only one who asks for that
/// tenant's token.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Uuid, Place>>);

type Place = Arc<tokio::sync::Mutex<Option<Held>>>;

#[derive(Debug)]
struct Held {
    token: Token,
    refresh_at: DateTime<Utc>,
}

impl Tokens {
    fn place(&self, tenant: Uuid) -> Place {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_default().clone()
    }
}

impl Graph {
    /// A token for the tenant: the one in hand, or a new one from five minutes before it ends (or from half its
    /// lifetime, if that is short). Of several callers at once only one asks.
    ///
    /// `doctor` calls this alone to see whether signing in works.
    pub async fn token(&self, tenant: &Tenant) -> Result<Token, GraphError> {
        let place = self.tokens.place(tenant.id);
        let mut held = place.lock().await;
        if let Some(held) = &*held
            && self.clock.now() < held.refresh_at
        {
            return Ok(held.token.clone());
        }
        let new = self.sign_in(tenant).await?;
        tracing::debug!(tenant = %tenant.id, refresh_at = %new.refresh_at, "got a token");
        Ok(held.insert(new).token.clone())
    }

    /// Forgets a token that Graph refused, unless a newer one is already there.
    pub(super) async fn forget(&self, tenant: Uuid, refused: &Token) {
        let place = self.tokens.place(tenant);
        let mut held = place.lock().await;
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.token.0, &refused.0)) {
            *held = None;
        }
    }

    /// Asks for a token; when the secret is refused and was rotated in that moment, once more with the new one.
    async fn sign_in(&self, tenant: &Tenant) -> Result<Held, GraphError> {
        let SignIn::ClientSecret(source) = &tenant.sign_in;
        let secret = read(source)?;
        match self.request_token(tenant, &secret).await {
            Err(error) if error.class() == ErrorClass::AuthInvalidClient => {
                let now = read(source)?;
                if now.expose_secret() == secret.expose_secret() {
                    return Err(error);
                }
                self.request_token(tenant, &now).await
            }
            other => other,
        }
    }

    /// `POST /{tenant}/oauth2/v2.0/token`
    /// (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>).
    async fn request_token(&self, tenant: &Tenant, secret: &SecretString) -> Result<Held, GraphError> {
        let login = self.endpoints.login.as_str().trim_end_matches('/');
        let asked_at = self.clock.now();
        let response = self
            .api
            .post(format!("{login}/{}/oauth2/v2.0/token", tenant.id))
            .form(&[
                ("client_id", tenant.client_id.as_str()),
                ("scope", &self.endpoints.scope),
                ("grant_type", "client_credentials"),
                ("client_secret", secret.expose_secret()),
            ])
            .send()
            .await
            .map_err(|error| GraphError::transport(Leg::Login, error))?;
        let status = response.status();
        let wait = retry_after(response.headers(), self.clock.now());
        let request_id = response.headers().get("x-ms-request-id").and_then(|id| id.to_str().ok()).map(sanitise);
        if status.is_success() {
            let body = body::read(Leg::Login, response, MOST_BYTES).await?;
            return Grant::parse(&body.bytes)
                .map(|grant| grant.held(asked_at))
                .ok_or_else(|| not_microsoft(status).with_request_id(request_id));
        }
        // A refusal whose body breaks off is still a refusal.
        let body = body::read(Leg::Login, response, MOST_BYTES).await.map(|body| body.bytes).unwrap_or_default();
        let refusal = Refusal::parse(&body);
        let error = match status.as_u16() {
            300..400 => not_microsoft(status),
            429 => GraphError::new(Leg::Login, ErrorClass::Throttled, "the login service asks to slow down (429)"),
            408 => GraphError::new(Leg::Login, ErrorClass::Timeout, "the login service gave up waiting (408)"),
            407 => GraphError::new(Leg::Login, ErrorClass::Connection, "the proxy wants a user name (407)"),
            404 if refusal.code().is_none() => GraphError::new(
                Leg::Login,
                ErrorClass::NotFound,
                "the login service answered 404: check graph.login_url and graph.cloud",
            ),
            500.. => GraphError::new(
                Leg::Login,
                ErrorClass::Graph5xx,
                format!("the login service answered {}", status.as_u16()),
            ),
            _ => {
                let code = refusal.code().map(|code| format!(" with {code}")).unwrap_or_default();
                // Whatever answers, it must not bring our own secret back into the log.
                let words = refusal.words().replace(secret.expose_secret(), "…");
                let text = format!("the login service refused the application{code}: {words}");
                GraphError::new(Leg::Login, refusal.class(), text)
            }
        };
        Err(error
            .with_status(status)
            .with_code(refusal.code())
            .with_request_id(refusal.trace_id().or(request_id))
            .with_retry_after(wait))
    }
}

fn read(secret: &Secret) -> Result<SecretString, GraphError> {
    secret.read().map_err(|error| GraphError::new(Leg::Login, ErrorClass::AuthInvalidClient, error.to_string()))
}

fn not_microsoft(status: StatusCode) -> GraphError {
    let text = format!(
        "the answer of the login service ({}) is not Microsoft's: a proxy or a portal may have answered instead; check \
         graph.login_url",
        status.as_u16()
    );
    GraphError::new(Leg::Login, ErrorClass::Connection, text).with_status(status)
}

/// What the login service grants.
#[derive(Deserialize)]
struct Grant {
    access_token: SecretString,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: u32,
}

impl Grant {
    fn parse(body: &[u8]) -> Option<Self> {
        let grant: Self = serde_json::from_slice(body).ok()?;
        let token = grant.access_token.expose_secret();
        (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(grant)
    }

    fn held(self, asked_at: DateTime<Utc>) -> Held {
        let lifetime = Duration::from_secs(self.expires_in.min(24 * 3600).into());
        let use_for = lifetime.saturating_sub(Duration::from_mins(5)).max(lifetime / 2);
        let refresh_at = asked_at + TimeDelta::from_std(use_for).unwrap_or_default();
        Held { token: Token(Arc::new(self.access_token)), refresh_at }
    }
}

/// Seconds as a number or, as some token services write them, as a string.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let seconds = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, which is wanted")]
    Ok(seconds.unwrap_or(0.0) as u32)
}
