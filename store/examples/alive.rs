//! Says that an agent is alive, until it is killed: `alive STORE NODE AGENT`; prints `alive` once it has said so.

use anyhow::{Result, bail};
use store::Store;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [store, node, agent] = &arguments[..] else { bail!("usage: alive STORE NODE AGENT") };
    let _alive = Store::open(Some(store))?.stay_alive(&node.parse()?, agent).await?;
    println!("alive");
    std::future::pending().await
}
