//! What keeps running, what is put right, and what is taken away.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use fixtures::{Behaviour, Host, SOON, Slug, bin, eventually, free_port, http_get, pass, script};
use serde_json::json;

#[test]
fn no_active_version_stops_the_app_and_removes_its_services() {
    let host = Host::running("1");
    host.put("clusters/slug/dev/config", &json!({"versions": {"1": "prep"}}));
    host.converge();
    assert_eq!(http_get(host.port, "/"), None);
    assert!(!host.path("service/slug").exists() && !host.path("stage/slug").exists());
    assert!(!host.path("stage/.platypus/slug.json").exists());
    assert!(host.path("srv/slug/installs/slug_1").exists(), "installs are not this agent's");
    // And it can come back.
    host.activate("1", json!({}));
    host.converge();
    host.serves("1");
}

#[test]
fn a_node_that_is_drained_stops_its_apps_as_min_nodes_lets_it_and_keeps_what_they_need_until_they_come_back() {
    let host = Host::running("1");
    host.deploy_config(json!({"ports": [1212]}));
    host.activate("1", json!({"min_nodes": 1}));
    host.converge();
    let pid = host.pid();
    let drained = json!({"cluster": "dev", "drain": true});
    host.put("nodes/web1/slug", &drained);
    let pass = host.converge();
    assert!(pass.log.contains("slug: waiting: 1 of 1 healthy, min 1"), "{}", pass.log);
    assert_eq!(host.pid(), pid);

    host.activate("1", json!({}));
    host.put("nodes/web1/slug", &drained);
    let pass = host.converge();
    assert!(pass.log.contains("slug: Removing its services: it is drained on this node"), "{}", pass.log);
    assert_eq!(http_get(host.port, "/"), None);
    assert!(!host.path("service/slug").exists() && !host.path("stage/.platypus/slug.json").exists());
    assert!(!host.path("store/instances/slug/dev/web1.json").exists(), "no client is sent here");
    let leases = fs::read_to_string(host.path("store/locks/slug/dev/shutdown.json")).unwrap();
    assert!(leases.contains(r#""down":{}"#), "nobody waits for it: {leases}");
    assert!(host.path("srv/slug/installs/slug_1").exists() && host.path("srv/slug/data").exists());
    let before = host.everything();
    assert_eq!(host.converge().log, "");
    assert_eq!(fixtures::differences(&before, &host.everything()), Vec::<String>::new());
    // The packet filter is as it was.
    let rules = host.path("rules");
    assert!(fixtures::pass(host.iptables().arg("--once").arg("--rules").arg(&rules)).ok);
    assert!(fs::read_to_string(rules).unwrap().contains("--dport 1212"));

    host.put("nodes/web1/slug", &json!({"cluster": "dev"}));
    host.converge();
    host.serves("1");
    assert!(host.path("store/instances/slug/dev/web1.json").exists());
}

#[test]
fn an_app_that_left_its_node_is_stopped_and_one_whose_cluster_is_lost_too_is_held() {
    let host = Host::running("1");
    let pid = host.pid();
    let config = fs::read_to_string(host.path("store/clusters/slug/dev/config.json")).unwrap();
    host.delete("nodes/web1/slug");
    host.delete("clusters/slug/dev/config");
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("held as it is"), "{}", pass.log);
    assert!(pass.log.contains("clusters/slug/dev/config"), "{}", pass.log);
    assert_eq!(host.pid(), pid);

    host.put_text("clusters/slug/dev/config", &config);
    host.converge();
    assert_eq!(http_get(host.port, "/"), None);
    assert!(!host.path("stage/slug").exists());
}

#[test]
fn an_invalid_document_a_lost_store_and_a_hold_leave_everything_as_it_is() {
    let host = Host::running("1");
    let pid = host.pid();
    let config = "clusters/slug/dev/config";
    for document in
        ["", "{", "{}", "[]", r#"{"versions": {"1": "active", "2": "active"}}"#, r#"{"versions": {"1": "on"}}"#]
    {
        host.put_text(config, document);
        let pass = host.once();
        assert!(!pass.ok && pass.log.contains(&format!("held as it is: {config}: ")), "{document}: {}", pass.log);
        assert_eq!(host.pid(), pid, "{document}");
    }
    host.activate("2", json!({}));
    host.put("nodes/web1/slug", &json!({"cluster": "dev", "hold": true}));
    assert!(host.converge().log.contains("slug: held"));
    fs::rename(host.path("store"), host.path("store-lost")).unwrap();
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("store"), "{}", pass.log);
    fs::create_dir(host.path("store")).unwrap();
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("lost its keys"), "{}", pass.log);
    assert_eq!(host.pid(), pid);
}

