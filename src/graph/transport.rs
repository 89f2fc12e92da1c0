//! The two HTTP clients: one that carries tokens and follows nothing, one that carries nothing.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue},
    redirect::Policy,
};
use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use url::Host;

use super::{
    cloud::{Endpoints, HostRule, is_loopback},
    error::{PrivateAddress, SetupError},
};
use crate::config;

/// For the login service and Graph: the requests bring their own credentials.
pub(super) fn api_client(
    settings: &config::Graph,
    endpoints: &Endpoints,
    tls: ClientConfig,
) -> Result<Client, SetupError> {
    build(common(settings, endpoints.is_local(), tls))
}

/// For the download hosts: without credentials, and only to public addresses.
pub(super) fn download_client(
    settings: &config::Graph,
    endpoints: &Endpoints,
    tls: ClientConfig,
) -> Result<Client, SetupError> {
    let local = endpoints.download_hosts.iter().any(|rule| matches!(rule, HostRule::Host(host) if is_loopback(host)));
    let guard = PublicOnly {
        rules: endpoints.download_hosts.clone().into(),
        allow_loopback: endpoints.allow_insecure_loopback,
    };
    build(common(settings, local, tls).dns_resolver(guard))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that builds clients")]
fn common(settings: &config::Graph, local: bool, tls: ClientConfig) -> ClientBuilder {
    // Unpacked by hand: reqwest drops the length of a compressed body, and with it the proof that it is whole. (Its
    // feature is off; `no_gzip` is for the day when some other crate turns it on.)
    let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
    let mut builder = Client::builder()
        .user_agent(concat!("m365-ledger/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .no_gzip()
        .redirect(Policy::none())
        .referer(false)
        .https_only(!settings.allow_insecure_loopback)
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.request_timeout)
        .pool_max_idle_per_host(16)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .tls_backend_preconfigured(tls);
    if local {
        builder = builder.no_proxy();
    }
    builder
}

/// Trust in the system's certificates and the configured ones. For both clients: to read them takes time and memory.
pub(super) fn tls(settings: &config::Graph) -> Result<ClientConfig, SetupError> {
    let provider = CryptoProvider::get_default()
        .ok_or_else(|| SetupError::Tls("this process has not chosen a cryptography provider".to_owned()))?;
    let extra = settings.extra_ca_file.as_deref().map(extra_certificates).transpose()?.unwrap_or_default();
    let refuse =
        |error: rustls::Error| SetupError::Tls(format!("{error} (are the system's CA certificates installed?)"));
    let verifier = Verifier::new_with_extra_roots(extra, provider.clone()).map_err(refuse)?;
    let mut tls = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(refuse)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn build(builder: ClientBuilder) -> Result<Client, SetupError> {
    builder.build().map_err(|error| {
        let error = error.without_url();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        SetupError::Tls(format!("{error}{cause}"))
    })
}

fn extra_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let refuse = |why: String| SetupError::ExtraCa { path: path.to_owned(), why };
    let pem = fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| refuse("it is no valid PEM file".to_owned()))?;
    if certificates.is_empty() {
        return Err(refuse("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(certificates)
}

/// Resolves names as the system does, but hands out no private address for a download host: a name that somebody else
/// controls must not lead into this network.
///
/// Behind a proxy only the proxy's own name is resolved here; it is no download host, so it may be private.
#[derive(Debug)]
struct PublicOnly {
    rules: Arc<[HostRule]>,
    allow_loopback: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = Host::Domain(name.as_str());
        let local = is_loopback(&host) && self.allow_loopback;
        let guarded = !local && self.rules.iter().any(|rule| rule.covers(&host));
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let fit: Vec<SocketAddr> = found.filter(|address| !guarded || is_public(address.ip())).collect();
            if fit.is_empty() && guarded {
                return Err(PrivateAddress(name.as_str().to_owned()).into());
            }
            Ok(Box::new(fit.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // An IPv4 address in it decides: NAT64 has it at the end, 6to4 behind its prefix, the mapped form at the end.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] | [0, 0, 0, 0, 0, 0xffff, high, low] => {
            embedded(high, low)
        }
        // Teredo and the other protocol assignments, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // All that is global unicast.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for public in ["13.107.6.156", "52.96.0.1", "100.63.0.1", "2620:1ec:a92::156", "64:ff9b::1.1.1.1"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
    }

    #[tokio::test]
    async fn the_resolver_guards_download_hosts_and_nothing_else() {
        let resolve = async |rule: &str, allow_loopback| {
            let rules = [HostRule::parse(rule, true).expect("a rule")].into();
            let found = PublicOnly { rules, allow_loopback }.resolve("localhost".parse().expect("a name")).await;
            found.map(Iterator::count).map_err(|error| error.to_string())
        };
        let refused = resolve("localhost", false).await.expect_err("loopback is private");
        assert!(refused.contains("localhost resolves to private addresses only"), "{refused}");
        assert!(resolve("localhost", true).await.is_ok_and(|count| count > 0));
        assert!(resolve(".office.com", false).await.is_ok_and(|count| count > 0), "a proxy may be private");
    }

    #[test]
    fn additional_certificates_are_checked_at_start() {
        testing::tls();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let mut settings = testing::settings();
        settings.extra_ca_file = Some(path.clone());
        let fault = || tls(&settings).map(|_| ()).expect_err("refused").to_string();
        assert!(fault().starts_with("graph.extra_ca_file: "), "{}", fault());
        fs::write(&path, "no certificate").expect("written");
        assert!(fault().contains("BEGIN CERTIFICATE"), "{}", fault());
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").expect("written");
        assert!(fault().contains("PEM"), "{}", fault());
    }

    #[tokio::test]
    async fn only_trusted_certificates_get_a_request() {
        use crate::{graph::error::Leg, outcome::ErrorClass};

        let folder = tempfile::tempdir().expect("a folder");
        let (good, good_tls) = testing::certificate("127.0.0.1", 2020, 2090);
        let (wrong_host, wrong_host_tls) = testing::certificate("graph.example", 2020, 2090);
        let (expired, expired_tls) = testing::certificate("127.0.0.1", 2010, 2011);
        for (pem, tls, trusted) in [
            (None, good_tls.clone(), false),
            (Some(wrong_host), wrong_host_tls, false),
            (Some(expired), expired_tls, false),
            (Some(good), good_tls, true),
        ] {
            let server = testing::Server::start_tls(tls, |_, _| testing::granted("t", 3599)).await;
            let graph = testing::graph(&server, testing::clock(), |settings| {
                settings.extra_ca_file = pem.map(|pem| {
                    let path = folder.path().join("ca.pem");
                    fs::write(&path, pem).expect("written");
                    path
                });
            });
            match graph.token(&testing::tenant()).await {
                Ok(_) => assert!(trusted),
                Err(error) => {
                    assert!(!trusted, "{error}");
                    assert_eq!((error.class(), error.leg()), (ErrorClass::Tls, Leg::Login), "{error}");
                    assert!(error.to_string().contains("certificate"), "{error}");
                }
            }
            assert_eq!(server.requests().len(), usize::from(trusted));
        }
    }
}
