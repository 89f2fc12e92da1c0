//! HTTP/1.1 by hand: a whole server would repair the very answers that tests need broken.

use std::{fmt::Write, io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No client of ours sends more than this.
const LONGEST_REQUEST: usize = 256 * 1024;
/// What [`Framing::Endless`] repeats.
const ENDLESS_CHUNK: usize = 64 * 1024;
/// What [`Framing::HugeContentLength`] promises: 8 TiB.
pub(crate) const HUGE: u64 = 8 << 40;

/// A request, as far as Microsoft's hosts look at it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    keep_alive: bool,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter in the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        form_value(self.query.as_bytes(), name)
    }
}

/// The value of a field in a form.
pub(crate) fn form_value(form: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// How the bytes of an answer go over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    /// Properly, with a `Content-Length`.
    #[default]
    Whole,
    /// The whole length is promised; the connection closes after so many bytes.
    CutAt(usize),
    /// Chunked; the connection closes after so many bytes, without the last chunk.
    CutChunked(usize),
    /// Neither length nor chunks: the body ends where the connection does.
    CloseDelimited(Option<usize>),
    /// The body, then more of the same for ever, chunked.
    Endless,
    /// The promised length, one byte a second.
    Trickle,
    /// A length that no client should wait for, then the body, then a close.
    Huge,
    /// No answer at all; the connection stays open.
    Hang,
    /// No answer at all; the connection is reset.
    Reset,
}

/// An answer, and how it is sent.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    pub(crate) delay: Duration,
    pub(crate) framing: Framing,
}

impl Response {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.to_owned())], body: body.into(), ..Self::default() }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json; charset=utf-8", body.to_string())
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name, value.into()));
        self
    }
}

/// What is to become of a connection that is served to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was closed properly.
    Closed,
    /// It is to be reset.
    Reset,
}

/// Answers the requests of one connection, one after the other.
pub(crate) async fn serve<S>(stream: &mut S, answer: impl Fn(&Request) -> Response) -> io::Result<End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    while let Some(request) = read_request(stream, &mut buffer).await? {
        let response = answer(&request);
        if !response.delay.is_zero() {
            tokio::time::sleep(response.delay).await;
        }
        let keep_alive = match response.framing {
            Framing::Reset => return Ok(End::Reset),
            Framing::Hang => {
                // Until the client gives up.
                while stream.read_buf(&mut buffer).await? > 0 {
                    buffer.clear();
                }
                false
            }
            Framing::Whole => {
                send_whole(stream, &request, &response).await?;
                request.keep_alive
            }
            broken => {
                send_broken(stream, &response, broken).await?;
                false
            }
        };
        if !keep_alive {
            break;
        }
    }
    stream.shutdown().await?;
    Ok(End::Closed)
}

async fn send_whole<S: AsyncWrite + Unpin>(stream: &mut S, request: &Request, response: &Response) -> io::Result<()> {
    let mut head = head(response);
    let bodiless = matches!(response.status, 204 | 304);
    if !bodiless {
        // Writing to a String cannot fail.
        let _ = write!(head, "Content-Length: {}\r\n", response.body.len());
    }
    head.push_str(if request.keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    let mut bytes = head.into_bytes();
    if !bodiless && request.method != "HEAD" {
        bytes.extend_from_slice(&response.body);
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn send_broken<S: AsyncWrite + Unpin>(stream: &mut S, response: &Response, how: Framing) -> io::Result<()> {
    let body = &response.body;
    let upto = |end: usize| &body[..end.min(body.len())];
    let length = match how {
        Framing::CutChunked(_) | Framing::Endless => "Transfer-Encoding: chunked\r\n".to_owned(),
        Framing::CloseDelimited(_) => String::new(),
        Framing::Huge => format!("Content-Length: {HUGE}\r\n"),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    stream.write_all(format!("{}{length}Connection: close\r\n\r\n", head(response)).as_bytes()).await?;
    stream.flush().await?;
    match how {
        Framing::CutAt(end) => stream.write_all(upto(end)).await?,
        Framing::CloseDelimited(end) => stream.write_all(upto(end.unwrap_or(usize::MAX))).await?,
        Framing::CutChunked(end) => send_chunk(stream, upto(end)).await?,
        Framing::Endless => {
            send_chunk(stream, body).await?;
            let more = if body.is_empty() { Bytes::from_static(b"0") } else { body.clone() };
            let more: Vec<u8> = more.iter().copied().cycle().take(ENDLESS_CHUNK).collect();
            loop {
                send_chunk(stream, &more).await?;
            }
        }
        Framing::Trickle => {
            for byte in body {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        _ => stream.write_all(body).await?,
    }
    stream.flush().await
}

async fn send_chunk<S: AsyncWrite + Unpin>(stream: &mut S, chunk: &[u8]) -> io::Result<()> {
    if !chunk.is_empty() {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
        stream.write_all(chunk).await?;
        stream.write_all(b"\r\n").await?;
    }
    Ok(())
}

/// The status line and the headers, without those that say how long the body is.
fn head(response: &Response) -> String {
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    for (name, value) in &response.headers {
        head.push_str(name);
        head.push_str(": ");
        // A fault may carry any text, but not a second header.
        head.extend(value.chars().filter(|c| !matches!(c, '\r' | '\n')));
        head.push_str("\r\n");
    }
    head
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}

/// The next request, or nothing when the client has gone.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<Option<Request>> {
    loop {
        if let Some((mut request, head, length)) = parse_head(buffer)? {
            if head + length > LONGEST_REQUEST {
                return Err(io::Error::other("a request of this size is none of ours"));
            }
            while buffer.len() < head + length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            buffer.advance(head);
            request.body = buffer.split_to(length).freeze();
            return Ok(Some(request));
        }
        if buffer.len() > LONGEST_REQUEST || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The head of a request, its length, and the length of the body that follows; nothing while it is incomplete.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    let (path, query) = parsed.path.unwrap_or("/").split_once('?').unwrap_or((parsed.path.unwrap_or("/"), ""));
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Vec::with_capacity(parsed.headers.len()),
        body: Bytes::new(),
        keep_alive: false,
    };
    for header in parsed.headers.iter() {
        let value = String::from_utf8_lossy(header.value).into_owned();
        request.headers.push((header.name.to_ascii_lowercase(), value));
    }
    let closes = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    request.keep_alive = parsed.version == Some(1) && !closes;
    let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    Ok(Some((request, head, length)))
}
