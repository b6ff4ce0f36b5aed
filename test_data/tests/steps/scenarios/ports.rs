//! Of pp-iptables: ports of apps that come, go and change.

use std::process::Command;

use fixtures::bin;
use serde_json::{Value, json};

use super::{Scenario, rules, scenario};
use crate::site::Site;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a first packet filter", &[filter]).when(|site| open(site, "one", json!([80]))),
        scenario("a packet filter", &[filter]).after(|site| opened(site, filter)).when(open_others),
        scenario("a packet filter in a file", &[rules]).after(|site| opened(site, rules)).when(open_others),
        scenario("a packet filter of another program", &[authority])
            .after(|site| opened(site, authority))
            .when(open_others),
        scenario("a packet filter in a file that is given up", &[rules])
            .after(|site| opened(site, rules))
            .when(open_others)
            .undone(open_as_before)
            .only(&["rename rules"]),
        scenario("a packet filter of another program that is given up", &[authority])
            .after(|site| opened(site, authority))
            .when(open_others)
            .undone(open_as_before)
            .only(&["rename definition of ports", "rename word of what is unfinished"]),
    ]
}

fn filter(site: &Site) -> Command {
    let mut iptables = site.namespace().command(bin("pp-iptables"));
    iptables.arg("--store").arg(site.host.store_url()).args(["--node", "web1", "--apply", "--lock"]);
    iptables.arg(site.host.path("stage/locks/filter")).current_dir(site.host.scratch.path());
    // Legacy iptables has one lock for all network namespaces.
    iptables.env("XTABLES_LOCKFILE", site.host.path("xtables.lock"));
    iptables
}

fn authority(site: &Site) -> Command {
    let mut iptables = site.host.iptables();
    iptables.arg("--cmd").arg(site.host.path("authority")).args(["--config-dir", "ports.d"]);
    iptables
}

/// Two apps whose ports are open.
fn opened(site: &Site, agent: fn(&Site) -> Command) {
    open(site, "one", json!([80]));
    open(site, "two", json!([81]));
    site.pass(agent(site));
}

/// One of them is gone, the other is on other ports, and there is a third.
fn open_others(site: &Site) {
    site.host.delete("nodes/web1/two");
    open(site, "one", json!([443, {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"}]));
    open(site, "three", json!([90]));
}

fn open_as_before(site: &Site) {
    site.host.delete("nodes/web1/three");
    open(site, "one", json!([80]));
    open(site, "two", json!([81]));
}

fn open(site: &Site, app: &str, ports: Value) {
    site.host.deploy_config_as(app, json!({"ports": ports}));
    site.host.put(&format!("clusters/{app}/dev/config"), &json!({"versions": {}}));
    site.host.put(&format!("nodes/web1/{app}"), &json!({"cluster": "dev"}));
}
