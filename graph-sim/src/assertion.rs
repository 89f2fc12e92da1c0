//! Whether a client assertion proves what it says, as Entra ID checks it.
//!
//! Where the numbers come from: 700027, 50012, 50027 and 50048 are documented in Microsoft's list of AADSTS errors; 700021
//! and 700023 in the troubleshooting pages of its Azure SDKs; 700024 and 700211 to 700213 are reported by many. Which of
//! several faults is named first is inferred. That a `jti` may not be used twice is documented nowhere, and not checked.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use rustls::{SignatureScheme, crypto::ring::default_provider};
use serde_json::Value;
use x509_parser::{parse_x509_certificate, prelude::FromDer as _, x509::SubjectPublicKeyInfo};

use crate::{
    credential::issuer_public_key,
    state::{Federation, Tenant, now},
};

/// An AADSTS number and what is said with it.
pub(crate) struct Fault(pub(crate) u32, pub(crate) String);

/// A token taken apart.
struct Jwt<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

/// Checks the assertion of `client`, one of `tenant`'s applications, sent to `audience`.
pub(crate) fn check(tenant: &Tenant, client: &str, audience: &str, assertion: &str) -> Result<(), Fault> {
    let malformed = || Fault(50_027, "JWT token is invalid or malformed.".to_owned());
    let jwt = Jwt::parse(assertion).ok_or_else(malformed)?;
    // A statement of the application about itself is a certificate's, anything else is another provider's.
    if jwt.header.get("x5t#S256").is_some() || jwt.claim("iss").eq_ignore_ascii_case(client) {
        certificate(tenant, client, audience, &jwt)
    } else {
        federated(tenant, &jwt)
    }
}

fn certificate(tenant: &Tenant, client: &str, audience: &str, jwt: &Jwt<'_>) -> Result<(), Fault> {
    if jwt.claim("sub") != jwt.claim("iss") {
        return Err(Fault(50_048, "Subject mismatches Issuer claim in the client assertion.".to_owned()));
    }
    if !jwt.claim("iss").eq_ignore_ascii_case(client) {
        return Err(Fault(
            700_021,
            "Client assertion application identifier doesn't match 'client_id' parameter.".to_owned(),
        ));
    }
    if !jwt.is_for(audience) {
        return Err(Fault(700_023, "Client assertion audience claim does not match Realm issuer.".to_owned()));
    }
    let thumbprint = jwt.header.get("x5t#S256").and_then(Value::as_str).unwrap_or_default();
    let bad = |reason: &str| {
        let text = format!(
            "Client assertion contains an invalid signature. [Reason - {reason}, Thumbprint of key used by client: \
             '{thumbprint}']"
        );
        Fault(700_027, text)
    };
    let der = tenant.certificates.iter().find(|(known, _)| known == thumbprint).map(|(_, der)| der);
    let der = der.ok_or_else(|| bad("The key was not found."))?;
    let (_, parsed) = parse_x509_certificate(der).map_err(|_| bad("The key was not found."))?;
    if parsed.validity().not_after.timestamp() <= now().timestamp() {
        return Err(bad("The key used is expired."));
    }
    if jwt.header.get("alg").and_then(Value::as_str) != Some("PS256")
        || !jwt.is_signed(SignatureScheme::RSA_PSS_SHA256, parsed.public_key())
    {
        return Err(bad("The key was found, but use of the key to verify the signature failed."));
    }
    jwt.check_time()
}

fn federated(tenant: &Tenant, jwt: &Jwt<'_>) -> Result<(), Fault> {
    let known = |fits: &dyn Fn(&&Federation) -> bool| tenant.federations.iter().any(|known| fits(&known));
    let (issuer, subject) = (jwt.claim("iss"), jwt.claim("sub"));
    let none = |number, what: &str, value: &str| {
        let text = format!(
            "No matching federated identity record found for presented assertion {what} '{value}'. Please check your \
             federated identity credential Subject, Audience and Issuer against the presented assertion."
        );
        Err(Fault(number, text))
    };
    if !known(&|known| known.issuer == issuer) {
        return none(700_211, "issuer", issuer);
    }
    if !known(&|known| known.issuer == issuer && known.subject == subject) {
        return none(700_213, "subject", subject);
    }
    if !known(&|known| known.issuer == issuer && known.subject == subject && jwt.is_for(&known.audience)) {
        return none(700_212, "audience", &jwt.claims["aud"].to_string());
    }
    let key = issuer_public_key();
    let signed = SubjectPublicKeyInfo::from_der(&key)
        .is_ok_and(|(_, key)| jwt.is_signed(SignatureScheme::RSA_PKCS1_SHA256, &key));
    if !signed {
        return Err(Fault(50_027, "External ID token from issuer failed signature verification.".to_owned()));
    }
    jwt.check_time()
}

impl<'a> Jwt<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
            signed,
            signature: decode(signature)?,
        })
    }

    fn claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn is_for(&self, audience: &str) -> bool {
        match &self.claims["aud"] {
            Value::String(one) => one == audience,
            Value::Array(several) => several.iter().any(|one| one == audience),
            _ => false,
        }
    }

    fn is_signed(&self, scheme: SignatureScheme, key: &SubjectPublicKeyInfo<'_>) -> bool {
        let algorithms = default_provider().signature_verification_algorithms;
        let algorithms = algorithms.mapping.iter().find(|(known, _)| *known == scheme).map(|(_, found)| *found);
        algorithms.unwrap_or_default().iter().any(|algorithm| {
            algorithm.verify_signature(&key.subject_public_key.data, self.signed.as_bytes(), &self.signature).is_ok()
        })
    }

    fn check_time(&self) -> Result<(), Fault> {
        let at =
            |name: &str| self.claims.get(name).and_then(Value::as_i64).and_then(|at| DateTime::from_timestamp(at, 0));
        let (from, to): (Option<DateTime<Utc>>, _) = (at("nbf"), at("exp"));
        let now = now();
        // Five minutes between two clocks are forgiven: inferred, from what Microsoft's own libraries allow.
        let skew = chrono::TimeDelta::minutes(5);
        if from.is_some_and(|from| from <= now + skew) && to.is_some_and(|to| now - skew < to) {
            return Ok(());
        }
        let said = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339()).unwrap_or_default();
        let text = format!(
            "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry \
             time of assertion {}.",
            now.to_rfc3339(),
            said(from),
            said(to)
        );
        Err(Fault(700_024, text))
    }
}
