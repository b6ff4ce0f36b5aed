//! One artifact over HTTP, as one stream of bytes however often the connection breaks.
//!
//! Ensures: what was passed on is never taken back, and what follows it is the rest of the same artifact; where that cannot
//! be had, whoever reads is told to start over. Nothing goes on for ever: tries in a row that bring nothing, artifacts
//! that change under way, and time are all counted.

use anyhow::{Context, Error, Result, anyhow};
use bytes::{Buf, Bytes};
use converge::Backoff;
use reqwest::header::{IF_RANGE, RANGE};
use reqwest::{Response, Url};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::answer::{Answer, Have, Representation, Trouble, read};
use super::{Fetcher, MOST_DELAY, short};
use crate::sources::Origin;

pub(crate) struct Download<'a> {
    fetcher: &'a Fetcher,
    url: &'a Url,
    origin: Origin,
    deadline: Instant,
    /// What is being fetched, once a server has said it.
    of: Representation,
    /// What was passed on of it.
    came: u64,
    /// Whose body comes next.
    response: Option<Response>,
    /// At the start of that body, what came already.
    skip: u64,
    /// Since something last came.
    tries: u32,
    changes: u32,
    /// Why the last body ended early.
    broke: Option<String>,
    backoff: Backoff,
}

/// How a stream ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Streamed {
    Whole,
    /// Nobody reads any more.
    Unread,
    /// There is another artifact at its place now: what came is of no use, and the next stream begins anew.
    Changed,
}

/// What one step came to.
enum Step {
    Asked,
    Missing,
    Ended(Streamed),
}

impl<'a> Download<'a> {
    /// Asks for `url`; `None` when the server says that there is no such thing.
    pub(super) async fn begin(fetcher: &'a Fetcher, url: &'a Url, origin: Origin) -> Result<Option<Self>> {
        let mut download = Self {
            fetcher,
            url,
            origin,
            deadline: Instant::now() + fetcher.limits.total,
            of: Representation::default(),
            came: 0,
            response: None,
            skip: 0,
            tries: 0,
            changes: 0,
            broke: None,
            backoff: Backoff::new(fetcher.limits.delay, MOST_DELAY),
        };
        let begun = timeout_at(download.deadline, download.begun()).await;
        let there = begun.map_err(|_| download.too_late())??;
        Ok(there.then_some(download))
    }

    async fn begun(&mut self) -> Result<bool> {
        loop {
            match self.ask().await {
                Ok(Step::Missing) => return Ok(false),
                Ok(Step::Asked | Step::Ended(_)) => return Ok(true),
                Err(trouble) => self.pause(trouble).await?,
            }
        }
    }

