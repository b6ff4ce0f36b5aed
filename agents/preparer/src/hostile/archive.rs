//! Archives that nobody should make, as many as one likes.
//!
//! Ensures: the same for the same seed. Most entries are such that they can be made, so that those after them have
//! something to misuse.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fastrand::Rng;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::{EntryType, Header};

use crate::unpack::build::{Bytes, about_next, entry, gzip, header, record, stored};

/// What names are made of. Few, so that they meet.
const PARTS: [&[u8]; 6] = [b"a", b"b", b"l", b"d", b"m", b"\xff\n"];
const ODD_PARTS: [&[u8]; 8] = [b"..", b".", b"", b"...", b" ", b"\0", &[b'n'; 255], &[b'n'; 256]];
/// What leads out of the stage, which is two directories below the sandbox's.
const WAYS_OUT: [&[u8]; 10] = [
    b"..",
    b"../..",
    b"../../outside",
    b"../../outside/secret",
    b"../../outside/dir",
    b"../../link",
    b"../other/file",
    b"../../..",
    b"/proc/self/cwd",
    b"/proc/self/fd/3",
];
/// Types of entries: those that are made; those about the next one, and those that are refused.
const KINDS: &[u8] = b"00000011222222255555\x007S";
const ODD_KINDS: &[u8] = b"xxxxgLK346VMDNXA\xff";
const SPARSE: [&str; 8] = ["major", "minor", "name", "realsize", "size", "map", "numblocks", "offset"];
const NUMBERS: [u64; 8] = [0, 1, 511, 512, 1 << 20, (1 << 33) + 1, i64::MAX as u64, u64::MAX];

/// An artifact for a sandbox at `dir`.
pub(super) fn hostile(random: &mut Rng, dir: &Path) -> Bytes {
    // How often of a hundred times something in it is odd: that ends most archives, so that in many there is little.
    let odd = [0, 1, 8][random.usize(..3)];
    if random.u8(..16) == 0 {
        return anything(random);
    }
    let mut making = Making { random, dir: dir.as_os_str().as_bytes(), odd, names: Vec::new() };
    let entries = making.random.usize(1..12);
    let mut plain = (0..entries).flat_map(|_| making.entry()).collect::<Bytes>();
    plain.extend(making.end());
    if making.random.u8(..6) == 0 {
        making.damage(&mut plain);
    }
    making.zip(&plain)
}

/// Any bytes, as an artifact or as what is in one.
fn anything(random: &mut Rng) -> Bytes {
    let bytes = (0..random.usize(..3000)).map(|_| random.u8(..)).collect::<Bytes>();
    let magic: &[u8] = [&b""[..], &[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd]][random.usize(..3)];
    if random.bool() { stored(&bytes) } else { [magic, &bytes].concat() }
}

struct Making<'a> {
    random: &'a mut Rng,
    dir: &'a [u8],
    odd: u8,
    /// Of the entries so far.
    names: Vec<Bytes>,
}

