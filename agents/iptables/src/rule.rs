//! One rule of our chain: whose it is, and what it lets through. Its text is what `iptables-save` prints after
//! `-A PLATYPUS `.
//!
//! Ensures: what we render is what the save shows of it, so that a further pass finds nothing to do (measured on iptables
//! 1.8.9, nft and legacy); what is read is compared by what it means, so that another way to write an address is no
//! difference. Assumes nothing about a rule that somebody else wrote.

use std::fmt;

use converge::Source;
use ipnet::IpNet;
use store::schema::{Port, Protocol};
use store::{AppName, ClusterName, NodeName};

/// What begins the comment of each rule that we have for all apps together. No app has a colon in its name.
const OURS: &str = "platypus: ";

const DIRECT: &str = " (direct)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Whose a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) app: AppName,
    pub(crate) cluster: ClusterName,
    pub(crate) source: Source,
}

/// As it stands in the comment of each of its rules: `slug/dev`, or `slug/dev (direct)`. The kernel takes 255 bytes, and no name
/// is longer than 100.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.app, self.cluster, mark(self.source))
    }
}

impl Owner {
    pub(crate) fn read(comment: &str) -> Option<Self> {
        let (name, source) = unmark(comment);
        let (app, cluster) = name.split_once('/')?;
        Some(Self { app: app.parse().ok()?, cluster: cluster.parse().ok()?, source })
    }
}

pub(crate) fn mark(source: Source) -> &'static str {
    match source {
        Source::Store => "",
        Source::Direct => DIRECT,
    }
}

pub(crate) fn unmark(text: &str) -> (&str, Source) {
    text.strip_suffix(DIRECT).map_or((text, Source::Store), |name| (name, Source::Direct))
}

/// What a rule is, to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It lets this port through for an app; `None` when it is not as we would have written it.
    App(Owner, Option<Port>),
    /// It lets nothing through, and says whose an app is that has no ports here: what another source had opened for it
    /// would come back otherwise.
    Claim(Owner),
    /// It does nothing but say for which node the rules of a source are.
    Node(NodeName, Source),
    /// Of the end of a chain that drops by default.
    End,
    /// It names no app: somebody wrote into our chain.
    Foreign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) text: String,
    pub(crate) meaning: Meaning,
}

impl Rule {
    pub(crate) fn read(text: &str) -> Self {
        Self { text: text.to_owned(), meaning: meaning(text) }
    }

