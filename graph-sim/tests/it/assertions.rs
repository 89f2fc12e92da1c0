//! The login host checks assertions as Entra ID does.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use graph_sim::{AppCertificate, CLIENT_ID, FEDERATION_AUDIENCE, Sim, TENANT_ID};
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::{http, start};

#[expect(clippy::disallowed_methods, reason = "certificates end by the machine's clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// A signed assertion; `change` may spoil the header and the claims before.
fn assertion(sim: &Sim, own: &AppCertificate, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let der = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&der));
    let mut header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint });
    let at = now().timestamp();
    let mut claims = json!({
        "aud": format!("{}/{TENANT_ID}/oauth2/v2.0/token", sim.login_url()),
        "iss": CLIENT_ID, "sub": CLIENT_ID, "jti": "j", "nbf": at, "exp": at + 600,
    });
    change(&mut header, &mut claims);
    let content = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap()).unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).unwrap();
    format!("{content}.{}", BASE64_URL_SAFE_NO_PAD.encode(signer.sign(content.as_bytes()).unwrap()))
}

/// The AADSTS number that an assertion is refused with; 0: there is a token.
async fn answer(sim: &Sim, assertion: &str) -> u64 {
    let form = [
        ("client_id", CLIENT_ID),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
        ("scope", "https://graph.microsoft.com/.default"),
        ("grant_type", "client_credentials"),
    ];
    let url = format!("{}/{TENANT_ID}/oauth2/v2.0/token", sim.login_url());
    let response = http(None).post(url).form(&form).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    if status == 200 {
        assert!(body["access_token"].is_string(), "{body}");
        return 0;
    }
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{body}");
    body["error_codes"][0].as_u64().unwrap()
}

#[tokio::test]
async fn a_certificate_s_assertion_is_checked_in_every_part() {
    let sim = start();
    let own = AppCertificate::until(now() + TimeDelta::days(90), 0);
    let good = assertion(&sim, &own, |_, _| {});
    assert_eq!(answer(&sim, &good).await, 700_027, "not registered");
    sim.add_certificate(TENANT_ID, &own.certificate);
    assert_eq!(answer(&sim, &good).await, 0);
    assert!(sim.secrets().contains(&good));

    let at = now().timestamp();
    let other = AppCertificate { key: AppCertificate::until(now(), 1).key, ..own.clone() };
    let ended = AppCertificate::until(now() - TimeDelta::minutes(1), 0);
    sim.add_certificate(TENANT_ID, &ended.certificate);
    for (what, assertion, number) in [
        ("another key", assertion(&sim, &other, |_, _| {}), 700_027),
        ("an ended certificate", assertion(&sim, &ended, |_, _| {}), 700_027),
        ("an unknown thumbprint", assertion(&sim, &own, |header, _| header["x5t#S256"] = json!("x")), 700_027),
        ("another algorithm", assertion(&sim, &own, |header, _| header["alg"] = json!("RS256")), 700_027),
        ("another audience", assertion(&sim, &own, |_, claims| claims["aud"] = json!("https://x/")), 700_023),
        ("another issuer", assertion(&sim, &own, |_, claims| claims["iss"] = json!("x")), 50_048),
        (
            "another application",
            assertion(&sim, &own, |_, claims| (claims["iss"], claims["sub"]) = (json!("x"), json!("x"))),
            700_021,
        ),
        ("ended", assertion(&sim, &own, |_, claims| claims["exp"] = json!(at - 600)), 700_024),
        ("not begun", assertion(&sim, &own, |_, claims| claims["nbf"] = json!(at + 900)), 700_024),
        ("without an end", assertion(&sim, &own, |_, claims| claims["exp"] = Value::Null), 700_024),
        ("no JWT", "a.b.c".to_owned(), 50_027),
    ] {
        assert_eq!(answer(&sim, &assertion).await, number, "{what}");
    }
    sim.remove_certificates(TENANT_ID);
    assert_eq!(answer(&sim, &good).await, 700_027, "removed");
}

#[tokio::test]
async fn another_provider_s_token_must_match_the_federated_credential() {
    let sim = start();
    let token =
        |issuer: &str, subject: &str, audience: &str, seconds| sim.federated_token(issuer, subject, audience, seconds);
    let good = token("https://issuer", "system:serviceaccount:a:b", FEDERATION_AUDIENCE, 3600);
    assert_eq!(answer(&sim, &good).await, 700_211, "not registered");
    sim.federate(TENANT_ID, "https://issuer", "system:serviceaccount:a:b");
    assert_eq!(answer(&sim, &good).await, 0);
    let own = AppCertificate::until(now() + TimeDelta::days(90), 0);
    let forged = assertion(&sim, &own, |header, claims| {
        *header = json!({ "alg": "RS256" });
        *claims = json!({
            "iss": "https://issuer", "sub": "system:serviceaccount:a:b", "aud": FEDERATION_AUDIENCE,
            "nbf": 0, "exp": now().timestamp() + 600,
        });
    });
    for (assertion, number) in [
        (token("https://issuer/", "system:serviceaccount:a:b", FEDERATION_AUDIENCE, 3600), 700_211),
        (token("https://issuer", "system:serviceaccount:a:B", FEDERATION_AUDIENCE, 3600), 700_213),
        (token("https://issuer", "system:serviceaccount:a:b", "https://kubernetes.default.svc", 3600), 700_212),
        (token("https://issuer", "system:serviceaccount:a:b", FEDERATION_AUDIENCE, -3600), 700_024),
        (forged, 50_027),
    ] {
        assert_eq!(answer(&sim, &assertion).await, number);
    }
}

#[tokio::test]
async fn credentials_are_registered_over_http_too() {
    let sim = start();
    let lever = |path: &str| format!("{}/_sim/{path}", sim.graph_url());
    let own = AppCertificate::until(now() + TimeDelta::days(90), 1);
    let post =
        async |path: String, body: String| http(None).post(lever(&path)).body(body).send().await.unwrap().status();
    assert_eq!(post(format!("certificate?tenant={TENANT_ID}"), "no PEM".to_owned()).await, 400);
    assert_eq!(post(format!("certificate?tenant={TENANT_ID}"), own.certificate.clone()).await, 200);
    assert_eq!(answer(&sim, &assertion(&sim, &own, |_, _| {})).await, 0);
    let removed = http(None).delete(lever(&format!("certificates?tenant={TENANT_ID}"))).send().await.unwrap();
    assert_eq!(removed.status(), 200);
    assert_eq!(answer(&sim, &assertion(&sim, &own, |_, _| {})).await, 700_027);

    let credential = "issuer=https%3A%2F%2Fi&subject=s&audience=a";
    assert_eq!(post(format!("federation?tenant={TENANT_ID}&{credential}"), String::new()).await, 200);
    assert_eq!(post(format!("federation?tenant={TENANT_ID}"), String::new()).await, 400);
    let token = http(None).get(lever(&format!("federated-token?{credential}&seconds=60"))).send().await.unwrap();
    let token: Value = token.json().await.unwrap();
    assert_eq!(answer(&sim, token["token"].as_str().unwrap()).await, 0);
}
