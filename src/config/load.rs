//! `config/default.toml` <- the file of `--config` <- the environment.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use config::{Environment, File, FileFormat, Value, ValueKind};

use super::{SecretError, Settings};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "M365_LEDGER";

/// Why the configuration cannot be used. No text here ever holds a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, a key or a value is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A needed setting is absent.
    #[error("{setting} is not set: {what}. Set it in the configuration file, or as {variable} in the environment")]
    Missing {
        /// The setting.
        setting: String,
        /// The variable that can hold it.
        variable: String,
        /// What it is.
        what: String,
    },
    /// A secret cannot be had.
    #[error("{setting}: {cause}")]
    Secret {
        /// The setting.
        setting: String,
        /// Why.
        cause: SecretError,
    },
}

impl ConfigError {
    pub(super) fn missing(setting: &str, what: &str) -> Self {
        let variable = format!("{PREFIX}__{}", setting.to_uppercase().replace('.', "__"));
        Self::Missing { setting: setting.to_owned(), variable, what: what.to_owned() }
    }
}

/// The settings in force, and where each came from.
#[derive(Debug)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    values: Value,
}

/// The environment of this process.
#[expect(clippy::disallowed_methods, reason = "this is the room that reads the environment")]
pub fn environment() -> HashMap<String, String> {
    std::env::vars().collect()
}

/// The folders of `PATH`.
#[expect(clippy::disallowed_methods, reason = "this is the room that reads the environment")]
pub fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Loads the settings from the defaults, a file and this process's environment.
pub fn load(file: Option<&Path>) -> Result<Effective, ConfigError> {
    load_from(file, environment())
}

/// As [`load`], with the environment as a value.
#[expect(clippy::implicit_hasher, reason = "it is what the environment is collected into")]
pub fn load_from(file: Option<&Path>, mut environment: HashMap<String, String>) -> Result<Effective, ConfigError> {
    let invalid = |error: config::ConfigError| ConfigError::Invalid(error.to_string());
    let own_url = format!("{PREFIX}__DATABASE__URL");
    for suffix in ["", "_FILE"] {
        if let Some(url) = environment.remove(&format!("DATABASE_URL{suffix}"))
            && !environment.contains_key(&own_url)
            && !environment.contains_key(&format!("{own_url}_FILE"))
        {
            environment.insert(format!("{own_url}{suffix}"), url);
        }
    }
    if let Some(path) = file
        && !path.is_file()
    {
        return Err(ConfigError::Invalid(format!("the configuration file {} does not exist", path.display())));
    }
    let azure: HashMap<_, _> = AZURE.iter().filter_map(|name| environment.remove_entry(*name)).collect();
    let mut merged = merge(HashMap::new(), file, environment.clone()).map_err(invalid)?;
    let weakest = workload_identity(&merged, &azure);
    if !weakest.is_empty() {
        merged = merge(weakest, file, environment).map_err(invalid)?;
    }
    let values = merged.cache.clone();
    let settings = merged.try_deserialize().map_err(invalid)?;
    Ok(Effective { settings, values })
}

fn merge(
    weakest: HashMap<String, String>,
    file: Option<&Path>,
    environment: HashMap<String, String>,
) -> Result<config::Config, config::ConfigError> {
    let variables = |variables| {
        let source = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__").ignore_empty(true);
        source.source(Some(variables))
    };
    let mut builder =
        config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).add_source(variables(weakest));
    if let Some(path) = file {
        builder = builder.add_source(File::from(path).format(FileFormat::Toml));
    }
    builder.add_source(variables(environment)).build()
}

/// What Azure puts into a pod with a workload identity
/// (<https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html>).
const AZURE: [&str; 4] = ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"];

/// The settings that follow from it, unless `[tenant]` signs in otherwise: it may be there for another program.
fn workload_identity(merged: &config::Config, azure: &HashMap<String, String>) -> HashMap<String, String> {
    let is_set = |key: &str| merged.get::<Value>(key).is_ok();
    let is_meant = match merged.get_string("tenant.auth") {
        Ok(auth) => auth == "workload-identity",
        Err(_) => {
            !["tenant.client_secret", "tenant.client_secret_file", "tenant.certificate_file"].into_iter().any(is_set)
        }
    };
    let [token_file, client, tenant, login] = AZURE.map(|name| azure.get(name).filter(|value| !value.is_empty()));
    if !is_meant || (token_file.is_none() && !is_set("tenant.federated_token_file")) {
        return HashMap::new();
    }
    // With several tenants, the one in which the pod's identity lives is not thereby one of them.
    let tenant = tenant.filter(|_| !is_set("tenants"));
    // Who names a cloud has named its login host.
    let login = login.filter(|_| merged.get_string("graph.cloud").is_ok_and(|cloud| cloud == "global"));
    [
        ("TENANT__FEDERATED_TOKEN_FILE", token_file),
        ("TENANT__CLIENT_ID", client),
        ("TENANT__ID", tenant),
        ("GRAPH__LOGIN_URL", login),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((format!("{PREFIX}__{key}"), value?.clone())))
    .collect()
}

