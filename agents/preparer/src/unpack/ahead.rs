//! Reading ahead, on a thread of its own, so that fetching, decompressing and writing go on at the same time.
//!
//! Ensures: what is read is what the source gave, to its very end, and an error comes where it was met; a reader that goes
//! away stops the thread at its next step, and a thread that goes away is an error, not the end. A few chunks at a time are
//! in memory, whatever there is to read.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

/// What is passed on at a time: large beside what passing it on costs, small beside a processor's cache.
const CHUNK: usize = 128 * 1024;
/// What is small needs no more than this, and memory costs time.
const FIRST_CHUNK: usize = 16 * 1024;

/// Chunks that may wait to be read.
const WAITING: usize = 4;

/// What another thread reads ahead.
pub(super) struct Ahead {
    chunks: Receiver<io::Result<Chunk>>,
    /// Back to the thread, to be filled again: memory that was never used costs a fault for each page.
    used: Sender<Chunk>,
    now: Chunk,
    at: usize,
    is_over: bool,
    taken: Arc<AtomicU64>,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

/// How many bytes of an [`Ahead`] were read so far, for who does not read it.
#[derive(Clone)]
pub(super) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Ahead {
    /// Begins to read `source`.
    pub(super) fn of<'scope, R: Read + Send + 'scope>(scope: &'scope Scope<'scope, '_>, source: R) -> Self {
        let ((filled, chunks), (used, empty)) = (sync_channel(WAITING), channel());
        scope.spawn(move || fill(source, &filled, &empty));
        Self { chunks, used, now: Chunk::default(), at: 0, is_over: false, taken: Arc::default() }
    }

    pub(super) fn taken(&self) -> Taken {
        Taken(self.taken.clone())
    }
}

/// To the end, which an empty chunk marks, or to the first error, or until nobody reads any more.
fn fill(mut source: impl Read, to: &SyncSender<io::Result<Chunk>>, empty: &Receiver<Chunk>) {
    let mut size = FIRST_CHUNK;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        if chunk.bytes.len() < size {
            // Zeros from the system, which costs nothing before they are written over.
            chunk.bytes = vec![0; size];
        }
        size = (size * 4).min(CHUNK);
        let read = some_of(&mut source, &mut chunk.bytes).map(|filled| Chunk { filled, ..chunk });
        let is_last = !matches!(&read, Ok(chunk) if chunk.filled > 0);
        if to.send(read).is_err() || is_last {
            return;
        }
    }
}

fn some_of(source: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.now.filled && !self.is_over {
            let stopped = || io::Error::new(io::ErrorKind::ConnectionAborted, "reading it was stopped");
            let next = self.chunks.recv().map_err(|_| stopped())??;
            // The thread may have come to its end.
            let _ = self.used.send(std::mem::replace(&mut self.now, next));
            self.at = 0;
            self.is_over = self.now.filled == 0;
        }
        Ok(&self.now.bytes[self.at..self.now.filled])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
        self.taken.fetch_add(amount as u64, Relaxed);
    }
}

impl Read for Ahead {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(to)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Gives so many bytes, a few at a time, and then fails.
    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let some = self.0.min(to.len()).min(7000);
            self.0 -= some;
            to[..some].fill(b'x');
            if some == 0 { Err(io::Error::other("broken")) } else { Ok(some) }
        }
    }

    #[test]
    fn all_is_read_as_it_was_and_counted() {
        let bytes = (0..3_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>();
        thread::scope(|scope| {
            let mut ahead = Ahead::of(scope, &bytes[..]);
            let (taken, mut read) = (ahead.taken(), Vec::new());
            ahead.read_to_end(&mut read).unwrap();
            assert!(read == bytes && taken.bytes() == 3_000_000);
        });
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it_and_is_no_end() {
        thread::scope(|scope| {
            let (mut ahead, mut read) = (Ahead::of(scope, Failing(20_000)), Vec::new());
            let error = ahead.read_to_end(&mut read).unwrap_err();
            assert_eq!((error.to_string().as_str(), read.len()), ("broken", 20_000));
            assert!(ahead.fill_buf().is_err());
        });
    }

    #[test]
    fn who_reads_no_more_stops_the_thread() {
        thread::scope(|scope| drop(Ahead::of(scope, io::repeat(b'x'))));
    }
}
