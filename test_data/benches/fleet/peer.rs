//! The peer: how a simple client watches, as the prototype's would have: by one blocking query on all of `clusters/`, and one on
//! what is the node's own. Any change wakes it, and it is answered with all that is there.
//!
//! It has the agents' own HTTP client, keeps its connections, asks nothing besides, and has seen what is new as soon as all of
//! the answer has come: it does not look at it.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::watchers::{Seen, node_name};

/// As long as the agents' queries wait.
const WAIT: &str = "60s";
/// Longer than that, with what Consul adds.
const TIMEOUT: Duration = Duration::from_secs(70);

/// Runs for ever.
pub(crate) async fn run(node: usize, addr: String, tell: Sender<Seen>) {
    let client = store::http_client().tls_certs_only([]).no_proxy().build().unwrap();
    let follow = async |prefix: String, tell: Option<Sender<Seen>>| {
        let mut index = 0;
        loop {
            let url = format!("http://{addr}/v1/kv/{prefix}?recurse&index={index}&wait={WAIT}");
            let answer = client.get(url).timeout(TIMEOUT).send().await.expect("Consul answers");
            assert!(answer.status().is_success(), "{prefix}: {}", answer.status());
            index = answer.headers()["X-Consul-Index"].to_str().unwrap().parse::<u64>().unwrap();
            answer.bytes().await.expect("the answer is whole");
            if let Some(tell) = &tell {
                let _ = tell.send(Seen { node, active: None, at: Instant::now() });
            }
        }
    };
    tokio::join!(follow("clusters/".to_owned(), Some(tell)), follow(format!("nodes/{}/", node_name(node)), None));
}
