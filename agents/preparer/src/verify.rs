//! Whether an artifact is the one that it should be, found out while it is read.
//!
//! Ensures: every byte of it counts, also those that unpacking has no use for. Assumes that what is made of it is put in
//! place only after [`Checked::verify`].

mod keys;
mod signature;

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use minisign_verify::StreamVerifier;
use sha2::{Digest, Sha256};
use store::schema::Sha256Digest;

use crate::progress::Progress;

pub(crate) use keys::trusted;
pub(crate) use signature::Signed;

/// What an artifact has to be.
pub(crate) struct Expected {
    pub(crate) sha256: Option<Sha256Digest>,
    pub(crate) signed: Option<Signed>,
}

/// An artifact that is being read. By a reader of its own, since what reads it may well take it for itself.
pub(crate) struct Checked<'a, R>(Mutex<Reading<'a, R>>);

struct Reading<'a, R> {
    artifact: R,
    progress: Progress,
    sha256: Option<(Sha256, &'a Sha256Digest)>,
    signature: Option<StreamVerifier<'a>>,
}

impl<'a, R: Read + Send> Checked<'a, R> {
    pub(crate) fn new(expected: &'a Expected, artifact: R, progress: Progress) -> Result<Self> {
        let Expected { sha256, signed } = expected;
        let sha256 = sha256.as_ref().map(|expected| (Sha256::new(), expected));
        let signature = signed.as_ref().map(Signed::verifier).transpose()?;
        Ok(Self(Mutex::new(Reading { artifact, progress, sha256, signature })))
    }

    pub(crate) fn reader(&self) -> impl Read + Send {
        Reader(self)
    }

    /// Reads what is left of it, and compares.
    pub(crate) fn verify(&self) -> Result<()> {
        io::copy(&mut self.reader(), &mut io::sink()).context("reading the artifact")?;
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, expected)) = reading.sha256.take() {
            let digest = digest.finalize();
            if !expected.is(&digest) {
                bail!(
                    "this is not the artifact that intent means: its sha256 is {digest:x}, not {}",
                    expected.as_str()
                );
            }
        }
        match &mut reading.signature {
            Some(signature) => signature.finalize().context("its signature is of something else"),
            None => Ok(()),
        }
    }
}

struct Reader<'r, 'a, R>(&'r Checked<'a, R>);

impl<R: Read> Read for Reader<'_, '_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut reading = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.progress.is_stopped() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the fetch was stopped"));
        }
        let length = reading.artifact.read(to)?;
        let read = &to[..length];
        reading.progress.add(length);
        if let Some((digest, _)) = &mut reading.sha256 {
            digest.update(read);
        }
        if let Some(signature) = &mut reading.signature {
            signature.update(read);
        }
        Ok(length)
    }
}
