//! Which hosts, scope and API version a cloud has. Pure: settings in, [`Endpoints`] out.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::error::SetupError;
use crate::config::{self, Cloud};

/// Where Microsoft is: for one cloud, with the overrides of the settings.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// Login origin, to which `/{tenant}/oauth2/v2.0/token` is added.
    pub login: Url,
    /// Graph origin, without the API version.
    pub base: Url,
    /// The scope a token is asked for. Always the cloud's, also when `base` is overridden.
    pub scope: String,
    /// `v1.0`, or `beta` in national clouds.
    pub version: &'static str,
    /// The hosts a report may be downloaded from.
    pub download_hosts: Vec<HostRule>,
    /// Whether loopback addresses may be spoken to without TLS and on any port.
    pub allow_insecure_loopback: bool,
}

impl Endpoints {
    /// The endpoints of the settings, or which setting is wrong.
    ///
    /// Login, Graph and scope of each cloud are Microsoft's table
    /// (<https://learn.microsoft.com/graph/deployments>). That national clouds need `beta` is an inference from the
    /// service metadata, which list the usage reports there and not in `v1.0`; nothing promises that data are served.
    /// Their download hosts are not known at all, so they have to be set.
    pub fn new(settings: &config::Graph) -> Result<Self, SetupError> {
        let (login, graph, version) = match settings.cloud {
            Cloud::Global => ("https://login.microsoftonline.com", "https://graph.microsoft.com", "v1.0"),
            Cloud::Usgov => ("https://login.microsoftonline.us", "https://graph.microsoft.us", "beta"),
            Cloud::UsgovDod => ("https://login.microsoftonline.us", "https://dod-graph.microsoft.us", "beta"),
            Cloud::China => ("https://login.chinacloudapi.cn", "https://microsoftgraph.chinacloudapi.cn", "beta"),
        };
        let insecure = settings.allow_insecure_loopback;
        let login = origin("graph.login_url", settings.login_url.as_ref(), login, insecure)?;
        let mut base = origin("graph.base_url", settings.base_url.as_ref(), graph, insecure)?;
        let version = strip_version(&mut base).unwrap_or(version);
        Ok(Self {
            login,
            base,
            scope: format!("{graph}/.default"),
            version,
            download_hosts: download_hosts(settings)?,
            allow_insecure_loopback: insecure,
        })
    }

    /// Whether login or Graph is a stand-in on this machine, which no proxy could reach.
    pub(super) fn is_local(&self) -> bool {
        [&self.login, &self.base].into_iter().any(|url| url.host().is_some_and(|host| is_loopback(&host)))
    }
}

/// One entry of `graph.download_hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// Every host that ends so; begins with a dot, so that `.office.com` does not cover `evil-office.com`.
    Suffix(String),
    /// This host.
    Host(Host),
}

impl HostRule {
    /// Reads an entry; the error says what is wrong with it.
    pub fn parse(text: &str, allow_insecure_loopback: bool) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        if let Some(domain) = text.strip_prefix('.') {
            return match Host::parse(domain) {
                Ok(Host::Domain(domain)) if domain.contains('.') => Ok(Self::Suffix(format!(".{domain}"))),
                _ => Err(format!("`{text}` is no suffix of a host name; `.office.com` would be one")),
            };
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return Err(format!("`{text}` is written as `.{domain}` here"));
        }
        let host = text.parse::<Ipv6Addr>().map_or_else(|_| Host::parse(&text), |address| Ok(Host::Ipv6(address)));
        let host = host.map_err(|_| {
            format!("`{text}` is neither a host name nor a suffix that begins with a dot (no scheme, port or path)")
        })?;
        match (&host, is_loopback(&host)) {
            (_, true) if allow_insecure_loopback => Ok(Self::Host(host)),
            (_, true) => Err(format!("`{text}` is this machine; that needs graph.allow_insecure_loopback = true")),
            (Host::Domain(_), false) => Ok(Self::Host(host)),
            _ => Err(format!("`{text}` is an IP address; only host names, and loopback addresses, can be allowed")),
        }
    }

    /// Whether the rule allows the host.
    pub fn covers<S: AsRef<str>>(&self, host: &Host<S>) -> bool {
        match (self, host) {
            (Self::Suffix(suffix), Host::Domain(name)) => {
                let name = name.as_ref();
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            (Self::Host(Host::Domain(own)), Host::Domain(name)) => own == name.as_ref(),
            (Self::Host(Host::Ipv4(own)), Host::Ipv4(address)) => own == address,
            (Self::Host(Host::Ipv6(own)), Host::Ipv6(address)) => own == address,
            _ => false,
        }
    }
}

