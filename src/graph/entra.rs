//! What the login service's refusals mean, in words.

use serde::Deserialize;

use super::error::sanitise;
use crate::outcome::ErrorClass;

/// The body of a refusal
/// (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>, "Error response").
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    error: Option<String>,
    error_description: Option<String>,
    error_codes: Vec<u32>,
    trace_id: Option<String>,
}

impl Refusal {
    /// Reads it as far as it can be read.
    pub(super) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// The AADSTS number: from the list, or from the text.
    fn number(&self) -> Option<u32> {
        self.error_codes.first().copied().or_else(|| {
            let (_, rest) = self.error_description.as_deref()?.split_once("AADSTS")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
    }

    /// `AADSTS…`, or OAuth's word.
    pub(super) fn code(&self) -> Option<String> {
        self.number().map(|number| format!("AADSTS{number}")).or_else(|| self.error.as_deref().map(sanitise))
    }

    /// Microsoft's id of the request.
    pub(super) fn trace_id(&self) -> Option<String> {
        self.trace_id.as_deref().map(sanitise)
    }

    /// What to tell the admin: our words for a known number, else Microsoft's.
    pub(super) fn words(&self) -> String {
        if let Some(words) = self.number().and_then(explain) {
            return words.to_owned();
        }
        match (&self.error_description, &self.error) {
            (Some(text), _) => {
                let text = text.split(" Trace ID:").next().unwrap_or(text);
                // The number is shown as the code already.
                sanitise(text.split_once(": ").filter(|(code, _)| code.starts_with("AADSTS")).map_or(text, |(_, s)| s))
            }
            (None, Some(word)) => sanitise(word),
            (None, None) => "no reason was given".to_owned(),
        }
    }

    /// The class of a 4xx: most are the application's, some are Microsoft's.
    pub(super) fn class(&self) -> ErrorClass {
        match (self.number(), self.error.as_deref()) {
            (Some(90055), _) => ErrorClass::Throttled,
            (Some(90006 | 90033 | 90085), _) | (_, Some("temporarily_unavailable" | "server_error")) => {
                ErrorClass::Graph5xx
            }
            _ => ErrorClass::AuthInvalidClient,
        }
    }
}

/// With the usual cause. Most stand in <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>; 700021
/// and 700023 in the troubleshooting pages of Azure's SDKs. Only reported by others: 700024, 70021 and 700211 to 700213,
/// 700222.
fn explain(number: u32) -> Option<&'static str> {
    Some(match number {
        7_000_215 => {
            "the client secret is wrong. The usual mistake is to paste the Secret ID: the secret is in the column \
             Value, shown only once, right after it was made"
        }
        7_000_222 => {
            "the client secret has expired: make a new one under Entra ID > App registrations > Certificates & secrets"
        }
        7_000_216 | 7_000_218 => "no client secret was sent, or the application does not accept one",
        700_027 | 50_012 => {
            "the certificate is not the application's, or has ended: upload the certificate of this very file under Entra \
             ID > App registrations > Certificates & secrets > Certificates (a new one may take some minutes to be known)"
        }
        700_024 => {
            "the assertion is not valid at this time: check the clock of this machine; with a workload identity, that the \
             token's file is still being renewed"
        }
        700_021 | 50_048 => "the assertion is of another application: check tenant.client_id",
        700_023 => "the assertion was made for another address: check graph.login_url and graph.cloud",
        700_025 => {
            "the application is a public client, which may send no credential: Entra ID > App registrations > Authentication \
             > Allow public client flows: No"
        }
        70_021 | 700_211 | 700_212 | 700_213 => {
            "the application has no federated credential for this token: its issuer, subject and audience must be letter by \
             letter those of the token (Entra ID > App registrations > Certificates & secrets > Federated credentials); a \
             new one takes some minutes to be known"
        }
        50_027 => {
            "the token of the identity provider is damaged, or its signature does not fit: check that \
             tenant.federated_token_file holds that provider's token and nothing else"
        }
        700_222 => "a token of Entra ID itself is not taken here: the token must come from another identity provider",
        7_000_112 => "the application is disabled in this tenant: enable it under Entra ID > Enterprise applications",
        7_000_229 | 700_016 => {
            "the application is not in this tenant: check tenant.client_id (the Application ID, not the Object ID) and \
             tenant.id; a multi-tenant application needs admin consent in each tenant"
        }
        90_002 | 900_023 => {
            "there is no such tenant: check tenant.id (Entra ID > Overview > Tenant ID), and graph.cloud for national \
             clouds"
        }
        900_382 | 900_439 => "the application belongs to another cloud: check graph.cloud",
        500_011 => {
            "Microsoft Graph is not known in this tenant: check graph.cloud, and give the application admin consent"
        }
        70_011 | 1_002_012 => "the login service does not know the scope: check graph.cloud",
        53_003 => {
            "a Conditional Access policy for workload identities blocks the application: check its allowed locations"
        }
        90_055 => "the login service has too many requests from this tenant",
        90_006 | 90_033 | 90_085 => "the login service has a passing fault",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_explained_and_unknown_ones_quoted() {
        let body = br#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Trace ID: t","error_codes":[7000215],"trace_id":"t"}"#;
        let refusal = Refusal::parse(body);
        assert_eq!(refusal.code().as_deref(), Some("AADSTS7000215"));
        assert!(refusal.words().contains("Secret ID"));
        assert_eq!(refusal.trace_id().as_deref(), Some("t"));

        let body =
            br#"{"error":"x","error_description":"AADSTS999: New. See https://login.example/a?b=c Trace ID: t"}"#;
        let refusal = Refusal::parse(body);
        assert_eq!(refusal.code().as_deref(), Some("AADSTS999"));
        assert_eq!(refusal.words(), "New. See https://login.example/…");

        let body = br#"{"error":"invalid_client","error_codes":[700213]}"#;
        assert!(Refusal::parse(body).words().contains("Federated credentials"));

        assert_eq!(Refusal::parse(b"<html>").words(), "no reason was given");
    }

    #[test]
    fn passing_faults_are_not_blamed_on_the_secret() {
        for (body, class) in [
            (&br#"{"error_codes":[7000222]}"#[..], ErrorClass::AuthInvalidClient),
            (br#"{"error_codes":[90033]}"#, ErrorClass::Graph5xx),
            (br#"{"error":"temporarily_unavailable"}"#, ErrorClass::Graph5xx),
            (br#"{"error_codes":[90055]}"#, ErrorClass::Throttled),
            (b"", ErrorClass::AuthInvalidClient),
        ] {
            assert_eq!(Refusal::parse(body).class(), class);
        }
    }
}
