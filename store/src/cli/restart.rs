//! `pp-store restart`: a cluster's instances one after the other, as for a new version.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use store::schema::{Config, IntentKey, Parse};
use store::{AppName, ClusterName, Store};
use time::OffsetDateTime;

use super::age::stamp;
use super::roll::Written;
use super::write::{Message, Writer};
use super::{Outcome, edit, note, print_json, print_lines};

pub(super) async fn run(
    store: &Store,
    app: &AppName,
    cluster: &ClusterName,
    message: &Message,
    in_json: bool,
) -> Result<Written> {
    let intent = IntentKey::Config(app.clone(), cluster.clone());
    let key = intent.key();
    let at = stamp(OffsetDateTime::now_utc());
    let mut writer = Writer::new(store, message);
    let changed = writer.change(&key, async |found| {
        let Some(found) = found else { return Ok((None, None)) };
        let refused = || format!("{key} is not as it has to be, and was left as it is");
        let config = Config::parse(&found.bytes).with_context(refused)?;
        let active = config.active().with_context(refused)?.cloned();
        ensure!(
            active.is_some(),
            "nothing was written: {key} has no active version, so that there is nothing to restart"
        );
        let text = edit::set(str::from_utf8(&found.bytes)?, &["restart"], &format!("\"{at}\""))?;
        intent.check(text.as_bytes()).with_context(|| format!("nothing was written, since this would be no {key}"))?;
        Ok((Some(text.into_bytes()), active))
    });
    let Some(done) = changed.await? else {
        note(&format!("nothing was written: others changed {key} each time; try again"));
        return Ok((Outcome::Lost, None));
    };
    let Some(active) = done else {
        note(&format!("there is no {key}"));
        return Ok((Outcome::Absent, None));
    };
    if in_json {
        print_json(&json!({"key": key.as_str(), "restart": at}))?;
    } else {
        print_lines([format!("{app} {cluster}: {active} is started anew, as min_nodes lets it ({at})")])?;
    }
    Ok((Outcome::Done, Some(active)))
}
