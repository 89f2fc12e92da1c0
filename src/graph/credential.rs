//! Signing in: an access token for the proof of a credential, kept for each tenant.

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
    proof::Proof,
};
use crate::{config::Tenant, outcome::ErrorClass};

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

    /// Asks for a token; when the credential is refused and was rotated in that moment, once more with the new one.
    async fn sign_in(&self, tenant: &Tenant) -> Result<Held, GraphError> {
        let login = self.endpoints.login.as_str().trim_end_matches('/');
        let url = format!("{login}/{}/oauth2/v2.0/token", tenant.id);
        let proof = Proof::read(tenant, &url, self.clock.now())?;
        match self.request_token(&url, tenant, &proof).await {
            Err(error) if error.class() == ErrorClass::AuthInvalidClient => {
                let now = Proof::read(tenant, &url, self.clock.now())?;
                if now.is_of(&proof) {
                    return Err(error);
                }
                self.request_token(&url, tenant, &now).await
            }
            other => other,
        }
    }

    /// `POST /{tenant}/oauth2/v2.0/token`
    /// (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>).
    async fn request_token(&self, url: &str, tenant: &Tenant, proof: &Proof) -> Result<Held, GraphError> {
        let asked_at = self.clock.now();
        let mut form = vec![
            ("client_id", tenant.client_id.as_str()),
            ("scope", &self.endpoints.scope),
            ("grant_type", "client_credentials"),
        ];
        form.extend(proof.fields());
        let response =
            self.api.post(url).form(&form).send().await.map_err(|error| GraphError::transport(Leg::Login, error))?;
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
        let unknown = refusal.code().is_none();
        let error = match status.as_u16() {
            300..400 => not_microsoft(status),
            429 => GraphError::new(Leg::Login, ErrorClass::Throttled, "the login service asks to slow down (429)"),
            408 => GraphError::new(Leg::Login, ErrorClass::Timeout, "the login service gave up waiting (408)"),
            407 => GraphError::new(Leg::Login, ErrorClass::Connection, "the proxy wants a user name (407)"),
            404 if unknown => GraphError::new(
                Leg::Login,
                ErrorClass::NotFound,
                "the login service answered 404: check graph.login_url and graph.cloud",
            ),
            500.. => {
                let text = format!("the login service answered {}", status.as_u16());
                GraphError::new(Leg::Login, ErrorClass::Graph5xx, text)
            }
            402.. if unknown => not_microsoft(status),
            _ => {
                let code = refusal.code().map(|code| format!(" with {code}")).unwrap_or_default();
                // Whatever answers, it must not bring our own secret back into the log.
                let words = proof.hidden_in(&refusal.words());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        config::{Secret, SignIn},
        graph::testing::{Reply, Server, clock, granted, graph, tenant},
    };

    fn refusal(number: u32) -> Reply {
        let body = format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS{number}: No. Trace ID: t-1","error_codes":[{number}],"trace_id":"t-1"}}"#
        );
        Reply::whole("401 Unauthorized\nContent-Type: application/json", body)
    }

    #[tokio::test]
    async fn a_token_is_kept_until_five_minutes_before_its_end() {
        for (lifetime, kept_for) in [(3599, 3299), (600, 300), (400, 200), (0, 0), (u32::MAX, 86_100)] {
            let server = Server::start(move |_, number| granted(&format!("t{number}"), lifetime)).await;
            let clock = clock();
            let graph = graph(&server, clock.clone(), |_| {});
            let first = graph.token(&tenant()).await.expect("a token");
            assert_eq!(first.expose(), "t0");
            assert!(!format!("{first:?} {graph:?}").contains("t0"));
            clock.advance(TimeDelta::seconds((kept_for - 1).max(0)));
            let second = graph.token(&tenant()).await.expect("a token");
            assert_eq!(second.expose(), if kept_for == 0 { "t1" } else { "t0" }, "{lifetime}");
            clock.advance(TimeDelta::seconds(1));
            let third = graph.token(&tenant()).await.expect("a token");
            assert_eq!(third.expose(), if kept_for == 0 { "t2" } else { "t1" }, "{lifetime}");
        }
    }

    #[tokio::test]
    async fn many_callers_ask_once_and_tenants_do_not_share() {
        let server =
            Server::start(|_, number| granted(&format!("t{number}"), 3599).trickle(64, Duration::from_millis(5))).await;
        let graph = Arc::new(graph(&server, clock(), |_| {}));
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let graph = graph.clone();
                tokio::spawn(async move { graph.token(&tenant()).await.map(|token| token.expose().to_owned()) })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.expect("no panic").expect("a token"), "t0");
        }
        let mut other = tenant();
        other.id = Uuid::from_u128(2);
        assert_eq!(graph.token(&other).await.expect("a token").expose(), "t1");
        assert_eq!(server.requests().len(), 2);
    }

    #[tokio::test]
    async fn only_the_refused_token_is_forgotten() {
        let server = Server::start(|_, number| granted(&format!("t{number}"), 3599)).await;
        let graph = graph(&server, clock(), |_| {});
        let old = graph.token(&tenant()).await.expect("a token");
        graph.forget(tenant().id, &old).await;
        let new = graph.token(&tenant()).await.expect("a token");
        graph.forget(tenant().id, &old).await;
        assert_eq!((new.expose(), graph.token(&tenant()).await.expect("a token").expose()), ("t1", "t1"));
    }

    #[tokio::test]
    async fn a_secret_rotated_in_its_file_is_taken_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "old").expect("written");
        let rotate = path.clone();
        let server = Server::start(move |request, _| {
            if request.contains("client_secret=new") {
                return granted("t", 0);
            }
            std::fs::write(&rotate, "new").expect("written");
            refusal(7_000_222)
        })
        .await;
        let graph = graph(&server, clock(), |_| {});
        let mut tenant = tenant();
        tenant.sign_in = SignIn::ClientSecret { secret: Secret::File(path.clone()), expires: None };
        graph.token(&tenant).await.expect("the new secret");
        assert_eq!(server.requests().len(), 2);
        graph.token(&tenant).await.expect("the new secret");
        assert_eq!(server.requests().len(), 3);
        std::fs::remove_file(&path).expect("removed");
        let error = graph.token(&tenant).await.expect_err("no secret");
        assert_eq!(error.class(), ErrorClass::AuthInvalidClient);
        assert!(error.to_string().contains("cannot read the secret file"), "{error}");
    }

    #[tokio::test]
    async fn refusals_are_classed_and_explained() {
        let page = || Reply::whole("403 Forbidden\nContent-Type: text/html", "<html>blocked</html>");
        let cases: Vec<(Reply, ErrorClass, &str)> = vec![
            (refusal(7_000_215), ErrorClass::AuthInvalidClient, "AADSTS7000215: the client secret is wrong"),
            (refusal(7_000_222), ErrorClass::AuthInvalidClient, "expired"),
            (refusal(700_016), ErrorClass::AuthInvalidClient, "tenant.client_id"),
            (refusal(4711), ErrorClass::AuthInvalidClient, "AADSTS4711: No. [request-id t-1]"),
            (refusal(90_033), ErrorClass::Graph5xx, "passing"),
            (Reply::whole("401 Unauthorized", ""), ErrorClass::AuthInvalidClient, "no reason"),
            (page(), ErrorClass::Connection, "proxy"),
            (Reply::whole("404 Not Found", "<html>"), ErrorClass::NotFound, "graph.login_url"),
            (Reply::whole("302 Found\nLocation: https://portal.example/", ""), ErrorClass::Connection, "proxy"),
            (Reply::whole("200 OK", "<html>welcome</html>"), ErrorClass::Connection, "proxy"),
            (granted("", 3599), ErrorClass::Connection, "proxy"),
            (Reply::whole("200 OK", vec![b' '; 70_000]), ErrorClass::TooLarge, "larger than 65536"),
            (Reply::whole("503 Service Unavailable\nRetry-After: 7", ""), ErrorClass::Graph5xx, "503"),
            (Reply::whole("429 Too Many Requests\nRetry-After: 7", "{}"), ErrorClass::Throttled, "slow down"),
            (Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), ErrorClass::Truncated, "broke off"),
            (
                Reply::whole("400 Bad Request", r#"{"error":"e","error_description":"got canary-secret"}"#),
                ErrorClass::AuthInvalidClient,
                "got …",
            ),
        ];
        for (reply, class, words) in cases {
            let server = Server::start(move |_, _| reply.clone()).await;
            let error = graph(&server, Clock::System, |_| {}).token(&tenant()).await.expect_err(words);
            let text = error.to_string();
            assert_eq!(error.class(), class, "{text}");
            assert!(text.contains(words), "{text}");
            assert!(!format!("{text} {error:?}").contains("canary"), "{text}");
            assert_eq!(server.requests().len(), 1, "no retry storm: {text}");
            assert_eq!(error.retry_after().is_some(), matches!(error.http_status(), Some(429 | 503)), "{text}");
        }
    }
}