#[test]
fn a_reason_to_hold_is_said_once_and_not_each_time() {
    let host = Host::running("1");
    let pid = host.pid();
    let mut setlive = host.setlive();
    setlive.args(["--interval", "0.05"]);
    let agent = host.watch(setlive);
    host.put_text("clusters/slug/dev/config", "{");
    agent.says("held as it is: clusters/slug/dev/config");
    // Another app's change makes the agent read everything again.
    for n in 0..5 {
        host.put("nodes/web1/other", &json!({"cluster": format!("c{n}")}));
        agent.says(&format!("clusters/other/c{n}/deploy_config: there is no such document"));
    }
    assert_eq!(agent.log().matches("held as it is: clusters/slug/dev/config").count(), 1, "{}", agent.log());
    host.activate("1", json!({}));
    agent.says("slug: converged");
    fs::rename(host.path("store"), host.path("lost")).unwrap();
    agent.says("everything stays as it is");
    fs::rename(host.path("lost"), host.path("store")).unwrap();
    agent.says("the store answers again");
    assert_eq!(agent.log().matches("everything stays as it is").count(), 1, "{}", agent.log());
    assert_eq!(host.pid(), pid);
}

#[test]
fn drift_is_put_right_and_only_what_is_down_is_started() {
    let host = Host::running("1");
    let pid = host.pid();
    let run = fs::read_to_string(host.path("stage/slug/run")).unwrap();
    fs::write(host.path("stage/slug/run"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::remove_file(host.path("srv/slug/current")).unwrap();
    symlink("installs/slug_0", host.path("srv/slug/current")).unwrap();
    let mut setlive = host.setlive();
    setlive.args(["--interval", "0.2"]);
    let agent = host.watch(setlive);
    let repaired = || fs::read_to_string(host.path("stage/slug/run")).unwrap() == run;
    eventually("the run script is as it was", SOON, || repaired().then_some(()));
    eventually("current is as it was", SOON, || host.current().ends_with("slug_1").then_some(()));
    assert_eq!(host.pid(), pid, "nothing was restarted for that");

    // A process that was told to stay down by hand.
    let sv = Command::new("sv").args(["-w", "10", "down"]).arg(host.path("service/slug")).status().unwrap();
    assert!(sv.success());
    eventually("it is up again", SOON, || host.health().filter(|health| health["pid"] != pid));
    agent.says("slug: 1 was not running, and is again");
}

#[test]
fn an_app_that_hangs_in_a_hook_delays_no_other() {
    let host = Host::new();
    let other = free_port();
    host.install(&Slug::new("1", Behaviour::Good).disable("exec sleep 1000"));
    host.install(&Slug::new("2", Behaviour::Good));
    for version in ["1", "2"] {
        host.install_as("other", &Slug::new(version, Behaviour::Good));
        host.activate_as("other", other, "1", json!({}));
    }
    host.deploy_config(json!({}));
    host.deploy_config_as("other", json!({}));
    host.activate("1", json!({}));
    host.converge();
    let agent = host.watch(host.setlive());
    host.activate("2", json!({"disable_seconds": 600}));
    agent.says("slug: Running bin/disable of 1");
    host.activate_as("other", other, "2", json!({}));
    eventually("the other app is replaced", SOON, || http_get(other, "/").filter(|(_, body)| body.contains("slug 2")));
    assert_eq!(host.health().unwrap()["version"], "1");
    // It was disabled with the time-out it was started with; a signal ends the agent and the hook at once.
    agent.stop();
    let sleeps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    assert!(!fixtures::mentioning(host.scratch.path()).iter().any(sleeps));
}

#[test]
fn an_app_that_hangs_in_its_stop_delays_no_other() {
    let host = Host::new();
    let other = free_port();
    host.install(&Slug::new("1", Behaviour::IgnoresTerm));
    host.install(&Slug::new("2", Behaviour::Good));
    for version in ["1", "2"] {
        host.install_as("other", &Slug::new(version, Behaviour::Good));
    }
    host.deploy_config(json!({}));
    host.deploy_config_as("other", json!({}));
    host.activate_as("other", other, "1", json!({}));
    host.activate("1", json!({"stop_seconds": 600}));
    host.converge();
    let agent = host.watch(host.setlive());
    host.activate("2", json!({}));
    agent.says("slug: Stopping 1");
    host.activate_as("other", other, "2", json!({}));
    eventually("the other app is replaced", SOON, || http_get(other, "/").filter(|(_, body)| body.contains("slug 2")));
    assert_eq!(host.health().unwrap()["version"], "1", "it is stopped as it was started, with its own patience");
    agent.stop();
}

#[test]
fn a_signal_ends_the_agent_at_once_while_it_waits_for_health() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::NeverHealthy));
    let agent = host.watch(host.setlive());
    let health = json!({"http": {"port": host.port, "path": "/health"}, "deadline_seconds": 600});
    host.activate("2", json!({"health": health}));
    agent.says("slug: Starting 2");
    agent.stop();
    // Whoever comes next goes on; and is told of another mind while it waits.
    let agent = host.watch(host.setlive());
    host.activate("1", json!({}));
    host.serves("1");
    agent.stop();
}

