//! The three listeners, and what happens on their connections.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Sim, admin,
    config::Config,
    download,
    fault::Host,
    graph, login,
    state::{Request as Logged, State, now},
    tls,
    wire::{self, End, Framing, Request, Response},
};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) urls: [String; 3],
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of one host to one request.
    fn answer(&self, host: Host, request: &Request) -> Response {
        let mut state = self.state();
        let (tenant, period, mut response) = match host {
            Host::Graph if request.path.starts_with(admin::PREFIX) => {
                return admin::answer(&self.config, &mut state, request);
            }
            Host::Login => {
                let (tenant, response) = login::answer(&self.config, &self.urls[0], &mut state, request);
                (tenant, None, response)
            }
            Host::Graph => graph::answer(&self.config, &mut state, &self.urls[2], request),
            Host::Download => download::answer(&mut state, request),
        };
        response.delay += self.config.latency;
        let silent = matches!(response.framing, Framing::Hang | Framing::Reset);
        state.record(Logged {
            at: now(),
            host,
            tenant,
            period,
            method: request.method.clone(),
            path: request.path.clone(),
            status: if silent { 0 } else { response.status },
            had_authorization: request.header("authorization").is_some(),
        });
        response
    }
}

/// See [`Sim::start`].
pub(crate) fn start(config: Config) -> io::Result<Sim> {
    let host = config.host();
    let (tls, ca_pem) = if config.tls {
        let (acceptor, ca) = tls::acceptor(&host)?;
        (Some(acceptor), Some(ca))
    } else {
        (None, None)
    };
    let bind = |port| {
        let listener = StdListener::bind(SocketAddr::new(config.listen, port))?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let sockets = [bind(config.ports[0])?, bind(config.ports[1])?, bind(config.ports[2])?];
    let scheme = if config.tls { "https" } else { "http" };
    let url = |socket: &TcpListener| Ok::<_, io::Error>(format!("{scheme}://{host}:{}", socket.local_addr()?.port()));
    let urls = [url(&sockets[0])?, url(&sockets[1])?, url(&sockets[2])?];

    let state = Mutex::new(State::new(&config));
    let shared = Arc::new(Shared { config, urls, state });
    let hosts = [Host::Login, Host::Graph, Host::Download];
    let listeners = sockets
        .into_iter()
        .zip(hosts)
        .map(|(socket, host)| tokio::spawn(listen(socket, host, Arc::clone(&shared), tls.clone())))
        .collect();
    Ok(Sim { shared, listeners, ca_pem })
}

/// Accepts connections until it is aborted, which ends its connections too.
async fn listen(socket: TcpListener, host: Host, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, host, Arc::clone(&shared), tls.clone()));
                }
                // Out of file descriptors, most likely: give the others time to close.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. An error is a client that went away, which is its own affair.
async fn connection(
    mut stream: TcpStream,
    host: Host,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = |request: &Request| shared.answer(host, request);
    let Some(tls) = tls else {
        if wire::serve(&mut stream, answer).await? == End::Reset {
            stream.set_zero_linger()?;
        }
        return Ok(());
    };
    let mut stream = tls.accept(stream).await?;
    if wire::serve(&mut stream, answer).await? == End::Reset {
        stream.get_ref().0.set_zero_linger()?;
    }
    Ok(())
}
