//! A secret, given as a value or as a file that is read anew each time it is needed.

use std::{fs, io, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::ConfigError;

/// Where a secret comes from. Its `Debug` never shows the value.
#[derive(Debug, Clone)]
pub enum Secret {
    /// Written in the configuration or the environment.
    Value(SecretString),
    /// In a file; read at each use, so that a rotated secret is taken up without a restart.
    File(PathBuf),
}

/// Why a secret cannot be had. The text names the file, never the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds bytes that are no text.
    #[error(
        "the secret file {} is not text; a .pfx or .p12 file has to be turned into PEM first: \
         openssl pkcs12 -in FILE.pfx -nodes -out FILE.pem",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("the secret{} is empty", path.as_ref().map(|path| format!(" file {}", path.display())).unwrap_or_default())]
    Empty {
        /// The file, if it came from one.
        path: Option<PathBuf>,
    },
}

impl Secret {
    /// The secret of a setting that may be given as a value or as `<setting>_file`, but not as both.
    pub(super) fn either(
        setting: &str,
        value: Option<&SecretString>,
        file: Option<&PathBuf>,
    ) -> Result<Option<Self>, ConfigError> {
        match (value, file) {
            (Some(_), Some(_)) => {
                Err(ConfigError::Invalid(format!("{setting} and {setting}_file are both set: keep one of them")))
            }
            (Some(value), None) => Ok(Some(Self::Value(value.clone()))),
            (None, Some(file)) => Ok(Some(Self::File(file.clone()))),
            (None, None) => Ok(None),
        }
    }

    /// The secret as it is now, without one trailing line end.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let (text, path) = match self {
            Self::Value(value) => (value.expose_secret().to_owned(), None),
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(|cause| match cause.kind() {
                    io::ErrorKind::InvalidData => SecretError::NotText { path: path.clone() },
                    _ => SecretError::Unreadable { path: path.clone(), cause },
                })?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                (line.strip_suffix('\r').unwrap_or(line).to_owned(), Some(path.clone()))
            }
        };
        if text.is_empty() { Err(SecretError::Empty { path }) } else { Ok(SecretString::from(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_loses_one_line_end_and_is_read_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let secret = Secret::File(path.clone());
        assert!(matches!(secret.read(), Err(SecretError::Unreadable { .. })));
        for (content, value) in [("one\n", "one"), ("two\r\n", "two"), ("three\n\n", "three\n"), (" four", " four")] {
            fs::write(&path, content).expect("written");
            assert_eq!(secret.read().expect("readable").expose_secret(), value);
        }
        fs::write(&path, [0x30, 0x82, 0xff]).expect("written");
        assert!(secret.read().expect_err("no text").to_string().contains("openssl pkcs12"));
        fs::write(&path, "\n").expect("written");
        let error = secret.read().expect_err("empty").to_string();
        assert!(error.contains("is empty") && error.contains("secret"), "{error}");
    }

    #[test]
    fn both_forms_at_once_are_refused() {
        let value = SecretString::from("canary");
        let error = Secret::either("tenant.client_secret", Some(&value), Some(&PathBuf::from("/x")))
            .expect_err("both")
            .to_string();
        assert!(error.contains("tenant.client_secret_file") && !error.contains("canary"), "{error}");
    }
}
