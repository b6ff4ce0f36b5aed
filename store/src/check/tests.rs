use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::intent::Listing;
use crate::{Document, NodeName, Revision};

/// Two nodes that run `slug` in its cluster `dev`.
const SLUG: [(&str, &str); 4] = [
    ("nodes/web1/slug", r#"{"cluster": "dev"}"#),
    ("nodes/web2/slug", r#"{"cluster": "dev", "hold": true}"#),
    ("clusters/slug/dev/config", r#"{"versions": {"1": "prep", "2": "active"}, "min_nodes": 1}"#),
    ("clusters/slug/dev/deploy_config", r#"{"basedir": "/srv/slug", "ports": [80, {"port": 80, "protocol": "udp"}]}"#),
];
const CONFIG: &str = "clusters/slug/dev/config";
const DEPLOY: &str = "clusters/slug/dev/deploy_config";

fn document(bytes: &[u8]) -> Result<Document, String> {
    Ok(Document { bytes: bytes.into(), revision: Revision(String::new()) })
}

/// `SLUG` with these documents in place of its own; without those that are to be `-`.
fn with(entries: &[(&str, &str)]) -> Documents {
    let mut documents = Documents::new();
    for (key, text) in SLUG.iter().chain(entries) {
        match *text {
            "-" => drop(documents.remove(*key)),
            text => drop(documents.insert((*key).to_owned(), document(text.as_bytes()))),
        }
    }
    documents
}

/// The one finding.
#[track_caller]
fn only(documents: &Documents) -> Finding {
    let findings = check(documents);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.into_iter().next().unwrap()
}

const BOTH: &[&str] = &["nodes/web1/slug", "nodes/web2/slug"];

#[test]
fn what_is_right_has_no_finding() {
    let more = [
        ("locks/slug/dev/shutdown", "no JSON of ours"),
        ("reality/web1/setlive", ""),
        ("instances/slug/dev/web1", ""),
        ("history/2026-11-22", "[]"),
        ("nodes/web3/other", r#"{"cluster": "dev"}"#),
        ("clusters/other/dev/config", r#"{"versions": {}}"#),
        ("clusters/other/dev/deploy_config", r#"{"basedir": "/srv/slug", "ports": [80]}"#),
    ];
    assert_eq!(check(&with(&more)), []);
    assert_eq!(check(&Documents::new()), []);
}

#[test]
fn each_fault_is_one_finding_under_the_key_that_has_to_be_changed() {
    use Severity::{Invalid, Suspicious};
    type Row<'a> = (&'a [(&'a str, &'a str)], Severity, &'a str, &'a str, &'a [&'a str]);
    let other = |deploy: &'static str| {
        [
            ("nodes/web1/tool", r#"{"cluster": "dev"}"#),
            ("clusters/tool/dev/config", r#"{"versions": {}}"#),
            ("clusters/tool/dev/deploy_config", deploy),
        ]
    };
    let (inside, equal, around) = (
        other(r#"{"basedir": "/srv/slug/tool"}"#),
        other(r#"{"basedir": "/srv/slug"}"#),
        other(r#"{"basedir": "/srv"}"#),
    );
    let port = other(r#"{"basedir": "/srv/tool", "ports": [{"port": 80, "source": "10.0.0.0/8"}]}"#);
    const TOOL: &str = "clusters/tool/dev/deploy_config";
    let table: [Row; 25] = [
        (
            &[(CONFIG, r#"{"versions": {"1": "active", "2": "active"}}"#)],
            Invalid,
            CONFIG,
            "two active versions, 1 and 2",
            BOTH,
        ),
        (&[(CONFIG, "")], Invalid, CONFIG, "the document is empty", BOTH),
        (&[(CONFIG, "{}")], Invalid, CONFIG, "missing field `versions`", BOTH),
        (&[(DEPLOY, r#"{"basedir": "srv"}"#)], Invalid, DEPLOY, "not an absolute path", BOTH),
        (&[(DEPLOY, "-")], Invalid, DEPLOY, "there is no such document", BOTH),
        (&[("nodes/web1/slug", "[]")], Invalid, "nodes/web1/slug", "expected a JSON object", &BOTH[..1]),
        (&[("nodes/web3/slug", "")], Invalid, "nodes/web3/slug", "the document is empty", &["nodes/web3/slug"]),
        (
            &[("nodes/web3/slug", r#"{"cluster": "live"}"#)],
            Invalid,
            "nodes/web3/slug",
            "there are no documents of cluster live of slug",
            &["nodes/web3/slug"],
        ),
        (
            &inside,
            Invalid,
            TOOL,
            "basedir /srv/slug/tool is inside that of clusters/slug/dev/deploy_config",
            &["nodes/web1/slug", "nodes/web1/tool"],
        ),
        (
            &equal,
            Invalid,
            TOOL,
            "basedir /srv/slug is that of clusters/slug/dev/deploy_config, /srv/slug, on web1",
            &["nodes/web1/slug", "nodes/web1/tool"],
        ),
        (
            &around,
            Invalid,
            DEPLOY,
            "is inside that of clusters/tool/dev/deploy_config",
            &["nodes/web1/slug", "nodes/web1/tool"],
        ),
        (&[("nodes/web1/.x", "{}")], Invalid, "nodes/web1/.x", "\".x\" is not a name", &[]),
        (&[("clusters/../dev/config", "{}")], Invalid, "clusters/../dev/config", "is not a name", &[]),
        (&port, Suspicious, TOOL, "port 80/tcp is wanted by clusters/slug/dev/deploy_config, too, on web1", &[]),
        (
            &[(DEPLOY, r#"{"basedir": "/srv/slug", "ports": [80, {"port": 80, "source": "10.0.0.0/8"}]}"#)],
            Suspicious,
            DEPLOY,
            "port 80/tcp is there twice",
            &[],
        ),
        (&[("nodes/web2/slug", "-")], Suspicious, CONFIG, "min_nodes 1 can never be met: the cluster has 1 node,", &[]),
        (
            &[("nodes/web2/slug", r#"{"cluster": "dev", "drain": true}"#)],
            Suspicious,
            CONFIG,
            "min_nodes 1 can never be met: the cluster has 1 node beside 1 drained,",
            &[],
        ),
        (
            &[("clusters/slug/live/config", r#"{"versions": {}}"#)],
            Suspicious,
            "clusters/slug/live/config",
            "no node points at cluster live of slug",
            &[],
        ),
        (
            &[("clusters/slug/live/deploy_config", r#"{"basedir": "/a"}"#)],
            Suspicious,
            "clusters/slug/live/deploy_config",
            "no node points at",
            &[],
        ),
        (
            &[(CONFIG, r#"{"versions": {}, "min_node": 1}"#)],
            Suspicious,
            CONFIG,
            "no agent knows the field \"min_node\"",
            &[],
        ),
        (
            &[(CONFIG, r#"{"versions": {}, "user_config": {"a": {"b": 1, "b": 2}}}"#)],
            Suspicious,
            CONFIG,
            "user_config.a.b is there twice",
            &[],
        ),
        (
            &[(CONFIG, r#"{"versions": {"1": "prep"}, "artifacts": {"1": {}, "2": {}, "3": {}}}"#)],
            Suspicious,
            CONFIG,
            "\"artifacts\" has 2, 3, and \"versions\" has not",
            &[],
        ),
        (&[("clusters/slug/dev/confg", "{}")], Suspicious, "clusters/slug/dev/confg", "no key of intent", &[]),
        (&[("cluster/slug/dev/config", "{}")], Suspicious, "cluster/slug/dev/config", "no key of intent", &[]),
        (&[("nodes/web1", "{}")], Suspicious, "nodes/web1", "no key of intent", &[]),
    ];
    for (entries, severity, key, reason, holds) in table {
        let finding = only(&with(entries));
        assert_eq!((finding.severity, finding.key.as_str()), (severity, key), "{finding:?}");
        assert!(finding.reason.contains(reason), "{finding:?}");
        assert_eq!(finding.holds, holds, "{finding:?}");
        assert_eq!(finding.position, None, "{finding:?}");
    }
}

#[test]
fn where_json_breaks_is_said() {
    for (text, line, column) in
        [("{\"versions\": {},\n  \"min_nodes\" 1}", 2, 15), ("{\"versions\": {", 1, 14), ("}", 1, 1)]
    {
        let finding = only(&with(&[(CONFIG, text)]));
        assert_eq!(finding.position, Some(Position { line, column }), "{text}");
        assert!(finding.reason.starts_with("this is not JSON: ") && !finding.reason.contains(" line "), "{finding:?}");
    }
    for text in
        [&b"{\n\"versions\": {\"\xff\": \"prep\"}}"[..], b"{\n\"versions\": \"\xff\"}", b"{\n\"unknown\":   \"\xff\"}"]
    {
        let mut documents = with(&[]);
        documents.insert(CONFIG.to_owned(), document(text));
        let finding = only(&documents);
        let column = text.iter().position(|byte| *byte == 0xff).unwrap() - 1;
        assert_eq!(finding.position, Some(Position { line: 2, column }), "{finding:?}");
        assert_eq!(finding.reason, "this is not JSON: invalid UTF-8");
    }
}

#[test]
fn of_what_cannot_be_read_nothing_more_is_said() {
    let unreadable = |key: &str, without: &[&str]| {
        let mut documents = with(&[]);
        without.iter().for_each(|key| drop(documents.remove(*key)));
        documents.insert(key.to_owned(), Err("permission denied".to_owned()));
        only(&documents)
    };
    assert_eq!(unreadable("nodes/web1/slug", &[]).holds, BOTH[..1]);
    assert_eq!(unreadable("nodes/", BOTH).holds, [""; 0]);
    assert_eq!(unreadable("nodes/web1/", &BOTH[..1]).holds, [""; 0]);
    assert_eq!(unreadable(CONFIG, &[]).holds, BOTH);
    assert_eq!(unreadable("clusters/slug/dev/", &[CONFIG]).holds, BOTH);
    assert_eq!(unreadable("clusters/", &[CONFIG, DEPLOY]).holds, BOTH);
    // One document was found all the same, below a directory of which others may be missing.
    assert_eq!(unreadable("clusters/slug/dev/", &[]).holds, [""; 0]);
}

#[test]
fn a_node_that_may_be_in_a_cluster_counts_as_in_it() {
    for text in ["", r#"{"cluster": "dev","#, r#"{"clustr": "dev"}"#, r#"{"cluster": 1}"#, r#"{"cluster": }"#] {
        assert_eq!(only(&with(&[("nodes/web1/slug", "-"), ("nodes/web2/slug", text)])).key, "nodes/web2/slug");
    }
}

#[test]
fn a_fault_that_many_nodes_share_is_one_finding() {
    let mut documents = with(&[
        (CONFIG, "{"),
        ("clusters/tool/dev/config", r#"{"versions": {}}"#),
        ("clusters/tool/dev/deploy_config", r#"{"basedir": "/srv/slug/x", "ports": [80]}"#),
    ]);
    for node in 1..=40 {
        for app in ["slug", "tool"] {
            documents.insert(format!("nodes/web{node}/{app}"), document(br#"{"cluster": "dev"}"#));
        }
    }
    let findings = check(&documents);
    let seen = findings.iter().map(|finding| (finding.key.as_str(), finding.holds.len())).collect::<Vec<_>>();
    assert_eq!(seen, [(CONFIG, 40), ("clusters/tool/dev/deploy_config", 80), ("clusters/tool/dev/deploy_config", 0)]);
    assert!(findings[1].reason.contains("on web1, web10, web11 and 37 more"), "{:?}", findings[1]);
}

#[test]
fn versions_of_valid_configs_are_asked_for_and_what_is_missing_has_the_configs_key() {
    let documents = with(&[
        ("clusters/slug/live/config", r#"{"versions": {"3": "active", "4": "active"}}"#),
        (
            "clusters/slug/prod/config",
            r#"{"versions": {"5": "active"}, "artifacts": {"5": {"url": "https://elsewhere/5.tar.gz"}}}"#,
        ),
        ("clusters/slug/test/config", "{"),
    ]);
    let versions = versions(&documents);
    let repo = "http://repo".parse().unwrap();
    let found = versions.iter().map(|named| named.missing_from(&repo)).map(|f| (f.severity, f.key, f.reason));
    let text = "is not in the repository: there is no http://repo/slug/slug_";
    let expected = [
        (Severity::Suspicious, CONFIG.to_owned(), format!("version 1 {text}1.tar.gz")),
        (Severity::Invalid, CONFIG.to_owned(), format!("the active version 2 {text}2.tar.gz")),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// Documents that are right, wrong, missing or unreadable, for two nodes and two apps with two clusters each.
fn any_documents() -> impl Strategy<Value = Documents> {
    let node = prop::sample::select(vec!["", "{", r#"{"cluster": 1}"#, r#"{"cluster": "a"}"#, r#"{"cluster": "b"}"#]);
    let config = prop::sample::select(vec![
        "",
        "[]",
        r#"{"versions": {}}"#,
        r#"{"versions": {"1": "active"}, "min_nodes": 1}"#,
        r#"{"versions": {"1": "active", "2": "active"}}"#,
    ]);
    let deploy = prop::sample::select(vec![
        "{}",
        r#"{"basedir": "/a", "ports": [1]}"#,
        r#"{"basedir": "/a/b", "ports": [1, 2]}"#,
        r#"{"basedir": "/c"}"#,
    ]);
    let keys = |kind: &'static str, names: [&'static str; 2]| {
        names.into_iter().flat_map(move |first| ["x", "y"].map(|app| (kind, first, app))).collect::<Vec<_>>()
    };
    let entry = prop_oneof![
        (prop::sample::select(keys("nodes", ["n1", "n2"])), node)
            .prop_map(|((_, n, a), text)| (format!("nodes/{n}/{a}"), Some(text))),
        (prop::sample::select(keys("clusters", ["a", "b"])), config)
            .prop_map(|((_, c, a), text)| (format!("clusters/{a}/{c}/config"), Some(text))),
        (prop::sample::select(keys("clusters", ["a", "b"])), deploy)
            .prop_map(|((_, c, a), text)| (format!("clusters/{a}/{c}/deploy_config"), Some(text))),
        prop::sample::select(vec!["clusters/x/a/", "clusters/x/a/config", "clusters/", "nodes/n1/x", "nodes/n1/"])
            .prop_map(|key| (key.to_owned(), None)),
    ];
    prop::collection::vec(entry, 0..24).prop_map(|entries| {
        let read = |text: Option<&str>| text.map_or(Err("unreadable".to_owned()), |text| document(text.as_bytes()));
        entries.into_iter().map(|(key, text)| (key, read(text))).collect()
    })
}

proptest! {
    #[test]
    fn whatever_a_store_holds_is_checked(
        entries in prop::collection::btree_map(
            "(nodes/|clusters/|)([a-b./]|config|deploy_config|\\PC){0,6}/?",
            (prop::collection::vec(prop::num::u8::ANY, 0..20), prop::bool::ANY),
            0..8,
        ),
    ) {
        let read = |bytes: Vec<u8>, can_be_read: bool| if can_be_read { document(&bytes) } else { Err("no".to_owned()) };
        let documents = entries.into_iter().map(|(key, (bytes, can))| (key, read(bytes, can))).collect();
        for finding in check(&documents) {
            prop_assert!(!finding.reason.is_empty() && !finding.advice.is_empty());
        }
    }

    #[test]
    fn an_app_is_held_if_and_only_if_a_finding_says_so(documents in any_documents()) {
        let mut held = BTreeSet::new();
        for node in ["n1", "n2"] {
            let node = node.parse::<NodeName>().unwrap();
            let intent = Listing::new(&node, &documents).intent(&documents);
            held.extend(intent.apps.into_iter().filter(|(_, app)| app.is_err()).map(|(app, _)| format!("nodes/{node}/{app}")));
        }
        let findings = check(&documents);
        prop_assert_eq!(findings.iter().flat_map(|f| f.holds.clone()).collect::<BTreeSet<_>>(), held);
        let once = findings.iter().map(|f| (&f.key, &f.reason)).collect::<BTreeSet<_>>();
        prop_assert_eq!(once.len(), findings.len());
        prop_assert!(findings.iter().all(|f| f.severity == Severity::Invalid || f.holds.is_empty()));
    }
}
