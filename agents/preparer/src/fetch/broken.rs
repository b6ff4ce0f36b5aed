//! Downloads from a server that breaks off, stalls, forgets, lies, and changes what it has: whatever it does, what comes of
//! it is one whole artifact or an error. `SEED` replays a run.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use fixtures::{WebAnswer, WebRequest, WebServer};
use reqwest::Url;
use tokio::sync::mpsc;

use super::tests::fetcher;
use super::{Fetcher, Streamed};
use crate::sources::Origin;

/// One that soon tries again.
fn eager(stall_timeout: &str) -> Fetcher {
    let mut fetcher = fetcher(&["--stall-timeout", stall_timeout, "--fetch-retries", "3", "--fetch-timeout", "20"]);
    fetcher.limits.delay = Duration::from_micros(100);
    fetcher
}

/// All that comes of a download.
async fn download(fetcher: &Fetcher, server: &WebServer) -> Result<Option<Vec<u8>>, String> {
    let url = format!("{}/a", server.url()).parse::<Url>().unwrap();
    let said = |error: anyhow::Error| format!("{error:#}");
    let Some(mut download) = fetcher.download(&url, Origin::Repo).await.map_err(said)? else { return Ok(None) };
    loop {
        let (to, mut chunks) = mpsc::channel::<Bytes>(1);
        let reading = async move {
            let (mut all, mut ended) = (Vec::new(), false);
            while let Some(chunk) = chunks.recv().await {
                assert!(!ended, "something comes after the end");
                ended = chunk.is_empty();
                all.extend_from_slice(&chunk);
            }
            (all, ended)
        };
        let (streamed, (all, ended)) = tokio::join!(download.stream(to), reading);
        let streamed = streamed.map_err(|error| {
            assert!(!ended, "an error follows the end");
            said(error)
        })?;
        assert_eq!(streamed == Streamed::Whole, ended);
        if ended {
            return Ok(Some(all));
        }
    }
}

fn content(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = if random.u8(..) < 20 { random.usize(..3) } else { random.usize(1..60_000) };
    (0..length).map(|_| random.u8(..)).collect()
}

/// A server's mood. What is wrong with an answer, and, with `change`, what it has from then on.
fn mood(request: &WebRequest, random: &mut fastrand::Rng, files: &[Vec<u8>], now: &mut usize) -> WebAnswer {
    let change = random.u8(..) < 15;
    *now = (*now + usize::from(change)).min(files.len() - 1);
    let (file, etag) = (&files[*now], format!("\"{now}\""));
    let good = WebAnswer::file(request, file, &etag);
    let at = random.usize(..=good.body.len());
    match random.u8(..24) {
        0..8 => good.cut(at),
        8 => good.stalling(at),
        9 => WebAnswer::status(503),
        10 => WebAnswer {
            status: 200,
            ..WebAnswer::file(&WebRequest { headers: [].into(), ..request.clone() }, file, &etag)
        },
        11 => good.without("ETag").cut(at),
        12 => good.with("ETag", &format!("W/{etag}")).cut(at),
        13 => good.with("Content-Length", &(file.len() + 7).to_string()),
        14 => good.with("Content-Range", "bytes 1-2/3"),
        15 => good.with("Content-Range", "bytes 0-18446744073709551615/*"),
        16 => good.without("Content-Range"),
        17 => WebAnswer { body: [good.body.clone(), vec![b'x'; 5]].concat(), ..good },
        18 => WebAnswer::status(416),
        _ => good,
    }
}

#[tokio::test]
async fn whatever_a_server_does_what_comes_is_one_whole_artifact_or_an_error() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let fetcher = eager("0.05");
    let (mut whole, mut failed, mut requests) = (0, 0, 0);
    for round in 0..300 {
        let files = (0..3).map(|_| content(&mut random)).collect::<Vec<_>>();
        let state = Mutex::new((random.fork(), 0));
        let served = files.clone();
        let server = WebServer::start(move |request| {
            let (random, now) = &mut *state.lock().unwrap();
            mood(request, random, &served, now)
        });
        match download(&fetcher, &server).await {
            Ok(found) => {
                assert!(found.as_ref().is_some_and(|found| files.contains(found)), "round {round}");
                whole += 1;
            }
            Err(error) => {
                assert!(error.len() > 10 && !error.contains('\n'), "round {round}: {error}");
                failed += 1;
            }
        }
        requests += server.requests().len();
    }
    println!("{whole} came whole and {failed} failed, with {requests} requests");
    assert!(whole > 100 && failed > 5, "neither all nor none fail: {whole} and {failed}");
}

