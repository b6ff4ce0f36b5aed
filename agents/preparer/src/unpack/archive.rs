//! A tar stream as a sequence of entries: v7, ustar, GNU (long names, sparse files) and pax (sparse files too).
//!
//! Ensures: an entry is what its archive says it is, or an error; an archive is read to its very end, so that one that
//! was cut, or has something behind its end, is an error; memory is bounded whatever a header claims. Assumes nothing of
//! the bytes.
//!
//! The `tar` crate reads the headers. Its own iteration over entries would read names and attributes of any length into
//! memory, take a malformed pax record for none, the map of a pax sparse file for content, and an archive that ends
//! between two entries for a whole one.

use std::borrow::Cow;
use std::io::{self, BufRead, ErrorKind, Write};

use anyhow::{Context, Result, bail, ensure};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::name::{self, shown};
use super::pax::{self, Sparse};

const BLOCK: usize = 512;

/// What a pax header may take: names are at most 4096 bytes, extended attributes (not used here) 64 KiB each.
const PAX_MAX: u64 = 1 << 20;

/// How many pieces a sparse file may have: 16 bytes of memory each.
const EXTENTS_MAX: usize = 1 << 16;

/// After an error it is of no further use.
pub(super) struct Archive<R> {
    input: R,
    /// What is left of the current entry's content.
    content: u64,
    /// What follows it up to the next block.
    padding: u64,
    /// The last entry's name, as errors show it.
    last: Option<String>,
}

pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Directory,
    File(File),
    /// Where to, as it stands in the archive.
    Symlink(Vec<u8>),
    /// To which other entry.
    HardLink(Vec<u8>),
}

pub(super) struct File {
    pub(super) mode: u32,
    /// Seconds and nanoseconds.
    pub(super) modified: Option<(i64, u32)>,
    pub(super) size: u64,
    /// Where in the file the content goes, when not from its start to its end.
    pub(super) extents: Option<Vec<Extent>>,
}

pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl<R: BufRead> Archive<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, content: 0, padding: 0, last: None }
    }

    /// The next entry; `None` at the archive's proper end. What was not read of the last one's content is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let next = self.header().with_context(|| match &self.last {
            Some(last) => format!("after entry {last}"),
            // Most often a page that a server gives where it should have said that there is no such thing.
            None => "at its start, where a tar archive is expected, or one in gzip or zstd".to_owned(),
        })?;
        let Some((header, mut about)) = next else { return Ok(None) };
        // A sparse file's own name is that of an archive without the map, for those who cannot read it.
        let sparse = about.sparse.as_mut().and_then(|sparse| sparse.name.take());
        let name = sparse.or(about.name.take()).unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = shown(&name);
        let kind = self.kind(&header, about, name.ends_with(b"/")).with_context(|| format!("entry {shown}"))?;
        self.last = Some(shown);
        Ok(Some(Entry { name, kind }))
    }

    /// The next header that is an entry's own, and what those before it said about it.
    fn header(&mut self) -> Result<Option<(Header, About)>> {
        self.skip(self.content + self.padding)?;
        let mut about = About::default();
        loop {
            ensure!(!fill(&mut self.input)?.is_empty(), "it ends without the mark of an archive's end");
            let header = self.block()?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                ensure!(about.is_empty(), "it ends between the two halves of an entry");
                self.only_zeros_follow()?;
                ensure!(self.last.is_some(), "there is nothing in it");
                return Ok(None);
            }
            check_sum(&header)?;
            match header.entry_type() {
                EntryType::XHeader => about.add_pax(&self.extension(&header, PAX_MAX)?)?,
                EntryType::XGlobalHeader => pax::check_global(&self.extension(&header, PAX_MAX)?)?,
                EntryType::GNULongName => set(&mut about.name, long(self.extension(&header, name::MAX + 1)?), "name")?,
                EntryType::GNULongLink => set(&mut about.link, long(self.extension(&header, name::MAX + 1)?), "link")?,
                _ => return Ok(Some((header, about))),
            }
        }
    }

    /// Copies the next `length` bytes of the current entry's content.
    pub(super) fn copy(&mut self, length: u64, to: &mut impl Write) -> Result<()> {
        self.content = self.content.checked_sub(length).context("it has less content than its map says")?;
        self.each_chunk(length, |chunk| to.write_all(chunk).context("writing it"))
    }

    fn kind(&mut self, header: &Header, about: About, named_as_directory: bool) -> Result<Kind> {
        let stored = match about.size {
            Some(size) => size,
            None => header.entry_size().ok().context("malformed size")?,
        };
        // As GNU tar has it: the size of a hard link is the file's, and no content follows.
        self.content = if header.entry_type() == EntryType::Link { 0 } else { stored };
        self.padding = self.content.wrapping_neg() % BLOCK as u64;
        self.content.checked_add(self.padding).context("an impossible size")?;
        let link = || about.link.clone().or_else(|| header.link_name_bytes().map(Cow::into_owned));
        Ok(match header.entry_type() {
            EntryType::Directory => Kind::Directory,
            // How archivers wrote directories before there was a type for them.
            EntryType::Regular | EntryType::Continuous if named_as_directory => {
                ensure!(stored == 0, "a file with a directory's name");
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous if about.sparse.is_some() => {
                let sparse = about.sparse.unwrap_or_default();
                let (size, extents) = self.pax_sparse(sparse, stored).context("malformed map of a sparse file")?;
                Kind::File(file(header, about.modified, size, Some(extents)).context(MALFORMED_MODE)?)
            }
            EntryType::Regular | EntryType::Continuous => {
                Kind::File(file(header, about.modified, stored, None).context(MALFORMED_MODE)?)
            }
            EntryType::GNUSparse => {
                let (size, extents) = self.sparse(header, stored).context("malformed map of a sparse file")?;
                Kind::File(file(header, about.modified, size, Some(extents)).context(MALFORMED_MODE)?)
            }
            EntryType::Symlink => Kind::Symlink(link().context("a symbolic link to nothing")?),
            EntryType::Link => Kind::HardLink(link().context("a hard link to nothing")?),
            EntryType::Char | EntryType::Block => bail!("a device"),
            EntryType::Fifo => bail!("a named pipe"),
            other => bail!("an entry of an unknown type, '{}'", other.as_byte().escape_ascii()),
        })
    }

    /// Reads the map of a sparse file in the old GNU format: its real size, and where the content goes.
    fn sparse(&mut self, header: &Header, stored: u64) -> Result<(u64, Vec<Extent>)> {
        let gnu = header.as_gnu().context("not in a GNU header")?;
        let size = gnu.real_size().ok().context(NO_NUMBER)?;
        let mut map = Map::default();
        gnu.sparse.iter().try_for_each(|piece| map.add_gnu(piece))?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            *next.as_mut_bytes() = *self.block()?.as_bytes();
            next.sparse().iter().try_for_each(|piece| map.add_gnu(piece))?;
            more = next.is_extended();
        }
        map.of(size, stored)
    }

    /// Reads the map of a sparse file in one of the pax formats, as [`Archive::sparse`] does.
    fn pax_sparse(&mut self, sparse: Sparse, stored: u64) -> Result<(u64, Vec<Extent>)> {
        let size = sparse.size.context("without the file's size")?;
        let mut map = Map::default();
        if sparse.is_in_content {
            let before = self.content;
            let pieces = self.number()?;
            for _ in 0..pieces {
                let (offset, length) = (self.number()?, self.number()?);
                map.add(offset, length)?;
            }
            // Up to the next block.
            let rest = (before - self.content).wrapping_neg() % BLOCK as u64;
            self.copy(rest, &mut io::sink())?;
            return map.of(size, self.content);
        }
        for piece in sparse.pieces.chunks(2) {
            let [offset, length] = piece else { bail!("an offset without a length") };
            map.add(*offset, *length)?;
        }
        map.of(size, stored)
    }

    /// A decimal number in the content, with the newline behind it.
    fn number(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let mut byte = [0; 1];
            self.copy(1, &mut &mut byte[..])?;
            match byte {
                [b'\n'] => return pax::decimal(&digits).context("not a number"),
                [digit] => digits.push(digit),
            }
            ensure!(digits.len() < 21, "not a number");
        }
    }

    /// Reads the content of a header that is about the next one.
    fn extension(&mut self, header: &Header, most: u64) -> Result<Vec<u8>> {
        let size = header.entry_size().ok().context("malformed size of a name or of attributes")?;
        ensure!(size <= most, "a name or attributes longer than {most} bytes");
        let mut bytes = Vec::new();
        self.each_chunk(size, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        self.skip(size.wrapping_neg() % BLOCK as u64)?;
        Ok(bytes)
    }

    fn block(&mut self) -> Result<Header> {
        let mut header = Header::new_old();
        self.input.read_exact(header.as_mut_bytes()).context(READING)?;
        Ok(header)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.each_chunk(length, |_| Ok(()))?;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// Hands out the next `length` bytes as they come, without copying them first.
    fn each_chunk(&mut self, length: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let available = fill(&mut self.input)?;
            if available.is_empty() {
                return Err(io::Error::from(ErrorKind::UnexpectedEof)).context(READING);
            }
            let chunk = &available[..usize::try_from(left).map_or(available.len(), |left| left.min(available.len()))];
            take(chunk)?;
            let taken = chunk.len();
            self.input.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    /// Reads to the end, which also has the decoder compare its checksum. Archivers fill up with zeros; anything else
    /// there would be seen by some readers and not by others.
    fn only_zeros_follow(&mut self) -> Result<()> {
        loop {
            let rest = fill(&mut self.input)?;
            if rest.is_empty() {
                return Ok(());
            }
            ensure!(rest.iter().all(|byte| *byte == 0), "there is something behind the archive's end");
            let length = rest.len();
            self.input.consume(length);
        }
    }
}

const READING: &str = "reading the artifact";
// What the crate says of a field has its bytes in it, or the entry's name, as they stand in the archive: those may be anything.
const MALFORMED_MODE: &str = "malformed mode";
const NO_NUMBER: &str = "not a number";

fn fill(input: &mut impl BufRead) -> Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(READING),
            // Filled already, so that asking again hands out what is there.
            Ok(_) => return input.fill_buf().context(READING),
        }
    }
}

