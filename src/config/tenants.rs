//! Tenants: how they are written down, what they inherit, and how each signs in.

use std::{collections::BTreeSet, path::PathBuf};

use chrono::NaiveDate;
use secrecy::SecretString;
use serde::Deserialize;
use uuid::Uuid;

use super::{ConfigError, Secret, Settings};

/// A tenant as it is written down; [`Settings::tenants`] fills in what it inherits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantEntry {
    id: Option<Uuid>,
    name: Option<String>,
    client_id: Option<String>,
    auth: Option<Auth>,
    client_secret: Option<SecretString>,
    client_secret_file: Option<PathBuf>,
    client_secret_expires: Option<NaiveDate>,
    certificate_file: Option<PathBuf>,
    certificate_key_file: Option<PathBuf>,
    federated_token_file: Option<PathBuf>,
}

/// The ways an application signs in to Entra ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Auth {
    /// A client secret.
    ClientSecret,
    /// A certificate and its private key.
    Certificate,
    /// The token of another identity provider, which Entra ID was told to trust.
    WorkloadIdentity,
}

/// A tenant, complete.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The directory (tenant) ID.
    pub id: Uuid,
    /// A name for people; the ID where none was given.
    pub name: String,
    /// The application (client) ID.
    pub client_id: String,
    /// How it proves that it is that application.
    pub sign_in: SignIn,
}

/// What an application proves itself with.
#[derive(Debug, Clone)]
pub enum SignIn {
    /// A client secret.
    ClientSecret {
        /// The secret.
        secret: Secret,
        /// The day it ends, as somebody wrote it down: Microsoft does not tell.
        expires: Option<NaiveDate>,
    },
    /// A certificate.
    Certificate {
        /// PEM: the certificate, its chain if need be, and the private key unless that has a file of its own.
        certificate: Secret,
        /// PEM: the private key.
        key: Option<Secret>,
    },
    /// The token of another identity provider, renewed by somebody else.
    WorkloadIdentity(Secret),
}

impl TenantEntry {
    /// Whether it is a tenant, and not only what others inherit.
    pub(super) const fn is_tenant(&self) -> bool {
        self.id.is_some()
    }

    fn secret(&self, at: &str) -> Result<Option<Secret>, ConfigError> {
        Secret::either(&format!("{at}.client_secret"), self.client_secret.as_ref(), self.client_secret_file.as_ref())
    }

    /// The one way to sign in that something is set for; `None` where nothing is.
    fn implied(&self, at: &str) -> Result<Option<Auth>, ConfigError> {
        let set = [
            (self.client_secret.is_some() || self.client_secret_file.is_some(), "client_secret", Auth::ClientSecret),
            (self.certificate_file.is_some(), "certificate_file", Auth::Certificate),
            (self.federated_token_file.is_some(), "federated_token_file", Auth::WorkloadIdentity),
        ];
        let mut set = set.into_iter().filter(|(is_set, ..)| *is_set);
        match (set.next(), set.next()) {
            (Some((_, one, _)), Some((_, other, _))) => Err(ConfigError::Invalid(format!(
                "{at}: {one} and {other} are both set: keep one of them, or say with {at}.auth which is meant \
                 (client-secret, certificate, workload-identity)"
            ))),
            (first, _) => Ok(first.map(|(.., auth)| auth)),
        }
    }
}

impl Settings {
    /// The tenants to fetch, in the order they are written down.
    pub fn tenants(&self) -> Result<Vec<Tenant>, ConfigError> {
        let mut entries: Vec<(String, &TenantEntry)> = Vec::new();
        if self.tenant.is_tenant() {
            entries.push(("tenant".to_owned(), &self.tenant));
        } else if self.tenants.is_empty() && self.tenant.client_id.is_some() {
            return Err(ConfigError::missing("tenant.id", "the directory (tenant) ID, a UUID"));
        }
        entries.extend(self.tenants.iter().enumerate().map(|(n, entry)| (format!("tenants[{n}]"), entry)));

        let mut seen = BTreeSet::new();
        entries
            .into_iter()
            .map(|(at, entry)| {
                let tenant = self.complete(&at, entry)?;
                if !seen.insert(tenant.id) {
                    return Err(ConfigError::Invalid(format!("{at}.id: tenant {} stands here twice", tenant.id)));
                }
                Ok(tenant)
            })
            .collect()
    }

    fn complete(&self, at: &str, entry: &TenantEntry) -> Result<Tenant, ConfigError> {
        let id = entry.id.ok_or_else(|| ConfigError::missing(&format!("{at}.id"), "the directory (tenant) ID"))?;
        let client_id = entry
            .client_id
            .clone()
            .or_else(|| self.tenant.client_id.clone())
            .ok_or_else(|| ConfigError::missing(&format!("{at}.client_id"), "the application (client) ID"))?;
        let name = entry.name.clone().unwrap_or_else(|| id.to_string());
        Ok(Tenant { id, name, client_id, sign_in: self.sign_in(at, entry)? })
    }

