//! Waiting until Consul says something else, by blocking queries.
//!
//! Ensures: every answer is compared with what the token was made of, so that Consul's index is only a hint about when
//! to look; but the same one again, after all of a wait, says that nothing was written. An index that goes backwards
//! (another server, a restored snapshot) begins anew.
//!
//! A query that is given up goes on to hold one of the 200 connections that a Consul agent allows each address, until
//! it would have ended anyway; an agent that began sixteen for each wake would soon lock out its whole host. So a query
//! outlives the [`changed`] that began it, and the next one takes it over.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::client::Client;
use super::instances::found;
use super::{Consul, indexed, listed, path};
use crate::instance::matters;
use crate::{AppName, ClusterName, Document, Documents, Gather, News, Prefix, Registered, Revision, Token};

/// An index that comes with a token may be another server's by now, and to wait for the end of that, to wait in vain: then
/// for no longer than this.
const WAIT_AT_FIRST: Duration = Duration::from_secs(10);
/// How many queries one token may cost. More prefixes are watched by what is around them.
const MOST_QUERIES: usize = 16;

/// Returns once the documents under the token's prefixes differ from what it was made of: what is there of the first that do.
pub(super) async fn changed(consul: &Consul, token: &Token) -> Result<News> {
    let targets = targets(token.prefixes().cloned().collect());
    consul.queries.keep(&targets);
    let mut watching = JoinSet::new();
    for target in targets {
        let (consul, token) = (consul.clone(), token.only(target.prefixes()));
        watching.spawn(async move { target_changed(&consul, &target, &token).await });
    }
    match watching.join_next().await {
        Some(first) => first.context("the task that watched Consul ended early")?,
        None => std::future::pending().await,
    }
}

/// Returns once the instances of `app` in `cluster` are not what they were in `seen`, in what [`matters`].
pub(super) async fn instances_changed(
    consul: &Consul,
    app: &AppName,
    cluster: &ClusterName,
    seen: &[Registered],
) -> Result<()> {
    let prefix = [Prefix::from_names(&["instances", app.as_str(), cluster.as_str()])];
    let token = Token::of(&prefix, &in_documents(&prefix[0], seen));
    target_changed(consul, &Target::Instances(prefix, app.clone(), cluster.clone()), &token).await.map(drop)
}

/// What matters of instances, so that a token can be made of it.
fn in_documents(prefix: &Prefix, instances: &[Registered]) -> Documents {
    let nothing = || Document { bytes: Vec::new(), revision: Revision(String::new()) };
    matters(instances).iter().map(|it| (format!("{prefix}{it:?}"), Ok(nothing()))).gather()
}

/// What one blocking query waits on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Target {
    /// The documents under a prefix, which the answer holds.
    Documents([Prefix; 1]),
    /// Anything under the first prefix, for the sake of the others. The answer says only that there was something.
    Around(Prefix, Vec<Prefix>),
    /// The instances of an app in a cluster. The answer is made into documents under a prefix of theirs.
    Instances([Prefix; 1], AppName, ClusterName),
}

/// The fewest queries that see a change under any of `prefixes`, if one for each would be too many.
fn targets(prefixes: Vec<Prefix>) -> BTreeSet<Target> {
    if prefixes.len() <= MOST_QUERIES {
        return prefixes.into_iter().map(|prefix| Target::Documents([prefix])).gather();
    }
    let top = |prefix: &Prefix| prefix.as_str().split_inclusive('/').next().unwrap_or_default().to_owned();
    let mut by_top = HashMap::<_, Vec<_>>::new();
    for prefix in &prefixes {
        by_top.entry(top(prefix)).or_default().push(prefix.clone());
    }
    if by_top.len() > MOST_QUERIES {
        return BTreeSet::from([Target::Around(Prefix::everything(), prefixes)]);
    }
    let target = |(top, prefixes): (String, Vec<Prefix>)| match <[Prefix; 1]>::try_from(prefixes) {
        Ok(one) => Target::Documents(one),
        Err(several) => Target::Around(Prefix::parse(&top).expect("it is the first part of a prefix"), several),
    };
    by_top.into_iter().map(target).gather()
}

impl Target {
    fn prefixes(&self) -> &[Prefix] {
        match self {
            Self::Documents(prefix) | Self::Instances(prefix, ..) => prefix,
            Self::Around(_, prefixes) => prefixes,
        }
    }

