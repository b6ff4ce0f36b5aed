//! The crates that this is built of: archives that hundreds of people's machines have made.

use std::fs;
use std::path::{Path, PathBuf};

use crate::same::assert_same;

/// At least, and at most: a fresh checkout has fetched more.
const ENOUGH: usize = 60;
const MOST: usize = 100;
/// In bytes.
const LARGE: u64 = 2 << 20;

#[test]
fn crates_are_the_same_trees_as_gnu_tar_makes() {
    let cache = cargo_home().join("registry/cache");
    let mut crates = fs::read_dir(&cache).into_iter().flatten().flat_map(|registry| found(&registry.unwrap().path()));
    let mut crates = crates.by_ref().filter(|(size, _)| *size < LARGE).collect::<Vec<_>>();
    assert!(crates.len() >= ENOUGH, "there are {} crates in {}, too few to try", crates.len(), cache.display());
    crates.sort();
    // Small and large ones.
    let every = crates.len().div_ceil(MOST);
    let names = crates.iter().step_by(every).map(|(_, path)| assert_same(path)).collect::<Vec<_>>();
    println!("{} crates with {} names in all", names.len(), names.iter().sum::<usize>());
}

fn cargo_home() -> PathBuf {
    // Cargo says it to the tests that it runs.
    let said = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    said.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).expect("cargo has a home")
}

fn found(registry: &Path) -> Vec<(u64, PathBuf)> {
    let paths = fs::read_dir(registry).unwrap().map(|entry| entry.unwrap().path());
    let crates = paths.filter(|path| path.extension().is_some_and(|extension| extension == "crate"));
    crates.map(|path| (fs::metadata(&path).unwrap().len(), path)).collect()
}
