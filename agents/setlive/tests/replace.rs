//! Replacing what runs, on a real runit: the way there, and back when there is nothing good.

use std::fs;
use std::process::Command;

use fixtures::{Behaviour, Host, SOON, Slug, bin, differences, eventually, http_get, pass};
use serde_json::json;

#[test]
fn the_active_version_is_run_then_replaced_and_a_further_pass_changes_nothing() {
    let host = Host::running("0.1");
    host.install(&Slug::new("0.2", Behaviour::Good));
    host.serves("0.1");
    assert_eq!(host.current().to_str(), Some("installs/slug_0.1"));

    host.activate("0.2", json!({}));
    let pass = host.converge();
    let health = host.serves("0.2");
    assert_eq!(health["user_config"]["port"], host.port);
    assert_eq!(host.current().to_str(), Some("installs/slug_0.2"));
    assert_eq!(fs::read_link(host.path("srv/slug/last")).unwrap().to_str(), Some("installs/slug_0.1"));
    assert!(pass.log.contains("slug: 0.2 is live"), "{}", pass.log);

    let before = host.everything();
    let again = host.converge();
    assert_eq!(differences(&before, &host.everything()), Vec::<String>::new());
    assert_eq!((again.log.as_str(), host.pid()), ("", health["pid"].as_i64().unwrap()));
}

#[test]
fn a_version_that_is_not_healthy_in_time_gives_way_to_the_last_healthy_one_and_is_not_tried_again() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::NeverHealthy));
    host.install(&Slug::new("3", Behaviour::Good));
    host.activate("2", json!({}));
    let pass = host.once();
    assert!(!pass.ok);
    assert!(pass.log.contains("2 failed: not healthy within 3s: GET http://127.0.0.1:"), "{}", pass.log);
    assert!(pass.log.contains("answered 500"), "{}", pass.log);
    assert!(pass.log.contains("1 runs instead"), "{}", pass.log);
    let pid = host.serves("1")["pid"].as_i64().unwrap();
    assert_eq!(host.current().to_str(), Some("installs/slug_1"));

    // Neither another pass nor a change that is no input tries it again.
    host.activate("2", json!({"min_nodes": 1}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("2 failed here"), "{}", pass.log);
    assert_eq!(host.pid(), pid);

    host.activate("3", json!({}));
    host.converge();
    host.serves("3");
    assert_eq!(host.record()["failed"], json!({}));
}

#[test]
fn a_first_version_that_is_not_healthy_stays_started_and_is_reported() {
    let host = Host::new();
    host.deploy_config(json!({}));
    host.install(&Slug::new("1", Behaviour::NeverHealthy));
    host.activate("1", json!({}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("nothing to go back to"), "{}", pass.log);
    assert_eq!(eventually("it runs", SOON, || http_get(host.port, "/")).0, 200);
    let lines = host.record()["failed"].as_object().unwrap().values().next().unwrap()["log"].as_array().unwrap().len();
    assert!(lines > 0, "its last log lines are kept");
    assert!(!host.once().ok, "as long as it is so, it is said");
}

#[test]
fn a_version_that_keeps_dying_is_not_healthy_although_it_is_up_now_and_then() {
    let host = Host::new();
    host.deploy_config(json!({}));
    host.install(&Slug::new("1", Behaviour::Good));
    host.install(&Slug::new("2", Behaviour::ExitsAtOnce));
    host.activate("1", json!({"health": null}));
    host.converge();
    host.activate("2", json!({"health": null}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("2 failed: not healthy within 10s"), "{}", pass.log);
    host.serves("1");
}

#[test]
fn a_version_with_other_services_takes_the_old_ones_place_and_the_old_ones_go() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::TwoServices));
    host.activate("2", json!({}));
    host.converge();
    host.serves("2");
    let mut services = fs::read_dir(host.path("service")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    services.sort();
    assert_eq!(services, ["slug@web", "slug@worker"]);
    assert!(!host.path("stage/slug").exists());
    assert!(host.path("srv/slug/log/worker/current").exists() && host.path("srv/slug/log/web/current").exists());
}

