//! Where Consul is and how to talk to it: what the `consul` command's environment variables mean, as it takes them.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, ClientBuilder, Identity, Url, redirect};

use crate::http_client;

/// To find Consul is quick or hopeless.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Kept for the next request: as many as are often asked for one after the other.
const MOST_IDLE: usize = 16;

/// All that a client needs to know.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) address: Address,
    pub(super) token: TokenSource,
    tls: Tls,
}

/// Where Consul listens.
#[derive(Debug, PartialEq)]
pub(super) enum Address {
    /// `http://host:port` or `https://host:port`, perhaps with a path, without a slash at the end.
    Url(String),
    Unix(PathBuf),
}

/// What a request is authorized by. Never shown.
#[derive(Clone, PartialEq, Default)]
pub(super) struct TokenSource {
    /// Read for each request, so that a token can be rotated. Wins over the other.
    pub(super) file: Option<PathBuf>,
    pub(super) token: Option<String>,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("TokenSource").field("file", &self.file).field("token", &token).finish()
    }
}

#[derive(Debug, PartialEq, Default)]
struct Tls {
    authorities: Option<PathBuf>,
    authorities_directory: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    unverified: bool,
}

impl Settings {
    /// From an address as `CONSUL_HTTP_ADDR` has it, and the other variables.
    pub(super) fn new(address: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let flag = |name: &str| env(name).map(|value| boolean(&value).context(name.to_owned())).transpose();
        let encrypted = flag("CONSUL_HTTP_SSL")?.unwrap_or(false);
        let client_certificate = match (env("CONSUL_CLIENT_CERT"), env("CONSUL_CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => bail!("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together, and only one of them is set"),
        };
        Ok(Self {
            address: Address::parse(address, encrypted)?,
            token: TokenSource { file: env("CONSUL_HTTP_TOKEN_FILE").map(Into::into), token: env("CONSUL_HTTP_TOKEN") },
            tls: Tls {
                authorities: env("CONSUL_CACERT").map(Into::into),
                authorities_directory: env("CONSUL_CAPATH").map(Into::into),
                client_certificate,
                server_name: env("CONSUL_TLS_SERVER_NAME"),
                unverified: flag("CONSUL_HTTP_SSL_VERIFY")? == Some(false),
            },
        })
    }

    /// An HTTP client, and the URL that its requests' paths are appended to.
    pub(super) fn client(&self) -> Result<(reqwest::Client, String)> {
        // Consul counts the idle connections, too.
        let builder = http_client().connect_timeout(CONNECT_TIMEOUT).pool_max_idle_per_host(MOST_IDLE);
        let builder = builder.redirect(redirect::Policy::none());
        let (builder, base) = match &self.address {
            Address::Unix(path) => (builder.unix_socket(path.as_path()), "http://localhost".to_owned()),
            Address::Url(url) => {
                let mut url = Url::parse(url).with_context(|| format!("the address {url:?}"))?;
                let builder = if is_loopback(&url) { builder.no_proxy() } else { builder };
                let builder = if url.scheme() == "https" { self.tls.apply(builder, &mut url)? } else { builder };
                (builder, url.as_str().trim_end_matches('/').to_owned())
            }
        };
        // Without this, a host that has no system certificates could not talk plain HTTP either.
        let builder = if base.starts_with("http:") { builder.tls_certs_only([]) } else { builder };
        Ok((builder.build().context("making an HTTP client")?, base))
    }
}

impl Address {
    fn parse(text: &str, encrypted: bool) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        ensure!(!rest.is_empty(), "{text:?} is no address: host:port, http://host:port, https://… or unix:///path");
        match scheme {
            "unix" => Ok(Self::Unix(rest.into())),
            // Who asked for encryption does not get less because of an address.
            "http" if encrypted => Ok(Self::Url(format!("https://{rest}"))),
            "http" | "https" => Ok(Self::Url(format!("{scheme}://{rest}"))),
            other => bail!("{text:?} is no address: {other:?} is none of http, https and unix"),
        }
    }
}

