//! Documents that nobody should write, by the thousand: what agents make of them is intent that can be trusted, or an
//! error that names a key.
//!
//! `SEED` repeats a run, which prints its own; `STORES` makes it a longer one.

use std::path::{Component, Path};

use fastrand::Rng;
use serde_json::{Value, json};
use store::intent::{App, Listing, NodeIntent};
use store::schema::IntentKey;
use store::{Document, Documents, NodeName, Revision, check, is_name};

const STORES: u64 = 3000;

/// Of two apps, so that they can get into each other's way, with all fields there are.
fn whole() -> Vec<(&'static str, Value)> {
    let config = |port: u16| {
        json!({
            "versions": {"1": "prep", "2": "active"},
            "artifacts": {"2": {"sha256": "0".repeat(64), "url": "https://repo/x.tar.gz"}},
            "min_nodes": 1,
            "user_config": {"port": port, "list": [1, 2.5, null], "deep": {"a": {"b": "c"}}},
            "health": {"http": {"port": port, "path": "/"}, "interval_seconds": 1, "deadline_seconds": 5},
            "stop_seconds": 1, "enable_seconds": 2, "disable_seconds": 3, "drain_seconds": 0.5,
        })
    };
    let deploy = |basedir: &str, port: u16| {
        json!({
            "basedir": basedir,
            "runas": "www",
            "ports": [port, {"port": port, "protocol": "udp", "source": "10.0.0.0/8"}],
            "allow_setuid": false,
            "limits": {"entries": 10, "total_bytes": 1000, "file_bytes": 100, "ratio": 10},
        })
    };
    vec![
        ("nodes/web1/slug", json!({"cluster": "dev", "hold": false})),
        ("nodes/web1/snail", json!({"cluster": "dev"})),
        ("clusters/slug/dev/config", config(80)),
        ("clusters/snail/dev/config", config(81)),
        ("clusters/slug/dev/deploy_config", deploy("/srv/slug", 80)),
        ("clusters/snail/dev/deploy_config", deploy("/srv/snail", 81)),
    ]
}

/// Such as are too small, too large, of another kind, or lead somewhere.
const ODD_VALUES: [&str; 30] = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "65536",
    "18446744073709551615",
    "1e308",
    "0.1",
    r#""""#,
    r#""/""#,
    r#""/srv""#,
    r#""/srv/slug""#,
    r#""/srv/slug/.""#,
    r#""/srv/../srv/slug/a""#,
    r#""../x""#,
    r#""a\u0000b""#,
    r#""a\nb""#,
    r#""ä""#,
    r#""dev""#,
    r#""active""#,
    r#""http://user:secret@repo/a?b#c""#,
    r#""0.0.0.0/0""#,
    r#""::/0""#,
    "[]",
    "{}",
    r#"["active"]"#,
    r#"{"": ""}"#,
    r#"{"1": "active"}"#,
    r#"{"../1": "active"}"#,
];

fn odd_value(random: &mut Rng) -> Value {
    match random.usize(..ODD_VALUES.len() + 2) {
        at if at < ODD_VALUES.len() => serde_json::from_str(ODD_VALUES[at]).expect("it is JSON"),
        at if at == ODD_VALUES.len() => json!("a".repeat(random.usize(..5000))),
        _ => (0..random.u32(..100)).fold(json!(0), |inner, _| Value::Array(vec![inner])),
    }
}

/// Changes something somewhere in `value`.
fn change(random: &mut Rng, value: &mut Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() && random.u8(..8) > 0 => {
            let field = fields.keys().nth(random.usize(..fields.len())).expect("it has so many").clone();
            match random.u8(..8) {
                0 => drop(fields.remove(&field)),
                1 => drop(fields.insert(format!("{field}x"), odd_value(random))),
                _ => change(random, &mut fields[&field]),
            }
        }
        Value::Array(items) if !items.is_empty() && random.u8(..4) > 0 => {
            let at = random.usize(..items.len());
            change(random, &mut items[at]);
        }
        other => *other = odd_value(random),
    }
}