impl Effective {
    /// One line for each setting: its name, its value (`***` for a secret) and its origin.
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        flatten(String::new(), &self.values, &mut lines);
        lines.sort();
        lines.into_iter().fold(String::new(), |mut text, (name, value, origin)| {
            let _ = writeln!(text, "{name} = {value}  # {origin}");
            text
        })
    }
}

fn flatten(name: String, value: &Value, lines: &mut Vec<(String, String, String)>) {
    let child = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match &value.kind {
        ValueKind::Table(table) => table.iter().for_each(|(key, value)| flatten(child(key), value, lines)),
        ValueKind::Array(items) if items.iter().any(|item| matches!(item.kind, ValueKind::Table(_))) => {
            for (n, item) in items.iter().enumerate() {
                flatten(format!("{name}[{n}]"), item, lines);
            }
        }
        kind => {
            let shown = if is_secret(&name) {
                "***".to_owned()
            } else {
                match kind {
                    ValueKind::String(text) => format!("{text:?}"),
                    other => other.to_string(),
                }
            };
            let origin = match value.origin() {
                None => "default",
                Some("the environment") => "environment",
                Some(file) => file,
            };
            lines.push((name, shown, origin.to_owned()));
        }
    }
}

fn is_secret(name: &str) -> bool {
    matches!(name, "database.url" | "http.token" | "http.password") || name.ends_with("client_secret")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Secret, SignIn},
        report::Period,
    };

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn the_defaults_are_complete_and_name_no_tenant() {
        let settings = load_from(None, env(&[])).expect("defaults load").settings;
        assert!(settings.tenants().expect("none").is_empty());
        let reports = settings.reports().expect("one");
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].periods, Period::LONGEST_FIRST);
        assert_eq!(reports[0].function, "getOffice365ActiveUserCounts");
    }

    #[test]
    fn one_tenant_comes_whole_from_the_environment() {
        let loaded = load_from(
            None,
            env(&[
                ("M365_LEDGER__TENANT__ID", TENANT),
                ("M365_LEDGER__TENANT__CLIENT_ID", "app"),
                ("M365_LEDGER__TENANT__CLIENT_SECRET", "0123"),
                ("M365_LEDGER__GRAPH__BASE_URL", "http://127.0.0.1:1/"),
                ("M365_LEDGER__GRAPH__DOWNLOAD_HOSTS", "127.0.0.1, .office.com"),
                ("M365_LEDGER__GRAPH__ALLOW_INSECURE_LOOPBACK", "true"),
                ("M365_LEDGER__DATABASE__MAX_CONNECTIONS", "3"),
                ("M365_LEDGER__REPORTS__OFFICE365_ACTIVE_USER_COUNTS__PERIODS", "D7,d180"),
                ("M365_LEDGER__REPORTS__OFFICE365_ACTIVE_USER_COUNTS__FUNCTION", "Office365ActiveUserCounts"),
                ("M365_LEDGER__SCHEDULE__PERIODS__D180__CRON", "0 3 * * 0"),
                ("DATABASE_URL", "postgres://u:canary@h/d"),
                ("M365_LEDGER__TENANT__NAME", ""),
            ]),
        )
        .expect("loads");
        let settings = &loaded.settings;
        let tenants = settings.tenants().expect("complete");
        assert_eq!(tenants[0].name, TENANT, "an empty variable is an absent one");
        let SignIn::ClientSecret { secret: Secret::Value(secret), .. } = &tenants[0].sign_in else { panic!("a value") };
        assert_eq!(secrecy::ExposeSecret::expose_secret(secret), "0123", "digits stay text");
        assert_eq!(
            settings.graph.download_hosts.as_deref(),
            Some(&["127.0.0.1".to_owned(), ".office.com".to_owned()][..])
        );
        assert!(settings.graph.allow_insecure_loopback);
        assert_eq!(settings.database.max_connections.get(), 3);
        assert_eq!(settings.schedule.cron(Period::D180), "0 3 * * 0");
        assert_eq!(settings.schedule.cron(Period::D7), "0 */6 * * *");
        let report = &settings.reports().expect("valid")[0];
        assert_eq!(report.periods, [Period::D180, Period::D7]);
        assert_eq!(report.function, "Office365ActiveUserCounts");
        assert!(settings.database.url().expect("valid").is_some());

        let shown = loaded.describe();
        assert!(!shown.contains("canary") && !shown.contains("0123"), "{shown}");
        assert!(shown.contains("database.url = ***  # environment"), "{shown}");
        assert!(shown.contains("schedule.cron = \"0 */6 * * *\"  # default"), "{shown}");
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn tenants_inherit_what_they_leave_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("c.toml");
        std::fs::write(
            &file,
            format!(
                "[tenant]\nclient_id = \"shared\"\nclient_secret = \"s\"\n[[tenants]]\nid = \"{TENANT}\"\nname = \"A\"\n\
                 [[tenants]]\nid = \"21111111-2222-3333-4444-555555555555\"\nclient_id = \"own\"\n"
            ),
        )
        .expect("written");
        let settings = load_from(Some(&file), env(&[])).expect("loads").settings;
        let tenants = settings.tenants().expect("complete");
        assert_eq!(tenants.iter().map(|t| t.client_id.as_str()).collect::<Vec<_>>(), ["shared", "own"]);
    }

    #[test]
    fn the_pages_secrets_are_read_at_the_start_and_never_shown() {
        let loaded = load_from(
            None,
            env(&[("M365_LEDGER__HTTP__TOKEN", "canary-t"), ("M365_LEDGER__HTTP__PASSWORD_FILE", "/nowhere/p")]),
        )
        .expect("loads");
        assert!(loaded.settings.http.token().expect("a value").is_some());
        let error = loaded.settings.http.password().expect_err("no such file").to_string();
        assert!(error.contains("http.password") && error.contains("/nowhere/p"), "{error}");
        let shown = loaded.describe() + &format!("{:?}", loaded.settings);
        assert!(!shown.contains("canary") && shown.contains("http.token = ***  # environment"), "{shown}");
        assert!(load_from(None, env(&[])).expect("loads").settings.http.token().expect("valid").is_none());
    }

    #[test]
    fn mistakes_are_named_and_values_are_not() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("M365_LEDGER__GRPAH__CLOUD", "global")], "grpah"),
            (&[("M365_LEDGER__GRAPH__CLOUD", "mars")], "graph.cloud"),
            (&[("M365_LEDGER__TENANT__ID", "contoso")], "tenant.id"),
            (&[("M365_LEDGER__SCHEDULE__TIMEZONE", "Mars/Olympus")], "schedule.timezone"),
        ];
        for (pairs, names) in cases {
            let error = load_from(None, env(pairs)).expect_err("refused").to_string();
            assert!(error.to_lowercase().contains(names), "{names}: {error}");
        }
        let settings = load_from(None, env(&[("M365_LEDGER__TENANT__ID", TENANT)])).expect("loads").settings;
        let error = settings.tenants().expect_err("no client").to_string();
        assert!(error.contains("M365_LEDGER__TENANT__CLIENT_ID"), "{error}");
        let settings = load_from(None, env(&[("M365_LEDGER__REPORTS__X__ENABLED", "true")])).expect("loads").settings;
        assert!(settings.reports().expect_err("unknown").to_string().contains("office365_active_user_counts"));
    }

    fn project_file(path: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
    }

    #[test]
    fn the_samples_can_be_used() {
        for (sample, tenants) in [("one-tenant", 1), ("many-tenants", 3)] {
            let folder = tempfile::tempdir().expect("a folder");
            let secret = folder.path().join("secret");
            std::fs::write(&secret, "postgres://user:password@localhost/name").expect("written");
            let secret = secret.to_str().expect("a path");
            let text: String = project_file(&format!("config/examples/{sample}.toml"))
                .lines()
                .map(|line| match line.split_once("_file = ") {
                    Some((name, _)) if !line.starts_with('#') => format!("{name}_file = {secret:?}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            let file = folder.path().join("sample.toml");
            std::fs::write(&file, text).expect("written");
            let settings = load_from(Some(&file), env(&[])).expect(sample).settings;
            assert_eq!(settings.tenants().expect(sample).len(), tenants);
            assert!(settings.database.url().expect(sample).is_some());
            crate::plan::Timetable::new(&settings.schedule).expect(sample);
        }
    }

    #[test]
    fn every_setting_is_documented_with_its_default() {
        let docs = project_file("docs/configuration.md");
        let (mut section, mut missing) = (String::new(), Vec::new());
        for line in DEFAULTS.lines() {
            // A setting without a default stands there behind "# ".
            let (code, optional) = line.strip_prefix("# ").map_or((line, false), |code| (code, true));
            if let Some(name) = code.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.trim_matches(['[', ']']).to_owned();
                continue;
            }
            let Some((key, value)) = code.split_once(" = ") else { continue };
            if key.contains(' ') {
                continue;
            }
            let name = format!("{section}.{key}");
            let row = docs.lines().find(|row| row.starts_with(&format!("| `{name}` |")));
            let told = row.is_some_and(|row| optional || row.contains(value.trim_matches('"')));
            if !told {
                missing.push(name);
            }
        }
        assert!(missing.is_empty(), "docs/configuration.md does not say: {}", missing.join(", "));
    }
}
