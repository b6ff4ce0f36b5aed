//! What a pass costs the store. What it costs in time is for `kickstart/bench pass`.

use std::fs;
use std::process::Command;

use fixtures::{Consul, Host, Proxy, Scratch, bin, pass};
use serde_json::json;

#[test]
fn a_pass_over_a_thousand_apps_that_are_prepared_asks_the_store_seventeen_times() {
    let host = Host::within(Scratch::in_memory()).with_consul(Consul::start);
    for app in (0..1000).map(|n| format!("app{n}")) {
        fs::create_dir_all(host.path("srv").join(&app).join(format!("installs/{app}_1"))).unwrap();
        host.deploy_config_as(&app, json!({}));
        host.put(&format!("clusters/{app}/dev/config"), &json!({"versions": {"1": "active"}}));
        host.put(&format!("nodes/web1/{app}"), &json!({"cluster": "dev"}));
    }
    let proxy = Proxy::start(host.consul.as_ref().unwrap().addr());
    let mut preparer = Command::new(bin("pp-preparer"));
    preparer.args(["--once", "--node", "web1", "--store", &proxy.url(), "--repo", &host.repo.url()]);
    let pass = pass(&mut preparer);
    assert_eq!((pass.ok, pass.log.as_str()), (true, ""));
    assert_eq!(proxy.requests(), 17, "{:#?}", proxy.request_lines());
}
