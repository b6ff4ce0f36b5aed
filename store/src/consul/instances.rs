//! Instances in Consul's own catalog, so that DNS, load balancers and dashboards see them.
//!
//! A service `<node>:<app>` of the local agent, so that several nodes can share one agent, with the check
//! `<node>:<app>:<definition>`: a check whose definition changed is another one. Ensures: what Consul keeps over a
//! registration, we keep: maintenance, and the states of checks; so nothing is registered with
//! `replace-existing-checks`, which loses them. Assumes nothing of services: a name, a tag or meta may be anybody's, and
//! only what is ours in all of them counts.

mod answers;
mod stamp;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::answers::{Check, Found, Service, registered_anywhere, registered_here, report_of};
use super::client::{Answer, Client, Request, TIMEOUT};
use super::{Consul, rule, watch};
use crate::instance::{REPORT_LASTS, our_notes};
use crate::{AppName, ClusterName, Gather, Instance, InstanceCheck, NodeName, Registered};

impl Consul {
    pub(crate) async fn registered(&self, node: &NodeName) -> Result<BTreeMap<AppName, Registered>> {
        let about = format!("instances of {node}");
        let needs = || rule("service_prefix", "", "read");
        let (services, checks) =
            tokio::try_join!(self.agent("services", &about, needs()), self.agent("checks", &about, needs()))?;
        let services = services.json::<BTreeMap<String, Service>>()?;
        let ours = registered_here(&services, &checks.json::<BTreeMap<String, Check>>()?)
            .into_iter()
            .filter(|it| it.node == *node);
        Ok(ours.map(|it| (it.app.clone(), it)).gather())
    }

    pub(crate) async fn register(&self, instance: &Instance) -> Result<()> {
        let Instance { app, node, .. } = instance;
        let before = self.local(node, app).await?;
        // Registered again and again, a check might never run: each time Consul begins its interval anew.
        if before.as_ref().is_some_and(|before| before.is(instance)) {
            return Ok(());
        }
        let vouched = before.as_ref().is_some_and(|before| before.vouches_for(instance));
        let answer = self.change(app, "service/register", Some(registration(instance, vouched))).await?;
        done(&answer)?;
        // Only now: without any check it would be passing.
        let new = instance.check.id();
        for obsolete in before.iter().flat_map(|before| &before.checks).filter(|check| **check != new) {
            let path = format!("check/deregister/{}:{}", id(node, app), encoded(obsolete));
            done_or_gone(&self.change(app, &path, None).await?, &id(node, app))?;
        }
        Ok(())
    }

    pub(crate) async fn deregister(&self, node: &NodeName, app: &AppName) -> Result<()> {
        let id = id(node, app);
        done_or_gone(&self.change(app, &format!("service/deregister/{id}"), None).await?, &id)
    }

    pub(crate) async fn drain(&self, node: &NodeName, app: &AppName, why: &str) -> Result<()> {
        let (id, notes) = (id(node, app), encoded(&our_notes(why)));
        // Where there is a maintenance already, Consul leaves that as it is.
        let path = format!("service/maintenance/{id}?enable=true&reason={notes}");
        done_or_gone(&self.change(app, &path, None).await?, &id)
    }

    pub(crate) async fn undrain(&self, node: &NodeName, app: &AppName) -> Result<()> {
        let id = id(node, app);
        if self.local(node, app).await?.is_none_or(|it| it.drained.is_none()) {
            return Ok(());
        }
        done_or_gone(&self.change(app, &format!("service/maintenance/{id}?enable=false"), None).await?, &id)
    }

    pub(crate) async fn report(&self, node: &NodeName, app: &AppName, passes: bool, says: &str) -> Result<()> {
        let status = if passes { "passing" } else { "critical" };
        let report = json!({"Status": status, "Output": report_of(says, SystemTime::now())});
        let path = format!("check/update/{}:{}", id(node, app), InstanceCheck::Reported.id());
        let answer = self.change(app, &path, Some(report)).await?;
        let refused = match done(&answer) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Consul has several words for a check that it does not have, which is fine if it runs one by itself.
        match self.local(node, app).await? {
            Some(it) if !it.checks.is_empty() && !it.checks.contains(&InstanceCheck::Reported.id()) => Ok(()),
            Some(_) | None => Err(refused),
        }
    }

    pub(crate) async fn instances(&self, app: &AppName, cluster: &ClusterName) -> Result<Vec<Registered>> {
        Ok(found(&self.client, app, cluster, "consistent", TIMEOUT).await?.1)
    }

    pub(crate) async fn wait_instances(&self, app: &AppName, cluster: &ClusterName, seen: &[Registered]) -> Result<()> {
        watch::instances_changed(self, app, cluster, seen).await
    }

    /// One of this host's own instances. It is asked for by its id: to a token without rights a list is empty.
    async fn local(&self, node: &NodeName, app: &AppName) -> Result<Option<Registered>> {
        let (id, about) = (id(node, app), format!("the instance of {app} on {node}"));
        let needs = || rule("service", app.as_str(), "write");
        let answer = self.agent(&format!("service/{id}"), &about, needs()).await?;
        if is_gone(&answer, &id) {
            return Ok(None);
        }
        let service = answer.json::<Service>()?;
        let filter = encoded(&format!("ServiceID == \"{id}\""));
        let checks = self.agent(&format!("checks?filter={filter}"), &about, needs()).await?;
        Ok(registered_here(&BTreeMap::from([(id, service)]), &checks.json::<BTreeMap<String, Check>>()?).pop())
    }

