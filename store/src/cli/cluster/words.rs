//! A cluster's leases as people and as programs read them. Pure.

use serde_json::{Value, json};
use store::lease::{Down, FailedDigest, lease_key};
use store::{NodeName, Registered};
use time::OffsetDateTime;

use super::super::age::{ago, since};
use super::{Cluster, Service};

/// As much of a digest as people compare.
const DIGITS: usize = 8;
/// As much of what a check said as fits into a line.
const MOST_SAID: usize = 200;

/// Everything, a line each: the cluster, who is down, and what failed with the last lines that it logged.
pub(in super::super) fn lines(cluster: &Cluster, now: OffsetDateTime) -> Vec<String> {
    let down = cluster.leases.down.iter().map(|(node, down)| format!("  {}", entry(cluster, node, down, now)));
    let failed = cluster.leases.failed.iter().flat_map(|(digest, it)| failed(cluster, digest, it, now));
    [head(cluster)].into_iter().chain(down).chain(failed).collect()
}

fn head(cluster: &Cluster) -> String {
    let passing = match (&cluster.instances, cluster.passing()) {
        (Ok(all), Some(passing)) if !all.is_empty() => format!("{passing} of {} instances pass", all.len()),
        (Ok(_), _) if cluster.hides_instances => {
            "no instance is registered, or none that this token may see".to_owned()
        }
        (Ok(_), _) => "no instance is registered".to_owned(),
        (Err(_), _) => "who passes is not known".to_owned(),
    };
    let minimum = match &cluster.config {
        Ok(Some(config)) => format!("min_nodes is {}", config.min_nodes),
        Ok(None) => "the cluster has no config".to_owned(),
        Err(_) => "min_nodes is not known".to_owned(),
    };
    let spare = match (cluster.passing(), cluster.spare()) {
        (None, _) | (_, None) => String::new(),
        (Some(passing), _) if is_short(cluster, passing) => {
            ", which is too few: what runs stays up until more pass, or min_nodes is lower".to_owned()
        }
        (Some(0), _) => String::new(),
        (Some(_), Some(0)) => ", which leaves none to spare".to_owned(),
        (Some(_), Some(spare)) => format!(", which leaves {spare} to spare"),
    };
    format!("{} {}: {passing}, {minimum}{spare}", cluster.app, cluster.cluster)
}

/// Whether instances are there, and fewer than `min_nodes` pass.
fn is_short(cluster: &Cluster, passing: usize) -> bool {
    let is_there = cluster.instances.as_ref().is_ok_and(|all| !all.is_empty());
    is_there && cluster.min_nodes().is_some_and(|min| passing < usize::try_from(min).unwrap_or(usize::MAX))
}

/// One node's entry in `down`, and what it means now.
pub(in super::super) fn entry(cluster: &Cluster, node: &NodeName, down: &Down, now: OffsetDateTime) -> String {
    let service = match cluster.service(node) {
        Service::Passing => "passes".to_owned(),
        Service::Drained => "drained".to_owned(),
        Service::NotPassing => match cluster.instance(node).filter(|_| cluster.is_alive(down) != Some(false)) {
            Some(instance) => format!("does not pass: {}", why_not(instance)),
            None => "does not pass".to_owned(),
        },
        Service::NotRegistered => "not registered".to_owned(),
        Service::Unknown => "whether it passes is not known".to_owned(),
    };
    let host = match (cluster.is_alive(down), cluster.is_trial(down)) {
        (None, _) => "whether its host is alive is not known".to_owned(),
        (Some(false), _) => format!("its host {} is dead, so the entry keeps nobody waiting", down.host),
        (Some(true), Some(true)) => format!("its host {} is alive; others wait until it has tried this", down.host),
        (Some(true), Some(false) | None) => format!("its host {} is alive", down.host),
    };
    let held = match cluster.held.contains(node) {
        true => format!(
            "; held: nodes/{node}/{0} says \"hold\": true, so that it stays so until that is taken back, or `pp-store \
             release {0} {1} {node}`",
            cluster.app, cluster.cluster
        ),
        false => String::new(),
    };
    format!("{}; {service}; {host}{held}", given(cluster, node, down, now))
}

