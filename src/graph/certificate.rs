//! A certificate to sign in with, and the assertion that proves it
//! (<https://learn.microsoft.com/entra/identity-platform/certificate-credentials>).

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::SigningKey,
};
use secrecy::SecretString;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// How long an assertion is good for; documented are at most ten minutes.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// Why a certificate cannot be used. The text holds nothing of what stands in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("no certificate stands there; it has to be PEM (-----BEGIN CERTIFICATE-----), with its private key")]
    NoCertificate,
    #[error("no private key stands there; append it in PEM, or name its file as certificate_key_file")]
    NoKey,
    #[error(
        "the private key is encrypted, and nobody is there to type its password: \
         decrypt it with openssl pkey -in FILE -out NEW"
    )]
    EncryptedKey,
    #[error("what stands there is damaged PEM: {0}")]
    Pem(pem::Error),
    #[error("the private key cannot be used: it has to be an RSA key of 2048 to 4096 bits")]
    Key,
    #[error("the private key is not RSA; the documented signature (PS256) needs an RSA key of 2048 to 4096 bits")]
    NotRsa,
    #[error("a certificate in it cannot be read")]
    Certificate,
    #[error("the private key belongs to none of the certificates there ({0}): they are from different pairs")]
    OtherKey(usize),
    #[error("the private key did not sign: {0}")]
    Signature(rustls::Error),
}

/// A certificate with its private key. Neither is ever shown.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    /// SHA-256 of the certificate, as the header has it.
    thumbprint: String,
    /// The end of its validity.
    pub(super) not_after: DateTime<Utc>,
}

impl Certificate {
    /// From PEM in any order: the first private key, and the certificate that belongs to it.
    pub(super) fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
            // Both kinds of encrypted PEM say so on a line of their own.
            _ if text.contains("ENCRYPTED") => CertificateError::EncryptedKey,
            pem::Error::NoItemsFound => CertificateError::NoKey,
            error => CertificateError::Pem(error),
        })?;
        let key = any_supported_type(&key).map_err(|_| CertificateError::Key)?;
        if key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).is_none() {
            return Err(CertificateError::NotRsa);
        }
        let public_key = key.public_key();
        let mut seen = 0;
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let der = certificate.map_err(CertificateError::Pem)?;
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| CertificateError::Certificate)?;
            seen += 1;
            if public_key.as_deref() == Some(parsed.public_key().raw) {
                let end = parsed.validity().not_after.timestamp();
                return Ok(Self {
                    key,
                    thumbprint: BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&der)),
                    not_after: DateTime::from_timestamp(end, 0).ok_or(CertificateError::Certificate)?,
                });
            }
        }
        Err(if seen == 0 { CertificateError::NoCertificate } else { CertificateError::OtherKey(seen) })
    }

    /// A signed statement that the application signs in at `audience` now.
    pub(super) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<SecretString, CertificateError> {
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": Uuid::new_v4(),
            "iat": now.timestamp(),
            "nbf": now.timestamp(),
            "exp": (now + LIFETIME).timestamp(),
        });
        let encoded = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        let content = encoded.join(".");
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).ok_or(CertificateError::NotRsa)?;
        let signature = signer.sign(content.as_bytes()).map_err(CertificateError::Signature)?;
        Ok(format!("{content}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)).into())
    }
}

#[cfg(test)]
mod tests {
    use graph_sim::AppCertificate;
    use rcgen::{CertificateParams, KeyPair};
    use secrecy::ExposeSecret as _;
    use serde_json::Value;
    use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T12:00:00Z".parse().expect("a time")
    }

    fn certificate() -> AppCertificate {
        AppCertificate::until(now() + TimeDelta::days(90), 0)
    }

    fn decoded(part: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url without padding")
    }

    #[test]
    fn an_assertion_is_as_documented_and_its_signature_holds() {
        let pem = certificate();
        let certificate = Certificate::from_pem(&pem.pem()).expect("a certificate");
        assert_eq!(certificate.not_after, now() + TimeDelta::days(90));
        let audience = "https://login.example/t/oauth2/v2.0/token";
        let assertions: Vec<_> =
            (0..2).map(|_| certificate.assertion("app", audience, now()).expect("signed")).collect();
        let parts: Vec<Vec<&str>> = assertions.iter().map(|one| one.expose_secret().split('.').collect()).collect();
        let [header, claims, signature] = parts[0][..] else { panic!("three parts") };

        let (_, block) = parse_x509_pem(pem.certificate.as_bytes()).expect("PEM");
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&block.contents));
        let header: Value = serde_json::from_slice(&decoded(header)).expect("JSON");
        assert_eq!(header, json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint }));

        let claims: Value = serde_json::from_slice(&decoded(claims)).expect("JSON");
        let jti: Uuid = claims["jti"].as_str().expect("text").parse().expect("a UUID");
        let expected = json!({
            "aud": audience, "iss": "app", "sub": "app", "jti": jti,
            "iat": 1_795_521_600, "nbf": 1_795_521_600, "exp": 1_795_522_200,
        });
        assert_eq!(claims, expected);
        assert_ne!(parts[0][1], parts[1][1], "no two assertions have one jti");

        let (_, parsed) = parse_x509_certificate(&block.contents).expect("a certificate");
        let public = &parsed.public_key().subject_public_key.data;
        let signed = format!("{}.{}", parts[0][0], parts[0][1]);
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.mapping;
        let (_, algorithms) =
            algorithms.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PSS_SHA256).expect("known");
        let holds = |message: &[u8]| algorithms[0].verify_signature(public, message, &decoded(signature)).is_ok();
        assert!(holds(signed.as_bytes()));
        assert!(!holds(format!("{signed}A").as_bytes()));
    }

    #[test]
    fn the_certificate_of_the_key_is_found_wherever_it_stands() {
        let own = certificate();
        let other = AppCertificate::until(now() + TimeDelta::days(9), 1);
        for text in [
            own.pem(),
            format!("{}{}{}", own.key, other.certificate, own.certificate),
            format!("Bag Attributes\n    friendlyName: x\n{}{}{}", own.certificate, own.key, other.pem()),
        ] {
            let found = Certificate::from_pem(&text.replace('\n', "\r\n")).expect("a certificate");
            assert_eq!(found.not_after, now() + TimeDelta::days(90));
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let own = certificate();
        let other = AppCertificate::until(now() + TimeDelta::days(9), 1);
        let elliptic = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("parameters");
        let elliptic = format!("{}{}", params.self_signed(&elliptic).expect("signed").pem(), elliptic.serialize_pem());
        let encrypted = own.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let old_style = own.key.replace("-----\nMI", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMI");
        for (text, words) in [
            (own.certificate.clone(), "no private key"),
            (String::new(), "no private key"),
            (own.key.clone(), "no certificate stands there"),
            (format!("{}{}", own.certificate, other.key), "none of the certificates there (1)"),
            (format!("{}{encrypted}", own.certificate), "is encrypted"),
            (format!("{}{old_style}", own.certificate), "is encrypted"),
            (elliptic, "is not RSA"),
            (format!("{}{}", own.certificate, own.key.replace("MII", "MIJ")), "cannot be used"),
            (format!("{}{}", own.key, own.certificate.replace("MII", "MIJ")), "cannot be read"),
            (format!("{}{}", own.key, own.certificate.replace("MII", "M?I")), "damaged PEM"),
        ] {
            let error = Certificate::from_pem(&text).err().expect(words).to_string();
            assert!(error.contains(words), "{words}: {error}");
            let inside = own.key.lines().nth(5).expect("a line");
            assert!(!error.contains(inside), "{error}");
        }
    }
}
