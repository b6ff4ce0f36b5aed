//! What config says of a version's artifact: which bytes it has to be, and where it is, if not in the repository.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::values::checked_string;

/// `{"sha256": "<64 hex digits>", "url": "https://…"}`, either of which may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(expecting = "an object with \"sha256\" and \"url\"")]
pub struct ArtifactSpec {
    /// Of the artifact as it is fetched, not of what is in it.
    pub sha256: Option<Sha256Digest>,
    /// In place of the repository's. Written by an app's developers: a host fetches it only if its own flags allow it.
    pub url: Option<ArtifactUrl>,
}

checked_string!(
    /// 64 hex digits, as `sha256sum` prints them.
    Sha256Digest,
    |text| {
        let good = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if good { Ok(()) } else { Err(format!("{text:?} is no SHA-256 digest: those are 64 hex digits")) }
    }
);

impl Sha256Digest {
    pub fn is(&self, digest: &[u8]) -> bool {
        let pairs = self.as_str().as_bytes().chunks(2).map(|pair| str::from_utf8(pair).ok());
        pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).eq(digest.iter().map(|byte| Some(*byte)))
    }
}

/// An address of `http` or `https` that says what it means: nobody's password, and no path that two readers could take for
/// two places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactUrl(Url);

impl ArtifactUrl {
    pub fn get(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ArtifactUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |reason: &str| format!("{:?} is not the address of an artifact: {reason}", without_user(&text));
        // What parsing would leave out, or take for something else, without a word.
        if !text.chars().all(|c| c.is_ascii_graphic()) || text.contains('\\') {
            return Err(wrong("characters that have to be percent-encoded"));
        }
        let path = text.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').any(|segment| segment == "..") {
            return Err(wrong("a \"..\" in it"));
        }
        let url = text.parse::<Url>().map_err(|error| wrong(&error.to_string()))?;
        plain(&url).map_err(wrong)?;
        if url.fragment().is_some() {
            return Err(wrong("a '#' in it"));
        }
        Ok(Self(url))
    }
}

/// What is wrong with an address is there for everybody to read, and not who may fetch from it.
fn without_user(text: &str) -> String {
    match (text.find(':'), text.rfind('@')) {
        (Some(scheme), Some(user)) if scheme < user => format!("{}:…{}", &text[..scheme], &text[user..]),
        _ => text.to_owned(),
    }
}

impl From<ArtifactUrl> for String {
    fn from(url: ArtifactUrl) -> String {
        url.0.into()
    }
}

impl fmt::Display for ArtifactUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether an address is of `http` or `https`, has no user in it, and has a path that means the same to every server:
/// what is encoded may be decoded once, twice or never before a server looks for a `..` or a slash in it.
pub(crate) fn plain(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http:// and https:// are");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or a password in it");
    }
    let path = url.path().to_ascii_lowercase();
    if ["%00", "%25", "%2e", "%2f", "%5c"].iter().any(|encoded| path.contains(encoded)) {
        return Err("an encoded '.', '/', '\\', '%' or NUL in its path");
    }
    // Some servers cut off parameters before they look.
    if path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | ".."))) {
        return Err("a \".\" or \"..\" in its path");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_same_bytes_in_either_case() {
        let digest = |text: &str| Sha256Digest::try_from(text.to_owned());
        let bytes = (0..32).map(|n| n * 7).collect::<Vec<u8>>();
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(digest(&hex).unwrap().is(&bytes) && digest(&hex.to_uppercase()).unwrap().is(&bytes));
        assert!(!digest(&hex).unwrap().is(&bytes[1..]) && !digest(&hex.replace("07", "08")).unwrap().is(&bytes));
        for bad in ["", &hex[1..], &format!("{hex}0"), &hex.replace('0', "g"), &hex.replace("00", "é")] {
            assert!(digest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_that_could_mean_two_places_is_none() {
        let url = |text: &str| ArtifactUrl::try_from(text.to_owned());
        for good in
            ["https://h/a.tar.gz", "http://h:81/a%20b/c~d?x=%2F..&y=1", "https://[::1]/a/", "https://h/a..b/...c"]
        {
            assert!(url(good).is_ok(), "{good}");
        }
        let table = [
            ("", "relative URL"),
            ("a.tar.gz", "relative URL"),
            ("file:///etc/passwd", "only http"),
            ("ftp://h/a", "only http"),
            ("https://", "empty host"),
            ("https://u@h/a", "a user"),
            ("https://:p@h/a", "a user"),
            ("https://h/a#b", "'#'"),
            ("https://h/a/../b", "\"..\""),
            ("https://h/..", "\"..\""),
            ("https://h/a\\..\\b", "percent-encoded"),
            ("https://h/a b", "percent-encoded"),
            ("https://h/a\n", "percent-encoded"),
            ("https://h/é", "percent-encoded"),
            ("https://h/a/%2e%2e%2fb", "encoded"),
            ("https://h/a/.%2Eb", "encoded"),
            ("https://h/a%2Fb", "encoded"),
            ("https://h/a%5cb", "encoded"),
            ("https://h/%252e%252e/b", "encoded"),
            ("https://h/a%00", "encoded"),
            ("https://h/a/..;x/b", "\"..\""),
        ];
        for (bad, says) in table {
            let reason = url(bad).expect_err(bad);
            assert!(reason.contains(says), "{reason} does not say {says:?}");
        }
        for secret in ["https://u:hunter2@h/a", "https:hunter2@h/a", "http://:hunter2@h/a b", "x://u@x:hunter2@h/../"] {
            let reason = url(secret).unwrap_err();
            assert!(!reason.contains("hunter2") && reason.contains(":…@h/"), "{reason}");
        }
        // Resolved by whoever parses an address, before anything else can be seen of it.
        assert_eq!(url("https://h/a/./%2e%2e/b").unwrap().to_string(), "https://h/b");
    }
}