/// Why clients are not sent there.
fn why_not(instance: &Registered) -> String {
    match &instance.maintenance {
        Some(notes) => format!("an operator's maintenance is on ({notes})"),
        None if instance.check_passes => "its host, or another check of it, is not passing".to_owned(),
        None if instance.says.is_empty() => "its check has not passed yet".to_owned(),
        None => {
            let said = instance.says.lines().next().unwrap_or_default();
            format!("its check says: {}", said.chars().take(MOST_SAID).collect::<String>())
        }
    }
}

/// One node's entry in `down`, as it was given.
pub(in super::super) fn given(cluster: &Cluster, node: &NodeName, down: &Down, now: OffsetDateTime) -> String {
    let goal = down.to.as_ref().map(|digest| match cluster.version(digest) {
        Some(version) => format!(", to {}", definition(version.as_str(), digest)),
        None => format!(", to {}", short(digest)),
    });
    format!("{node}: down {}, {}{}", since(&down.since, now), down.why, goal.unwrap_or_default())
}

fn failed(cluster: &Cluster, digest: &str, failed: &FailedDigest, now: OffsetDateTime) -> Vec<String> {
    let FailedDigest { version, node, reason, at, log, check: _, retry } = failed;
    let next = match retry {
        Some(retry) => format!("may be tried again, as an operator said {}", ago(retry, now)),
        None => {
            let passes = cluster.passes_with(digest).map(|node| format!(", though it passes on {node}"));
            let retry = format!("`pp-store retry {} {} {}`", cluster.app, cluster.cluster, short(digest));
            format!("nobody tries it again{}, until {retry}, or another version is active", passes.unwrap_or_default())
        }
    };
    let name = definition(version.as_str(), digest);
    let line = format!("  {name} failed on {node} {}: {reason}; {next}", ago(at, now));
    [line].into_iter().chain(log.iter().map(|line| format!("    | {line}"))).collect()
}

/// `0.3 (9f2c41aa)`.
pub(in super::super) fn definition(version: &str, digest: &str) -> String {
    format!("{version} ({})", short(digest))
}

fn short(digest: &str) -> String {
    digest.chars().take(DIGITS).collect()
}

