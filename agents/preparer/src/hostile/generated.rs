//! Tens of thousands of hostile archives, of which none gets out of the directory that it is unpacked into.
//!
//! `SEED` repeats a run, which prints its own; `ARCHIVES` makes it a longer one.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

use anyhow::Result;
use fastrand::Rng;

use super::archive::hostile;
use super::sandbox::Sandbox;
use crate::unpack::{Allowed, Unpacked, unpack};

const ARCHIVES: u64 = 20_000;

fn unpacked(artifact: &[u8], into: &Path) -> Result<Unpacked> {
    unpack(artifact, File::open(into).unwrap().into(), &Allowed::default())
}

#[test]
fn whatever_an_archive_holds_nothing_outside_is_created_changed_or_read_through() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let archives = number("ARCHIVES").unwrap_or(ARCHIVES);
    println!("SEED={seed}");
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let whole = thread::scope(|scope| {
        let working = (0..workers).map(|worker| {
            scope.spawn(move || try_all((worker as u64..archives).step_by(workers).map(|n| seed.wrapping_add(n))))
        });
        working.collect::<Vec<_>>().into_iter().map(|worker| worker.join().expect("see above")).sum::<u64>()
    });
    println!("{whole} of {archives} were unpacked, the others refused");
    let share = whole * 100 / archives;
    if archives < ARCHIVES {
        return;
    }
    assert!((5..95).contains(&share), "neither nearly all nor nearly none are refused: {whole} of {archives}");
}

/// Tries the archive of each seed. How many were unpacked.
fn try_all(seeds: impl Iterator<Item = u64>) -> u64 {
    let sandbox = Sandbox::new();
    seeds.map(|seed| u64::from(try_one(&sandbox, seed))).sum()
}

fn try_one(sandbox: &Sandbox, seed: u64) -> bool {
    let artifact = hostile(&mut Rng::with_seed(seed), sandbox.dir());
    let stage = sandbox.fresh();
    let again = format!("SEED={seed} ARCHIVES=1 repeats it");
    let result = catch_unwind(AssertUnwindSafe(|| unpacked(&artifact, &stage)));
    let result = result.unwrap_or_else(|_| panic!("it panics, as said above; {again}"));
    assert_eq!(sandbox.harm(), [""; 0], "{again}");
    if let Err(error) = &result {
        let text = format!("{error:#}");
        assert!(text.len() < 1000 && !text.contains('\n'), "a short error on one line: {text}; {again}");
    }
    result.is_ok()
}
