//! Whether a `Location` may be followed. Pure, and decided before anything connects.

use std::fmt;

use reqwest::header::{HeaderMap, LOCATION};
use url::{Host, Url};

use super::{
    cloud::{Endpoints, is_loopback},
    error::{GraphError, Leg, sanitise},
};
use crate::outcome::ErrorClass;

/// A pre-authenticated download URL that passed the check. Whoever holds it can read the report, so it shows itself to
/// nobody: its `Debug` is the origin, and it has no `Display`.
pub struct Link(Url);

impl Link {
    /// The link in the headers of a redirect.
    pub(super) fn from_headers(headers: &HeaderMap, endpoints: &Endpoints, leg: Leg) -> Result<Self, GraphError> {
        let mut locations = headers.get_all(LOCATION).iter();
        match (locations.next(), locations.next()) {
            (Some(location), None) if !location.is_empty() => {
                check(location.as_bytes(), endpoints).map_err(|refusal| {
                    GraphError::new(
                        leg,
                        ErrorClass::RedirectRefused,
                        format!("{leg} gave a download link that {refusal}"),
                    )
                })
            }
            (_, None) => Err(GraphError::new(
                leg,
                ErrorClass::RedirectMissing,
                format!("{leg} answered with a redirect, but without a Location"),
            )),
            _ => Err(GraphError::new(
                leg,
                ErrorClass::RedirectRefused,
                format!("{leg} answered with several Location headers"),
            )),
        }
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}/…)", self.0.origin().ascii_serialization())
    }
}

/// Why a `Location` is not followed. Shows at most the scheme, host and port of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Spaces, control characters, backslashes or non-ASCII text.
    #[error("has characters that no URL has")]
    Characters,
    /// Relative, or no URL.
    #[error("is no absolute https URL")]
    NotAbsolute,
    /// Another scheme than https.
    #[error("has the scheme {0} instead of https")]
    Scheme(String),
    /// `user@` or `user:password@`.
    #[error("has a user name in it")]
    UserInfo,
    /// `#…`
    #[error("has a fragment")]
    Fragment,
    /// Another port than 443.
    #[error("names port {0} instead of 443")]
    Port(u16),
    /// An address instead of a name.
    #[error("names the IP address {0} instead of a host")]
    Address(String),
    /// A host that no rule covers.
    #[error("leads to {0}, which graph.download_hosts does not allow")]
    Host(String),
}

