//! What a server's answer means to a download that may have come some way already. Pure.
//!
//! Ensures: what is taken for the rest of an artifact is the rest of the same artifact, as far as the server says anything
//! at all; a server that contradicts itself is an error and not believed.

use anyhow::{Error, anyhow};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION};

/// What a server says it has. Two that are equal, with a validator, are the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Representation {
    pub(super) validator: Option<Validator>,
    pub(super) length: Option<u64>,
}

/// By which a server knows again what it sent: a strong one, as RFC 9110 has it (8.8), so that equal means equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Validator {
    Etag(HeaderValue),
    LastModified(HeaderValue),
}

/// How far a download has come, and of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Have<'a> {
    pub(super) came: u64,
    pub(super) of: &'a Representation,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// From its first byte on.
    Whole(Representation),
    /// From where we are, of something that has this length as a whole.
    Rest(u64),
    /// The same from its first byte on: what came already is to be skipped.
    Again,
    /// Something else from its first byte on.
    Other(Representation),
    /// What we have some of is no more, and this is nothing to begin with.
    Changed,
    /// There is no such thing.
    Missing,
}

/// Why a fetch cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may go better the next time.
    Passing(Error),
    Lasting(Error),
}

impl Representation {
    fn of(headers: &HeaderMap) -> Self {
        Self { validator: Validator::of(headers), length: number(headers.get(CONTENT_LENGTH)) }
    }
}

impl Validator {
    fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(etag) = headers.get(ETAG) {
            return etag.as_bytes().starts_with(b"\"").then(|| Self::Etag(etag.clone()));
        }
        // What was changed in the second in which it was sent may have been changed once more in it.
        let modified = headers.get(LAST_MODIFIED)?;
        let earlier = headers.get(DATE).is_some_and(|now| now != modified);
        earlier.then(|| Self::LastModified(modified.clone()))
    }

    /// As `If-Range` takes it.
    pub(super) fn value(&self) -> &HeaderValue {
        let (Self::Etag(value) | Self::LastModified(value)) = self;
        value
    }

    /// Whether the part that comes with these headers is of what this was said of. A server may leave out of a part what
    /// the request has said, but never an `ETag`.
    fn is_of(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Etag(etag) => headers.get(ETAG) == Some(etag),
            Self::LastModified(modified) => headers.get(LAST_MODIFIED).is_none_or(|now| now == modified),
        }
    }
}

pub(super) fn read(status: StatusCode, headers: &HeaderMap, have: Option<Have<'_>>) -> Result<Answer, Trouble> {
    match (status, have) {
        (StatusCode::OK, None) => Ok(Answer::Whole(Representation::of(headers))),
        (StatusCode::OK, Some(have)) => whole(Representation::of(headers), have),
        (StatusCode::PARTIAL_CONTENT, Some(have)) => part(headers, have),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => Ok(Answer::Changed),
        (StatusCode::NOT_FOUND | StatusCode::GONE, None) => Ok(Answer::Missing),
        (StatusCode::NOT_FOUND | StatusCode::GONE, Some(_)) => {
            Err(Trouble::Lasting(anyhow!("it was removed while it was fetched: the server answers {status}")))
        }
        (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS, _) => Err(says(status)),
        _ if status.is_server_error() => Err(says(status)),
        // All others have been followed, or are errors already.
        _ if status.is_redirection() && headers.contains_key(LOCATION) => {
            let why = "with an address that is none of http or https";
            Err(Trouble::Lasting(anyhow!("the server answers {status}, {why}")))
        }
        _ => Err(Trouble::Lasting(anyhow!("the server answers {status}"))),
    }
}

fn says(status: StatusCode) -> Trouble {
    Trouble::Passing(anyhow!("the server answers {status}"))
}

/// The server sends all of it although it was asked for the rest.
fn whole(now: Representation, have: Have<'_>) -> Result<Answer, Trouble> {
    match (&now.validator, &have.of.validator) {
        (Some(now), Some(then)) if now == then => {}
        _ => return Ok(Answer::Other(now)),
    }
    if now.length == have.of.length { Ok(Answer::Again) } else { Err(lie("two lengths of one artifact")) }
}

fn part(headers: &HeaderMap, have: Have<'_>) -> Result<Answer, Trouble> {
    if !have.of.validator.as_ref().is_some_and(|validator| validator.is_of(headers)) {
        return Ok(Answer::Changed);
    }
    let range = headers.get(CONTENT_RANGE).and_then(|range| Range::parse(range.to_str().ok()?));
    let Some(range) = range else { return Err(lie("no readable Content-Range")) };
    if range.first != have.came {
        return Err(lie(&format!("a Content-Range from byte {}", range.first)));
    }
    if range.total.zip(have.of.length).is_some_and(|(now, then)| now != then) {
        return Err(lie("two lengths of one artifact"));
    }
    if number(headers.get(CONTENT_LENGTH)).is_some_and(|length| length != range.length) {
        return Err(lie("a Content-Length that is not that of its Content-Range"));
    }
    match range.total.or(have.of.length) {
        Some(length) => Ok(Answer::Rest(length)),
        // Whether there is more behind this part cannot be known.
        None => Ok(Answer::Changed),
    }
}

fn lie(what: &str) -> Trouble {
    Trouble::Lasting(anyhow!("the server contradicts itself, or does not answer what it was asked: {what}"))
}

