//! The tar stream in an artifact, which may be compressed with gzip or zstd, or not at all: its first bytes tell.
//!
//! Ensures: several gzip members or zstd frames behind each other are one stream; each is compared with the checksum that
//! comes with it; one that is cut is an error; memory is bounded whatever a header asks for.
//!
//! Both decoders are in Rust throughout: what they read comes from anywhere, and is read by root.

use std::io::{self, BufRead, Cursor, Read};

use anyhow::{Context, Result, anyhow};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// As far back as a zstd stream may refer, in bytes; what its decoder keeps in memory. `zstd` uses 8 MiB up to level 19;
/// more only with --ultra or --long.
const WINDOW_MAX: u64 = 32 << 20;

/// As many bytes as tell what it is.
const MAGIC: usize = 4;

/// What is in the artifact `input`.
pub(super) fn decompressed<'a>(mut input: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let mut first = Vec::new();
    input.by_ref().take(MAGIC as u64).read_to_end(&mut first).context("reading the artifact")?;
    let magic = <[u8; MAGIC]>::try_from(&first[..]).unwrap_or_default();
    let whole = Cursor::new(first).chain(input);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        // A frame, or one that its reader skips.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Box::new(Zstd::new(whole)),
        _ => Box::new(whole),
    })
}

/// Frames of zstd, one behind the other. The decoder knows one at a time, and leaves checksums to its user.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    is_within_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { input, decoder, is_within_frame: false }
    }

    /// Tells whether there is a further frame.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.input) {
                Ok(()) => {
                    self.is_within_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(malformed(error)),
            }
        }
        Ok(false)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.is_within_frame = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(is)) if stored != is => Err(malformed(anyhow!("a checksum is wrong"))),
            (Some(_) | None, _) => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within_frame && !self.begin_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.input, some).map_err(malformed)?;
            }
            let read = self.decoder.read(to)?;
            if read > 0 || to.is_empty() {
                return Ok(read);
            }
            self.end_frame()?;
        }
    }
}

fn malformed(error: impl Into<anyhow::Error>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("as zstd: {:#}", error.into()))
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;
    use crate::unpack::build::gzip;

    fn all_of(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        decompressed(bytes)?.read_to_end(&mut all)?;
        Ok(all)
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn a_stream_is_what_its_first_bytes_say_in_as_many_parts_as_there_are() {
        let (one, two) = ((0..200_000u32).map(|i| (i / 7) as u8).collect::<Vec<_>>(), b"two".to_vec());
        let both = [&one[..], &two].concat();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for whole in [
            both.clone(),
            gzip(&both),
            [gzip(&one), gzip(b""), gzip(&two)].concat(),
            zstd(&both),
            [zstd(&one), zstd(b""), skipped.clone(), zstd(&two)].concat(),
            [skipped, zstd(&both)].concat(),
        ] {
            assert!(all_of(&whole).unwrap() == both);
        }
        for short in [&b""[..], b"a", b"abc"] {
            assert_eq!(all_of(short).unwrap(), short);
        }
    }

    #[test]
    fn what_is_cut_or_changed_or_wants_too_much_memory_is_an_error() {
        let bytes = (0..50_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<_>>();
        for whole in [gzip(&bytes), zstd(&bytes)] {
            for cut in [5, 100, whole.len() / 2, whole.len() - 1] {
                assert!(all_of(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
            }
            let mut changed = whole.clone();
            let last = changed.len() - 6;
            changed[last] ^= 1;
            assert!(all_of(&changed).is_err_and(|_| true) || all_of(&changed).unwrap() != bytes);
        }
        // A window of 64 MiB, for one raw block of a byte.
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3, 9, 0, 0, b'a'];
        assert!(all_of(&wide).unwrap_err().to_string().contains("zstd"));
    }
}
