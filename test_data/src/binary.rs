//! Where the workspace's own programs are.

use std::env;
use std::path::PathBuf;

/// A program of this workspace (`pp-store`, `pp-setlive`, `slug`, …), of the same build as the running test.
pub fn bin(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own program");
    // Tests are in target/<profile>/deps, programs a directory above.
    let mut dir = test.parent().expect("a program is in a directory");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps is in the profile's directory");
    }
    let path = dir.join(name);
    assert!(path.is_file(), "there is no {}: run cargo build --workspace --bins", path.display());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "run cargo build --workspace --bins")]
    fn a_missing_program_says_how_to_build_it() {
        bin("no-such-program");
    }
}
