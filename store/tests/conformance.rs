//! What every store does, whichever it is: one set of tests for a real Consul and for a directory.

#[macro_use]
mod place;

use std::pin::pin;
use std::time::{Duration, Instant};

use place::{Place, QUIET, get, key, listing, prefix, put, soon, text};
use store::{Expected, Prefix, Store, Token};
use tokio::task::JoinSet;

on_both_stores_async! {
    what_was_put_is_found_by_its_key_and_by_its_prefixes
    what_nobody_put_is_absent_and_a_prefix_of_nothing_is_empty
    a_prefix_matches_no_half_of_a_name
    every_part_of_the_tree_can_be_read_with_any_other_part
    two_hundred_prefixes_are_read_at_once
    a_deep_tree_is_a_tree
    empty_large_and_unicode_documents_are_kept_to_the_byte
    a_document_that_is_too_large_is_refused_and_the_old_one_kept
    a_key_that_is_none_of_ours_is_read_as_it_is_spelt
    a_revision_changes_with_the_content_and_only_with_it
    compare_and_set_writes_only_over_what_was_expected
    of_many_that_expect_the_same_one_wins
    a_deleted_document_is_absent_and_its_neighbours_are_not
    compare_and_delete_deletes_only_what_was_read
    a_token_is_equal_as_long_as_nothing_under_its_prefixes_differs
    a_wait_on_an_old_token_ends_at_once
    a_wait_ends_with_every_kind_of_change
    a_wait_ends_with_the_first_document_under_a_prefix
    a_wait_does_not_end_with_what_changes_nothing_here
    a_wait_on_two_hundred_prefixes_ends_with_a_change_under_one
    a_change_that_comes_just_when_a_wait_begins_is_not_missed
    a_wait_that_was_given_up_is_in_nobodys_way
    who_reads_and_waits_ends_up_with_the_last_state
    a_change_is_noticed_within_fifty_milliseconds
}

async fn what_was_put_is_found_by_its_key_and_by_its_prefixes(place: Place) {
    let store = place.store();
    put(&store, "nodes/web1/slug", "one").await;
    assert_eq!(text(&store, "nodes/web1/slug").await.unwrap(), "one");
    put(&store, "nodes/web1/slug", "two").await;
    for name in ["nodes/web1/", "nodes/", ""] {
        assert_eq!(listing(&store, &[name]).await, [("nodes/web1/slug".to_owned(), "two".to_owned())], "{name:?}");
    }
    let (documents, _) = store.read(&[prefix("nodes/web1/")]).await.unwrap();
    assert_eq!(documents["nodes/web1/slug"].as_ref().unwrap(), &get(&store, "nodes/web1/slug").await.unwrap());
}

async fn what_nobody_put_is_absent_and_a_prefix_of_nothing_is_empty(place: Place) {
    let store = place.store();
    assert_eq!(get(&store, "nodes/web1/slug").await, None);
    assert_eq!(listing(&store, &["nodes/web1/"]).await, []);
    assert_eq!(listing(&store, &["nodes/web1/", "clusters/slug/"]).await, []);
    assert_eq!(listing(&store, &[""]).await, []);
    assert_eq!(listing(&store, &[]).await, []);
    // A document has none below it.
    put(&store, "nodes/web1/slug", "{}").await;
    assert_eq!(get(&store, "nodes/web1/slug/more").await, None);
    assert_eq!(listing(&store, &["nodes/web1/slug/"]).await, []);
}

async fn a_prefix_matches_no_half_of_a_name(place: Place) {
    let store = place.store();
    for name in ["nodes/web1/a", "nodes/web10/b", "nodes/web/c", "nodes/web1-/d", "nodes/web1"] {
        put(&store, name, "{}").await;
    }
    assert_eq!(listing(&store, &["nodes/web1/"]).await, [("nodes/web1/a".to_owned(), "{}".to_owned())]);
}

