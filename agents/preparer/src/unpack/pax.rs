//! The records of a pax extended header: `<length> <keyword>=<value>\n`, as POSIX.1-2001 defines them.
//!
//! Not the `tar` crate's parser: that one splits at every newline, also at those inside a value (a binary attribute, as
//! macOS adds them), and then leaves out the rest of the header unsaid, the entry's real name included.

use anyhow::{Context, Result, ensure};

/// The records in their order. Ends after the first malformed one.
pub(super) fn records(header: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8])>> {
    let mut rest = Some(header);
    std::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        Some(split_first(bytes).context("malformed pax header").map(|(record, after)| {
            rest = Some(after);
            record
        }))
    })
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn split_first(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = decimal(&bytes[..space])?;
    let (record, after) = bytes.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some(((&text[..equals], &text[equals + 1..]), after))
}

/// A number as pax writes it: digits only, no sign.
pub(super) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A time as pax writes it, seconds with an optional fraction and sign: the second at or before it, and nanoseconds.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (decimal::<i64>(&text[..point])?, text.get(point + 1..).unwrap_or_default());
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanoseconds),
    })
}

/// What pax headers say of a sparse file, in GNU tar's formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    /// With its holes.
    pub(super) size: Option<u64>,
    /// Offsets and lengths, in turn.
    pub(super) pieces: Vec<u64>,
    /// They are at the beginning of the content instead: format 1.0.
    pub(super) is_in_content: bool,
}

/// As many numbers as fit into the longest pax header.
const PIECES_MAX: usize = 1 << 17;

impl Sparse {
    /// `key` is what follows `GNU.sparse.`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = |digits| decimal::<u64>(digits).context("not a number");
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => {
                ensure!(matches!(value, b"0" | b"1"), "of an unknown version");
                self.is_in_content = value == b"1";
            }
            b"minor" => ensure!(matches!(value, b"0" | b"1"), "of an unknown version"),
            b"offset" | b"numbytes" => {
                ensure!((key == b"offset") == self.pieces.len().is_multiple_of(2), "an offset without a length");
                self.pieces.push(number(value)?);
            }
            b"map" => self.pieces = value.split(|byte| *byte == b',').map(number).collect::<Result<_>>()?,
            // As many as there are.
            b"numblocks" => drop(number(value)?),
            _ => anyhow::bail!("an unknown field of it"),
        }
        ensure!(self.pieces.len() <= PIECES_MAX, "too many pieces");
        Ok(())
    }
}

/// Refuses a global header that would change the entries after it; comments and the like (`git archive` writes the
/// commit there) are of no interest.
pub(super) fn check_global(header: &[u8]) -> Result<()> {
    for record in records(header) {
        let (key, _) = record?;
        let harmless = !matches!(key, b"path" | b"linkpath" | b"size") && !key.starts_with(b"GNU.sparse.");
        ensure!(
            harmless,
            "a global pax header with {}, which would be about every entry",
            String::from_utf8_lossy(key)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(header: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
        records(header).collect::<Result<_>>().ok()
    }

    #[test]
    fn a_value_may_hold_anything() {
        assert_eq!(all(b""), Some(vec![]));
        let records: [(&[u8], &[u8]); 2] = [(b"x", b"\n\n=\0 \xff"), (b"path", b"a\n")];
        assert_eq!(all(b"12 x=\n\n=\0 \xff\n11 path=a\n\n"), Some(records.to_vec()));
    }

    #[test]
    fn malformed_records_are_errors() {
        let table: [&[u8]; 10] = [
            b"x",
            b"\0",
            b"5 a=b",
            b"6 a=bc\n",
            b"7 a=b\n",
            b"0 a=b\n",
            b"+6 a=b\n",
            b"5 abc\n",
            b" a=b\n",
            b"2 a=b\n",
        ];
        for header in table {
            assert_eq!(all(header), None, "{}", header.escape_ascii());
        }
        assert!(all(b"99999999999999999999999 a=b\n").is_none());
    }

    #[test]
    fn times_are_rounded_down() {
        let table = [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.123456789999", Some((12, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("12.", Some((12, 0))),
            ("", None),
            ("1x", None),
            ("1.x", None),
        ];
        for (text, time) in table {
            assert_eq!(super::time(text.as_bytes()), time, "{text}");
        }
    }

    #[test]
    fn a_global_header_may_comment_but_not_rename() {
        assert!(check_global(b"14 comment=ab\n").is_ok());
        assert!(check_global(b"10 path=a\n").is_err());
        assert!(check_global(b"broken").is_err());
    }
}