/// What a store holds of `value`: as a rule its text, or some that is no JSON, or says something twice.
fn text(random: &mut Rng, value: &Value) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    match random.u8(..30) {
        0 => text.truncate(random.usize(..=text.len())),
        1 if !text.is_empty() => {
            let at = random.usize(..text.len());
            text[at] = random.u8(..);
        }
        2 => text = String::from_utf8_lossy(&text).replacen('{', r#"{"versions": {}, "basedir": "/x", "#, 1).into(),
        3 => text = String::from_utf8_lossy(&text).replace(r#""2":"#, r#""1":"#).into(),
        4 => text.clear(),
        _ => {}
    }
    text
}

fn any_documents(random: &mut Rng) -> Documents {
    let mut documents = Documents::new();
    for (key, mut value) in whole() {
        for _ in 0..[0, 0, 0, 0, 0, 1, 1, 2][random.usize(..8)] {
            change(random, &mut value);
        }
        let document = Document { bytes: text(random, &value), revision: Revision(String::new()) };
        let key = if random.u8(..40) == 0 { key.replace("snail", "slug/x") } else { key.to_owned() };
        match random.u8(..40) {
            0 => {}
            1 => drop(documents.insert(key, Err("permission denied".to_owned()))),
            _ => drop(documents.insert(key, Ok(document))),
        }
    }
    documents
}

/// Asserts of a valid app what those rely on who write with root's rights what it says.
fn is_safe(app: &App, documents: &Documents) {
    let basedir = app.basedir.path();
    assert!(basedir.is_absolute() && basedir.components().count() > 1, "{basedir:?}");
    assert!(basedir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))), "{basedir:?}");
    assert!(!app.basedir.as_str().contains(['\0', '\n']), "{basedir:?}");
    assert!(app.versions().all(|version| is_name(version.as_str())));
    for key in [
        IntentKey::Node("web1".parse().expect("a name"), app.name.clone()),
        IntentKey::Config(app.name.clone(), app.cluster.clone()),
        IntentKey::DeployConfig(app.name.clone(), app.cluster.clone()),
    ] {
        let document = documents[key.key().as_str()].as_ref().expect("it can be read");
        key.check(&document.bytes).expect("whoever wrote it was told that it is right");
        if let IntentKey::Config(..) = key {
            let written = serde_json::from_slice::<Value>(&document.bytes).expect("it is JSON");
            let given = Value::Object(app.user_config.clone());
            assert_eq!(written.get("user_config").unwrap_or(&json!({})), &given, "the app gets what was written");
        }
    }
}

fn try_one(seed: u64) -> usize {
    let documents = any_documents(&mut Rng::with_seed(seed));
    let node = "web1".parse::<NodeName>().expect("a name");
    let NodeIntent { apps, strays } = Listing::new(&node, &documents).intent(&documents);
    let named = ["slug", "snail"].into_iter().filter(|app| documents.contains_key(&format!("nodes/web1/{app}")));
    assert_eq!(apps.keys().map(store::AppName::as_str).collect::<Vec<_>>(), named.collect::<Vec<_>>());
    let (valid, invalid) = apps.values().partition::<Vec<_>, _>(|app| app.is_ok());
    let valid = valid.into_iter().flatten().collect::<Vec<_>>();
    valid.iter().for_each(|app| is_safe(app, &documents));
    let inside = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    if let [one, other] = valid[..] {
        assert!(!inside(one.basedir.path(), other.basedir.path()), "{:?} and {:?}", one.basedir, other.basedir);
    }
    for error in invalid.into_iter().filter_map(|app| app.as_ref().err()).chain(&strays) {
        assert!(error.key.starts_with("nodes/web1/") || error.key.starts_with("clusters/s"), "{error}");
        let text = error.to_string();
        assert!(!error.reason.is_empty() && text.len() < 1000 && !text.contains(['\n', '\0']), "{text:?}");
    }
    for finding in check::check(&documents) {
        let text = format!("{}{}", finding.reason, finding.advice);
        assert!(text.len() < 2000 && !text.contains(['\n', '\0']), "{text:?}");
    }
    valid.len()
}

#[test]
fn whatever_documents_hold_what_comes_of_them_is_safe_or_an_error_that_names_its_key() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let stores = number("STORES").unwrap_or(STORES);
    println!("SEED={seed}");
    let valid = (0..stores).map(|n| seed.wrapping_add(n)).map(|seed| {
        std::panic::catch_unwind(|| try_one(seed)).unwrap_or_else(|_| panic!("SEED={seed} STORES=1 repeats it"))
    });
    let share = valid.sum::<usize>() as u64 * 100 / (stores * 2);
    println!("{share} of a hundred apps are valid");
    assert!(stores < STORES || (5..95).contains(&share), "neither nearly all nor nearly none: {share} of a hundred");
}
