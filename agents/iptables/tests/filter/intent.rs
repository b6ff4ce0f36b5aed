//! What intent says, and what it does not say.

use std::fs;

use fixtures::{SOON, eventually, pass};
use serde_json::json;

use crate::support::{Site, with_each_variant};

fn live(site: &Site<'_>) {
    site.open("slug", json!([80]));
    site.open("other", json!([90]));
    site.converge(&["--default-drop"]);
}

#[test]
fn a_further_pass_changes_nothing_and_says_nothing() {
    with_each_variant(|site| {
        site.open(
            "slug",
            json!([
                80,
                {"port": 53, "protocol": "udp", "source": "10.0.0.0/8"},
                {"port": 53, "source": "10.1.2.3/32"},
                {"port": 54, "source": "0.0.0.0/0"},
                {"port": 55, "source": "::/0"},
                {"port": 56, "source": "2001:db8:0:1::1/128"},
                {"port": 57, "source": "::ffff:10.0.0.0/104"},
                {"port": 58, "source": "::a00:1/128"},
                80,
            ]),
        );
        let pass = site.converge(&["--default-drop"]);
        assert!(pass.log.contains("slug: Opening 53/tcp from 10.1.2.3/32, 53/udp from 10.0.0.0/8, "), "{}", pass.log);
        let before = site.save();
        let pass = site.converge(&["--default-drop"]);
        assert_eq!((pass.log.as_str(), site.save()), ("", before));
    });
}

#[test]
fn a_plan_says_what_would_be_done_and_changes_nothing() {
    with_each_variant(|site| {
        live(site);
        site.open("slug", json!([81]));
        let (before, files) = (site.save(), site.host.everything());
        let plan = pass(site.agent().args(["--plan", "--default-drop"]));
        assert_eq!(plan.status, Some(2), "{}", plan.log);
        assert_eq!(plan.out, "slug: Opening 81/tcp\nslug: Closing 80/tcp\n");
        assert_eq!(site.save(), before);
        assert_eq!(fixtures::differences(&files, &site.host.everything()), Vec::<String>::new());
    });
}

#[test]
fn an_invalid_document_a_hold_a_lost_store_and_a_blank_one_close_nothing() {
    with_each_variant(|site| {
        live(site);
        let before = site.save();
        for (key, document) in [
            ("clusters/slug/dev/deploy_config", "{"),
            ("clusters/slug/dev/deploy_config", r#"{"basedir": "/srv/slug", "ports": [0]}"#),
            ("clusters/slug/dev/config", ""),
            ("nodes/web1/slug", "[]"),
        ] {
            site.host.put_text(key, document);
            let pass = site.once(&["--default-drop"]);
            assert!(!pass.ok && pass.log.contains("slug: held as it is"), "{}", pass.log);
            assert_eq!(site.save(), before, "{key}: {document}");
            site.open("slug", json!([80]));
        }
        // Held, it keeps its ports, and the others go on.
        site.open("slug", json!([81]));
        site.host.put("nodes/web1/slug", &json!({"cluster": "dev", "hold": true}));
        site.open("other", json!([91]));
        site.converge(&["--default-drop"]);
        assert_eq!((site.ports("slug"), site.ports("other")), (vec!["80".to_owned(); 2], vec!["91".to_owned(); 2]));

        let before = site.save();
        fs::rename(site.host.path("store"), site.host.path("lost")).unwrap();
        assert!(!site.once(&["--default-drop"]).ok);
        fs::create_dir(site.host.path("store")).unwrap();
        let pass = site.once(&["--default-drop"]);
        assert!(!pass.ok && pass.log.contains("lost its keys"), "{}", pass.log);
        assert_eq!(site.save(), before);
    });
}

#[test]
fn an_app_that_left_its_node_is_closed_and_one_of_which_that_is_not_sure_delays_no_other() {
    with_each_variant(|site| {
        live(site);
        site.host.delete("nodes/web1/slug");
        site.host.delete("clusters/slug/dev/config");
        site.host.delete("nodes/web1/other");
        site.open("third", json!([70]));
        let pass = site.once(&["--default-drop"]);
        assert!(
            !pass.ok && pass.log.contains("slug: held as it is: nodes/web1/slug is absent, but so is"),
            "{}",
            pass.log
        );
        assert!(pass.log.contains("other: Closing 90/tcp"), "{}", pass.log);
        assert_eq!(site.ports("slug"), ["80", "80"]);
        assert_eq!(site.ports("other"), [""; 0]);
        assert_eq!(site.ports("third"), ["70", "70"]);
        site.host.put("clusters/slug/dev/config", &json!({"versions": {}}));
        site.converge(&["--default-drop"]);
        assert_eq!(site.ports("slug"), [""; 0]);
    });
}

#[test]
fn an_agent_under_a_wrong_name_closes_nothing() {
    with_each_variant(|site| {
        live(site);
        let before = site.save();
        let pass = pass(site.agent_of("web2").args(["--once", "--default-drop"]));
        assert!(!pass.ok, "it has to be told");
        assert!(pass.log.contains("made for another node, web1"), "{}", pass.log);
        assert_eq!(site.save(), before);
        assert!(fixtures::pass(site.agent_of("web2").args(["--once", "--adopt"])).ok);
        assert_eq!(site.ports("slug"), [""; 0]);
    });
}

#[test]
fn an_agent_that_watches_follows_a_change_at_once() {
    with_each_variant(|site| {
        live(site);
        let mut agent = site.agent();
        agent.args(["--default-drop", "--interval", "3600"]);
        let agent = site.host.watch(agent);
        site.open("slug", json!([81]));
        eventually("the port is open", SOON, || (site.ports("slug") == ["81", "81"]).then_some(()));
        agent.says("slug: Opening 81/tcp");
        agent.says("slug: Closing 80/tcp");
        site.host.delete("nodes/web1/slug");
        eventually("the app is closed", SOON, || site.ports("slug").is_empty().then_some(()));
        agent.stop();
    });
}
