//! What Consul's answers say of instances: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::instance::{our_reason, words};
use crate::{AppName, Gather, InstanceCheck, NodeName, Registered, Reports};

/// One element of the answer about a service's health.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Found {
    pub(super) node: Host,
    pub(super) service: Service,
    /// The service's own and the host's.
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Host {
    pub(super) node: String,
}

/// A service, as the catalog and the local agent have it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    /// Of somebody else's service it may be any number: Consul takes 70000 and -1.
    port: i64,
}

/// A check, as the catalog and the local agent have it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    node: String,
    #[serde(rename = "CheckID")]
    id: String,
    /// Empty for one of the host.
    #[serde(rename = "ServiceID", default)]
    service: String,
    status: String,
    #[serde(default)]
    notes: String,
    #[serde(default)]
    output: String,
}

impl Check {
    fn passes(&self) -> bool {
        self.status == "passing"
    }

    /// Whether it says something of the instances of `node`, which are on `host`.
    pub(super) fn concerns(&self, node: &NodeName, host: &str) -> bool {
        let of_instance = self.service.strip_prefix(node.as_str()).is_some_and(|rest| rest.starts_with(':'));
        of_instance || self.service.is_empty() && self.node == host
    }

    /// Of an instance, which may be ours.
    fn is_its_maintenance(&self) -> bool {
        self.id.starts_with("_service_maintenance:")
    }

    /// Of the whole host: an operator's, whatever it says.
    fn is_hosts_maintenance(&self) -> bool {
        self.id == "_node_maintenance"
    }
}

/// What the local agent has of ours.
pub(super) fn registered_here(
    services: &BTreeMap<String, Service>,
    checks: &BTreeMap<String, Check>,
) -> Vec<Registered> {
    let mut by_service = BTreeMap::<&str, Vec<&Check>>::new();
    for check in checks.values() {
        by_service.entry(&check.service).or_default().push(check);
    }
    let of = |id: &str| by_service.get(id).into_iter().flatten().copied();
    let registered = |service: &Service| registered_in(None, service, of(&service.id).chain(of("")));
    services.values().filter_map(registered).collect()
}

/// What the catalog has of ours.
pub(super) fn registered_anywhere(found: &[Found]) -> Vec<Registered> {
    found.iter().filter_map(|it| registered_in(Some(&it.node.node), &it.service, it.checks.iter())).collect()
}

/// The instance of ours that a service is, if it is one, by its own checks and its host's. The host is the checks',
/// where it is not given.
fn registered_in<'a>(
    host: Option<&str>,
    service: &Service,
    checks: impl Iterator<Item = &'a Check>,
) -> Option<Registered> {
    let meta = service.meta.as_ref()?;
    let said = |name: &str| meta.get(name).cloned();
    let (app, node) = (service.service.parse::<AppName>().ok()?, said("node")?.try_into().ok()?);
    let cluster = said("cluster")?;
    let is_ours = said("platypus")? == "1" && service.id == format!("{node}:{app}");
    if !is_ours || !service.tags.as_ref()?.contains(&cluster) {
        return None;
    }
    let about_it = checks.collect::<Vec<_>>();
    let definition = |check: &Check| check.id.strip_prefix(&service.id)?.strip_prefix(':').map(str::to_owned);
    let own = about_it.iter().filter_map(|check| Some((definition(check)?, *check))).collect::<Vec<_>>();
    let drained = about_it.iter().filter(|check| check.is_its_maintenance()).find_map(|check| our_reason(&check.notes));
    let is_operators = |check: &&&Check| {
        check.is_hosts_maintenance() || check.is_its_maintenance() && our_reason(&check.notes).is_none()
    };
    let is_reported = own.iter().any(|(definition, _)| *definition == InstanceCheck::Reported.id());
    let says = own.first().map_or("", |(_, check)| &check.output);
    let (says, reports) = if is_reported { words_and_time(says) } else { (says.trim().to_owned(), Reports::Unneeded) };
    Some(Registered {
        app,
        cluster: cluster.try_into().ok()?,
        node,
        version: said("version")?.try_into().ok()?,
        digest: said("digest")?,
        port: u16::try_from(service.port).ok().filter(|port| *port > 0),
        host: host.or(about_it.first().map(|check| check.node.as_str())).unwrap_or_default().to_owned(),
        check_passes: !own.is_empty() && own.iter().all(|(_, check)| check.passes()),
        // Without a check of ours it would be passing whatever it does.
        passing: !own.is_empty() && about_it.iter().all(|check| check.passes()),
        checks: own.into_iter().map(|(definition, _)| definition).gather::<BTreeSet<_>>(),
        drained: drained.map(str::to_owned),
        maintenance: about_it.iter().find(is_operators).map(|check| check.notes.clone()),
        says,
        reports,
    })
}

