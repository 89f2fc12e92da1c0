//! The last line of defence: secrets that reach a log line against the rules are cut out of it.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;

/// What stands in place of what was cut.
const CUT: &str = "***";

/// Cuts out what can carry a secret: the user part, the query and the fragment of a URL, and what follows `Bearer`.
/// Everything else stays as it is.
pub fn scrub(line: &str) -> Cow<'_, str> {
    if !line.contains("://") && !line.contains("earer ") {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    loop {
        let url = rest.find("://").map(|at| at + "://".len());
        let bearer = rest.find("earer ").map(|at| at + "earer ".len());
        let Some(start) = [url, bearer].into_iter().flatten().min() else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(ends_a_word).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if Some(start) == bearer {
            out.push_str(if word.is_empty() { "" } else { CUT });
        } else {
            push_url(&mut out, word);
        }
        rest = tail;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Appends the part of a URL after `://`, without user, query and fragment.
fn push_url(out: &mut String, url: &str) {
    let (base, cut) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], Some(&url[at..=at])),
        None => (url, None),
    };
    // A password may hold a slash that was not escaped: everything up to the last `@` goes.
    match base.rfind('@') {
        Some(at) => {
            out.push_str(CUT);
            out.push_str(&base[at..]);
        }
        None => out.push_str(base),
    }
    if let Some(mark) = cut {
        out.push_str(mark);
        out.push_str(CUT);
    }
}

fn ends_a_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\' | '\u{1b}')
}

/// Hands out writers that scrub each line before it goes to the writers of `M`.
#[derive(Debug)]
pub struct Scrubbed<M>(pub M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Scrubbed<M> {
    type Writer = ScrubWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        ScrubWriter(self.0.make_writer())
    }
}

/// Scrubs what is written to it; tracing-subscriber writes each event in one piece.
#[derive(Debug)]
pub struct ScrubWriter<W>(W);

impl<W: Write> Write for ScrubWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        self.0.write_all(scrub(&line).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::scrub;

    #[test]
    fn urls_lose_what_is_secret_and_keep_the_rest() {
        for (given, wanted) in [
            ("no url here", "no url here"),
            ("GET https://a.office.com/data?token=abc&x=1 failed", "GET https://a.office.com/data?*** failed"),
            (r#"{"url":"https://h/p#frag","n":1}"#, r#"{"url":"https://h/p#***","n":1}"#),
            ("postgres://user:pa/ss@w@db:5432/x?sslmode=require", "postgres://***@db:5432/x?***"),
            ("one http://a/?q two http://b/?r", "one http://a/?*** two http://b/?***"),
            ("authorization: Bearer eyJ0.eyJ1.sig, x", "authorization: Bearer *** x"),
            ("https://h/no/query", "https://h/no/query"),
            ("dangling ://", "dangling ://"),
        ] {
            assert_eq!(scrub(given), wanted);
        }
    }
}