async fn every_part_of_the_tree_can_be_read_with_any_other_part(place: Place) {
    let store = place.store();
    for name in ["a/x", "a/b/x", "a/b/c", "d/x"] {
        put(&store, name, name).await;
    }
    let keys = async |prefixes: &[&str]| -> Vec<String> {
        listing(&store, prefixes).await.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(&["a/", "a/b/"]).await, ["a/b/c", "a/b/x", "a/x"]);
    assert_eq!(keys(&["a/b/", "d/", "e/"]).await, ["a/b/c", "a/b/x", "d/x"]);
    assert_eq!(keys(&["", "d/"]).await, ["a/b/c", "a/b/x", "a/x", "d/x"]);
}

async fn two_hundred_prefixes_are_read_at_once(place: Place) {
    let store = place.store();
    let prefixes = (0..200).map(|n| prefix(&format!("clusters/app{n}/dev/"))).collect::<Vec<_>>();
    for n in (0..200).step_by(7) {
        put(&store, &format!("clusters/app{n}/dev/config"), &n.to_string()).await;
        put(&store, &format!("clusters/app{n}/other/config"), "of another cluster").await;
    }
    let (documents, token) = store.read(&prefixes).await.unwrap();
    assert_eq!(documents.len(), 200usize.div_ceil(7));
    assert_eq!(documents["clusters/app196/dev/config"].as_ref().unwrap().bytes, b"196");
    assert_eq!(token.prefixes().len(), 200);
}

async fn a_deep_tree_is_a_tree(place: Place) {
    let store = place.store();
    let deep = ["x"; 30].join("/");
    put(&store, &deep, "deep").await;
    assert_eq!(text(&store, &deep).await.unwrap(), "deep");
    for depth in [0, 1, 15, 29] {
        let prefix = deep.split('/').take(depth).collect::<Vec<_>>().join("/");
        assert_eq!(listing(&store, &[&prefix]).await, [(deep.clone(), "deep".to_owned())], "{depth}");
    }
}

async fn empty_large_and_unicode_documents_are_kept_to_the_byte(place: Place) {
    let store = place.store();
    let documents: [&[u8]; 4] = [b"", &[0, 255, 10, 13], "{\"ü\": \"\u{1F9A5}\"}\n".as_bytes(), &[b'x'; 400 * 1024]];
    for bytes in documents {
        store.put(&key("a/b/c"), bytes).await.unwrap();
        let document = get(&store, "a/b/c").await.unwrap();
        assert!(document.bytes == bytes);
        for prefixes in [&[prefix("a/b")][..], &[prefix("a/b"), prefix("d")]] {
            let (documents, _) = store.read(prefixes).await.unwrap();
            assert_eq!(documents["a/b/c"].as_ref().unwrap(), &document);
        }
    }
}

async fn a_document_that_is_too_large_is_refused_and_the_old_one_kept(place: Place) {
    let store = place.store();
    put(&store, "a/b", "old").await;
    let error = store.put(&key("a/b"), &vec![b'x'; 600 * 1024]).await.unwrap_err();
    assert!(format!("{error:#}").contains("524288"), "{error:#}");
    assert_eq!(text(&store, "a/b").await.unwrap(), "old");
}

async fn a_key_that_is_none_of_ours_is_read_as_it_is_spelt(place: Place) {
    place.write("nodes/web1/not a name", b"{}");
    place.write("nodes/web1/slug", b"{}");
    let keys = listing(&place.store(), &["nodes/web1/"]).await.into_iter().map(|(key, _)| key);
    assert_eq!(keys.collect::<Vec<_>>(), ["nodes/web1/not a name", "nodes/web1/slug"]);
}

async fn a_revision_changes_with_the_content_and_only_with_it(place: Place) {
    let store = place.store();
    put(&store, "a/b", "one").await;
    let first = get(&store, "a/b").await.unwrap().revision;
    put(&store, "a/b", "one").await;
    put(&store, "a/c", "neighbour").await;
    assert_eq!(get(&place.store(), "a/b").await.unwrap().revision, first);
    put(&store, "a/b", "two").await;
    assert_ne!(get(&store, "a/b").await.unwrap().revision, first);
}