/// As `--help` describes it.
pub(in super::super) fn json(cluster: &Cluster) -> Value {
    let down = cluster.leases.down.iter().map(|(node, down)| {
        let passing = match cluster.service(node) {
            Service::Passing => Some(true),
            Service::Drained | Service::NotPassing | Service::NotRegistered => Some(false),
            Service::Unknown => None,
        };
        let Down { to, since, why, host } = down;
        let version = to.as_ref().and_then(|digest| cluster.version(digest));
        json!({
            "node": node, "to": to, "version": version, "since": since, "why": why, "host": host,
            "alive": cluster.is_alive(down), "passing": passing, "trial": cluster.is_trial(down),
            "held": cluster.held.contains(node),
        })
    });
    let failed = cluster.leases.failed.iter().map(|(digest, failed)| {
        let FailedDigest { version, node, reason, at, log, check: _, retry } = failed;
        json!({
            "digest": digest, "version": version, "node": node, "at": at, "reason": reason, "log": log, "retry": retry,
        })
    });
    json!({
        "key": lease_key(&cluster.app, &cluster.cluster).as_str(),
        "app": cluster.app,
        "cluster": cluster.cluster,
        "min_nodes": cluster.min_nodes(),
        "instances": cluster.instances.as_ref().ok().map(Vec::len),
        "passing": cluster.passing(),
        "spare": cluster.spare(),
        "down": down.collect::<Value>(),
        "failed": failed.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use store::schema::{Config, Parse};
    use store::{Registered, Reports};
    use time::format_description::well_known::Rfc3339;

    use super::*;

    /// Where web1 passes with d1, web2 is drained, web3 does not pass, and the hosts of all but web3 are alive.
    fn cluster(leases: &Value, min_nodes: u32) -> Cluster {
        let config = json!({"versions": {}, "min_nodes": min_nodes}).to_string();
        let instance = |node: &str, drained: Option<&str>| Registered {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            node: node.parse().unwrap(),
            version: "0.1".parse().unwrap(),
            digest: "d1d1d1d1d1".to_owned(),
            port: None,
            host: node.to_owned(),
            checks: BTreeSet::new(),
            passing: node == "web1",
            check_passes: true,
            drained: drained.map(str::to_owned),
            maintenance: None,
            says: String::new(),
            reports: Reports::Lasting,
        };
        Cluster {
            app: "slug".parse().unwrap(),
            cluster: "dev".parse().unwrap(),
            leases: serde_json::from_value(leases.clone()).unwrap(),
            config: Ok(Some(Config::parse(config.as_bytes()).unwrap())),
            instances: Ok(vec![instance("web1", None), instance("web2", Some("to 0.2")), instance("web3", None)]),
            alive: Ok(["web1", "web2", "web4"].map(str::to_owned).into()),
            held: BTreeSet::new(),
            hides_instances: false,
        }
    }

    fn down(node: &str, to: Option<&str>) -> Value {
        json!({"rev": 1, "down": {node: {"to": to, "since": "2026-11-22T03:13:28Z", "why": "why", "host": node}}})
    }

    fn said(cluster: &Cluster) -> Vec<String> {
        lines(cluster, OffsetDateTime::parse("2026-11-22T03:14:08Z", &Rfc3339).unwrap())
    }

    #[test]
    fn an_entry_says_who_waits_for_it() {
        let (old, new) = (Some("d1d1d1d1d1"), Some("d2d2d2d2d2"));
        for (node, to, expected) in [
            ("web1", old, "why, to 0.1 (d1d1d1d1); passes; its host web1 is alive"),
            ("web2", new, "why, to d2d2d2d2; drained; its host web2 is alive; others wait until it has tried this"),
            ("web2", None, "why; drained; its host web2 is alive"),
            ("web3", new, "why, to d2d2d2d2; does not pass; its host web3 is dead, so the entry keeps nobody waiting"),
            ("web4", old, "why, to 0.1 (d1d1d1d1); not registered; its host web4 is alive"),
        ] {
            let lines = said(&cluster(&down(node, to), 0));
            assert_eq!(lines[1..], [format!("  {node}: down for 40 s, {expected}")]);
        }
        let held = Cluster { held: ["web2".parse().unwrap()].into(), ..cluster(&down("web2", new), 0) };
        let expected = "others wait until it has tried this; held: nodes/web2/slug says \"hold\": true, so that it stays so \
                        until that is taken back, or `pp-store release slug dev web2`";
        assert!(said(&held)[1].ends_with(expected), "{:?}", said(&held));
        assert_eq!(json(&held)["down"][0]["held"], true);
        let unknown = Cluster { alive: Err("403".to_owned()), ..cluster(&down("web2", new), 0) };
        assert!(said(&unknown)[1].ends_with("drained; whether its host is alive is not known"), "{:?}", said(&unknown));
        let unknown = Cluster { instances: Err("403".to_owned()), ..cluster(&down("web2", new), 0) };
        assert!(said(&unknown)[1].ends_with("whether it passes is not known; its host web2 is alive"));
        assert_eq!(json(&unknown)["down"][0]["trial"], Value::Null);
    }

    #[test]
    fn why_an_instance_does_not_pass_is_said_where_its_host_is_alive() {
        let with = |change: fn(&mut Registered)| {
            let mut cluster = Cluster { alive: Ok(["web3".to_owned()].into()), ..cluster(&down("web3", None), 0) };
            change(&mut cluster.instances.as_mut().unwrap()[2]);
            said(&cluster)[1].clone()
        };
        let maintained = with(|it| it.maintenance = Some("at work".to_owned()));
        assert!(
            maintained.contains("; does not pass: an operator's maintenance is on (at work); its host"),
            "{maintained}"
        );
        let elsewhere = with(|_| ());
        assert!(
            elsewhere.contains("; does not pass: its host, or another check of it, is not passing;"),
            "{elsewhere}"
        );
        let failing = with(|it| (it.check_passes, it.says) = (false, "503\nmore".to_owned()));
        assert!(failing.contains("; does not pass: its check says: 503; its host"), "{failing}");
        let new = with(|it| it.check_passes = false);
        assert!(new.contains("; does not pass: its check has not passed yet;"), "{new}");
    }

    #[test]
    fn the_first_line_counts_as_agents_do() {
        let nobody = json!({"rev": 1});
        for (leases, min_nodes, expected) in [
            (&nobody, 0, "1 of 3 instances pass, min_nodes is 0, which leaves 1 to spare"),
            (&nobody, 1, "1 of 3 instances pass, min_nodes is 1, which leaves none to spare"),
            (
                &nobody,
                2,
                "1 of 3 instances pass, min_nodes is 2, which is too few: what runs stays up until more pass, or min_nodes \
                 is lower",
            ),
            (&down("web1", None), 0, "1 of 3 instances pass, min_nodes is 0, which leaves none to spare"),
            (&down("web2", None), 0, "1 of 3 instances pass, min_nodes is 0, which leaves 1 to spare"),
        ] {
            assert_eq!(said(&cluster(leases, min_nodes))[0], format!("slug dev: {expected}"));
        }
        for (cluster, expected) in [
            (Cluster { instances: Ok(vec![]), ..cluster(&nobody, 2) }, "no instance is registered, min_nodes is 2"),
            (
                Cluster { instances: Ok(vec![]), hides_instances: true, ..cluster(&nobody, 2) },
                "no instance is registered, or none that this token may see, min_nodes is 2",
            ),
            (Cluster { config: Ok(None), ..cluster(&nobody, 2) }, "1 of 3 instances pass, the cluster has no config"),
            (
                Cluster { config: Err(String::new()), ..cluster(&nobody, 2) },
                "1 of 3 instances pass, min_nodes is not known",
            ),
            (
                Cluster { instances: Err(String::new()), ..cluster(&nobody, 2) },
                "who passes is not known, min_nodes is 2",
            ),
        ] {
            assert_eq!(said(&cluster)[0], format!("slug dev: {expected}"));
        }
    }

    #[test]
    fn what_failed_comes_with_its_last_words_and_with_what_comes_next() {
        let mut leases = json!({"rev": 1, "failed": {"d2d2d2d2d2": {
            "version": "0.2", "node": "web1", "reason": "503", "at": "2026-11-22T02:14:08Z", "log": ["a", "b"]}}});
        let failed = "  0.2 (d2d2d2d2) failed on web1 60 min ago: 503";
        let next = "until `pp-store retry slug dev d2d2d2d2`, or another version is active";
        let expected = [&format!("{failed}; nobody tries it again, {next}"), "    | a", "    | b"];
        assert_eq!(said(&cluster(&leases, 0))[1..], expected);
        let mut elsewhere = cluster(&leases, 0);
        elsewhere.instances.as_mut().unwrap()[0].digest = "d2d2d2d2d2".to_owned();
        assert_eq!(said(&elsewhere)[1], format!("{failed}; nobody tries it again, though it passes on web1, {next}"));
        leases["failed"]["d2d2d2d2d2"]["retry"] = "2026-11-22T03:14:00Z".into();
        let expected = format!("{failed}; may be tried again, as an operator said 8 s ago");
        assert_eq!(said(&cluster(&leases, 0))[1], expected);
        assert_eq!(json(&cluster(&leases, 0))["failed"][0]["retry"], "2026-11-22T03:14:00Z");
    }
}