    /// Lets `port` through, which is as [`in_family`] gave it.
    pub(crate) fn open(owner: &Owner, port: Port) -> Self {
        let from = port.source.map(|source| format!("-s {source} ")).unwrap_or_default();
        let (protocol, number) = (word(port.protocol), port.port);
        let text =
            format!(r#"{from}-p {protocol} -m {protocol} --dport {number} -m comment --comment "{owner}" -j ACCEPT"#);
        Self { text, meaning: Meaning::App(owner.clone(), Some(port)) }
    }

    /// Says that an app is `owner`'s.
    pub(crate) fn claim(owner: &Owner) -> Self {
        let text = format!(r#"-m comment --comment "{owner}""#);
        Self { text, meaning: Meaning::Claim(owner.clone()) }
    }

    /// Says that the rules of `source` are `node`'s.
    pub(crate) fn node(node: &NodeName, source: Source) -> Self {
        let text = format!(r#"-m comment --comment "{OURS}node {node}{}""#, mark(source));
        Self { text, meaning: Meaning::Node(node.clone(), source) }
    }

    /// One that ends a chain: `what`, with `why` as its comment, then `verdict`.
    pub(crate) fn end(what: &str, why: &str, verdict: &str) -> Self {
        let text = format!(r#"{what}-m comment --comment "{OURS}{why}" -j {verdict}"#);
        Self { text, meaning: Meaning::End }
    }

    pub(crate) fn owner(&self) -> Option<&Owner> {
        match &self.meaning {
            Meaning::App(owner, _) | Meaning::Claim(owner) => Some(owner),
            Meaning::Node(..) | Meaning::End | Meaning::Foreign => None,
        }
    }
}

/// The port as a rule of `family` lets it through; `None` when that family has no such source.
pub(crate) fn in_family(port: &Port, family: Family) -> Option<Port> {
    let source = match (port.source, family) {
        (None, _) => None,
        // From anywhere in one family: a save shows no source at all.
        (Some(IpNet::V4(net)), Family::V4) => (net.prefix_len() > 0).then_some(IpNet::V4(net)),
        (Some(IpNet::V6(net)), Family::V6) => (net.prefix_len() > 0).then_some(IpNet::V6(net)),
        (Some(IpNet::V4(_)), Family::V6) | (Some(IpNet::V6(_)), Family::V4) => return None,
    };
    Some(Port { source, ..port.clone() })
}

pub(crate) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn meaning(text: &str) -> Meaning {
    let words = words(text);
    let comment = words.windows(2).find_map(|pair| (pair[0] == "--comment").then_some(pair[1]));
    if let Some(ours) = comment.and_then(|comment| comment.strip_prefix(OURS)) {
        let (text, source) = unmark(ours);
        let node = text.strip_prefix("node ").and_then(|name| name.parse().ok());
        return node.map_or(Meaning::End, |node| Meaning::Node(node, source));
    }
    match comment.and_then(Owner::read) {
        Some(owner) if matches!(words[..], ["-m", "comment", "--comment", _]) => Meaning::Claim(owner),
        Some(owner) => Meaning::App(owner, port(&words)),
        None => Meaning::Foreign,
    }
}

fn port(words: &[&str]) -> Option<Port> {
    let (source, rest) = match words {
        ["-s", net, rest @ ..] => (Some(net.parse::<IpNet>().ok()?), rest),
        rest => (None, rest),
    };
    let ["-p", protocol, "-m", module, "--dport", number, "-m", "comment", "--comment", _, "-j", "ACCEPT"] = rest
    else {
        return None;
    };
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| word(*known) == *protocol)?;
    let source = source.filter(|net| net.prefix_len() > 0);
    (word(protocol) == *module).then_some(Port { port: number.parse().ok()?, protocol, source })
}

/// The words of a rule, what is in double quotes as one. A backslash stays, before what it escapes: no comment of ours
/// has any.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::with_capacity(16);
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    // No byte of a longer character is one of these.
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted => {
                words.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&text[start..]);
    words.into_iter().filter(|word| !word.is_empty()).map(|word| word.trim_matches('"')).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(comment: &str) -> Owner {
        Owner::read(comment).unwrap()
    }

    #[test]
    fn the_kernel_takes_a_comment_of_the_longest_names() {
        let name = "a".repeat(100);
        assert!(owner(&format!("{name}/{name} (direct)")).to_string().len() < 256);
        assert_eq!(Owner::read(&format!("{name}a/dev")), None);
    }

    #[test]
    fn rules_are_rendered_as_a_save_shows_them() {
        let table = [
            (r#"{"port": 80}"#, r#"-p tcp -m tcp --dport 80 -m comment --comment "slug/dev" -j ACCEPT"#),
            (
                r#"{"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}"#,
                r#"-s 10.0.0.0/8 -p udp -m udp --dport 53 -m comment --comment "slug/dev" -j ACCEPT"#,
            ),
            (
                r#"{"port": 53, "source": "10.1.2.3/32"}"#,
                r#"-s 10.1.2.3/32 -p tcp -m tcp --dport 53 -m comment --comment "slug/dev" -j ACCEPT"#,
            ),
            (
                r#"{"port": 53, "source": "0.0.0.0/0"}"#,
                r#"-p tcp -m tcp --dport 53 -m comment --comment "slug/dev" -j ACCEPT"#,
            ),
        ];
        for (port, text) in table {
            let port = in_family(&serde_json::from_str(port).unwrap(), Family::V4).unwrap();
            let rule = Rule::open(&owner("slug/dev"), port);
            assert_eq!(rule.text, text);
            assert_eq!(Rule::read(text), rule);
        }
    }

    #[test]
    fn a_source_is_of_one_family_and_anything_else_of_both() {
        let port = |source: Option<&str>| Port {
            port: 1,
            protocol: Protocol::Tcp,
            source: source.map(|source| source.parse().unwrap()),
        };
        let both = |source| [Family::V4, Family::V6].map(|family| in_family(&port(source), family));
        assert_eq!(both(None), [Some(port(None)), Some(port(None))]);
        assert_eq!(both(Some("0.0.0.0/0")), [Some(port(None)), None]);
        assert_eq!(both(Some("::/0")), [None, Some(port(None))]);
        assert_eq!(both(Some("fd00::/8")), [None, Some(port(Some("fd00::/8")))]);
    }

    #[test]
    fn another_way_to_write_an_address_means_the_same() {
        let rule = |net: &str| {
            Rule::read(&format!(r#"-s {net} -p tcp -m tcp --dport 1 -m comment --comment "a/b" -j ACCEPT"#)).meaning
        };
        // As glibc writes it, and as we would.
        assert_eq!(rule("::10.0.0.0/104"), rule("::a00:0/104"));
    }

    #[test]
    fn what_is_not_as_we_write_it_is_still_its_apps_or_nobodys() {
        let meaning = |text: &str| Rule::read(text).meaning;
        let table = [
            (r#"-p tcp -m tcp --dport 80:90 -m comment --comment "slug/dev" -j ACCEPT"#, Some("slug/dev")),
            (r#"-p tcp -m comment --comment "slug/dev (direct)" -j DROP"#, Some("slug/dev (direct)")),
            (r"-s 10.0.0.0/8 -j ACCEPT", None),
            (r#"-m comment --comment "say \" -j slug/dev" -j ACCEPT"#, None),
            (r#"-m comment --comment "../dev" -j ACCEPT"#, None),
            ("", None),
            (r#"""#, None),
        ];
        for (text, expected) in table {
            let expected = expected.map_or(Meaning::Foreign, |comment| Meaning::App(owner(comment), None));
            assert_eq!(meaning(text), expected, "{text}");
        }
        let end = Rule::end("-i lo ", "loopback", "ACCEPT");
        assert_eq!(Rule::read(&end.text), end);
        let claim = Rule::claim(&owner("slug/dev"));
        assert_eq!(Rule::read(&claim.text), claim);
        let node = Rule::node(&"web1".parse().unwrap(), Source::Direct);
        assert_eq!(Rule::read(&node.text), node);
    }

    proptest! {
        #[test]
        fn whatever_somebody_wrote_is_read(text in r#"[-a-z "\\'é/:0-9]{0,40}"#) {
            prop_assert_eq!(&Rule::read(&text).text, &text);
        }

        #[test]
        fn what_is_rendered_is_read_back(
            number in 1u16.., udp: bool, v6: bool, address: u128, prefix in 0u8..=32, app in "[a-z][a-z0-9._-]{0,9}",
        ) {
            let net = if v6 {
                IpNet::new(std::net::Ipv6Addr::from(address).into(), prefix * 4).unwrap()
            } else {
                IpNet::new(std::net::Ipv4Addr::from(address as u32).into(), prefix).unwrap()
            };
            let family = if v6 { Family::V6 } else { Family::V4 };
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let port = in_family(&Port { port: number, protocol, source: Some(net.trunc()) }, family).unwrap();
            let rule = Rule::open(&owner(&format!("{app}/dev")), port);
            prop_assert_eq!(Rule::read(&rule.text), rule);
        }
    }
}