impl Making<'_> {
    fn entry(&mut self) -> Bytes {
        let kind = if self.is_odd() { self.one_of(ODD_KINDS) } else { self.one_of(KINDS) };
        let (name, target) = (self.name(), self.target(kind == b'2'));
        let content = match kind {
            b'L' | b'K' => [&name[..], b"\0"].concat(),
            b'x' | b'g' => self.records(),
            b'0' | b'7' | b'S' | 0 => vec![b'x'; self.random.usize(..1200)],
            _ => Bytes::new(),
        };
        let (before, in_name, in_target) = self.where_names_go(name.clone(), target);
        let mut own = header(EntryType::new(kind), in_name, in_target, content.len() as u64);
        own.set_mode(self.random.u32(..0o10000));
        if kind == b'S' {
            self.map(&mut own, content.len() as u64);
        }
        if self.is_odd() {
            self.lie(&mut own);
        }
        self.names.push(name);
        [before, entry(own, &content)].concat()
    }

    fn name(&mut self) -> Bytes {
        match self.random.u8(..8) {
            0..3 if !self.names.is_empty() => self.earlier(),
            3 | 4 if !self.names.is_empty() => [self.earlier(), self.path()].join(&b'/'),
            _ if self.is_odd() => self.out(),
            5 if self.random.u8(..40) == 0 => b"d/".repeat(self.random.usize(1..2040)),
            _ => self.path(),
        }
    }

    /// Where a link leads. Whatever a symbolic one says is kept, so that it may say anything.
    fn target(&mut self, symbolic: bool) -> Bytes {
        match self.random.u8(..4) {
            0 if symbolic || self.is_odd() => self.out(),
            0 | 1 if symbolic => [&b"../".repeat(self.random.usize(..4))[..], &self.path()].concat(),
            3 => self.path(),
            _ => self.earlier(),
        }
    }

    fn earlier(&mut self) -> Bytes {
        if self.names.is_empty() { self.path() } else { self.names[self.random.usize(..self.names.len())].clone() }
    }

    fn path(&mut self) -> Bytes {
        let parts = (0..=self.random.usize(..3) * self.random.usize(..2)).map(|_| match self.is_odd() {
            true => self.one_of(&ODD_PARTS),
            false => self.one_of(&PARTS),
        });
        let path = parts.collect::<Vec<_>>().join(&b'/');
        let (before, after): (&[u8], &[u8]) = self.one_of(&[(b"", b""), (b"", b""), (b"./", b""), (b"", b"/")]);
        [before, &path, after].concat()
    }

    fn out(&mut self) -> Bytes {
        let way = self.one_of(&WAYS_OUT);
        match self.random.u8(..4) {
            0 => [self.dir, b"/outside"].concat(),
            1 => [self.dir, b"/outside/secret"].concat(),
            2 => [way, &self.path()].join(&b'/'),
            _ => way.to_vec(),
        }
    }

    /// A name and a target go into the header itself, or into one or more before it: those, and what is left for it.
    fn where_names_go(&mut self, name: Bytes, target: Bytes) -> (Bytes, Bytes, Bytes) {
        let mut before = Bytes::new();
        let mut place = |bytes: Bytes, gnu: u8, pax: &str, random: &mut Rng| {
            let fits = bytes.len() <= 100;
            match random.u8(..8) {
                0..6 if fits => return bytes,
                6 if !bytes.contains(&0) => before.extend(about_next(gnu, &[&bytes[..], b"\0"].concat())),
                _ => before.extend(about_next(b'x', &record(pax, &bytes))),
            }
            b"cut".to_vec()
        };
        let name = place(name, b'L', "path", self.random);
        let target = place(target, b'K', "linkpath", self.random);
        (before, name, target)
    }

    /// What a pax header says of the next entry.
    fn records(&mut self) -> Bytes {
        let mut records = Bytes::new();
        for _ in 0..self.random.usize(1..4) {
            let number = self.number().to_string().into_bytes();
            records.extend(match self.random.u8(..8) {
                0 => record("path", &self.name()),
                1 => record("linkpath", &self.target(true)),
                2 => record("mtime", self.one_of(&[&b"-1.5"[..], b"12.25", b"99999999999999999999", b"soon"])),
                3 => record("size", &number),
                4 => record(&format!("GNU.sparse.{}", self.one_of(&SPARSE)), &number),
                5 => b"9 broken\n".to_vec(),
                _ => record("SCHILY.xattr.user.a", b"\n\0=\xff"),
            });
        }
        records
    }

    /// A map of a sparse file, as a rule one that fits.
    fn map(&mut self, header: &mut Header, stored: u64) {
        let gap = self.random.u64(..4) * 512;
        let lies = self.is_odd();
        let (real, offset, length) = match lies {
            true => (self.number(), self.number(), self.number()),
            false => (gap + stored, gap, stored),
        };
        let gnu = header.as_gnu_mut().expect("it is one");
        gnu.set_real_size(real);
        gnu.sparse[0].set_offset(offset);
        gnu.sparse[0].set_length(length);
        gnu.set_is_extended(lies && self.random.bool());
    }

    /// Has a header say what is not so.
    fn lie(&mut self, header: &mut Header) {
        match self.random.u8(..5) {
            0 => header.set_size(self.number()),
            1 => header.as_old_mut().size = *b"zzzzzzzzzzzz",
            2 => header.as_old_mut().mode = [0xff; 8],
            3 => header.as_old_mut().mtime = [0xff; 12],
            _ => header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000"),
        }
    }

    /// What an archive ends with.
    fn end(&mut self) -> Bytes {
        match self.random.u8(..20) {
            0 => Bytes::new(),
            1 => vec![0; self.random.usize(..2000)],
            2 => [&[0; 1024][..], b"more"].concat(),
            _ => vec![0; 1024],
        }
    }

    /// Changes some bytes, as a rule with the checksum that whoever wants to be believed would give it, or cuts it.
    fn damage(&mut self, plain: &mut Bytes) {
        for _ in 0..self.random.usize(..4) {
            let Some(at) = (!plain.is_empty()).then(|| self.random.usize(..plain.len())) else { return };
            plain[at] = self.random.u8(..);
            if let Some(block) = plain.get_mut(at / 512 * 512..).and_then(|rest| rest.get_mut(..512)) {
                let mut header = Header::from_byte_slice(block).clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        if self.random.u8(..3) == 0 {
            plain.truncate(self.random.usize(..=plain.len()));
        }
    }

    /// Of one member or frame, or several, whole or not.
    fn zip(&mut self, plain: &[u8]) -> Bytes {
        let at = self.random.usize(..=plain.len());
        let mut zipped = match self.random.u8(..16) {
            12 | 13 => return self.damaged_zstd(plain),
            0 => plain.to_vec(),
            1 => [stored(&plain[..at]), stored(b""), stored(&plain[at..])].concat(),
            2 => [stored(&plain[..at]), gzip(&plain[at..])].concat(),
            3 => [stored(plain), stored(plain)].concat(),
            _ => stored(plain),
        };
        let at = self.random.usize(..zipped.len().max(1));
        match self.random.u8(..40) {
            0 => zipped.truncate(at),
            1 => zipped.extend(b"more"),
            2 => zipped.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.random.u8(..8)),
            _ => {}
        }
        zipped
    }

    /// With as many bytes changed as leave its decoder something to do.
    fn damaged_zstd(&mut self, plain: &[u8]) -> Bytes {
        let mut zipped = compress_to_vec(plain, CompressionLevel::Fastest);
        for _ in 0..self.random.usize(..4) {
            let at = self.random.usize(..zipped.len());
            zipped[at] = self.random.u8(..);
        }
        zipped
    }

    fn is_odd(&mut self) -> bool {
        self.random.u8(..100) < self.odd
    }

    fn number(&mut self) -> u64 {
        self.one_of(&NUMBERS)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }
}