async fn compare_and_set_writes_only_over_what_was_expected(place: Place) {
    let store = place.store();
    let name = key("locks/slug/dev/shutdown");
    let set = async |bytes: &str, expected: &Expected| {
        store.compare_and_set(&name, bytes.as_bytes(), expected).await.unwrap()
    };
    assert!(set("one", &Expected::Absent).await);
    assert!(!set("another", &Expected::Absent).await);
    let one = Expected::At(get(&store, name.as_str()).await.unwrap().revision);
    assert!(set("two", &one).await);
    assert!(!set("three", &one).await);
    assert_eq!(text(&store, name.as_str()).await.unwrap(), "two");
    let two = Expected::At(get(&store, name.as_str()).await.unwrap().revision);
    store.delete(&name).await.unwrap();
    assert!(!set("four", &two).await);
    assert_eq!(get(&store, name.as_str()).await, None);
    assert!(set("", &Expected::Absent).await);
    assert!(!set("five", &Expected::Absent).await, "an empty document is there");
}

async fn of_many_that_expect_the_same_one_wins(place: Place) {
    let store = place.store();
    for round in 0..5 {
        let expected = get(&store, "a/b").await.map_or(Expected::Absent, |document| Expected::At(document.revision));
        let mut racing = JoinSet::new();
        for n in 0..8 {
            let (store, expected, mine) = (place.store(), expected.clone(), format!("{n} in round {round}"));
            racing.spawn(async move {
                let won = store.compare_and_set(&key("a/b"), mine.as_bytes(), &expected).await.unwrap();
                won.then_some(mine)
            });
        }
        let winners = racing.join_all().await.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(winners, [text(&store, "a/b").await.unwrap()]);
    }
}

async fn a_deleted_document_is_absent_and_its_neighbours_are_not(place: Place) {
    let store = place.store();
    for name in ["a/b", "a/b/c", "a/bc"] {
        put(&store, name, "{}").await;
    }
    for _ in 0..2 {
        store.delete(&key("a/b")).await.unwrap();
        assert_eq!(get(&store, "a/b").await, None);
    }
    store.delete(&key("no/such/key")).await.unwrap();
    assert_eq!(listing(&store, &["a/"]).await.len(), 2);
}

async fn compare_and_delete_deletes_only_what_was_read(place: Place) {
    let store = place.store();
    put(&store, "a/b", "1").await;
    let seen = get(&store, "a/b").await.unwrap().revision;
    put(&store, "a/b", "2").await;
    assert!(!store.compare_and_delete(&key("a/b"), &seen).await.unwrap());
    assert_eq!(text(&store, "a/b").await.unwrap(), "2");
    let seen = get(&store, "a/b").await.unwrap().revision;
    assert!(store.compare_and_delete(&key("a/b"), &seen).await.unwrap());
    assert_eq!(text(&store, "a/b").await, None);
    assert!(store.compare_and_delete(&key("a/b"), &seen).await.unwrap(), "what is gone already is gone");
}

async fn a_token_is_equal_as_long_as_nothing_under_its_prefixes_differs(place: Place) {
    let store = place.store();
    put(&store, "nodes/web1/slug", "{}").await;
    let token = async || store.read(&[prefix("nodes/web1/"), prefix("clusters/slug/")]).await.unwrap().1;
    let before = token().await;
    put(&store, "nodes/web10/slug", "{}").await;
    put(&store, "nodes/web1/slug", "{}").await;
    assert_eq!(token().await, before);
    put(&store, "clusters/slug/dev/config", "").await;
    let with_empty = token().await;
    assert_ne!(with_empty, before);
    store.delete(&key("clusters/slug/dev/config")).await.unwrap();
    assert_eq!(token().await, before);
}

async fn token(store: &Store, names: &[&str]) -> Token {
    store.read(&names.iter().map(|name| prefix(name)).collect::<Vec<_>>()).await.unwrap().1
}