#[test]
fn what_ignores_term_is_killed_and_what_it_leaves_behind_too() {
    let host = Host::new();
    host.deploy_config(json!({}));
    host.install(&Slug::new("1", Behaviour::IgnoresTerm));
    host.install(&Slug::new("2", Behaviour::ForksChild));
    host.install(&Slug::new("3", Behaviour::Good));
    let slugs = || {
        let is_slug = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("bin/slug"));
        fixtures::mentioning(host.scratch.path()).into_iter().filter(is_slug).count()
    };
    host.activate("1", json!({}));
    host.converge();
    host.activate("2", json!({}));
    let pass = host.converge();
    assert!(pass.log.contains("slug: the service slug ignores TERM for 1s: killing it"), "{}", pass.log);
    host.serves("2");
    eventually("its child is there", SOON, || (slugs() == 2).then_some(()));
    host.activate("3", json!({}));
    host.converge();
    host.serves("3");
    assert_eq!(slugs(), 1, "the child of 2 is gone");
}

#[test]
fn hooks_run_around_a_replacement_and_one_that_hangs_ends_in_time() {
    let host = Host::new();
    host.deploy_config(json!({}));
    let note = |what: &str| format!("echo {what} $CONFIG_PATH >> {}", host.path("hooks").display());
    let hang = format!("{}; exec sleep 1000", note("hang-2"));
    let (enable, disable) = (note("enable-1"), note("disable-1"));
    host.install(&Slug::new("1", Behaviour::Good).enable(&enable).disable(&disable));
    host.install(&Slug::new("2", Behaviour::Good).enable(&hang));
    let hooks = || {
        let text = fs::read_to_string(host.path("hooks")).unwrap();
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    host.activate("1", json!({}));
    host.converge();
    assert_eq!(hooks(), ["enable-1"]);
    host.activate("2", json!({"enable_seconds": 0.5}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("bin/enable did not end within 500ms"), "{}", pass.log);
    host.serves("1");
    assert_eq!(hooks(), ["enable-1", "disable-1", "hang-2", "enable-1"]);
    let sleeps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    assert!(!fixtures::mentioning(host.scratch.path()).iter().any(sleeps), "the hook that hung is gone");
}

#[test]
fn the_agents_token_is_not_the_apps() {
    let host = Host::new();
    host.deploy_config(json!({}));
    let told = host.path("told");
    let tell = format!("echo \"${{CONSUL_HTTP_TOKEN-none}}\" > {}", told.display());
    host.install(&Slug::new("1", Behaviour::Good).enable(&tell));
    host.activate("1", json!({}));
    let pass = pass(host.setlive().arg("--once").env("CONSUL_HTTP_TOKEN", "secret"));
    assert!(pass.ok, "{}", pass.log);
    assert_eq!(fs::read_to_string(told).unwrap(), "none\n");
}

#[test]
fn only_inputs_restart_an_app() {
    let host = Host::running("1");
    let pid = host.pid();
    let health = json!({"tcp": {"port": host.port}});
    host.activate("1", json!({"min_nodes": 3, "stop_seconds": 5, "health": health}));
    host.deploy_config(json!({"ports": [80]}));
    host.converge();
    assert_eq!(host.pid(), pid);
    host.activate("1", json!({"user_config": {"port": host.port, "greeting": "hi"}, "health": health}));
    host.converge();
    let health = host.serves("1");
    assert_eq!(health["user_config"]["greeting"], "hi");
    assert_ne!(health["pid"], pid);
    assert_eq!(fs::read_dir(host.path("srv/slug/config")).unwrap().count(), 1, "old configurations go");
}

#[test]
fn an_operators_restart_rolls_as_any_change_and_is_done_once() {
    let host = Host::running("1");
    let pid = host.pid();
    let restart = pass(Command::new(bin("pp-store")).args(["--store", &host.store_url(), "restart", "slug", "dev"]));
    assert!(restart.ok, "{}", restart.log);
    let log = host.converge().log;
    assert!(log.contains("slug: 1 is live"), "{log}");
    let restarted = host.serves("1")["pid"].as_i64().unwrap();
    assert_ne!(restarted, pid);
    assert_eq!((host.converge().log.as_str(), host.pid()), ("", restarted));
}

#[test]
fn a_configuration_that_fails_gives_way_to_the_one_before() {
    let host = Host::running("1");
    let elsewhere = fixtures::free_port();
    host.activate("1", json!({"user_config": {"port": elsewhere}}));
    let pass = host.once();
    assert!(!pass.ok && pass.log.contains("1 as it was configured before runs instead"), "{}", pass.log);
    host.serves("1");
}

#[test]
fn a_script_is_a_check_and_runs_as_the_apps_user() {
    let host = Host::new();
    host.deploy_config(json!({}));
    host.install(&Slug::new("1", Behaviour::Good));
    // Everybody may walk to the install, as on a real host.
    for dir in host.path("srv/slug").ancestors().take_while(|dir| dir.starts_with(host.scratch.path())) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    host.deploy_config(json!({"runas": "nobody"}));
    host.activate("1", json!({"health": {"script": "bin/check", "deadline_seconds": 5}}));
    host.converge();
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
    assert!(!uid.contains("\t0\t"), "{uid}");
}

#[test]
fn the_last_healthy_version_keeps_a_link_also_when_one_is_given_up_on_the_way() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::NeverHealthy));
    host.install(&Slug::new("3", Behaviour::Good));
    let patient = json!({"port": host.port, "path": "/health"});
    host.activate("2", json!({"health": {"http": patient, "deadline_seconds": 600}}));
    let agent = host.watch(host.setlive());
    agent.says("slug: Starting 2");
    host.activate("3", json!({}));
    agent.says("slug: 3 is live");
    agent.stop();
    assert_eq!(fs::read_link(host.path("srv/slug/last")).unwrap().to_str(), Some("installs/slug_1"));

    // Nor does the way back let go of it.
    host.activate("2", json!({}));
    assert!(!host.once().ok);
    let link = |name: &str| fs::read_link(host.path("srv/slug").join(name)).unwrap();
    assert_eq!([link("current"), link("last")].map(|link| link.to_str().unwrap().to_owned()), ["installs/slug_3"; 2]);
}

