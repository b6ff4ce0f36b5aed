//! What a node shall run, followed through changes, or read as it comes in: the same as whoever reads all of it finds.

#[macro_use]
mod place;

use place::{Place, key, put, soon};
use store::intent::{self, Fingerprint, Follower, Incoming, NodeIntent};
use store::{NodeName, Store};

on_both_stores_async! {
    whatever_changes_the_follower_says_what_a_reader_finds
    an_app_that_loses_a_document_is_invalid_and_well_again_with_it
    another_intent_has_another_fingerprint_and_nothing_is_lost_by_asking_for_it
}

/// More apps than are watched by a query each, less than that, and one.
const APPS: [usize; 3] = [20, 5, 1];

fn web1() -> NodeName {
    "web1".parse().unwrap()
}

async fn add(store: &Store, app: usize) {
    put(store, &format!("clusters/app{app}/dev/deploy_config"), &format!(r#"{{"basedir": "/srv/app{app}"}}"#)).await;
    put(store, &format!("clusters/app{app}/dev/config"), r#"{"versions": {"1": "active"}}"#).await;
    put(store, &format!("nodes/web1/app{app}"), r#"{"cluster": "dev"}"#).await;
}

/// Up to three changes of the first so many apps.
async fn change_something(store: &Store, random: &mut fastrand::Rng, apps: usize, change: usize) {
    // Several at once come in any order.
    for _ in 0..random.usize(1..4) {
        let app = random.usize(..apps);
        match random.u8(..8) {
            0 => put(store, &format!("nodes/web1/app{app}"), r#"{"cluster": "dev", "hold": true}"#).await,
            1 => store.delete(&key(&format!("nodes/web1/app{}", app.max(1)))).await.unwrap(),
            2 => {
                let key = format!("clusters/app{app}/dev/deploy_config");
                put(store, &key, r#"{"basedir": "/srv/app0"}"#).await;
            }
            3 => store.delete(&key(&format!("clusters/app{app}/dev/config"))).await.unwrap(),
            4 => add(store, app).await,
            _ => {
                let config = format!(r#"{{"versions": {{"{change}": "active"}}}}"#);
                put(store, &format!("clusters/app{app}/dev/config"), &config).await;
            }
        }
    }
}

/// Follows until what is said is what `store` holds by now.
async fn catches_up(follower: &mut Follower, said: &mut NodeIntent, store: &Store) {
    let now = intent::read(store, &web1()).await.unwrap();
    soon(async {
        while *said != now {
            *said = follower.next().await.unwrap();
        }
    })
    .await;
}

async fn whatever_changes_the_follower_says_what_a_reader_finds(place: Place) {
    let store = place.store();
    for apps in APPS {
        for app in 0..apps {
            add(&store, app).await;
        }
        for app in apps..APPS[0] {
            store.delete(&key(&format!("nodes/web1/app{app}"))).await.unwrap();
        }
        let mut follower = Follower::new(place.store(), web1());
        let mut said = follower.next().await.unwrap();
        let mut random = fastrand::Rng::with_seed(apps as u64);
        for change in 0..60 {
            change_something(&store, &mut random, apps, change).await;
            catches_up(&mut follower, &mut said, &store).await;
        }
    }
}

async fn an_app_that_loses_a_document_is_invalid_and_well_again_with_it(place: Place) {
    let store = place.store();
    add(&store, 0).await;
    add(&store, 1).await;
    let mut follower = Follower::new(place.store(), web1());
    let before = follower.next().await.unwrap();
    assert!(before.apps.values().all(Result::is_ok));
    let config = key("clusters/app0/dev/config");
    store.delete(&config).await.unwrap();
    let without = soon(follower.next()).await.unwrap();
    assert_eq!(without.apps["app0"].as_ref().unwrap_err().key, config.as_str());
    assert_eq!(without.apps["app1"], before.apps["app1"]);
    add(&store, 0).await;
    assert_eq!(soon(follower.next()).await.unwrap(), before);
}

/// What the old server counted up to says nothing of how long to wait for the new one.
#[tokio::test]
async fn a_server_that_is_replaced_between_two_changes_makes_nobody_deaf_for_long() {
    let place = Place::consul();
    let (consul, store) = (place.consul.as_ref().unwrap(), place.store());
    (0..100).for_each(|n| consul.put("clusters/app0/dev/other", &n.to_string()));
    add(&store, 0).await;
    let mut follower = Follower::new(place.store(), web1());
    follower.next().await.unwrap();
    let config = |version: u32| format!(r#"{{"versions": {{"{version}": "active"}}}}"#);
    put(&store, "clusters/app0/dev/config", &config(2)).await;
    let said = soon(follower.next()).await.unwrap();
    consul.restart();
    for (name, text) in [("deploy_config", r#"{"basedir": "/srv/app0"}"#.to_owned()), ("config", config(2))] {
        consul.put(&format!("clusters/app0/dev/{name}"), &text);
    }
    consul.put("nodes/web1/app0", r#"{"cluster": "dev"}"#);
    let mut now = said.clone();
    consul.put("clusters/app0/dev/config", &config(3));
    soon(async {
        // Who met the connection to the old server reads again.
        while now == said {
            if let Ok(intent) = follower.next().await {
                now = intent;
            }
        }
    })
    .await;
    assert_eq!(now.apps["app0"].as_ref().unwrap().active.as_ref().unwrap().as_str(), "3");
}

async fn another_intent_has_another_fingerprint_and_nothing_is_lost_by_asking_for_it(place: Place) {
    // More than one transaction reads.
    const MANY: usize = 150;
    let store = place.store();
    let fingerprinted = async || -> (Fingerprint, NodeIntent) {
        let mut incoming = Incoming::begin(&store, &web1()).await.unwrap();
        let fingerprint = incoming.fingerprint().await.unwrap();
        while incoming.next().await.unwrap().is_some() {}
        (fingerprint, incoming.intent().await.unwrap())
    };
    let mut seen = vec![fingerprinted().await];
    for app in 0..MANY {
        add(&store, app).await;
    }
    let mut random = fastrand::Rng::with_seed(1);
    for change in 0..40 {
        if change > 0 {
            change_something(&store, &mut random, MANY, change).await;
        }
        let (fingerprint, intent) = fingerprinted().await;
        assert_eq!(intent, intent::read(&store, &web1()).await.unwrap());
        assert_eq!(fingerprinted().await.0, fingerprint);
        let of_another = |seen: &&(Fingerprint, NodeIntent)| seen.0 == fingerprint && seen.1 != intent;
        assert_eq!(seen.iter().find(of_another), None);
        seen.push((fingerprint, intent));
    }
}
