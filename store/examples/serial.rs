//! Reads what a node shall run as the prototype did: one listing, then two documents for each app, one after the other
//! over one connection that is kept. `serial STORE NODE`; prints how many apps there are.
//!
//! What `kickstart/bench pass` compares the agents with: the same client and the same answers, other requests.

use anyhow::{Context, Result};
use store::intent::Listing;
use store::schema::node_prefix;
use store::{Documents, Key, NodeName, Store};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let store = Store::open(Some(&arguments.next().context("no STORE")?))?;
    let node = arguments.next().context("no NODE")?.parse::<NodeName>()?;
    let listing = Listing::new(&node, &store.documents(&[node_prefix(&node)]).await?);
    let mut clusters = Documents::new();
    for prefix in listing.prefixes() {
        for name in ["config", "deploy_config"] {
            let key = Key::parse(&format!("{prefix}{name}"))?;
            clusters.extend(store.get(&key).await?.map(|document| (key.to_string(), Ok(document))));
        }
    }
    println!("{}", listing.intent(&clusters).apps.len());
    Ok(())
}