#[test]
fn what_a_killed_agent_had_begun_is_finished_also_without_a_store() {
    let host = Host::running("1");
    // As a kill between stop and start leaves it.
    let mut record = host.record();
    record["converging"] = record["healthy"].clone();
    fs::write(host.path("stage/.platypus/slug.json"), record.to_string()).unwrap();
    let down = || {
        let sv = Command::new("sv").args(["-w", "10", "down"]).arg(host.path("service/slug")).status().unwrap();
        assert!(sv.success());
    };
    down();
    host.put_text("clusters/slug/dev/config", "{");
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("held as it is"), "{}", pass.log);
    host.serves("1");

    fs::write(host.path("stage/.platypus/slug.json"), record.to_string()).unwrap();
    down();
    fs::rename(host.path("store"), host.path("lost")).unwrap();
    let agent = host.watch(host.setlive());
    host.serves("1");
    agent.says("slug: 1 is live");
    agent.stop();
}

#[test]
fn what_is_not_ours_is_not_touched_unless_it_is_adopted() {
    let host = Host::new();
    host.install(&Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    fs::create_dir(host.path("stage/slug")).unwrap();
    fs::write(host.path("stage/slug/run"), "#!/bin/sh\nexec chpst -P sleep 1000\n").unwrap();
    let made = Command::new("chmod").arg("755").arg(host.path("stage/slug/run")).status().unwrap();
    assert!(made.success());
    symlink(host.path("stage/slug"), host.path("service/slug")).unwrap();
    let status = host.path("stage/slug/supervise/status");
    eventually("it runs", SOON, || (fs::read(&status).ok()?.get(19) == Some(&1)).then_some(()));
    host.activate("1", json!({}));
    let refused = host.once();
    assert!(!refused.ok && refused.log.contains("give --adopt"), "{}", refused.log);
    assert_eq!(fs::read(&status).unwrap()[19], 1);
    let adopted = pass(host.setlive().args(["--once", "--adopt"]));
    assert!(adopted.ok, "{}", adopted.log);
    host.serves("1");
}

#[test]
fn a_version_that_is_not_prepared_is_waited_for_and_what_runs_goes_on() {
    let host = Host::running("1");
    let agent = host.watch(host.setlive());
    host.activate("2", json!({}));
    agent.says("slug: waiting: 2 is not prepared yet");
    assert_eq!(host.health().unwrap()["version"], "1");
    host.install(&Slug::new("2", Behaviour::Good));
    host.serves("2");
    agent.stop();
}

#[test]
fn a_plan_says_what_would_be_done_and_changes_nothing() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::Good));
    host.activate("2", json!({}));
    let before = host.everything();
    let plan = pass(host.setlive().arg("--plan"));
    assert_eq!(plan.status, Some(2), "{}", plan.log);
    assert!(plan.out.contains("slug: stop 1") && plan.out.contains("slug: start 2"), "{}", plan.out);
    assert_eq!(fixtures::differences(&before, &host.everything()), Vec::<String>::new());
}

