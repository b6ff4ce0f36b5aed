//! A store of a test's own, of either kind.
#![allow(
    dead_code,
    unreachable_pub,
    unused_macros,
    reason = "each test program has this as a module, and uses another part of it"
)]

pub mod command;

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use fixtures::{Consul, Scratch};
use serde_json::{Value, json};
use store::{Document, Documents, Key, Prefix, Store};

/// Runs each of these tests against both stores.
macro_rules! on_both_stores {
    ($($test:ident)*) => {
        mod consul {
            $(#[test] fn $test() { super::$test(&super::Place::consul()); })*
        }
        mod directory {
            $(#[test] fn $test() { super::$test(&super::Place::directory()); })*
        }
    };
}

/// Runs each of these asynchronous tests against both stores.
macro_rules! on_both_stores_async {
    ($($test:ident)*) => {
        mod consul {
            $(#[tokio::test] async fn $test() { super::$test(super::Place::consul()).await })*
        }
        mod directory {
            $(#[tokio::test] async fn $test() { super::$test(super::Place::directory()).await })*
        }
    };
}

/// For whatever must happen: a test machine may be slow.
pub const SOON: Duration = Duration::from_secs(20);
/// For whatever must not happen: long against the milliseconds in which it would.
pub const QUIET: Duration = Duration::from_millis(200);

/// Where a store is. Its server ends with it.
pub struct Place {
    pub consul: Option<Consul>,
    pub scratch: Scratch,
    pub url: String,
}

impl Place {
    pub fn directory() -> Self {
        let scratch = Scratch::new();
        let root = scratch.path().join("intent");
        fs::create_dir(&root).unwrap();
        Self { url: format!("file:{}", root.display()), consul: None, scratch }
    }

    pub fn consul() -> Self {
        Self::consul_with("{}")
    }

    pub fn consul_with(config: &str) -> Self {
        let scratch = Scratch::new();
        let consul = Consul::start_with(&scratch, config);
        Self { url: consul.url(), consul: Some(consul), scratch }
    }

    /// One in which the anonymous token has no rights, and `root` has all.
    pub fn consul_with_access_control() -> Self {
        Self::consul_with(r#"{"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}}"#)
    }

    /// A new token with the rights of these rules, where there is access control.
    pub fn token(&self, rules: &str) -> String {
        let put = |path: &str, body: Value| {
            let answer = self.consul.as_ref().unwrap().http("PUT", path, body.to_string().as_bytes());
            assert_eq!(answer.0, 200, "{}", answer.1);
            serde_json::from_str::<Value>(&answer.1).unwrap()
        };
        let policy = put("/v1/acl/policy", json!({"Name": rules.len().to_string(), "Rules": rules}));
        let token = put("/v1/acl/token", json!({"Policies": [{"ID": policy["ID"]}]}));
        token["SecretID"].as_str().unwrap().to_owned()
    }

    pub fn store(&self) -> Store {
        Store::open(Some(&self.url)).unwrap()
    }

    /// The directory store's root.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("intent")
    }

    /// Puts `{}` into Consul under a key that its URLs cannot spell.
    pub fn write_odd(&self, key: &str) {
        let consul = self.consul.as_ref().unwrap();
        let set = json!([{"KV": {"Verb": "set", "Key": key, "Value": "e30="}}]);
        assert_eq!(consul.http("PUT", "/v1/txn", set.to_string().as_bytes()).0, 200, "{key:?}");
    }

    /// Writes as people do, past our own code: with an editor, with curl.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        match &self.consul {
            Some(consul) => {
                let answer = consul.http("PUT", &format!("/v1/kv/{}", name.replace(' ', "%20")), bytes);
                assert_eq!((answer.0, answer.1.trim()), (200, "true"));
            }
            None => {
                let path = self.root().join(format!("{name}.json"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
    }
}

pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

pub async fn put(store: &Store, name: &str, text: &str) {
    store.put(&key(name), text.as_bytes()).await.unwrap();
}

pub async fn get(store: &Store, name: &str) -> Option<Document> {
    store.get(&key(name)).await.unwrap()
}

/// What a document says, if it is there.
pub async fn text(store: &Store, name: &str) -> Option<String> {
    get(store, name).await.map(|document| String::from_utf8(document.bytes).unwrap())
}

/// What is under some prefixes: keys and texts.
pub async fn listing(store: &Store, prefixes: &[&str]) -> Vec<(String, String)> {
    let prefixes = prefixes.iter().map(|text| prefix(text)).collect::<Vec<_>>();
    let (documents, _) = store.read(&prefixes).await.unwrap();
    documents.into_iter().map(|(key, document)| (key, String::from_utf8(document.unwrap().bytes).unwrap())).collect()
}

/// The result of what must come to an end.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it takes too long")
}

/// Reads and waits as an agent does, also when that fails, until what it reads is as it should be. The deadline is the
/// caller's: [`soon`], or one on the thread that this runs on.
pub async fn follow(store: &Store, prefixes: &[&str], is_done: impl Fn(&Documents) -> bool) {
    let prefixes = prefixes.iter().map(|text| prefix(text)).collect::<Vec<_>>();
    // How often a store that fails is asked whether it still does.
    let mut tries = tokio::time::interval(Duration::from_millis(50));
    tries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let failed = match store.read(&prefixes).await {
            Ok((documents, _)) if is_done(&documents) => return,
            Ok((_, token)) => store.wait(&token).await.is_err(),
            Err(_) => true,
        };
        if failed {
            tries.tick().await;
        }
    }
}

/// Whether a document is there and says this.
pub fn says(documents: &Documents, key: &str, text: &str) -> bool {
    matches!(documents.get(key), Some(Ok(document)) if document.bytes == text.as_bytes())
}

/// An error as an operator sees it.
pub fn error<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.expect_err("it should fail"))
}
