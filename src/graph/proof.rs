//! What an application sends to prove itself, made anew from the files of its tenant at each sign-in.

use chrono::{DateTime, NaiveTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    certificate::Certificate,
    error::{GraphError, Leg},
};
use crate::{
    config::{Secret, SignIn, Tenant},
    outcome::ErrorClass,
};

/// See the module. Never shown.
pub(super) struct Proof {
    /// What stood in the configuration or its files.
    source: SecretString,
    /// What is sent: a client secret, or an assertion.
    sent: SecretString,
    is_assertion: bool,
}

impl Proof {
    /// Reads the tenant's credential as it is now; `audience` is the address it will be sent to.
    pub(super) fn read(tenant: &Tenant, audience: &str, now: DateTime<Utc>) -> Result<Self, GraphError> {
        let source = source(&tenant.sign_in)?;
        let (sent, is_assertion) = match &tenant.sign_in {
            SignIn::ClientSecret { .. } => (source.clone(), false),
            SignIn::WorkloadIdentity(file) => {
                let token = source.expose_secret().trim();
                if token.split('.').count() != 3 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(unusable(file, "what stands there is no token (a JWT: three parts with dots between)"));
                }
                (token.into(), true)
            }
            SignIn::Certificate { certificate: file, .. } => {
                let certificate =
                    Certificate::from_pem(source.expose_secret()).map_err(|error| unusable(file, error))?;
                if certificate.not_after <= now {
                    let text = format!(
                        "the certificate ended on {}: make a new one, upload it under Entra ID > App registrations > \
                         Certificates & secrets > Certificates, and replace the file",
                        certificate.not_after.date_naive()
                    );
                    return Err(unusable(file, text));
                }
                let assertion = certificate.assertion(&tenant.client_id, audience, now);
                (assertion.map_err(|error| unusable(file, error))?, true)
            }
        };
        Ok(Self { source, sent, is_assertion })
    }

    /// Its part of the form.
    pub(super) fn fields(&self) -> Vec<(&'static str, &str)> {
        let sent = self.sent.expose_secret();
        if self.is_assertion {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            vec![("client_assertion_type", kind), ("client_assertion", sent)]
        } else {
            vec![("client_secret", sent)]
        }
    }

    /// Whether both were made of the same credential.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.source.expose_secret() == other.source.expose_secret()
    }

    /// Words of somebody else, without what we sent.
    pub(super) fn hidden_in(&self, words: &str) -> String {
        words.replace(self.sent.expose_secret(), "…")
    }
}

/// When a tenant's credential ends. `None`: it has no end of its own, or nobody wrote it down.
pub fn credential_end(tenant: &Tenant) -> Result<Option<DateTime<Utc>>, GraphError> {
    match &tenant.sign_in {
        SignIn::ClientSecret { expires, .. } => Ok(expires.map(|day| day.and_time(NaiveTime::MIN).and_utc())),
        SignIn::WorkloadIdentity(_) => Ok(None),
        SignIn::Certificate { certificate, .. } => {
            let text = source(&tenant.sign_in)?;
            let parsed = Certificate::from_pem(text.expose_secret());
            parsed.map(|parsed| Some(parsed.not_after)).map_err(|error| unusable(certificate, error))
        }
    }
}

/// The credential's text. A key in a file of its own goes before one beside the certificate.
fn source(sign_in: &SignIn) -> Result<SecretString, GraphError> {
    let read = |secret: &Secret| {
        secret.read().map_err(|error| GraphError::new(Leg::Login, ErrorClass::AuthInvalidClient, error.to_string()))
    };
    match sign_in {
        SignIn::ClientSecret { secret, .. } | SignIn::WorkloadIdentity(secret) => read(secret),
        SignIn::Certificate { certificate, key: None } => read(certificate),
        SignIn::Certificate { certificate, key: Some(key) } => {
            let (key, certificate) = (read(key)?, read(certificate)?);
            Ok(format!("{}\n{}", key.expose_secret(), certificate.expose_secret()).into())
        }
    }
}