async fn a_wait_on_an_old_token_ends_at_once(place: Place) {
    let store = place.store();
    let old = token(&store, &["a/", "b/"]).await;
    put(&store, "b/c", "{}").await;
    for _ in 0..3 {
        soon(store.wait(&old)).await.unwrap();
    }
    let new = token(&store, &["a/", "b/"]).await;
    soon(store.wait(&old)).await.unwrap();
    assert!(tokio::time::timeout(QUIET, store.wait(&new)).await.is_err());
    soon(store.wait(&old)).await.unwrap();
}

/// What becomes of a wait on `token`, which must not have ended before `act`, within a time after it.
async fn wait_with(store: &Store, token: &Token, act: impl Future<Output = ()>, within: Duration) -> bool {
    let mut wait = pin!(store.wait(token));
    let before = tokio::time::timeout(QUIET, &mut wait).await;
    assert!(before.is_err(), "it ended before anything changed: {before:?}");
    act.await;
    match tokio::time::timeout(within, &mut wait).await {
        Ok(ended) => ended.map(|_| true).unwrap(),
        Err(_) => false,
    }
}

/// Whether a wait ends with `act`, before a sweep or the end of a query would tell of a change that was missed.
async fn ends_a_wait(store: &Store, token: &Token, act: impl Future<Output = ()>) -> bool {
    wait_with(store, token, act, Duration::from_secs(5)).await
}

async fn leaves_a_wait(store: &Store, token: &Token, act: impl Future<Output = ()>) -> bool {
    !wait_with(store, token, act, QUIET * 2).await
}

async fn a_wait_ends_with_every_kind_of_change(place: Place) {
    let store = place.store();
    let name = key("nodes/web1/slug");
    let other = place.store();
    for step in 0..7 {
        let seen = token(&store, &["nodes/web1/", "clusters/slug/dev/"]).await;
        let act = async {
            match step {
                0 => other.put(&name, b"{}").await.unwrap(),
                1 => other.put(&name, b"[]").await.unwrap(),
                2 => {
                    let expected = Expected::At(other.get(&name).await.unwrap().unwrap().revision);
                    assert!(other.compare_and_set(&name, b"", &expected).await.unwrap());
                }
                3 => other.delete(&name).await.unwrap(),
                4 => put(&other, "nodes/web1/other", "{}").await,
                5 => place.write("nodes/web1/other", b"{\"by\": \"hand\"}"),
                _ => put(&other, "clusters/slug/dev/deep/down", "{}").await,
            }
        };
        assert!(ends_a_wait(&store, &seen, act).await, "step {step}");
    }
}

async fn a_wait_ends_with_the_first_document_under_a_prefix(place: Place) {
    let store = place.store();
    put(&store, "other/x", "{}").await;
    for name in ["nodes/web1/slug", "clusters/a/b/c/d", "clusters/a/e/f"] {
        let above = name.rsplit_once('/').unwrap().0;
        let seen = token(&store, &[above]).await;
        assert!(ends_a_wait(&store, &seen, put(&place.store(), name, "{}")).await, "{name}");
    }
}

async fn a_wait_does_not_end_with_what_changes_nothing_here(place: Place) {
    let store = place.store();
    put(&store, "nodes/web1/slug", "{}").await;
    let seen = token(&store, &["nodes/web1/", "nodes/web2/"]).await;
    let neighbours = async {
        put(&store, "nodes/web1/slug", "{}").await;
        place.write("nodes/web1/slug", b"{}");
        for n in 0..20 {
            put(&store, &format!("nodes/web10/slug{n}"), "{}").await;
            put(&store, "locks/slug/dev/shutdown", &n.to_string()).await;
        }
        put(&store, "nodes/web1", "{}").await;
        store.delete(&key("nodes/web10/slug1")).await.unwrap();
    };
    assert!(leaves_a_wait(&store, &seen, neighbours).await);
}

