//! Asking our own `/livez`, for the `healthcheck` command: a container has neither curl nor a shell.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Docker and Kubernetes give a probe a few seconds; an answer that takes longer is none.
const DEADLINE: Duration = Duration::from_secs(3);

/// More than any answer of `/livez` has.
const MOST_BYTES: u64 = 4096;

/// Whether the daemon that listens on `listen` is alive; if not, why, in plain words.
pub async fn check(listen: SocketAddr) -> Result<(), String> {
    let address = reachable(listen);
    match timeout(DEADLINE, ask(address)).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no answer within {} s", DEADLINE.as_secs())),
    }
}

/// A server that listens on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /livez HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn judge(answer: &[u8]) -> Result<(), String> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/1.") => Ok(()),
        (Some(version), Some(code)) if version.starts_with("HTTP/1.") => {
            Err(format!("status {code}: {}", body.lines().next().unwrap_or_default()))
        }
        _ => Err("what answers is no HTTP server".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{check, judge, reachable};

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8365", "127.0.0.1:8365"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.1:2", "127.0.0.1:2"),
            ("192.0.2.7:3", "192.0.2.7:3"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn only_200_is_well() {
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n\r\nalive\n"), Ok(()));
        assert_eq!(
            judge(b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nit stands\n"),
            Err("status 503: it stands".to_owned())
        );
        assert!(judge(b"SSH-2.0-OpenSSH 200").is_err());
        assert!(judge(b"").is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_and_not_a_panic() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /livez HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        });
        assert_eq!(check(address).await, Ok(()));
        server.await.unwrap();
        assert!(check(address).await.unwrap_err().contains(&address.to_string()));
    }
}