impl Tls {
    fn apply(&self, mut builder: ClientBuilder, url: &mut Url) -> Result<ClientBuilder> {
        let authorities = self.authorities()?;
        if !authorities.is_empty() {
            builder = builder.tls_certs_only(authorities);
        }
        if let Some((certificate, key)) = &self.client_certificate {
            let pem =
                [read("CONSUL_CLIENT_CERT", certificate)?, b"\n".to_vec(), read("CONSUL_CLIENT_KEY", key)?].concat();
            let identity = Identity::from_pem(&pem).context("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY")?;
            builder = builder.identity(identity);
        }
        if let Some(name) = &self.server_name {
            // The name in the URL is the one that is verified. So ask for that name, and find it at the address.
            let host = url.host_str().context("an address has a host")?.trim_matches(['[', ']']).to_owned();
            builder = builder.dns_resolver(Arc::new(Fixed(host)));
            url.set_host(Some(name)).with_context(|| format!("CONSUL_TLS_SERVER_NAME {name:?}"))?;
        }
        Ok(if self.unverified { builder.tls_danger_accept_invalid_certs(true) } else { builder })
    }

    fn authorities(&self) -> Result<Vec<Certificate>> {
        let mut files = self.authorities.iter().cloned().collect::<Vec<_>>();
        if let (true, Some(directory)) = (files.is_empty(), &self.authorities_directory) {
            let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let listed = listed.with_context(|| format!("CONSUL_CAPATH {}", directory.display()))?;
            files.extend(listed.iter().map(std::fs::DirEntry::path).filter(|path| path.is_file()));
        }
        let mut authorities = Vec::new();
        for file in &files {
            let certificates = Certificate::from_pem_bundle(&read("the certificate", file)?)
                .with_context(|| format!("{} is no certificate in PEM", file.display()))?;
            ensure!(!certificates.is_empty(), "{} holds no certificate in PEM", file.display());
            authorities.extend(certificates);
        }
        Ok(authorities)
    }
}

/// Finds every name at one host.
struct Fixed(String);

impl Resolve for Fixed {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?.collect::<Vec<_>>();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// No proxy is to be asked for this host itself, whatever `HTTP_PROXY` says.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read(what: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{what} {}", file.display()))
}

fn boolean(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => bail!("{other:?} is neither true nor false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str, env: &[(&str, &str)]) -> Result<Settings> {
        Settings::new(address, |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_address_is_what_the_consul_command_takes_it_for() {
        let url = |url: &str| Address::Url(url.to_owned());
        for (address, ssl, expected) in [
            ("localhost:8500", "", url("http://localhost:8500")),
            ("localhost:8500", "true", url("https://localhost:8500")),
            ("http://10.0.0.1:1", "0", url("http://10.0.0.1:1")),
            ("http://10.0.0.1:1", "1", url("https://10.0.0.1:1")),
            ("https://consul.example.com", "false", url("https://consul.example.com")),
            ("unix:///run/consul.sock", "", Address::Unix("/run/consul.sock".into())),
        ] {
            assert_eq!(settings(address, &[("CONSUL_HTTP_SSL", ssl)]).unwrap().address, expected, "{address} {ssl}");
        }
        assert!(settings("ftp://a", &[]).is_err() && settings("http://", &[]).is_err());
    }

    #[test]
    fn half_a_setting_or_a_misspelt_one_is_an_error_that_names_it() {
        for (env, says) in [
            (("CONSUL_HTTP_SSL", "yes"), "CONSUL_HTTP_SSL"),
            (("CONSUL_HTTP_SSL_VERIFY", "no"), "CONSUL_HTTP_SSL_VERIFY"),
            (("CONSUL_CLIENT_KEY", "/key"), "CONSUL_CLIENT_CERT"),
        ] {
            let error = format!("{:#}", settings("a:1", &[env]).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        let missing = settings("https://a:1", &[("CONSUL_CACERT", "/no/such.pem")]).unwrap().client().unwrap_err();
        assert!(format!("{missing:#}").contains("/no/such.pem"));
    }

    #[test]
    fn what_is_shown_of_settings_holds_no_token() {
        let shown = format!("{:?}", settings("a:1", &[("CONSUL_HTTP_TOKEN", "sesame")]).unwrap());
        assert!(shown.contains("token") && !shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn every_kind_of_address_makes_a_client() {
        for (address, base) in [
            ("localhost:8500", "http://localhost:8500"),
            ("http://[::1]:8500/behind/a/path/", "http://[::1]:8500/behind/a/path"),
            ("unix:///run/consul.sock", "http://localhost"),
        ] {
            assert_eq!(settings(address, &[]).unwrap().client().unwrap().1, base);
        }
        let named = settings("https://10.0.0.1:8501", &[("CONSUL_TLS_SERVER_NAME", "server.dc1.consul")]).unwrap();
        assert_eq!(named.client().unwrap().1, "https://server.dc1.consul:8501");
    }
}
