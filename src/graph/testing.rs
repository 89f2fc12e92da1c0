//! Stand-ins for tests: a listener that answers with raw bytes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::PrivateKeyDer;
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::{Fetched, Graph, GraphError, Trace};
use crate::{
    clock::Clock,
    config::{self, Secret, SignIn, Tenant},
    report::{Body, Period},
};

/// A small body.
pub(crate) const CSV: &str = "Report Refresh Date,Office 365\r\n2026-11-20,7\r\n2026-11-20,8\r\n";

/// Installs the cryptography provider, as `main` does.
pub(crate) fn tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The default settings.
pub(crate) fn settings() -> config::Graph {
    config::load_from(None, HashMap::new()).expect("the defaults").settings.graph
}

/// A tenant with a secret.
pub(crate) fn tenant() -> Tenant {
    Tenant {
        id: Uuid::from_u128(1),
        name: "Contoso".to_owned(),
        client_id: "app".to_owned(),
        sign_in: SignIn::ClientSecret { secret: Secret::Value(SecretString::from("canary-secret")), expires: None },
    }
}

/// A trace to fill.
pub(crate) fn trace() -> Trace {
    Trace::new(Uuid::from_u128(7))
}

/// A clock that stands at noon of 24 November 2026, a Tuesday.
pub(crate) fn clock() -> Clock {
    Clock::simulated("2026-11-24T12:00:00Z".parse().expect("a time"))
}

/// A login service and Graph that gives links to the download host.
pub(crate) async fn microsoft(downloads: &Server) -> Server {
    let link = downloads.url("/data/download?token=canary-link");
    Server::start(move |request, _| match request {
        login if is_login(login) => granted("canary-token", 3599),
        _ => Reply::whole(&format!("302 Found\nLocation: {link}\nrequest-id: r-1"), ""),
    })
    .await
}

/// Fetches the D7 report of the [`tenant`].
pub(crate) async fn fetch(graph: &Graph, trace: &mut Trace) -> Result<Body, GraphError> {
    match graph.fetch(&tenant(), "getOffice365ActiveUserCounts", Period::D7, trace).await? {
        Fetched::Body(body) => Ok(body),
        Fetched::NoData => panic!("no data"),
    }
}

/// What a [`Server`] sends back.
#[derive(Clone)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    /// Bytes at a time, and the pause after each.
    trickle: Option<(usize, Duration)>,
    keep_alive: bool,
}

impl Reply {
    /// These bytes, then the connection is closed.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), trickle: None, keep_alive: false }
    }

    /// A whole answer with its length; `head` is the status and headers, separated by line ends.
    pub(crate) fn whole(head: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = head.trim().replace('\n', "\r\n");
        let mut bytes = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, trickle: None, keep_alive: true }
    }

    /// The same, slowly.
    pub(crate) fn trickle(mut self, bytes: usize, pause: Duration) -> Self {
        self.trickle = Some((bytes, pause));
        self
    }
}

/// Listens on loopback and answers each request with what a function says.
pub(crate) struct Server {
    origin: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

type Answer = Arc<dyn Fn(&str, usize) -> Reply + Send + Sync>;

impl Server {
    /// Starts one; the function is given the whole request and its number from 0.
    pub(crate) async fn start(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(answer)).await
    }

    /// The same, with TLS.
    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(tls), Arc::new(answer)).await
    }

    async fn listen(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let server = Self { origin, requests: Arc::default(), connections: Arc::default() };
        let (requests, connections) = (server.requests.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answer, tls) = (requests.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &requests, &answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &requests, &answer).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// Its origin.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("a lock").clone()
    }

    /// The connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A client whose login service and Graph are this server, downloads allowed from loopback.
pub(crate) fn graph(server: &Server, clock: Clock, change: impl FnOnce(&mut config::Graph)) -> Graph {
    tls();
    let mut settings = settings();
    settings.allow_insecure_loopback = true;
    settings.login_url = Some(server.url("").parse().expect("a URL"));
    settings.base_url = Some(server.url("").parse().expect("a URL"));
    settings.download_hosts = Some(vec![".office.com".to_owned(), "127.0.0.1".to_owned()]);
    change(&mut settings);
    Graph::new(&settings, clock).expect("good settings")
}

/// A self-signed certificate for a name or address, as PEM, and a TLS server with it.
pub(crate) fn certificate(name: &str, from_year: i32, to_year: i32) -> (String, TlsAcceptor) {
    tls();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(from_year, 1, 1);
    params.not_after = rcgen::date_time_ymd(to_year, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], private).expect("a configuration");
    (certificate.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// The login service's answer with a token.
pub(crate) fn granted(token: &str, expires_in: u32) -> Reply {
    Reply::whole(
        "200 OK\nContent-Type: application/json",
        format!(
            r#"{{"token_type":"Bearer","expires_in":{expires_in},"ext_expires_in":3599,"access_token":"{token}"}}"#
        ),
    )
}

/// Whether a request is one for a token.
pub(crate) fn is_login(request: &str) -> bool {
    request.starts_with("POST /00000000-0000-0000-0000-000000000001/oauth2/v2.0/token ")
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, requests: &Mutex<Vec<String>>, answer: &Answer) {
    while let Some(request) = read_request(&mut stream).await {
        let number = {
            let mut requests = requests.lock().expect("a lock");
            requests.push(request.clone());
            requests.len() - 1
        };
        let reply = answer(&request, number);
        if write(&mut stream, &reply).await.is_err() || !reply.keep_alive {
            break;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    let (step, pause) = reply.trickle.unwrap_or((reply.bytes.len().max(1), Duration::ZERO));
    for piece in reply.bytes.chunks(step) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}