#[test]
fn an_agent_does_not_stop_the_app_that_it_is_of() {
    let host = Host::running("1");
    host.install(&Slug::new("2", Behaviour::Good));
    let pid = host.pid();
    let own = host.path("srv/slug/installs/slug_1/bin/pp-setlive");
    assert!(Command::new("cp").arg(bin("pp-setlive")).arg(&own).status().unwrap().success());
    let once =
        || pass(Command::new(&own).args(host.setlive().get_args()).arg("--once").current_dir(host.scratch.path()));
    assert!(once().ok, "what is as it shall be it sees to");
    host.activate("2", json!({}));
    let replacing = once();
    host.put("clusters/slug/dev/config", &json!({"versions": {}}));
    for refused in [replacing, once()] {
        assert!(!refused.ok && refused.log.contains("slug: this agent is of that app itself"), "{}", refused.log);
        assert_eq!(host.pid(), pid);
    }
    // Drained, it goes on without a word: by it the host comes back.
    host.activate("1", json!({}));
    host.put("nodes/web1/slug", &json!({"cluster": "dev", "drain": true}));
    let drained = once();
    assert_eq!((drained.ok, drained.log.as_str(), host.pid()), (true, "", pid));
    host.activate("2", json!({}));
    host.converge();
    host.serves("2");
}
