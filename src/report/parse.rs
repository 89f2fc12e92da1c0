//! From bytes to a whole [`Snapshot`], or a [`Rejection`] that says why not.

use bytes::Bytes;

/// What Microsoft sent.
#[derive(Debug, Clone)]
pub struct Body {
    /// The bytes, decompressed.
    pub bytes: Bytes,
    /// Whether the end of the body was proven: by its length, or by the last chunk. Otherwise the connection was simply
    /// closed, and the body may be cut.
    pub framed: bool,
}