    /// What a tenant says itself goes before what it inherits; `auth` goes before what can be seen from the rest.
    fn sign_in(&self, at: &str, entry: &TenantEntry) -> Result<SignIn, ConfigError> {
        let own = if entry.auth.is_some() { entry.auth } else { entry.implied(at)? };
        let inherited =
            || if self.tenant.auth.is_some() { Ok(self.tenant.auth) } else { self.tenant.implied("tenant") };
        let auth = match own {
            Some(auth) => Some(auth),
            None => inherited()?,
        };
        match auth.unwrap_or(Auth::ClientSecret) {
            Auth::ClientSecret => {
                let setting = format!("{at}.client_secret");
                let (secret, expires) = if let Some(own) = entry.secret(at)? {
                    (own, entry.client_secret_expires)
                } else if let Some(inherited) = self.tenant.secret("tenant")? {
                    (inherited, self.tenant.client_secret_expires)
                } else {
                    let what = "the application's secret, or client_secret_file; or certificate_file, or \
                                federated_token_file";
                    return Err(ConfigError::missing(&setting, what));
                };
                Ok(SignIn::ClientSecret { secret: readable(&setting, secret)?, expires })
            }
            Auth::Certificate => {
                // A key without a certificate beside it would be another certificate's.
                let source = if entry.certificate_file.is_some() { entry } else { &self.tenant };
                let certificate = file(
                    at,
                    "certificate_file",
                    source.certificate_file.as_ref(),
                    "a PEM file with the certificate and its private key",
                )?;
                let key = source.certificate_key_file.clone().map(Secret::File);
                let key = key.map(|key| readable(&format!("{at}.certificate_key_file"), key)).transpose()?;
                Ok(SignIn::Certificate { certificate, key })
            }
            Auth::WorkloadIdentity => {
                let path = entry.federated_token_file.as_ref().or(self.tenant.federated_token_file.as_ref());
                let what = "the file that the identity provider's token stands in; Azure's webhook for Kubernetes gives it \
                            as AZURE_FEDERATED_TOKEN_FILE";
                file(at, "federated_token_file", path, what).map(SignIn::WorkloadIdentity)
            }
        }
    }
}

fn file(at: &str, key: &str, path: Option<&PathBuf>, what: &str) -> Result<Secret, ConfigError> {
    let setting = format!("{at}.{key}");
    let path = path.ok_or_else(|| ConfigError::missing(&setting, what))?;
    readable(&setting, Secret::File(path.clone()))
}