    /// How many bytes there are to come, if the server says so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.of.length
    }

    /// Passes bytes on from the first one, to the end or until nobody reads any more. An empty chunk marks the end: a
    /// stream without it is not whole. After [`Streamed::Changed`] it can be called again.
    pub(crate) async fn stream(&mut self, to: mpsc::Sender<Bytes>) -> Result<Streamed> {
        let streamed = timeout_at(self.deadline, self.streamed(&to)).await;
        streamed.map_err(|_| self.too_late())?
    }

    async fn streamed(&mut self, to: &mpsc::Sender<Bytes>) -> Result<Streamed> {
        loop {
            let step = match self.response.take() {
                Some(response) => self.pass_on(response, to).await,
                None => self.ask().await,
            };
            match step {
                Ok(Step::Asked) => {}
                Ok(Step::Ended(streamed)) => return Ok(streamed),
                Ok(Step::Missing) => return Err(anyhow!("it was removed while it was fetched")),
                Err(trouble) => self.pause(trouble).await?,
            }
        }
    }

    /// Asks for the rest, or for all of it while there is nothing yet.
    async fn ask(&mut self) -> Result<Step, Trouble> {
        let mut request = self.fetcher.request(self.url, self.origin).map_err(Trouble::Lasting)?;
        let have = (self.came > 0).then_some(Have { came: self.came, of: &self.of });
        match (have, &self.of.validator) {
            (None, _) => {}
            // The rest of what, no server could tell.
            (Some(_), None) => return self.change(Representation::default(), None),
            (Some(have), Some(validator)) => {
                request = request.header(RANGE, format!("bytes={}-", have.came));
                request = request.header(IF_RANGE, validator.value());
            }
        }
        let response = request.send().await.map_err(|error| {
            let lasting = error.is_redirect() || error.is_builder();
            if lasting { Trouble::Lasting(short(error)) } else { Trouble::Passing(short(error)) }
        })?;
        match read(response.status(), response.headers(), have)? {
            Answer::Missing => return Ok(Step::Missing),
            Answer::Changed => return self.change(Representation::default(), None),
            Answer::Other(now) => return self.change(now, Some(response)),
            Answer::Whole(now) => (self.of, self.skip) = (now, 0),
            Answer::Again => self.skip = self.came,
            Answer::Rest(length) => (self.of.length, self.skip) = (Some(length), 0),
        }
        self.response = Some(response);
        Ok(Step::Asked)
    }

    /// Begins anew, with what is there `now`.
    fn change(&mut self, now: Representation, response: Option<Response>) -> Result<Step, Trouble> {
        self.changes += 1;
        if self.changes > self.fetcher.limits.retries {
            let why = self.broke.clone().unwrap_or_else(|| "it is another each time".to_owned());
            return Err(Trouble::Lasting(anyhow!("{why}; and the server has it changed, or cannot resume it")));
        }
        (self.of, self.came, self.skip, self.response) = (now, 0, 0, response);
        Ok(Step::Ended(Streamed::Changed))
    }

    async fn pass_on(&mut self, mut response: Response, to: &mpsc::Sender<Bytes>) -> Result<Step, Trouble> {
        while let Some(mut chunk) = response.chunk().await.map_err(|error| Trouble::Passing(short(error)))? {
            let known = self.skip.min(chunk.len() as u64);
            self.skip -= known;
            chunk.advance(usize::try_from(known).expect("no more than there is"));
            if chunk.is_empty() {
                continue;
            }
            self.came += chunk.len() as u64;
            if self.of.length.is_some_and(|length| self.came > length) {
                return Err(Trouble::Lasting(anyhow!("more came than the server had said there is")));
            }
            self.tries = 0;
            self.backoff.reset();
            if to.send(chunk).await.is_err() {
                return Ok(Step::Ended(Streamed::Unread));
            }
        }
        if self.skip > 0 || self.of.length.is_some_and(|length| self.came < length) {
            return Err(Trouble::Passing(anyhow!("less came than the server had said there is")));
        }
        // Fails when nobody reads any more, which is no concern of the fetch.
        let _ = to.send(Bytes::new()).await;
        Ok(Step::Ended(Streamed::Whole))
    }

    /// Waits before the next try, if there is to be one.
    async fn pause(&mut self, trouble: Trouble) -> Result<()> {
        let error = match trouble {
            Trouble::Lasting(error) => return Err(error),
            Trouble::Passing(error) => error,
        };
        if self.tries >= self.fetcher.limits.retries {
            return Err(error);
        }
        self.tries += 1;
        self.broke = Some(format!("{error:#}"));
        tracing::debug!("{}: {error:#}; trying again", self.url.path());
        sleep(self.backoff.delay()).await;
        Ok(())
    }

    fn too_late(&self) -> Error {
        anyhow!("not fetched within {} s, as --fetch-timeout has it", self.fetcher.limits.total.as_secs_f64())
    }
}

/// All of something small.
///
/// # Errors
/// Also when it is longer than `most` bytes.
pub(super) async fn small(fetcher: &Fetcher, url: &Url, origin: Origin, most: usize) -> Result<Option<Vec<u8>>> {
    let Some(mut download) = Download::begin(fetcher, url, origin).await? else { return Ok(None) };
    loop {
        let (to, mut chunks) = mpsc::channel::<Bytes>(1);
        let collecting = async move {
            let mut all = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                all.extend_from_slice(&chunk);
                if all.len() > most {
                    return None;
                }
            }
            Some(all)
        };
        let (streamed, all) = tokio::join!(download.stream(to), collecting);
        match streamed? {
            Streamed::Changed => {}
            Streamed::Whole | Streamed::Unread => {
                return all.map(Some).with_context(|| format!("longer than {most} bytes"));
            }
        }
    }
}