/// `bytes 100-199/200`, or `bytes 100-199/*`.
struct Range {
    first: u64,
    length: u64,
    total: Option<u64>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (digits(first)?, digits(last)?);
        let total = if total == "*" { None } else { Some(digits(total)?) };
        let length = last.checked_sub(first)?.checked_add(1)?;
        total.is_none_or(|total| last < total).then_some(Self { first, length, total })
    }
}

fn number(value: Option<&HeaderValue>) -> Option<u64> {
    digits(value?.to_str().ok()?)
}

/// Unlike `parse` alone, not `+1`.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    fn headers(lines: &str) -> HeaderMap {
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        lines.split('\n').filter(|line| !line.is_empty()).map(pair).collect()
    }

    fn answer(status: u16, lines: &str, have: Option<Have<'_>>) -> String {
        match read(StatusCode::from_u16(status).unwrap(), &headers(lines), have) {
            Ok(answer) => format!("{answer:?}").split('(').next().unwrap().to_owned(),
            Err(Trouble::Passing(error)) => format!("passing: {error}"),
            Err(Trouble::Lasting(error)) => format!("lasting: {error}"),
        }
    }

    const TODAY: &str = "Date: Sun, 22 Nov 2026 08:00:00 GMT";
    const LATER: &str = "Last-Modified: Sun, 22 Nov 2026 08:00:00 GMT";
    const EARLIER: &str = "Last-Modified: Sat, 21 Nov 2026 08:00:00 GMT";

    #[test]
    fn only_a_strong_validator_is_one() {
        let validator =
            |lines: &str| Validator::of(&headers(lines)).map(|found| found.value().to_str().unwrap().to_owned());
        assert_eq!(validator("ETag: \"a\"\nLast-Modified: x"), Some("\"a\"".to_owned()));
        assert_eq!(validator("ETag: W/\"a\""), None);
        assert_eq!(validator(""), None);
        assert_eq!(validator(EARLIER), None, "without a date, it may be this very second");
        assert_eq!(validator(&format!("{LATER}\n{TODAY}")), None);
        assert!(validator(&format!("{EARLIER}\n{TODAY}")).is_some());
    }

    #[test]
    fn what_a_first_answer_means() {
        let table = [
            (200, "Whole"),
            (404, "Missing"),
            (410, "Missing"),
            (403, "lasting: the server answers 403"),
            (204, "lasting: the server answers 204"),
            (206, "lasting: the server answers 206"),
            (416, "lasting: the server answers 416"),
            (304, "lasting: the server answers 304"),
            (408, "passing: the server answers 408"),
            (429, "passing: the server answers 429"),
            (500, "passing: the server answers 500"),
            (503, "passing: the server answers 503"),
        ];
        for (status, means) in table {
            assert!(answer(status, "", None).starts_with(means), "{status}: {}", answer(status, "", None));
        }
    }

    #[test]
    fn what_an_answer_to_a_request_for_the_rest_means() {
        let of =
            Representation { validator: Some(Validator::Etag(HeaderValue::from_static("\"a\""))), length: Some(10) };
        let contradicts = "lasting: the server contradicts itself";
        let table = [
            (206, "ETag: \"a\"\nContent-Range: bytes 4-9/10\nContent-Length: 6", "Rest"),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-9/10", "Rest"),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-9/*", "Rest"),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-7/10", "Rest"),
            (206, "ETag: \"b\"\nContent-Range: bytes 4-9/10", "Changed"),
            (206, "ETag: W/\"a\"\nContent-Range: bytes 4-9/10", "Changed"),
            (206, "Content-Range: bytes 4-9/10", "Changed"),
            (206, "ETag: \"a\"", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 3-9/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 5-9/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-9/11", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-10/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-3/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes +4-9/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: 4-9/10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes */10", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 0-18446744073709551615/*", contradicts),
            (206, "ETag: \"a\"\nContent-Range: bytes 4-9/10\nContent-Length: 5", contradicts),
            (200, "ETag: \"a\"\nContent-Length: 10", "Again"),
            (200, "ETag: \"a\"\nContent-Length: 11", contradicts),
            (200, "ETag: \"b\"\nContent-Length: 10", "Other"),
            (200, "Content-Length: 10", "Other"),
            (416, "", "Changed"),
            (404, "", "lasting: it was removed"),
            (503, "", "passing: the server answers 503"),
            (403, "", "lasting: the server answers 403"),
        ];
        for (status, lines, means) in table {
            let found = answer(status, lines, Some(Have { came: 4, of: &of }));
            assert!(found.starts_with(means), "{status} {lines}: {found} and not {means}");
        }
        let by_date = Validator::LastModified(headers(EARLIER).get(LAST_MODIFIED).unwrap().clone());
        let of = Representation { validator: Some(by_date), length: None };
        let table = [
            ("10", "", "Rest"),
            ("10", EARLIER, "Rest"),
            ("10", LATER, "Changed"),
            // Of a length that nobody ever said.
            ("*", EARLIER, "Changed"),
        ];
        for (total, lines, means) in table {
            let lines = format!("Content-Range: bytes 4-9/{total}\n{lines}");
            assert_eq!(answer(206, &lines, Some(Have { came: 4, of: &of })), means, "{lines}");
        }
        let of = Representation::default();
        assert_eq!(answer(200, "Content-Length: 10", Some(Have { came: 4, of: &of })), "Other");
        assert_eq!(answer(206, "Content-Range: bytes 4-9/10", Some(Have { came: 4, of: &of })), "Changed");
    }
}
