//! What an application can sign in with besides a secret, to be registered here and given to the ledger.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::SigningKey,
};
use serde_json::json;
use uuid::Uuid;

/// An application's private keys; a certificate of one does not go with the other.
const KEYS: [&str; 2] = [include_str!("../keys/first.pem"), include_str!("../keys/second.pem")];
/// The key of the identity provider that every federated token here comes from.
const ISSUER_KEY: &str = include_str!("../keys/issuer.pem");

/// The audience that Microsoft documents for federated credentials.
pub const FEDERATION_AUDIENCE: &str = "api://AzureADTokenExchange";

/// A self-signed certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct AppCertificate {
    /// What is uploaded to the app registration.
    pub certificate: String,
    /// What the application keeps.
    pub key: String,
}

impl AppCertificate {
    /// One that is valid from a year before `end` until then. There are two keys, 0 and 1.
    pub fn until(end: DateTime<Utc>, key: usize) -> Self {
        let key = KEYS[key];
        let make = || {
            let pair = KeyPair::from_pem(key)?;
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name.push(DnType::CommonName, "m365-ledger");
            params.not_before = SystemTime::from(end - TimeDelta::days(365)).into();
            params.not_after = SystemTime::from(end).into();
            params.self_signed(&pair)
        };
        let certificate = make().expect("a certificate can be made of a good key").pem();
        Self { certificate, key: key.to_owned() }
    }

    /// Both in one text, as the ledger's `certificate_file` wants it.
    pub fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

/// A token as an identity provider such as a Kubernetes cluster issues it.
pub(crate) fn federated_token(
    issuer: &str,
    subject: &str,
    audience: &str,
    now: DateTime<Utc>,
    lifetime: TimeDelta,
) -> String {
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "stand-in" });
    let claims = json!({
        "iss": issuer,
        "sub": subject,
        "aud": [audience],
        "jti": Uuid::new_v4(),
        "iat": now.timestamp(),
        "nbf": now.timestamp(),
        "exp": (now + lifetime).timestamp(),
    });
    let content = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signer = issuer_key().choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).expect("an RSA key");
    let signature = signer.sign(content.as_bytes()).expect("RSA signs whatever it is given");
    format!("{content}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// The public key, as a certificate holds it.
pub(crate) fn issuer_public_key() -> Vec<u8> {
    issuer_key().public_key().expect("a key of ring's has a public half").to_vec()
}

fn issuer_key() -> Arc<dyn SigningKey> {
    let der = PrivateKeyDer::from_pem_slice(ISSUER_KEY.as_bytes()).expect("a key in PEM");
    any_supported_type(&der).expect("an RSA key")
}
