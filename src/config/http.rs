//! The address of the pages and probes, and who may read them.

use std::{net::SocketAddr, path::PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

use super::{ConfigError, Secret};

/// Health, metrics and the status page.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    token: Option<SecretString>,
    token_file: Option<PathBuf>,
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
}

impl Http {
    /// What a program has to send as a bearer token to read more than the probes; `None`: no program is let in by one.
    pub fn token(&self) -> Result<Option<Secret>, ConfigError> {
        readable("http.token", self.token.as_ref(), self.token_file.as_ref())
    }

    /// What a person has to type in as password to read more than the probes; `None`: nobody is let in by one.
    pub fn password(&self) -> Result<Option<Secret>, ConfigError> {
        readable("http.password", self.password.as_ref(), self.password_file.as_ref())
    }
}

/// A secret that can be read now; a file that is not there is better found at the start than by whom it locks out.
fn readable(
    setting: &str,
    value: Option<&SecretString>,
    file: Option<&PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    let secret = Secret::either(setting, value, file)?;
    if let Some(secret) = &secret {
        secret.read().map_err(|cause| ConfigError::Secret { setting: setting.to_owned(), cause })?;
    }
    Ok(secret)
}