#[tokio::test]
async fn a_download_that_is_cut_anywhere_is_taken_up_there() {
    let file = (0..5000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let served = file.clone();
    let server = WebServer::start(move |request| WebAnswer::file(request, &served, "\"a\"").cut(3001));
    assert_eq!(download(&eager("10"), &server).await, Ok(Some(file)));
    let asked = server.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect::<Vec<_>>();
    let from = |at: &str| Some(format!("bytes={at}-"));
    let expected = [None, from("3001"), from("6002"), from("9003"), from("12004"), from("15005"), from("18006")];
    assert_eq!(asked, expected, "nothing comes twice, and that something comes is no reason to give up");
    assert!(server.requests()[1..].iter().all(|request| request.header("if-range") == Some("\"a\"")));
}

#[tokio::test]
async fn the_date_of_the_last_change_will_do_where_there_is_no_etag() {
    let file = vec![b'x'; 10_000];
    let (date, modified) = ("Sun, 22 Nov 2026 08:00:00 GMT", "Sat, 21 Nov 2026 08:00:00 GMT");
    let served = file.clone();
    let server = WebServer::start(move |request| {
        let answer = WebAnswer::file(request, &served, modified).without("ETag");
        answer.with("Last-Modified", modified).with("Date", date).cut(6000)
    });
    assert_eq!(download(&eager("10"), &server).await, Ok(Some(file)));
    assert_eq!(server.requests()[1].header("if-range"), Some(modified));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn what_a_server_cannot_resume_is_started_over_and_not_for_ever() {
    let file = vec![b'x'; 10_000];
    for (good_from, ends_well) in [(2, true), (9, false)] {
        let served = file.clone();
        let server = WebServer::start(move |request| {
            let answer = WebAnswer::file(request, &served, "").without("ETag");
            if request.nth < good_from { answer.cut(6000) } else { answer }
        });
        match download(&eager("10"), &server).await {
            Ok(found) => assert!(ends_well && found.as_ref() == Some(&file)),
            Err(error) => assert!(!ends_well && error.contains("cannot resume it"), "{error}"),
        }
        assert!(server.requests().iter().all(|request| request.header("range").is_none()));
    }
}

#[tokio::test]
async fn a_server_that_ignores_what_part_it_is_asked_for_sends_it_all_and_we_skip_what_we_have() {
    let file = (0..5000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let served = file.clone();
    let server = WebServer::start(move |request| {
        let all = WebRequest { headers: [].into(), ..request.clone() };
        WebAnswer::file(&all, &served, "\"a\"").cut(7000 * (request.nth + 1))
    });
    assert_eq!(download(&eager("10"), &server).await, Ok(Some(file)));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_stays_away_or_trickles_is_given_up() {
    let server = WebServer::start(|_| WebAnswer::status(503));
    assert_eq!(download(&eager("10"), &server).await.unwrap_err(), "the server answers 503 Service Unavailable");
    assert_eq!(server.requests().len(), 4, "one and three retries");
    let server = WebServer::start(|request| WebAnswer::file(request, &[b'x'; 10_000], "\"a\"").cut(1));
    let mut hurried = eager("10");
    hurried.limits.total = Duration::from_millis(200);
    let error = download(&hurried, &server).await.unwrap_err();
    assert_eq!(error, "not fetched within 0.2 s, as --fetch-timeout has it");
}

#[tokio::test]
async fn what_is_small_is_read_whole_or_refused() {
    let fetcher = eager("10");
    let server = WebServer::start(|request| match request.path.as_str() {
        "/cut" => WebAnswer::file(request, b"0123456789", "\"a\"").cut(4),
        "/none" => WebAnswer::status(404),
        _ => WebAnswer::file(request, &[b'x'; 11], "\"a\""),
    });
    let small = async |path: &str| {
        let url = format!("{}{path}", server.url()).parse::<Url>().unwrap();
        fetcher.small(&url, Origin::Repo, 10).await
    };
    assert_eq!(small("/cut").await.unwrap(), Some(b"0123456789".to_vec()));
    assert_eq!(small("/none").await.unwrap(), None);
    assert_eq!(small("/long").await.unwrap_err().to_string(), "longer than 10 bytes");
}