/// Whether a host is this machine: `localhost`, `127.0.0.0/8` or `::1`.
pub(super) fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => name.as_ref() == "localhost",
        Host::Ipv4(address) => Ipv4Addr::is_loopback(address),
        Host::Ipv6(address) => Ipv6Addr::is_loopback(address),
    }
}

fn download_hosts(settings: &config::Graph) -> Result<Vec<HostRule>, SetupError> {
    let setting = "graph.download_hosts";
    let hosts = match (&settings.download_hosts, settings.cloud) {
        (Some(hosts), _) if hosts.is_empty() => {
            return Err(SetupError::setting(setting, "the list is empty, so that no report could be downloaded"));
        }
        (Some(hosts), _) => hosts.clone(),
        (None, Cloud::Global) => vec![".office.com".to_owned(), ".office365.com".to_owned()],
        (None, _) => {
            return Err(SetupError::setting(
                setting,
                "the download hosts of national clouds are not public, so they must be set here; to find them, call \
                 the report once by hand and look at the host in the Location header",
            ));
        }
    };
    hosts
        .iter()
        .map(|host| HostRule::parse(host, settings.allow_insecure_loopback))
        .collect::<Result<_, _>>()
        .map_err(|why| SetupError::setting(setting, why))
}

/// The setting, or the cloud's value, as a URL that paths can be appended to.
fn origin(setting: &'static str, url: Option<&Url>, default: &str, insecure: bool) -> Result<Url, SetupError> {
    let mut url = match url {
        Some(url) => url.clone(),
        None => Url::parse(default).map_err(|error| SetupError::setting(setting, error.to_string()))?,
    };
    let local = url.host().is_some_and(|host| is_loopback(&host));
    let why = match url.scheme() {
        _ if url.host().is_none() => "a URL with a host is needed",
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => "it must not hold a user name",
        "https" | "http" if url.query().is_some() || url.fragment().is_some() => "it must end with the path",
        "https" => "",
        "http" if local && insecure => "",
        "http" if local => "http to this machine needs graph.allow_insecure_loopback = true",
        _ => "it must begin with https://",
    };
    if !why.is_empty() {
        return Err(SetupError::setting(setting, why));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Takes an API version off the end of the path: many people paste the URL with it.
fn strip_version(base: &mut Url) -> Option<&'static str> {
    let version = ["v1.0", "beta"]
        .into_iter()
        .find(|version| base.path().strip_suffix(version).is_some_and(|before| before.ends_with('/')))?;
    let path = base.path().strip_suffix(version)?.trim_end_matches('/').to_owned();
    base.set_path(&path);
    Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::settings;

    fn endpoints(change: impl FnOnce(&mut config::Graph)) -> Result<Endpoints, String> {
        let mut graph = settings();
        change(&mut graph);
        Endpoints::new(&graph).map_err(|error| error.to_string())
    }

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    #[test]
    fn every_cloud_has_its_own_hosts_scope_and_version() {
        let cases = [
            (Cloud::Global, "login.microsoftonline.com", "graph.microsoft.com", "v1.0"),
            (Cloud::Usgov, "login.microsoftonline.us", "graph.microsoft.us", "beta"),
            (Cloud::UsgovDod, "login.microsoftonline.us", "dod-graph.microsoft.us", "beta"),
            (Cloud::China, "login.chinacloudapi.cn", "microsoftgraph.chinacloudapi.cn", "beta"),
        ];
        for (cloud, login, graph, version) in cases {
            let found = endpoints(|settings| {
                settings.cloud = cloud;
                settings.download_hosts = Some(vec![".office.com".into()]);
            })
            .expect("good settings");
            assert_eq!(found.login.host_str(), Some(login));
            assert_eq!(found.base.host_str(), Some(graph));
            assert_eq!(found.scope, format!("https://{graph}/.default"));
            assert_eq!(found.version, version);
        }
    }

    #[test]
    fn national_clouds_need_their_download_hosts() {
        let error = endpoints(|settings| settings.cloud = Cloud::China).expect_err("unknown hosts");
        assert!(error.starts_with("graph.download_hosts: "), "{error}");
    }

    #[test]
    fn an_overridden_base_may_end_in_a_slash_or_a_version() {
        let cases = [
            ("https://graph.example.com", "https://graph.example.com/", "v1.0"),
            ("https://graph.example.com/", "https://graph.example.com/", "v1.0"),
            ("https://graph.example.com/v1.0", "https://graph.example.com/", "v1.0"),
            ("https://graph.example.com/v1.0/", "https://graph.example.com/", "v1.0"),
            ("https://graph.example.com/beta", "https://graph.example.com/", "beta"),
            ("https://example.com/graph/", "https://example.com/graph", "v1.0"),
            ("https://example.com/graph/v1.0", "https://example.com/graph", "v1.0"),
            ("https://example.com/notbeta", "https://example.com/notbeta", "v1.0"),
        ];
        for (given, base, version) in cases {
            let found = endpoints(|settings| settings.base_url = Some(url(given))).expect(given);
            assert_eq!((found.base.as_str(), found.version), (base, version), "{given}");
            assert_eq!(found.scope, "https://graph.microsoft.com/.default", "the scope stays the cloud's");
        }
    }

    #[test]
    fn plain_http_is_for_allowed_loopback_only() {
        for given in ["http://graph.example.com", "ftp://127.0.0.1", "https://user:canary@example.com", "data:x"] {
            let error = endpoints(|settings| {
                settings.allow_insecure_loopback = true;
                settings.base_url = Some(url(given));
            })
            .expect_err(given);
            assert!(error.starts_with("graph.base_url: ") && !error.contains("canary"), "{error}");
        }
        let error =
            endpoints(|settings| settings.login_url = Some(url("http://127.0.0.1:1"))).expect_err("not allowed");
        assert!(error.starts_with("graph.login_url: ") && error.contains("allow_insecure_loopback"), "{error}");
        for given in ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1"] {
            endpoints(|settings| {
                settings.allow_insecure_loopback = true;
                settings.login_url = Some(url(given));
            })
            .expect(given);
        }
    }

    #[test]
    fn host_rules_are_suffixes_with_a_dot_or_whole_hosts() {
        for bad in [
            "",
            ".",
            ".com",
            "*.office.com",
            "https://x.office.com",
            "x.office.com:443",
            "a/b",
            "10.0.0.1",
            "[fe80::1]",
        ] {
            assert!(HostRule::parse(bad, true).is_err(), "{bad}");
        }
        for local in ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"] {
            assert!(HostRule::parse(local, true).is_ok(), "{local}");
            assert!(HostRule::parse(local, false).is_err(), "{local}");
        }
        let suffix = HostRule::parse(".Office.com", false).expect("a suffix");
        let host = HostRule::parse("reports.office.com", false).expect("a host");
        for (name, by_suffix, by_host) in [
            ("reports.office.com", true, true),
            ("reportsweu.office.com", true, false),
            ("a.b.office.com", true, false),
            ("office.com", false, false),
            ("evil-office.com", false, false),
            ("reports.office.com.evil.example", false, false),
            ("reports.office.com.", false, false),
        ] {
            let name = Host::parse(name).expect("a host");
            assert_eq!((suffix.covers(&name), host.covers(&name)), (by_suffix, by_host), "{name}");
        }
    }
}