fn check_sum(header: &Header) -> Result<()> {
    let bytes = header.as_bytes();
    // Its own field counts as spaces.
    let sum = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    ensure!(header.cksum().is_ok_and(|stored| stored == sum), "a header's checksum is wrong");
    Ok(())
}

fn file(header: &Header, modified: Option<(i64, u32)>, size: u64, extents: Option<Vec<Extent>>) -> Option<File> {
    let in_header = || {
        // An empty field is a zero for GNU tar, and older cargos have left it empty.
        let is_empty = || header.as_old().mtime.iter().all(|byte| matches!(byte, 0 | b' '));
        let seconds = header.mtime().ok().or_else(|| is_empty().then_some(0))?;
        Some((i64::try_from(seconds).ok()?, 0))
    };
    Some(File { mode: header.mode().ok()?, modified: modified.or_else(in_header), size, extents })
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct About {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<(i64, u32)>,
    sparse: Option<Sparse>,
}

impl About {
    fn is_empty(&self) -> bool {
        let Self { name, link, size, modified, sparse } = self;
        name.is_none() && link.is_none() && size.is_none() && modified.is_none() && sparse.is_none()
    }

    fn add_pax(&mut self, header: &[u8]) -> Result<()> {
        for record in pax::records(header) {
            let (key, value) = record?;
            match key {
                // POSIX: as if the record were not there.
                _ if value.is_empty() => {}
                b"path" => set(&mut self.name, value.to_vec(), "name")?,
                b"linkpath" => set(&mut self.link, value.to_vec(), "link")?,
                b"size" => set(&mut self.size, pax::decimal(value).context("malformed size in a pax header")?, "size")?,
                b"mtime" => {
                    set(&mut self.modified, pax::time(value).context("malformed time in a pax header")?, "time")?;
                }
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        let sparse = self.sparse.get_or_insert_default();
                        sparse.add(key, value).context("malformed map of a sparse file in a pax header")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// An entry with two names is two different entries to different readers.
fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    ensure!(slot.is_none(), "headers give one entry more than one {what}");
    *slot = Some(value);
    Ok(())
}

/// A long name as GNU tar stores it: with a NUL at its end.
fn long(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

#[derive(Default)]
struct Map {
    extents: Vec<Extent>,
    /// Of the last extent.
    end: u64,
    /// What they take in the archive, together.
    stored: u64,
}

impl Map {
    fn add_gnu(&mut self, piece: &GnuSparseHeader) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let (offset, length) = (piece.offset().ok(), piece.length().ok());
        self.add(offset.context(NO_NUMBER)?, length.context(NO_NUMBER)?)
    }

    fn add(&mut self, offset: u64, length: u64) -> Result<()> {
        ensure!(offset >= self.end, "pieces that overlap");
        ensure!(length == 0 || self.stored.is_multiple_of(BLOCK as u64), "a piece that is no multiple of a block");
        ensure!(self.extents.len() < EXTENTS_MAX, "more than {EXTENTS_MAX} pieces");
        self.end = offset.checked_add(length).context("an impossible offset")?;
        self.stored = self.stored.checked_add(length).context("an impossible length")?;
        self.extents.push(Extent { offset, length });
        Ok(())
    }

    /// The map of a file of this size, of which so much is stored.
    fn of(self, size: u64, stored: u64) -> Result<(u64, Vec<Extent>)> {
        ensure!(self.stored == stored && self.end <= size, "it does not agree with the size");
        Ok((size, self.extents))
    }
}