/// What a report is kept as. Consul does not tell when it came. It takes a change of nothing but the words to its
/// servers only after minutes, so that the time in them costs little.
pub(super) fn report_of(says: &str, at: SystemTime) -> String {
    let at = OffsetDateTime::from(at).replace_nanosecond(0).expect("0 is a number of nanoseconds");
    format!("{} (reported {})", words(says), at.format(&Rfc3339).expect("the clock shows a year before 10,000"))
}

fn words_and_time(output: &str) -> (String, Reports) {
    let parts = output.rsplit_once("(reported ").and_then(|(says, at)| {
        let at = OffsetDateTime::parse(at.trim_end().strip_suffix(')')?, &Rfc3339).ok()?;
        Some((says.trim().to_owned(), Some(at.into())))
    });
    let (says, at) = parts.unwrap_or_else(|| (output.trim().to_owned(), None));
    (says, Reports::Expiring(at))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn check(id: &str, status: &str) -> Value {
        json!({"Node": "host1", "CheckID": id, "Status": status, "Notes": "", "Output": " fine\n",
            "ServiceID": if id.contains(':') { "web1:slug" } else { "" }})
    }

    fn noted(id: &str, notes: &str) -> Value {
        let mut check = check(id, "critical");
        check["Notes"] = notes.into();
        check
    }

    fn service() -> Value {
        let meta = json!({"platypus": "1", "node": "web1", "cluster": "dev", "version": "0.1", "digest": "d1"});
        json!({"ID": "web1:slug", "Service": "slug", "Tags": ["dev"], "Meta": meta, "Port": 80})
    }

    fn read(service: &Value, checks: &[Value]) -> Option<Registered> {
        let found = json!([{"Node": {"Node": "host1"}, "Service": service, "Checks": checks}]);
        registered_anywhere(&serde_json::from_value::<Vec<Found>>(found).unwrap()).pop()
    }

    #[test]
    fn the_local_agents_checks_are_each_services_own_and_the_hosts() {
        let mut other = service();
        (other["ID"], other["Meta"]["node"]) = (json!("web2:slug"), json!("web2"));
        let mut others = check("web2:slug:abc", "critical");
        others["ServiceID"] = json!("web2:slug");
        let read = |more: &[Value]| {
            let services =
                json!({"web1:slug": service(), "web2:slug": other, "db": {"ID": "db", "Service": "db", "Port": 1}});
            let mut checks = json!({"a": check("web1:slug:abc", "passing"), "b": others});
            checks.as_object_mut().unwrap().extend(more.iter().map(|check| ("c".to_owned(), check.clone())));
            let services = serde_json::from_value(services).unwrap();
            let found = registered_here(&services, &serde_json::from_value(checks).unwrap());
            found.into_iter().map(|it| (it.host, it.check_passes, it.passing)).collect::<Vec<_>>()
        };
        let host = || "host1".to_owned();
        assert_eq!(read(&[]), [(host(), true, true), (host(), false, false)]);
        let maintenance = noted("_node_maintenance", "a new disk");
        assert_eq!(read(&[maintenance]), [(host(), true, false), (host(), false, false)]);
    }

    #[test]
    fn passing_takes_every_check_and_one_of_ours() {
        let (ours, host) = (check("web1:slug:abc", "passing"), check("serfHealth", "passing"));
        for (checks, passing, check_passes) in [
            (vec![ours.clone(), host.clone()], true, true),
            (vec![], false, false),
            (vec![host.clone()], false, false),
            (vec![check("web1:slug:abc", "warning"), host.clone()], false, false),
            (vec![ours.clone(), check("serfHealth", "critical")], false, true),
            (vec![ours.clone(), check("service:anybodys", "critical")], false, true),
            (vec![ours.clone(), check("web1:slug:old", "critical")], false, false),
            (vec![ours.clone(), noted("_service_maintenance:web1:slug", "platypus: to 0.2")], false, true),
            (vec![ours, noted("_node_maintenance", "a new disk")], false, true),
        ] {
            let found = read(&service(), &checks).unwrap();
            assert_eq!((found.passing, found.check_passes), (passing, check_passes), "{checks:?}");
        }
    }

    #[test]
    fn our_maintenance_is_told_from_an_operators() {
        let (service_wide, host_wide) = ("_service_maintenance:web1:slug", "_node_maintenance");
        for (checks, drained, maintenance) in [
            (vec![], None, None),
            (vec![noted(service_wide, "platypus: to 0.2")], Some("to 0.2"), None),
            (vec![noted(service_wide, "a new disk")], None, Some("a new disk")),
            (vec![noted(service_wide, "")], None, Some("")),
            (vec![noted(service_wide, "platypus:"), noted(host_wide, "a disk")], Some(""), Some("a disk")),
            // To lift the instance's would not lift it.
            (vec![noted(host_wide, "platypus: new agents")], None, Some("platypus: new agents")),
        ] {
            let found = read(&service(), &checks).unwrap();
            assert_eq!((found.drained.as_deref(), found.maintenance.as_deref()), (drained, maintenance));
        }
    }

    #[test]
    fn a_check_concerns_a_node_if_it_is_of_its_instances_or_of_its_host() {
        for (host, service, concerns) in [
            ("host1", "web1:slug", true),
            ("host2", "web1:slug", true),
            ("host1", "", true),
            ("host2", "", false),
            ("host1", "web10:slug", false),
            ("host1", "web1", false),
            ("host1", "db", false),
        ] {
            let mut check = check("any", "critical");
            (check["Node"], check["ServiceID"]) = (json!(host), json!(service));
            let check = serde_json::from_value::<Check>(check).unwrap();
            assert_eq!(check.concerns(&"web1".parse().unwrap(), "host1"), concerns, "{host} {service}");
        }
    }

    #[test]
    fn what_is_not_ours_in_all_of_id_tag_and_meta_is_nobody() {
        assert!(read(&service(), &[]).is_some());
        for (pointer, value) in [
            ("/ID", json!("slug")),
            ("/ID", json!("web2:slug")),
            ("/Service", json!("other")),
            ("/Service", json!("not a name")),
            ("/Tags", json!(null)),
            ("/Tags", json!(["live"])),
            ("/Meta", json!(null)),
            ("/Meta", json!({})),
            ("/Meta/platypus", json!("2")),
            ("/Meta/node", json!("../web1")),
            ("/Meta/cluster", json!("")),
            ("/Meta/version", json!("a b")),
        ] {
            let mut service = service();
            *service.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(read(&service, &[]), None, "{pointer} {value}");
        }
    }

    #[test]
    fn somebody_elses_port_that_is_none_hides_nobodys_instance() {
        for (port, read_as) in [(80, Some(80)), (0, None), (-1, None), (70_000, None)] {
            let mut service = service();
            service["Port"] = port.into();
            assert_eq!(read(&service, &[]).unwrap().port, read_as, "{port}");
        }
    }

    #[test]
    fn a_report_tells_its_words_and_its_time() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_725_072_178);
        assert_eq!(report_of("runs ", at + Duration::from_millis(9)), "runs (reported 2024-08-31T02:42:58Z)");
        for says in ["runs", "", "(reported never)"] {
            assert_eq!(words_and_time(&report_of(says, at)), (says.to_owned(), Reports::Expiring(Some(at))));
        }
        for output in ["", "by hand", "(reported soon)", "TTL expired (reported 2024-08-31T02:42:58Z"] {
            assert_eq!(words_and_time(output), (output.to_owned(), Reports::Expiring(None)));
        }
    }
}