#[test]
fn a_fake_sv_is_enough_on_a_machine_without_runit() {
    let host = Host::without_runit();
    host.install(&Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    host.activate("1", json!({"health": null}));
    let sv = concat!(env!("CARGO_MANIFEST_DIR"), "/../../test_data/bin/sv");
    let calls = host.path("sv.log");
    let once = || {
        let pass = pass(host.setlive().args(["--once", "--sv", sv]).env("SV_LOG", &calls));
        assert!(pass.ok, "{}", pass.log);
    };
    once();
    assert!(fs::read_to_string(&calls).unwrap().contains("start"));
    host.put("clusters/slug/dev/config", &json!({"versions": {}}));
    once();
    assert!(fs::read_to_string(&calls).unwrap().contains("stop"));
    assert!(!host.path("service/slug").exists());
}

#[test]
fn without_a_runsvdir_everything_is_put_in_place_and_waited_for() {
    let host = Host::without_runit();
    host.install(&Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    assert!(host.converge().log.contains("slug: waiting: for runsvdir to look after"));
    assert!(host.path("service/slug/run").exists());
    let _runsvdir = fixtures::Runsvdir::start(&host.scratch, &host.path("service"));
    host.converge();
    host.serves("1");
}

#[test]
fn an_external_service_builder_is_told_what_to_build() {
    let host = Host::new();
    host.install(&Slug::new("1", Behaviour::Good));
    host.deploy_config(json!({}));
    host.activate("1", json!({}));
    let builder = host.path("servicebuilder");
    // As small as one can be. It knows what it will be asked for, and that JSON has no other word for it.
    let script = r#"#!/bin/sh
while getopts c:d:s: option; do case $option in c) c=$OPTARG ;; d) d=$OPTARG ;; s) s=$OPTARG ;; esac; done
grep -q '"slug":{"run":\["/bin/sh","-c","exec 2>&1' "$c/slug.yaml" || exit 1
mkdir -p "$s/slug/log"
printf '#!/bin/sh\nexport CONFIG_PATH="$(echo %s/../srv/slug/config/*.json)"\n' "$s" > "$s/slug/run"
printf 'exec chpst -P %s/../srv/slug/installs/slug_1/bin/launch\n' "$s" >> "$s/slug/run"
printf '#!/bin/sh\nexec cat >/dev/null\n' > "$s/slug/log/run"
chmod 755 "$s/slug/run" "$s/slug/log/run"
ln -sfn "$s/slug" "$d/slug"
"#;
    fs::write(&builder, script).unwrap();
    let made = Command::new("chmod").arg("755").arg(&builder).status().unwrap();
    assert!(made.success());
    let pass = pass(host.setlive().arg("--once").arg("--servicebuilder").arg(&builder));
    assert!(pass.ok, "{}", pass.log);
    host.serves("1");
}

#[test]
fn an_app_that_does_not_get_up_again_keeps_the_agent_from_no_mark() {
    let host = Host::running("1");
    let patient = json!({"http": {"port": host.port, "path": "/health"}, "deadline_seconds": 600});
    host.activate("1", json!({"health": patient}));
    host.converge();
    script(&host.path("srv/slug/installs/slug_1/bin/launch"), "exit 1");
    assert!(Command::new("kill").args(["-9", &host.pid().to_string()]).status().unwrap().success());
    let mut setlive = host.setlive();
    setlive.arg("--mark").arg(host.path("passed/pp-setlive"));
    let agent = host.watch(setlive);
    let mark = eventually("the mark is left", SOON, || fs::read_to_string(host.path("passed/pp-setlive")).ok());
    assert!(mark.contains(r#""apps":["slug"]"#), "{mark}");
    agent.stop();
}

#[test]
fn what_runs_by_another_agents_record_is_not_ended() {
    let host = Host::running("1");
    let pid = host.pid();
    let mut elsewhere = Command::new(bin("pp-setlive"));
    elsewhere.args(["--once", "--node", "web1", "--store", &host.store_url()]);
    elsewhere.arg("--runit").arg(host.path("elsewhere/service")).arg("--runit-stage").arg(host.path("elsewhere/stage"));
    let refused = pass(&mut elsewhere);
    assert!(!refused.ok && refused.log.contains("slug: it runs here already, as process"), "{}", refused.log);
    assert_eq!(host.pid(), pid);
}