/// Checks a `Location`: absolute, https on port 443, no user name, no fragment, and a host that a rule covers by name.
/// Loopback addresses, where they are allowed and a rule covers them, may be http and on any port.
///
/// What Microsoft documents is only that the URL is pre-authenticated and short-lived
/// (<https://learn.microsoft.com/graph/api/reportroot-getoffice365activeusercounts>); its host varies by region.
pub(super) fn check(location: &[u8], endpoints: &Endpoints) -> Result<Link, Refusal> {
    // The parser drops tabs and line ends and reads backslashes as slashes: refuse them before it can be helpful.
    if !location.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\') {
        return Err(Refusal::Characters);
    }
    let text = std::str::from_utf8(location).map_err(|_| Refusal::Characters)?;
    let (scheme, rest) = text.split_once("://").ok_or(Refusal::NotAbsolute)?;
    if rest.starts_with('/') {
        return Err(Refusal::NotAbsolute);
    }
    let url = Url::parse(text).map_err(|_| Refusal::NotAbsolute)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(Refusal::Scheme(sanitise(&scheme.chars().take(20).collect::<String>())));
    }
    if !url.username().is_empty() || url.password().is_some() || authority(rest).contains('@') {
        return Err(Refusal::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(Refusal::Fragment);
    }
    let host = url.host().ok_or(Refusal::NotAbsolute)?;
    let covered = endpoints.download_hosts.iter().any(|rule| rule.covers(&host));
    if endpoints.allow_insecure_loopback && covered && is_loopback(&host) {
        return Ok(Link(url));
    }
    if url.scheme() != "https" {
        return Err(Refusal::Scheme(url.scheme().to_owned()));
    }
    if !matches!(host, Host::Domain(_)) {
        return Err(Refusal::Address(host.to_string()));
    }
    if let Some(port) = url.port() {
        return Err(Refusal::Port(port));
    }
    if !covered {
        return Err(Refusal::Host(sanitise(&host.to_string())));
    }
    Ok(Link(url))
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{cloud::HostRule, testing::settings};

    fn endpoints(loopback: bool, hosts: &[&str]) -> Endpoints {
        let mut settings = settings();
        settings.allow_insecure_loopback = loopback;
        let mut endpoints = Endpoints::new(&settings).expect("endpoints");
        endpoints.download_hosts = hosts.iter().map(|host| HostRule::parse(host, loopback).expect("a rule")).collect();
        endpoints
    }

    #[test]
    fn only_https_on_a_named_microsoft_host_is_followed() {
        let endpoints = endpoints(false, &[".office.com", ".office365.com"]);
        let good = [
            "https://reports.office.com/data/download/JDFKdf2_eJXKS034dbc7e0t__XDe",
            "https://reportsncu.office.com/data/v1.0/download?token=eyJ0eXAi",
            "https://reportsweu.office.com/data/v1.0/download?token=a%20b&x=https://evil.example/",
            "https://reports.office365.com/data/download/x",
            "https://a.b.c.office.com/",
            "HTTPS://REPORTS.OFFICE.COM/x",
            "https://reports.office.com:443/x",
            "https://reports.office.com?token=x",
            "https://reports.office.com/@evil.example/",
        ];
        for location in good {
            check(location.as_bytes(), &endpoints).expect(location);
        }
        let bad = [
            "",
            "/data/download/x",
            "//reports.office.com/x",
            "data/download",
            "https:reports.office.com/x",
            "https:/reports.office.com/x",
            "https:///reports.office.com/x",
            "http://reports.office.com/x",
            "http://reports.office.com:443/x",
            "ftp://reports.office.com/x",
            "file:///etc/passwd",
            "file://reports.office.com/etc/passwd",
            "javascript:alert(1)",
            "data:text/csv,a",
            "gopher://reports.office.com/",
            "https://reports.office.com:8443/x",
            "https://reports.office.com:80/x",
            "https://reports.office.com:0/x",
            "https://reports.office.com@evil.example/",
            "https://user:pass@reports.office.com/x",
            "https://user@reports.office.com/x",
            "https://@reports.office.com/x",
            "https://:@reports.office.com/x",
            "https://reports.office.com.evil.example/x",
            "https://evil.example/reports.office.com",
            "https://evil.example?.office.com",
            "https://evil.example#.office.com",
            "https://evil.example\\.office.com/",
            "https://evil.example/.office.com",
            "https://evil-office.com/x",
            "https://office.com/x",
            "https://.office.com/x",
            "https://reports.office.com./x",
            "https://reports.office.com/x#fragment",
            "https://reports.office.com#@evil.example/",
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://2130706433/x",
            "https://0x7f000001/x",
            "https://0177.0.0.1/x",
            "https://0/x",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:169.254.169.254]/x",
            "https://[fd00::1]/x",
            "https://localhost/x",
            "https://reports.office.com%2eevil.example/x",
            "https://reports.office.com%00.evil.example/x",
            "https://xn--ffice-dif.com/x",
            "https://reports.xn--ffice-dif.com/x",
            "https://repörts.office.com/x",
            "https://reports.office.com\u{ff0e}evil.example/",
            "https://reports.\u{ff4f}ffice.com/x",
            "https://reports.office.com/x\r\nX-Evil: 1",
            "https://evil.example\t.office.com/",
            " https://reports.office.com/x",
            "https://reports.office.com/a b",
            "https://reports.office.com\n/x",
            "https://",
            "https://:443/",
        ];
        for location in bad {
            let refusal = check(location.as_bytes(), &endpoints).map(|_| ()).expect_err(location);
            assert!(!refusal.to_string().contains("pass"), "{refusal}");
        }
        assert_eq!(check(b"https://reports.office.com/\xff", &endpoints).err(), Some(Refusal::Characters));
        assert_eq!(good.len() + bad.len(), 70);
    }

    #[test]
    fn loopback_needs_the_permission_and_a_rule() {
        let allowed = endpoints(true, &[".office.com", "127.0.0.1", "::1"]);
        for location in ["http://127.0.0.1:8080/x?sig=1", "https://127.0.0.1/x", "http://[::1]:1/x", "http://127.1:9/"]
        {
            check(location.as_bytes(), &allowed).expect(location);
        }
        for location in [
            "http://localhost:8080/x",
            "http://127.0.0.2:8080/x",
            "http://reports.office.com/x",
            "https://reports.office.com:8443/x",
            "http://10.0.0.1/x",
            "http://169.254.169.254/x",
            "http://user@127.0.0.1:8080/x",
            "http://127.0.0.1.office.com/x",
            "ftp://127.0.0.1/x",
        ] {
            assert!(check(location.as_bytes(), &allowed).is_err(), "{location}");
        }
        let no_rule = endpoints(true, &[".office.com"]);
        assert!(check(b"http://127.0.0.1:8080/x", &no_rule).is_err());
    }

    #[test]
    fn a_link_never_shows_its_path_or_query() {
        let endpoints = endpoints(false, &[".office.com"]);
        let link = check(b"https://reports.office.com/data/canary?token=canary", &endpoints).expect("a link");
        assert_eq!(format!("{link:?}"), "Link(https://reports.office.com/…)");
    }
}
