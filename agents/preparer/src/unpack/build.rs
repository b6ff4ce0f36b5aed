//! Archives by hand, for tests: also those that no archiver would make.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// A header and its content, or anything else that is put into an archive.
pub(crate) type Bytes = Vec<u8>;

pub(crate) fn file(name: &str, content: &[u8]) -> Bytes {
    entry(header(EntryType::Regular, name, "", content.len() as u64), content)
}

pub(crate) fn directory(name: &str) -> Bytes {
    entry(header(EntryType::Directory, name, "", 0), b"")
}

pub(crate) fn symlink(name: &str, target: &str) -> Bytes {
    entry(header(EntryType::Symlink, name, target, 0), b"")
}

pub(crate) fn hard_link(name: &str, target: &str) -> Bytes {
    entry(header(EntryType::Link, name, target, 0), b"")
}

pub(crate) fn of_type(kind: u8, name: &str) -> Bytes {
    entry(header(EntryType::new(kind), name, "", 0), b"")
}

/// A header about the next one: `L`, `K`, `x` or `g`.
pub(crate) fn about_next(kind: u8, content: &[u8]) -> Bytes {
    entry(header(EntryType::new(kind), "././@about", "", content.len() as u64), content)
}

/// A pax header of such records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Bytes {
    about_next(b'x', &records.iter().flat_map(|(key, value)| record(key, value)).collect::<Bytes>())
}

pub(crate) fn record(key: &str, value: &[u8]) -> Bytes {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    // The length counts its own digits.
    let length =
        (1..).map(|digits| digits + rest.len()).find(|length| length.to_string().len() + rest.len() == *length);
    [length.expect("there is one").to_string().as_bytes(), &rest].concat()
}

/// Whatever the name is, unlike `Header::set_path`.
pub(crate) fn header(kind: EntryType, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>, size: u64) -> Header {
    let (name, target) = (name.as_ref(), target.as_ref());
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1_400_000_000);
    header.set_size(size);
    header
}

pub(crate) fn entry(mut header: Header, content: &[u8]) -> Bytes {
    header.set_cksum();
    let padding = vec![0; content.len().wrapping_neg() % 512];
    [header.as_bytes(), content, &padding].concat()
}

/// The entries as an artifact, with the end that an archive has.
pub(crate) fn artifact(entries: &[Bytes]) -> Bytes {
    gzip(&[entries.concat(), vec![0; 1024]].concat())
}

pub(crate) fn gzip(bytes: &[u8]) -> Bytes {
    zip(bytes, Compression::fast())
}

/// In blocks that are not compressed, which is many times as fast.
pub(crate) fn stored(bytes: &[u8]) -> Bytes {
    zip(bytes, Compression::none())
}

fn zip(bytes: &[u8], compression: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), compression);
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}
