//! The names in an archive, as places inside the install.
//!
//! Ensures: what [`inside`] returns is relative and has no `..`, so that only a link could lead it outside (what is
//! resolved through links is [`super::beneath`]'s to watch). Names are bytes: they need not be UTF-8.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The longest name that Linux can look up (`PATH_MAX`).
pub(super) const MAX: u64 = 4096;

/// How much of a name a log line shows.
const SHOWN: usize = 200;

/// Where in the install an entry of this name goes; empty for the install itself (`.`, `./`).
pub(super) fn inside(name: &[u8]) -> Result<PathBuf> {
    ensure!(!name.is_empty(), "it has no name");
    ensure!(name.len() as u64 <= MAX, "its name is longer than {MAX} bytes");
    ensure!(!name.contains(&0), "its name holds a NUL");
    ensure!(!name.starts_with(b"/"), "its name is absolute");
    let mut path = PathBuf::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => anyhow::bail!("its name holds '..'"),
            component => path.push(OsStr::from_bytes(component)),
        }
    }
    Ok(path)
}

/// The name as errors show it: quoted, with everything that could forge or break a line escaped.
pub(super) fn shown(name: &[u8]) -> String {
    let more = if name.len() > SHOWN { "…" } else { "" };
    format!("{:?}{more}", OsStr::from_bytes(&name[..name.len().min(SHOWN)]))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_name_is_a_place_inside() {
        let long = vec![b'a'; 4096];
        let table: [(&[u8], &[u8]); 8] = [
            (b"a", b"a"),
            (b"./a//b/", b"a/b"),
            (b".", b""),
            (b"./", b""),
            (b"a/./b", b"a/b"),
            (b"...", b"..."),
            (b"\xff\n", b"\xff\n"),
            (&long, &long),
        ];
        for (name, path) in table {
            assert_eq!(inside(name).unwrap(), Path::new(OsStr::from_bytes(path)));
        }
    }

    #[test]
    fn a_name_that_is_no_place_inside_is_refused() {
        let long = vec![b'a'; 4097];
        let table: [&[u8]; 9] = [b"", b"/", b"/a", b"..", b"../a", b"a/../b", b"a/..", b"a\0b", &long];
        for name in table {
            assert!(inside(name).is_err(), "{}", shown(name));
        }
    }

    #[test]
    fn a_name_in_an_error_is_short_and_on_one_line() {
        assert_eq!(shown(b"a\nb\xff"), r#""a\nb\xFF""#);
        assert_eq!(shown(&[b'a'; 1000]).chars().count(), SHOWN + 3);
    }
}