    /// The answer to a query: at once with index 0, else when the target's index is another or `wait` is over.
    async fn ask(&self, client: &Client, index: u64, wait: Duration) -> Result<(u64, Documents)> {
        let blocking = format!("consistent&index={index}&wait={}ms", wait.as_millis());
        // Consul adds up to a sixteenth, at random; the rest is for the network.
        let timeout = wait + wait / 16 + Duration::from_secs(5);
        match self {
            Self::Documents([prefix]) => {
                listed(&client.query(prefix, format!("{}?{blocking}&recurse", path(prefix)), timeout).await?)
            }
            Self::Around(prefix, _) => {
                let path = format!("{}?{blocking}&keys&separator=/", path(prefix));
                Ok((indexed(&client.query(prefix, path, timeout).await?)?, Documents::new()))
            }
            Self::Instances([prefix], app, cluster) => {
                let (index, found) = found(client, app, cluster, &blocking, timeout).await?;
                Ok((index, in_documents(prefix, &found)))
            }
        }
    }

    /// What is under the target's prefixes, after its query has answered.
    async fn documents<'a>(&self, consul: &Consul, answer: &'a Documents) -> Result<Cow<'a, Documents>> {
        match self {
            Self::Documents(_) | Self::Instances(..) => Ok(Cow::Borrowed(answer)),
            Self::Around(_, prefixes) => consul.documents(prefixes).await.map(Cow::Owned),
        }
    }
}

async fn target_changed(consul: &Consul, target: &Target, token: &Token) -> Result<News> {
    let mut calm = Calm::default();
    let (mut index, mut wait) = (token.index(), consul.wait.min(WAIT_AT_FIRST));
    loop {
        let began = Instant::now();
        let mut joined = consul.queries.join(consul, target, token, (index, wait));
        wait = consul.wait;
        let Ok(reply) = joined.reply.wait_for(Option::is_some).await.map(|reply| reply.clone()) else {
            continue; // Somebody whose token differs has begun another query in its place.
        };
        consul.queries.finish(target, &joined.reply);
        let reply = reply.expect("waited for");
        let (now, documents) = match &*reply {
            Ok(answer) => answer,
            Err(_) if joined.may_be_old => {
                index = 0;
                continue; // Whatever it was may be over.
            }
            Err(error) => return Err(anyhow!("{error:#}")),
        };
        let is_for_nothing = !joined.may_be_old && Instant::now() >= joined.over;
        if matches!(target, Target::Around(..)) && index != 0 && *now == index && is_for_nothing {
            continue; // Nothing was written: what else ends a query, as a restored snapshot, does so before its time.
        }
        let documents = target.documents(consul, documents).await?;
        let seen = Token::of(target.prefixes(), &documents);
        if seen == *token {
            index = next_index(index, *now);
            calm.after(began.elapsed()).await;
        } else if joined.may_be_old && !matches!(target, Target::Around(..)) {
            index = 0; // It may be older than the token.
        } else {
            return Ok(News { token: seen.at(next_index(index, *now)), documents: documents.into_owned() });
        }
    }
}

/// The index to wait for the end of, after an answer with index `now` to a query with `before`. A lower one is another
/// history's: to wait with either of them could be to wait in vain, so ask without one. To ask with 0 is not to wait.
fn next_index(before: u64, now: u64) -> u64 {
    if now < before { 0 } else { now.max(1) }
}

/// Queries under way, or answered while nobody waited. Shared by all clones of a [`Consul`], and end with it.
#[derive(Debug, Default)]
pub(super) struct Queries(Mutex<HashMap<Target, Query>>);

#[derive(Debug)]
struct Query {
    reply: watch::Receiver<Option<Reply>>,
    /// What was seen at the index that it waits for the end of; `None` if it does not wait.
    waits_on: Option<Token>,
    /// Then it ends though there is no change.
    over: Instant,
    task: AbortHandle,
}

type Reply = Arc<Result<(u64, Documents)>>;

/// A part in a query.
struct Joined {
    reply: watch::Receiver<Option<Reply>>,
    over: Instant,
    /// The answer was there before we came, perhaps before our token.
    may_be_old: bool,
}

impl Queries {
    /// A part in the query that will tell when `target` is not as `token` has it: the one under way, or else a new one
    /// that waits so long for the end of an index, at which `token` was seen.
    fn join(&self, consul: &Consul, target: &Target, token: &Token, (index, wait): (u64, Duration)) -> Joined {
        let mut queries = self.lock();
        if let Some(query) = queries.get(target).filter(|query| !query.is_lost()) {
            let may_be_old = query.is_answered();
            // One that waits on another state than the token's might do so for ever.
            if may_be_old || query.waits_on.as_ref().is_none_or(|state| state == token) {
                return Joined { reply: query.reply.clone(), over: query.over, may_be_old };
            }
        }
        // Whoever has to replace one knows too little to wait.
        let index = if queries.contains_key(target) { 0 } else { index };
        let query = Query::begin(consul, target, token, (index, wait));
        let joined = Joined { reply: query.reply.clone(), over: query.over, may_be_old: false };
        queries.insert(target.clone(), query);
        joined
    }