/// A credential that cannot be read is a fault of the configuration, seen at the start and not at the first sign-in.
fn readable(setting: &str, secret: Secret) -> Result<Secret, ConfigError> {
    match secret.read() {
        Ok(_) => Ok(secret),
        Err(cause) => Err(ConfigError::Secret { setting: setting.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::load_from;

    const ID: &str = "11111111-2222-3333-4444-555555555555";

    /// What the tenants of a file sign in with; `DIR` in it stands for a folder with the files `a` and `b`.
    fn sign_ins(toml: &str, environment: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), name).expect("written");
        }
        let place = folder.path().to_str().expect("a path");
        let file = folder.path().join("c.toml");
        std::fs::write(&file, toml.replace("DIR", place)).expect("written");
        let environment: HashMap<_, _> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), value.replace("DIR", place))).collect();
        let settings = load_from(Some(&file), environment).map_err(|error| error.to_string())?.settings;
        let tenants = settings.tenants().map_err(|error| error.to_string().replace(place, "DIR"))?;
        let name = |secret: &Secret| match secret {
            Secret::Value(_) => "value".to_owned(),
            Secret::File(path) => path.file_name().expect("a name").to_string_lossy().into_owned(),
        };
        let told = tenants.iter().map(|tenant| match &tenant.sign_in {
            SignIn::ClientSecret { secret, expires: None } => format!("{} secret {}", tenant.client_id, name(secret)),
            SignIn::ClientSecret { expires: Some(day), .. } => format!("{} secret until {day}", tenant.client_id),
            SignIn::Certificate { certificate, key: None } => {
                format!("{} certificate {}", tenant.client_id, name(certificate))
            }
            SignIn::Certificate { certificate, key: Some(key) } => {
                format!("{} certificate {}+{}", tenant.client_id, name(certificate), name(key))
            }
            SignIn::WorkloadIdentity(file) => format!("{} token {}", tenant.client_id, name(file)),
        });
        Ok(told.collect())
    }

    #[test]
    fn the_way_to_sign_in_follows_from_what_is_set() {
        let one = format!("[tenant]\nid = \"{ID}\"\nclient_id = \"app\"\n");
        for (set, told) in [
            ("client_secret = \"s\"", "app secret value"),
            ("client_secret_file = \"DIR/a\"", "app secret a"),
            ("client_secret = \"s\"\nclient_secret_expires = \"2027-01-31\"", "app secret until 2027-01-31"),
            ("certificate_file = \"DIR/a\"", "app certificate a"),
            ("certificate_file = \"DIR/a\"\ncertificate_key_file = \"DIR/b\"", "app certificate a+b"),
            ("federated_token_file = \"DIR/a\"", "app token a"),
            ("auth = \"certificate\"\nclient_secret = \"s\"\ncertificate_file = \"DIR/a\"", "app certificate a"),
            ("auth = \"client-secret\"\nclient_secret = \"s\"\nfederated_token_file = \"DIR/a\"", "app secret value"),
        ] {
            assert_eq!(sign_ins(&format!("{one}{set}\n"), &[]), Ok(vec![told.to_owned()]), "{set}");
        }
        for (set, words) in [
            ("", "tenant.client_secret is not set"),
            ("client_secret = \"s\"\ncertificate_file = \"DIR/a\"", "client_secret and certificate_file are both set"),
            ("certificate_file = \"DIR/a\"\nfederated_token_file = \"DIR/b\"", "say with tenant.auth"),
            ("client_secret = \"s\"\nclient_secret_file = \"DIR/a\"", "client_secret_file are both set"),
            ("certificate_file = \"DIR/none\"", "tenant.certificate_file: cannot read the secret file DIR/none"),
            (
                "certificate_file = \"DIR/a\"\ncertificate_key_file = \"DIR/none\"",
                "tenant.certificate_key_file: cannot",
            ),
            ("auth = \"certificate\"\nclient_secret = \"s\"", "M365_LEDGER__TENANT__CERTIFICATE_FILE"),
            ("auth = \"workload-identity\"", "AZURE_FEDERATED_TOKEN_FILE"),
            ("auth = \"password\"", "tenant.auth"),
            ("client_secret = \"s\"\nclient_secret_expires = \"soon\"", "client_secret_expires"),
        ] {
            let error = sign_ins(&format!("{one}{set}\n"), &[]).expect_err(words);
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn what_a_tenant_says_itself_goes_before_what_it_inherits() {
        let tenants = |shared: &str, own: &str| {
            sign_ins(&format!("[tenant]\nclient_id = \"app\"\n{shared}\n[[tenants]]\nid = \"{ID}\"\n{own}\n"), &[])
        };
        for (shared, own, told) in [
            ("federated_token_file = \"DIR/a\"", "", "app token a"),
            (
                "certificate_file = \"DIR/a\"\ncertificate_key_file = \"DIR/b\"",
                "client_id = \"own\"",
                "own certificate a+b",
            ),
            ("federated_token_file = \"DIR/a\"", "client_secret = \"s\"", "app secret value"),
            ("auth = \"certificate\"\ncertificate_file = \"DIR/a\"", "client_secret_file = \"DIR/b\"", "app secret b"),
            (
                "certificate_file = \"DIR/a\"\ncertificate_key_file = \"DIR/b\"",
                "certificate_file = \"DIR/b\"",
                "app certificate b",
            ),
            (
                "client_secret = \"s\"\nclient_secret_expires = \"2027-01-31\"",
                "client_secret = \"t\"",
                "app secret value",
            ),
            ("client_secret = \"s\"\ncertificate_file = \"DIR/a\"", "auth = \"certificate\"", "app certificate a"),
        ] {
            assert_eq!(tenants(shared, own), Ok(vec![told.to_owned()]), "{shared} / {own}");
        }
    }

    #[test]
    fn a_pod_that_azure_has_prepared_needs_no_settings() {
        let azure = [
            ("AZURE_FEDERATED_TOKEN_FILE", "DIR/a"),
            ("AZURE_CLIENT_ID", "pod"),
            ("AZURE_TENANT_ID", ID),
            ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/"),
        ];
        let told = |toml: &str| sign_ins(toml, &azure).expect("complete");
        assert_eq!(told(""), ["pod token a"]);
        // Each of ours goes before Azure's.
        let own = "[tenant]\nid = \"21111111-2222-3333-4444-555555555555\"\nclient_id = \"own\"\n";
        assert_eq!(told(own), ["own token a"]);
        assert_eq!(told(&format!("{own}federated_token_file = \"DIR/b\"")), ["own token b"]);
        assert_eq!(told("[tenant]\nauth = \"workload-identity\"\nclient_secret = \"s\""), ["pod token a"]);
        // Many tenants: the pod's own is not one of them by that.
        let many = "[[tenants]]\nid = \"21111111-2222-3333-4444-555555555555\"\n";
        assert_eq!(told(many), ["pod token a"]);
        // Who signs in otherwise does not notice.
        assert_eq!(told(&format!("{own}client_secret = \"s\"")), ["own secret value"]);
        assert_eq!(told(&format!("{own}certificate_file = \"DIR/b\"")), ["own certificate b"]);
        assert_eq!(sign_ins("", &azure[1..]), Ok(Vec::new()), "without a token file these are somebody else's");

        let mut environment = HashMap::from(azure.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let loaded = load_from(None, environment.clone()).expect("loads");
        let login = loaded.settings.graph.login_url.as_ref().map(url::Url::as_str);
        assert_eq!(login, Some("https://login.microsoftonline.us/"));
        assert!(loaded.describe().contains("tenant.client_id = \"pod\"  # environment"), "{}", loaded.describe());
        environment.insert("M365_LEDGER__GRAPH__CLOUD".to_owned(), "china".to_owned());
        let loaded = load_from(None, environment).expect("loads");
        assert_eq!(loaded.settings.graph.login_url, None, "who names a cloud has named its login host");
    }
}
