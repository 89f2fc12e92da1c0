//! Reading an answer within bounds, and knowing whether its end was proven.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use reqwest::{
    Response, Version,
    header::{CONTENT_ENCODING, TRANSFER_ENCODING},
};

use super::error::{GraphError, Leg};
use crate::{outcome::ErrorClass, report::Body};

/// Reads a body of at most `most` bytes, on the wire and unpacked.
pub(super) async fn read(leg: Leg, mut response: Response, most: usize) -> Result<Body, GraphError> {
    let status = response.status();
    let framed = is_framed(&response);
    let packed = response.headers().get(CONTENT_ENCODING).is_some_and(|coding| {
        coding.as_bytes().eq_ignore_ascii_case(b"gzip") || coding.as_bytes().eq_ignore_ascii_case(b"x-gzip")
    });
    let length = response.content_length().unwrap_or(0);
    if length > most as u64 {
        return Err(too_large(leg, most).with_status(status));
    }
    let broken = |error| GraphError::transport(leg, error).with_status(status);
    let mut bytes = response.chunk().await.map_err(broken)?.unwrap_or_default();
    // Most reports come in one piece, which is then not copied.
    if length == 0 || (bytes.len() as u64) < length {
        let mut whole = BytesMut::from(bytes);
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if whole.len() + chunk.len() > most {
                return Err(too_large(leg, most).with_status(status));
            }
            whole.extend_from_slice(&chunk);
        }
        bytes = whole.freeze();
    }
    if bytes.len() > most {
        return Err(too_large(leg, most).with_status(status));
    }
    if packed {
        bytes = unpack(leg, &bytes, most).map_err(|error| error.with_status(status))?;
    }
    Ok(Body { bytes, framed })
}

/// Whether the protocol itself proves the end of the body. `hyper` turns a body that ends before its announced length,
/// its last chunk or its `END_STREAM` into an error; a body that simply ends with the connection may be cut anywhere.
fn is_framed(response: &Response) -> bool {
    if response.version() >= Version::HTTP_2 || response.content_length().is_some() {
        return true;
    }
    let coding = response.headers().get_all(TRANSFER_ENCODING).iter().next_back();
    coding
        .and_then(|coding| coding.to_str().ok())
        .is_some_and(|coding| coding.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked")))
}

fn unpack(leg: Leg, packed: &[u8], most: usize) -> Result<Bytes, GraphError> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(packed).take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
        GraphError::new(leg, ErrorClass::Truncated, format!("the compressed answer of {leg} is damaged: {error}"))
    })?;
    if bytes.len() > most { Err(too_large(leg, most)) } else { Ok(bytes.into()) }
}

fn too_large(leg: Leg, most: usize) -> GraphError {
    GraphError::new(leg, ErrorClass::TooLarge, format!("the answer of {leg} is larger than {most} bytes"))
}
