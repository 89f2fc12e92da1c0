//! Who may read more than the probes: whoever knows the token or the password of the settings.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracing::error;

use super::AppState;
use crate::config::{ConfigError, Http, Secret, SecretError};

/// What lets a request in. With neither of the two, everything does.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    token: Option<Secret>,
    password: Option<Secret>,
}

/// What a request says who it is.
#[derive(Debug, PartialEq)]
enum Claim {
    Token(String),
    Password(String),
    Nothing,
}

impl Guard {
    /// The guard the settings ask for. An error names the setting or the file that cannot be read.
    pub fn new(settings: &Http) -> Result<Self, ConfigError> {
        Ok(Self { token: settings.token()?, password: settings.password()? })
    }

    /// Whether everything is let in.
    pub fn is_open(&self) -> bool {
        self.token.is_none() && self.password.is_none()
    }

    /// Whether a request with these headers is let in. Secrets in files are read each time, so that a rotated one is taken
    /// up at once.
    fn admits(&self, headers: &HeaderMap) -> Result<bool, SecretError> {
        let (expected, given) = match claim(headers) {
            Claim::Token(given) => (&self.token, given),
            Claim::Password(given) => (&self.password, given),
            Claim::Nothing => return Ok(self.is_open()),
        };
        match expected {
            Some(expected) => Ok(same(&given, expected.read()?.expose_secret()).into()),
            None => Ok(self.is_open()),
        }
    }

    fn refusal(&self) -> Response {
        let text = "this page asks for the password (any user name) or the token that the settings http.password and \
                    http.token name\n";
        let mut response = (StatusCode::UNAUTHORIZED, text).into_response();
        let ways = [
            self.password.is_some().then_some(r#"Basic realm="m365-ledger", charset="UTF-8""#),
            self.token.is_some().then_some(r#"Bearer realm="m365-ledger""#),
        ];
        for way in ways.into_iter().flatten() {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
        }
        response
    }
}

/// Lets a request through, or answers 401.
pub async fn let_in(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.guard.admits(request.headers()) {
        Ok(true) => next.run(request).await,
        Ok(false) => state.guard.refusal(),
        Err(cause) => {
            error!(error = &cause as &dyn std::error::Error, "nobody can sign in to the status page");
            (StatusCode::SERVICE_UNAVAILABLE, "the password or token of this page cannot be read; see the log\n")
                .into_response()
        }
    }
}

fn claim(headers: &HeaderMap) -> Claim {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, rest)) = value.and_then(|value| value.split_once(' ')) else { return Claim::Nothing };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Claim::Token(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Claim::Nothing;
    }
    let decoded = BASE64_STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((_, password)) => Claim::Password(password.to_owned()),
        None => Claim::Nothing,
    }
}

/// Whether both are the same; how long it takes tells nothing about either.
fn same(given: &str, expected: &str) -> Choice {
    Sha256::digest(given).ct_eq(&Sha256::digest(expected))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn secret(value: &str) -> Secret {
        Secret::Value(value.to_owned().into())
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    fn basic(credentials: &str) -> HeaderMap {
        headers(&format!("Basic {}", BASE64_STANDARD.encode(credentials)))
    }

    #[test]
    fn each_secret_opens_in_its_own_way_only() {
        let both = Guard { token: Some(secret("t0ken")), password: Some(secret("pass:wörd")) };
        for (given, admitted) in [
            (headers("Bearer t0ken"), true),
            (headers("bearer  t0ken"), true),
            (basic("anybody:pass:wörd"), true),
            (basic(":pass:wörd"), true),
            (headers("Bearer pass:word"), false),
            (basic("anybody:t0ken"), false),
            (basic("t0ken"), false),
            (headers("Bearer t0ke"), false),
            (headers("Bearer "), false),
            (headers("Basic !"), false),
            (headers("Digest t0ken"), false),
            (headers("t0ken"), false),
            (HeaderMap::new(), false),
        ] {
            assert_eq!(both.admits(&given).unwrap(), admitted, "{given:?}");
        }
        let token_only = Guard { token: Some(secret("t0ken")), password: None };
        assert!(!token_only.admits(&basic("a:t0ken")).unwrap() && !token_only.admits(&basic("a:")).unwrap());
        let challenges = |guard: &Guard| guard.refusal().headers().get_all(header::WWW_AUTHENTICATE).iter().count();
        assert_eq!((challenges(&both), challenges(&token_only)), (2, 1));
    }

    #[test]
    fn without_a_secret_everybody_is_let_in() {
        let open = Guard::default();
        assert!(open.is_open());
        for given in [HeaderMap::new(), basic("a:b"), headers("Bearer x")] {
            assert!(open.admits(&given).unwrap());
        }
    }

    #[test]
    fn a_rotated_file_counts_at_once_and_an_unreadable_one_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "old\n").unwrap();
        let guard = Guard { token: None, password: Some(Secret::File(path.clone())) };
        assert!(guard.admits(&basic("a:old")).unwrap());
        fs::write(&path, "new\n").unwrap();
        assert!(!guard.admits(&basic("a:old")).unwrap() && guard.admits(&basic("a:new")).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(guard.admits(&basic("a:new")).is_err());
        assert!(!guard.admits(&HeaderMap::new()).unwrap());
    }
}
