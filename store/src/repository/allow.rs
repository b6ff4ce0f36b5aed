//! Which addresses that others wrote a host may fetch from.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;

use crate::schema::plain;

/// All addresses of one server whose paths begin with these segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix(Url);

impl UrlPrefix {
    /// Compared as parsed, and path segments as a whole: `https://host/a` covers neither `https://host/ab` nor
    /// `https://host.example.com/a`, and what means two places to two servers is covered by nothing.
    pub fn covers(&self, url: &Url) -> bool {
        let server =
            |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
        let segments = |url: &Url| url.path().split('/').map(str::to_owned).collect::<Vec<_>>();
        let mut prefix = segments(&self.0);
        if prefix.last().is_some_and(String::is_empty) {
            prefix.pop();
        }
        plain(url).is_ok() && server(&self.0) == server(url) && segments(url).starts_with(&prefix)
    }
}

/// Fails, and says what would help, where none of `allowed` covers `url`.
pub fn ensure_allowed(allowed: &[UrlPrefix], url: &Url) -> Result<()> {
    if allowed.iter().any(|prefix| prefix.covers(url)) {
        return Ok(());
    }
    match allowed {
        [] => bail!("this host fetches from nowhere but its repository: no --allow-url is given"),
        allowed => {
            let allowed = allowed.iter().map(UrlPrefix::to_string).collect::<Vec<_>>().join(" and ");
            bail!("this host does not fetch from there: --allow-url is {allowed}")
        }
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UrlPrefix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let url = text.parse::<Url>().context("not an address")?;
        plain(&url).map_err(anyhow::Error::msg)?;
        ensure!(url.query().is_none() && url.fragment().is_none(), "a prefix of addresses, without '?' and '#'");
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_server_and_whole_segments_of_its_path() {
        let covers = |prefix: &str, url: &str| prefix.parse::<UrlPrefix>().unwrap().covers(&url.parse().unwrap());
        for prefix in ["https://host/a/b", "https://host/a/b/", "https://HOST:443/a/./b"] {
            for url in [
                "https://host/a/b/c.tar.gz",
                "https://host/a/b/c/d?x=../..",
                "https://host/a/b",
                "https://host/x/../a/b/c",
                "https://host:443/a/b//c",
            ] {
                assert!(covers(prefix, url), "{prefix} {url}");
            }
            for url in [
                "http://host/a/b/c",
                "https://host:444/a/b/c",
                "https://host.example.com/a/b/c",
                "https://host@example.com/a/b/c",
                "https://user@host/a/b/c",
                "https://host./a/b/c",
                "https://host/a/bc",
                "https://host/a",
                "https://host/A/b/c",
                "https://host//a/b/c",
                "https://host/a/b/../c",
                "https://host/a/b/%2e%2e/c",
                "https://host/a/b/..%2f..%2fc",
                "https://host/a/b/..%5cc",
                "https://host/a/b/..;/c",
                "https://host/a/b/%252e%252e/c",
                "https://host\\@example.com/a/b/c",
                "ftp://host/a/b/c",
                "data:https://host/a/b/c",
            ] {
                assert!(!covers(prefix, url), "{prefix} {url}");
            }
        }
        for prefix in ["http://host:81", "http://host:81/"] {
            assert!(covers(prefix, "http://host:81/") && covers(prefix, "http://host:81/a"), "{prefix}");
            assert!(!covers(prefix, "http://host/a") && !covers(prefix, "http://host:8/a"), "{prefix}");
        }
        for bad in [
            "",
            "host",
            "file:///a",
            "ftp://host/",
            "https://u:p@host/",
            "https://h/?a",
            "https://h/#a",
            "https://h/a%2f",
        ] {
            assert!(bad.parse::<UrlPrefix>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_is_allowed_unless_something_is() {
        let url = "https://host/a".parse().unwrap();
        let allowed = ["https://host/b", "https://host/a"].map(|prefix| prefix.parse::<UrlPrefix>().unwrap());
        assert!(ensure_allowed(&[], &url).unwrap_err().to_string().contains("no --allow-url"));
        assert!(ensure_allowed(&allowed[..1], &url).unwrap_err().to_string().contains("https://host/b"));
        assert!(ensure_allowed(&allowed, &url).is_ok());
    }
}
