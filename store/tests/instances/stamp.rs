//! What a stamp of all that is registered shows of what a real Consul has.

use serde_json::{Value, json};
use store::{Instance, NodeName, Store};

use crate::app::{App, name, reported};
use crate::place::{Place, soon};

async fn until(store: &Store, node: &NodeName, is: impl Fn(&Option<String>) -> bool) -> Option<String> {
    let asked = async {
        loop {
            let stamp = store.registered_stamp(node).await.unwrap();
            if is(&stamp) {
                return stamp;
            }
        }
    };
    soon(asked).await
}

fn put(place: &Place, path: &str, body: &Value) {
    let answer = place.consul.as_ref().unwrap().http("PUT", &format!("/v1/{path}"), body.to_string().as_bytes());
    assert_eq!(answer.0, 200, "{path}: {}", answer.1);
}

#[tokio::test]
async fn a_stamp_is_another_once_something_is_registered_otherwise_and_the_same_otherwise() {
    let place = Place::consul();
    let app = App::passing(&place, "web1").await;
    let (store, node, instance) = (place.store(), &app.instance.node, &app.instance);
    let other = reported(&place, "web2").await;
    other.store.register(&other.instance).await.unwrap();
    let stamp = async || until(&store, node, Option::is_some).await;
    store.say_alive(node, "pp-setlive", true).await.unwrap();
    let mut before = stamp().await;

    // Nor does it matter that an agent goes on being alive, or does not.
    store.say_alive(node, "pp-setlive", false).await.unwrap();
    assert_eq!(stamp().await, before);
    put(&place, "agent/check/fail/pp-setlive@web1", &json!(null));
    assert_eq!(stamp().await, before);
    store.say_alive(node, "pp-setlive", false).await.unwrap();
    store.register(instance).await.unwrap();
    for (passes, says) in [(true, "runs"), (false, "does not run"), (true, "runs again")] {
        store.report(&other.instance.node, &other.instance.app, passes, says).await.unwrap();
        assert_eq!(stamp().await, before, "another node's instance is {says}");
    }

    let check = format!("web1:slug:{}", store.registered(node).await.unwrap()["slug"].checks.first().unwrap());
    let host = store.host_of(node).await.unwrap();
    let register = async |instance: Instance| {
        store.register(&instance).await.unwrap();
        // Which passes as soon as its check has run.
        stamp().await
    };
    let mut changed = |what: &str, after: Option<String>| {
        assert_ne!(after, before, "{what}");
        before = after;
    };
    changed("another version", register(Instance { version: name("0.2"), ..instance.clone() }).await);
    changed("another digest", register(Instance { digest: "d2".to_owned(), ..instance.clone() }).await);
    changed("another port", register(Instance { port: Some(1), ..instance.clone() }).await);
    changed("another cluster", register(Instance { cluster: name("live"), ..instance.clone() }).await);
    put(&place, &format!("agent/check/deregister/{check}"), &json!(null));
    changed("no check", stamp().await);
    store.deregister(node, &instance.app).await.unwrap();
    changed("not registered", stamp().await);
    changed("registered again", register(instance.clone()).await);
    put(&place, "catalog/deregister", &json!({"Node": host, "ServiceID": "web1:slug"}));
    changed("not in the catalog", stamp().await);
    put(&place, "agent/service/register", &json!({"Name": "db"}));
    changed("somebody else's service", stamp().await);
    // A new, empty one, whose data is another.
    place.consul.as_ref().unwrap().restart();
    changed("another Consul", until(&place.store(), node, Option::is_some).await);
}

#[tokio::test]
async fn there_is_no_stamp_while_an_instance_or_its_host_does_not_pass() {
    let place = Place::consul();
    let mut app = App::passing(&place, "web1").await;
    let (store, node) = (place.store(), app.instance.node.clone());
    let none = async || until(&store, &node, Option::is_none).await;
    let some = async || until(&store, &node, Option::is_some).await;
    let before = some().await;
    store.drain(&node, &app.instance.app, "to 0.2").await.unwrap();
    none().await;
    store.undrain(&node, &app.instance.app).await.unwrap();
    assert_eq!(some().await, before);
    for (on, off) in [
        (
            "agent/service/maintenance/web1:slug?enable=true&reason=a+disk",
            "agent/service/maintenance/web1:slug?enable=false",
        ),
        ("agent/maintenance?enable=true", "agent/maintenance?enable=false"),
    ] {
        put(&place, on, &json!(null));
        none().await;
        put(&place, off, &json!(null));
        some().await;
    }
    app.stop().await;
    none().await;
    app.start().await;
    some().await;
    for status in ["critical", "warning"] {
        let theirs = json!({"Name": "theirs", "ServiceID": "web1:slug", "TTL": "10m", "Status": status});
        put(&place, "agent/check/register", &theirs);
        none().await;
        put(&place, "agent/check/deregister/theirs", &json!(null));
        some().await;
    }
}