    /// Makes room for the next query, if nobody has begun it yet.
    fn finish(&self, target: &Target, reply: &watch::Receiver<Option<Reply>>) {
        let mut queries = self.lock();
        if queries.get(target).is_some_and(|query| query.reply.same_channel(reply)) {
            queries.remove(target);
        }
    }

    /// Drops the answers that nobody waits for any more. Queries under way go on: they hold their connections anyway.
    fn keep(&self, targets: &BTreeSet<Target>) {
        self.lock().retain(|target, query| targets.contains(target) || !query.is_answered());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Query>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Query {
    fn begin(consul: &Consul, target: &Target, token: &Token, (index, wait): (u64, Duration)) -> Self {
        let (sender, reply) = watch::channel(None);
        // Not the `Consul`: it would keep itself alive.
        let (client, target) = (consul.client.clone(), target.clone());
        let task = tokio::spawn(async move {
            let answer = target.ask(&client, index, wait).await;
            sender.send_replace(Some(Arc::new(answer)));
        });
        let waits_on = (index > 0).then(|| token.clone());
        Self { reply, waits_on, over: Instant::now() + wait, task: task.abort_handle() }
    }

    fn is_answered(&self) -> bool {
        self.reply.borrow().is_some()
    }

    /// Whether it ended without an answer, as with its runtime.
    fn is_lost(&self) -> bool {
        self.reply.has_changed().is_err() && !self.is_answered()
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Patience with answers that come quickly and change nothing, such as those about a prefix under which nothing is: any
/// write to the store ends a query about that.
#[derive(Default)]
struct Calm {
    quick: u32,
}

impl Calm {
    async fn after(&mut self, took: Duration) {
        self.quick = if took < Duration::from_secs(1) { self.quick + 1 } else { 0 };
        tokio::time::sleep(self.pause().mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }

    fn pause(&self) -> Duration {
        match self.quick {
            // The first is the answer to the first question.
            0..=2 => Duration::ZERO,
            quick => Duration::from_millis(10 << (quick - 3).min(10)).min(Duration::from_secs(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: impl IntoIterator<Item = String>) -> Vec<Prefix> {
        texts.into_iter().map(|text| Prefix::parse(&text).unwrap()).collect()
    }

    #[test]
    fn few_prefixes_have_a_query_each() {
        let few = prefixes((0..16).map(|n| format!("clusters/a{n}/dev/")));
        assert_eq!(targets(few.clone()), few.into_iter().map(|prefix| Target::Documents([prefix])).collect());
    }

    #[test]
    fn many_are_watched_by_what_is_around_them_and_a_nodes_own_by_itself() {
        let clusters = prefixes((0..16).map(|n| format!("clusters/a{n}/dev/")));
        let node = Prefix::parse("nodes/web1/").unwrap();
        let all = [clusters.clone(), vec![node.clone()]].concat();
        let around = Target::Around(Prefix::parse("clusters/").unwrap(), clusters);
        assert_eq!(targets(all), BTreeSet::from([around, Target::Documents([node])]));
    }

    #[test]
    fn no_set_of_prefixes_costs_more_than_sixteen_queries() {
        let scattered = prefixes((0..40).map(|n| format!("top{n}/a/")));
        assert_eq!(targets(scattered.clone()), BTreeSet::from([Target::Around(Prefix::everything(), scattered)]));
        let everything = [prefixes((0..17).map(|n| format!("a/{n}/"))), vec![Prefix::everything()]].concat();
        assert!(targets(everything).contains(&Target::Documents([Prefix::everything()])));
    }

    #[test]
    fn an_index_that_goes_backwards_begins_anew_and_zero_counts_as_one() {
        for (before, now, next) in [(0, 7, 7), (7, 7, 7), (7, 8, 8), (8, 7, 0), (0, 0, 1), (1, 0, 0)] {
            assert_eq!(next_index(before, now), next, "{before} {now}");
        }
    }

    #[test]
    fn patience_begins_late_and_ends_early() {
        let pauses = (0..20).map(|quick| Calm { quick }.pause().as_millis()).collect::<Vec<_>>();
        assert_eq!(pauses[..6], [0, 0, 0, 10, 20, 40]);
        assert_eq!(pauses[19], 1000);
    }
}