async fn a_wait_on_two_hundred_prefixes_ends_with_a_change_under_one(place: Place) {
    let store = place.store();
    let clusters = (0..200).map(|n| prefix(&format!("clusters/app{n}/dev/")));
    let all = clusters.chain([prefix("nodes/web1/")]).collect::<Vec<Prefix>>();
    for name in ["clusters/app77/dev/config", "nodes/web1/app78", "clusters/app199/dev/deploy_config"] {
        let (_, seen) = store.read(&all).await.unwrap();
        assert!(leaves_a_wait(&store, &seen, put(&store, "clusters/app77/live/config", name)).await, "{name}");
        assert!(ends_a_wait(&store, &seen, put(&store, name, "{}")).await, "{name}");
    }
}

async fn a_change_that_comes_just_when_a_wait_begins_is_not_missed(place: Place) {
    let (store, other) = (place.store(), place.store());
    for n in 0..200 {
        let seen = token(&store, &["nodes/web1/", "clusters/slug/dev/"]).await;
        let change = async {
            for _ in 0..fastrand::u32(..40) {
                tokio::task::yield_now().await;
            }
            put(&other, "clusters/slug/dev/config", &n.to_string()).await;
        };
        // Well before a sweep or the end of a query would tell.
        let wait = tokio::time::timeout(Duration::from_secs(5), store.wait(&seen));
        let (woken, ()) = tokio::join!(wait, change);
        woken.expect("it was missed").unwrap();
    }
}

async fn a_wait_that_was_given_up_is_in_nobodys_way(place: Place) {
    let store = place.store();
    let names = (0..16).map(|n| format!("clusters/app{n}/dev/")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let seen = token(&store, &names).await;
    for _ in 0..30 {
        assert!(tokio::time::timeout(Duration::from_millis(5), store.wait(&seen)).await.is_err());
    }
    assert!(ends_a_wait(&store, &seen, put(&store, "clusters/app7/dev/config", "{}")).await);
    let seen = token(&store, &names).await;
    let (one, other) = (store.clone(), store.clone());
    let both = async { tokio::join!(one.wait(&seen), other.wait(&seen)) };
    let change = put(&store, "clusters/app8/dev/config", "{}");
    let ((first, second), ()) = soon(async { tokio::join!(both, change) }).await;
    first.and(second).unwrap();
}

async fn who_reads_and_waits_ends_up_with_the_last_state(place: Place) {
    let store = place.store();
    let writer = tokio::spawn({
        let store = place.store();
        async move {
            for n in 0..300 {
                put(&store, &format!("clusters/app{}/dev/config", n % 3), &n.to_string()).await;
            }
        }
    });
    let prefixes = (0..3).map(|n| prefix(&format!("clusters/app{n}/dev/"))).collect::<Vec<_>>();
    let follow = async {
        loop {
            let (documents, token) = store.read(&prefixes).await.unwrap();
            let last = documents.get("clusters/app2/dev/config");
            if last.is_some_and(|document| document.as_ref().unwrap().bytes == b"299") {
                return;
            }
            store.wait(&token).await.unwrap();
        }
    };
    soon(follow).await;
    writer.await.unwrap();
}

async fn a_change_is_noticed_within_fifty_milliseconds(place: Place) {
    let (store, other) = (place.store(), place.store());
    let mut delays = Vec::new();
    for n in 0..21 {
        let seen = token(&store, &["nodes/web1/", "clusters/slug/dev/"]).await;
        let mut wait = pin!(store.wait(&seen));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
        let began = Instant::now();
        let change = put(&other, "clusters/slug/dev/config", if n % 2 == 0 { "{}" } else { "[]" });
        let (woken, ()) = soon(async { tokio::join!(wait, change) }).await;
        woken.unwrap();
        delays.push(began.elapsed());
    }
    delays.sort();
    println!("from the beginning of a put to the end of a wait: median {:?}, worst {:?}", delays[10], delays[20]);
    assert!(delays[10] < Duration::from_millis(50), "{delays:?}");
}