    /// What the local agent says of its own.
    async fn agent(&self, what: &str, about: &str, rule: String) -> Result<Answer> {
        let path = format!("/v1/agent/{what}");
        self.client.send(Request { method: Method::GET, path, body: Vec::new(), timeout: TIMEOUT, about, rule }).await
    }

    async fn change(&self, app: &AppName, path: &str, body: Option<Value>) -> Result<Answer> {
        let request = Request {
            method: Method::PUT,
            path: format!("/v1/agent/{path}"),
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
            timeout: TIMEOUT,
            about: path.split('?').next().unwrap_or_default(),
            rule: rule("service", app.as_str(), "write"),
        };
        self.client.send(request).await
    }
}

/// The instances in the catalog, and its index.
pub(super) async fn found(
    client: &Client,
    app: &AppName,
    cluster: &ClusterName,
    how: &str,
    timeout: Duration,
) -> Result<(u64, Vec<Registered>)> {
    let request = Request {
        method: Method::GET,
        path: format!("/v1/health/service/{app}?tag={cluster}&{how}"),
        body: Vec::new(),
        timeout,
        about: &format!("instances of {app} in {cluster}"),
        rule: rule("service", app.as_str(), "read"),
    };
    let answer = client.send(request).await?;
    let index = answer.index.ok_or_else(|| answer.error())?;
    let found = registered_anywhere(&answer.json::<Vec<Found>>()?);
    // Consul tells no capital from a small letter.
    Ok((index, found.into_iter().filter(|it| (&it.app, &it.cluster) == (app, cluster)).collect()))
}

/// Consul's id of an instance. No name holds a colon.
fn id(node: &NodeName, app: &AppName) -> String {
    format!("{node}:{app}")
}

/// What Consul takes for `instance`. An existing check keeps its state; a new one is critical until it has run for the
/// first time, unless it is `vouched` for. That is anywhere within its interval: with one of 1 s 18 to 964 ms (24 new
/// checks on Consul 1.8), with 10 s up to 9.9 s.
fn registration(instance: &Instance, vouched: bool) -> Value {
    let Instance { app, cluster, node, version, digest, port, check } = instance;
    let id = id(node, app);
    let mut definition = match check {
        InstanceCheck::Http { port, path, interval, timeout } => json!({
            "HTTP": format!("http://127.0.0.1:{port}{path}"), "Interval": millis(*interval), "Timeout": millis(*timeout),
        }),
        InstanceCheck::Tcp { port, interval, timeout } => json!({
            "TCP": format!("127.0.0.1:{port}"), "Interval": millis(*interval), "Timeout": millis(*timeout),
        }),
        InstanceCheck::Reported => json!({"TTL": millis(REPORT_LASTS)}),
    };
    definition["CheckID"] = format!("{id}:{}", check.id()).into();
    definition["Name"] = format!("{app} on {node}").into();
    definition["Status"] = if vouched { "passing" } else { "critical" }.into();
    json!({
        "ID": id,
        "Name": app,
        "Tags": [cluster],
        "Port": port.unwrap_or(0),
        "Meta": {"platypus": "1", "node": node, "cluster": cluster, "version": version, "digest": digest},
        "Checks": [definition],
    })
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

pub(super) fn done(answer: &Answer) -> Result<()> {
    if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.error()) }
}

/// Some Consuls answer 404 where there is nothing to do.
pub(super) fn done_or_gone(answer: &Answer, id: &str) -> Result<()> {
    if is_gone(answer, id) { Ok(()) } else { done(answer) }
}

/// Whether Consul says that there is no such service. It names it, as no proxy does.
fn is_gone(answer: &Answer, id: &str) -> bool {
    answer.status == StatusCode::NOT_FOUND && String::from_utf8_lossy(&answer.body).contains(id)
}

/// As a part of a URL.
pub(super) fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let encode = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_of_consuls_own_asks_the_agents_host_and_a_vouched_one_begins_as_passing() {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(500));
        let instance = |check| Instance {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: "web1".parse().unwrap(),
            version: "0.1".parse().unwrap(),
            digest: "d1".to_owned(),
            port: Some(80),
            check,
        };
        let http = InstanceCheck::Http { port: 81, path: "/up?x".to_owned(), interval, timeout };
        for (check, vouched, field, value, status) in [
            (http, false, "HTTP", "http://127.0.0.1:81/up?x", "critical"),
            (InstanceCheck::Tcp { port: 82, interval, timeout }, true, "TCP", "127.0.0.1:82", "passing"),
            (InstanceCheck::Reported, false, "TTL", "600000ms", "critical"),
        ] {
            let sent = registration(&instance(check.clone()), vouched);
            let sent = &sent["Checks"][0];
            assert_eq!((&sent[field], &sent["Status"]), (&json!(value), &json!(status)));
            assert_eq!(sent["CheckID"], format!("web1:slug:{}", check.id()));
        }
    }

    #[test]
    fn whatever_a_reason_is_it_stays_one_part_of_the_url() {
        assert_eq!(encoded("to 0.2 & back?#/é"), "to%200%2E2%20%26%20back%3F%23%2F%C3%A9");
    }
}