fn unusable(secret: &Secret, why: impl std::fmt::Display) -> GraphError {
    let place = match secret {
        Secret::File(path) => path.display().to_string(),
        Secret::Value(_) => "the credential".to_owned(),
    };
    GraphError::new(Leg::Login, ErrorClass::AuthInvalidClient, format!("{place}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use chrono::TimeDelta;
    use graph_sim::AppCertificate;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::graph::testing::{Reply, Server, clock, granted, graph, tenant};

    /// A way to sign in with one file.
    type Way = fn(Secret) -> SignIn;

    fn now() -> DateTime<Utc> {
        clock().now()
    }

    /// A tenant that signs in with this file.
    fn tenant_with(sign_in: Way, path: &Path) -> Tenant {
        Tenant { sign_in: sign_in(Secret::File(path.to_owned())), ..tenant() }
    }

    fn certificate(secret: Secret) -> SignIn {
        SignIn::Certificate { certificate: secret, key: None }
    }

    fn written(text: &str) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("credential");
        std::fs::write(&path, text).expect("written");
        (folder, path)
    }

    /// The claims of the assertion in a request.
    fn claims(request: &str) -> Value {
        let (_, assertion) = request.split_once("client_assertion=").expect("an assertion");
        let part = assertion.split('.').nth(1).expect("three parts");
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
    }

    #[tokio::test]
    async fn a_certificate_s_assertion_goes_to_the_address_it_names() {
        let server = Server::start(|_, _| granted("t", 0)).await;
        let graph = graph(&server, clock(), |_| {});
        let own = AppCertificate::until(now() + TimeDelta::days(90), 0);
        let (folder, path) = written(&own.pem());
        let mut tenant = tenant_with(certificate, &path);
        graph.token(&tenant).await.expect("a token");
        // The same in two files.
        let (apart, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&apart, &own.certificate).expect("written");
        std::fs::write(&key, &own.key).expect("written");
        tenant.sign_in = SignIn::Certificate { certificate: Secret::File(apart), key: Some(Secret::File(key)) };
        graph.token(&tenant).await.expect("a token");
        assert_eq!(credential_end(&tenant).expect("read"), Some(now() + TimeDelta::days(90)));

        let requests = server.requests();
        assert_eq!(requests.len(), 2);
        for request in &requests {
            assert!(
                request
                    .contains("client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer")
            );
            assert!(request.contains("client_id=app&") && !request.contains("client_secret"), "{request}");
            let path = format!("/{}/oauth2/v2.0/token", tenant.id);
            assert!(request.starts_with(&format!("POST {path} ")), "{request}");
            let claims = claims(request);
            assert_eq!(claims["aud"], format!("{}{path}", graph.endpoints().login.as_str().trim_end_matches('/')));
            assert_eq!(claims["nbf"], now().timestamp());
        }
        assert_ne!(claims(&requests[0])["jti"], claims(&requests[1])["jti"]);
    }

    #[tokio::test]
    async fn a_credential_rotated_in_its_file_is_taken_up() {
        let cases: [(Way, _, _); 2] = [
            (
                certificate,
                AppCertificate::until(now() + TimeDelta::days(9), 0).pem(),
                AppCertificate::until(now() + TimeDelta::days(9), 1).pem(),
            ),
            (SignIn::WorkloadIdentity, "b.l.d\n".to_owned(), "n.e.w".to_owned()),
        ];
        for (sign_in, old, new) in cases {
            let (_folder, path) = written(&old);
            let rotated = path.clone();
            let server = Server::start(move |_, number| {
                if number > 0 {
                    return granted("t", 0);
                }
                std::fs::write(&rotated, &new).expect("written");
                Reply::whole("401 Unauthorized", r#"{"error":"invalid_client","error_codes":[700027]}"#)
            })
            .await;
            let graph = graph(&server, clock(), |_| {});
            graph.token(&tenant_with(sign_in, &path)).await.expect("the new one");
            let requests = server.requests();
            assert_eq!(requests.len(), 2);
            if old.starts_with("b.l.d") {
                assert!(requests[0].ends_with("client_assertion=b.l.d"), "{}", requests[0]);
                assert!(requests[1].ends_with("client_assertion=n.e.w"), "{}", requests[1]);
            }
        }
    }

    #[tokio::test]
    async fn a_credential_that_cannot_be_used_is_not_sent() {
        let server = Server::start(|_, _| granted("t", 3599)).await;
        let graph = graph(&server, clock(), |_| {});
        let ended = AppCertificate::until(now(), 0).pem();
        let cases: [(Way, &str, &str); 5] = [
            (certificate, &ended, "the certificate ended on 2026-11-24"),
            (certificate, "canary", "no private key stands there"),
            (SignIn::WorkloadIdentity, "canary", "is no token"),
            (SignIn::WorkloadIdentity, "canary.a b.c", "is no token"),
            (SignIn::WorkloadIdentity, "\n", "is empty"),
        ];
        for (sign_in, text, words) in cases {
            let (_folder, path) = written(text);
            let error = graph.token(&tenant_with(sign_in, &path)).await.expect_err(words);
            let text = error.to_string();
            assert_eq!(error.class(), ErrorClass::AuthInvalidClient);
            assert!(text.contains(words) && text.contains(path.to_str().expect("a path")), "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
        assert_eq!(server.requests().len(), 0);
    }

    #[tokio::test]
    async fn an_assertion_sent_back_is_not_repeated() {
        let server = Server::start(|request, _| {
            let (_, assertion) = request.split_once("client_assertion=").expect("an assertion");
            Reply::whole("400 Bad Request", format!(r#"{{"error":"e","error_description":"got {assertion}"}}"#))
        })
        .await;
        let (_folder, path) = written("canary.canary.canary");
        let tenant = tenant_with(SignIn::WorkloadIdentity, &path);
        let error = graph(&server, clock(), |_| {}).token(&tenant).await.expect_err("refused").to_string();
        assert!(error.contains("got …") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn an_end_is_known_where_somebody_knows_it() {
        let mut one = tenant();
        assert_eq!(credential_end(&one).expect("read"), None);
        let expires = Some("2027-01-31".parse().expect("a date"));
        one.sign_in = SignIn::ClientSecret { secret: Secret::Value("s".into()), expires };
        assert_eq!(credential_end(&one).expect("read"), Some("2027-01-31T00:00:00Z".parse().expect("a time")));
        let (_folder, path) = written("a.b.c");
        assert_eq!(credential_end(&tenant_with(SignIn::WorkloadIdentity, &path)).expect("read"), None);
        let error = credential_end(&tenant_with(certificate, &path)).expect_err("no certificate");
        assert_eq!(error.class(), ErrorClass::AuthInvalidClient);
    }
}
