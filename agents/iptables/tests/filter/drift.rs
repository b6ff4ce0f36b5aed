//! What somebody else does to the filter, and several agents at once.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use fixtures::{SOON, bin, eventually, pass, script};
use serde_json::json;

use crate::support::{Site, agent, with_each_variant};

fn live(site: &Site<'_>) {
    site.open("slug", json!([80]));
    site.converge(&[]);
}

#[test]
fn what_is_not_ours_is_left_as_it_is() {
    with_each_variant(|site| {
        for rule in [
            "-N OTHERS",
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -p tcp --dport 22 -m comment --comment slug/dev -j OTHERS",
            "-A OTHERS -j ACCEPT",
            "-A FORWARD -j DROP",
            "-t nat -N PLATYPUS",
            "-t nat -A PLATYPUS -j RETURN",
        ] {
            site.by_hand(rule);
        }
        let before = site.save();
        live(site);
        site.converge(&["--default-drop"]);
        site.host.delete("nodes/web1/slug");
        site.converge(&[]);
        // As the help says how to undo it.
        for words in ["-D INPUT -j PLATYPUS", "-F PLATYPUS", "-X PLATYPUS"] {
            site.by_hand(words);
        }
        assert_eq!(site.save(), before);
    });
}

#[test]
fn drift_is_put_right_at_the_next_look() {
    with_each_variant(|site| {
        live(site);
        let right = site.save();
        let mut agent = site.agent();
        agent.args(["--interval", "0.05"]);
        let agent = site.host.watch(agent);
        for words in [
            "-F PLATYPUS",
            "-D INPUT -j PLATYPUS",
            "-I INPUT -j PLATYPUS",
            "-A INPUT -j PLATYPUS",
            "-I PLATYPUS -p tcp --dport 23 -j ACCEPT",
            "-D PLATYPUS 2",
            "-F",
        ] {
            site.by_hand(words);
            eventually(&format!("{words} is put right"), SOON, || (site.save() == right).then_some(()));
        }
        agent.says("PLATYPUS: Removing a rule that stands for no app: -p tcp -m tcp --dport 23 -j ACCEPT");
        agent.stop();
    });
}

#[test]
fn a_jump_that_was_moved_stays_where_it_is() {
    with_each_variant(|site| {
        live(site);
        site.by_hand("-I INPUT -i eth9 -j DROP");
        let before = site.save();
        assert_eq!(site.converge(&[]).log, "");
        site.open("slug", json!([81]));
        site.converge(&[]);
        assert_eq!(site.save(), before.replace("--dport 80", "--dport 81"));
    });
}

#[test]
fn twenty_agents_at_once_make_one_chain_with_one_jump() {
    with_each_variant(|site| {
        for app in 0..10u16 {
            site.open(&format!("app{app}"), json!([8000 + app]));
        }
        let start = || {
            let mut agent = site.agent();
            agent.args(["--once", "--default-drop"]).stderr(Stdio::piped());
            agent.spawn().unwrap()
        };
        for child in (0..20).map(|_| start()).collect::<Vec<_>>() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(site.lines("-A INPUT"), ["-A INPUT -j PLATYPUS"; 2]);
        assert_eq!(site.lines("app").len(), 20, "{}", site.save());
        assert_eq!(site.converge(&["--default-drop"]).log, "");
    });
}

#[test]
fn killed_at_any_time_the_next_pass_makes_it_right() {
    with_each_variant(|site| {
        for round in 0..8u16 {
            for app in 0..50u16 {
                site.open(&format!("app{app}"), json!([8000 + app * 20 + round]));
            }
            let drop = if round % 2 == 0 { &["--default-drop"][..] } else { &[] };
            let mut killed = site.agent().arg("--once").args(drop).stderr(Stdio::null()).spawn().unwrap();
            // Anywhere between its start and its end.
            thread::sleep(Duration::from_micros(fastrand::u64(0..60_000)));
            killed.kill().unwrap();
            killed.wait().unwrap();
            site.converge(drop);
            assert_eq!(site.lines("-A INPUT"), ["-A INPUT -j PLATYPUS"; 2]);
            assert_eq!(site.lines("\"app").len(), 100, "{}", site.save());
            assert_eq!(site.converge(drop).log, "");
        }
    });
}

#[test]
fn what_a_killed_agent_left_running_ends_before_the_next_one_begins() {
    with_each_variant(|site| {
        site.open("slug", json!([80]));
        // Restores that wait for a word, before the real ones.
        let (programs, begun, go) = (site.host.path("programs"), site.host.path("begun"), site.host.path("go"));
        fs::create_dir(&programs).unwrap();
        let (variant, touch, wait) = (site.variant, begun.display(), go.display());
        let slow = format!(": >{touch}\nuntil [ -e {wait} ]; do sleep 0.01; done\n");
        for family in ["iptables", "ip6tables"] {
            let restore = format!("{family}-restore");
            script(&programs.join(restore), &format!("{slow}exec {family}-{variant}-restore \"$@\""));
            std::os::unix::fs::symlink(
                format!("/usr/sbin/{family}-{variant}-save"),
                programs.join(format!("{family}-save")),
            )
            .unwrap();
        }
        let mut slow = agent(site.host, site.namespace.command(bin("pp-iptables")));
        let path = format!("{}:{}:/usr/sbin:/sbin", programs.display(), std::env::var("PATH").unwrap());
        slow.arg("--apply").arg("--lock").arg(site.host.path("lock")).env("PATH", path);
        let slow = site.host.watch(slow);
        eventually("a restore has begun", SOON, || begun.exists().then_some(()));
        slow.kill();

        let mut next = site.agent();
        next.env("RUST_LOG", "debug");
        let next = site.host.watch(next);
        next.says("waiting for another process to be done");
        assert_eq!(site.lines("PLATYPUS"), [""; 0]);
        fs::write(&go, "").unwrap();
        eventually("both families have it", SOON, || (site.ports("slug") == ["80", "80"]).then_some(()));
        assert_eq!(site.lines("-A INPUT"), ["-A INPUT -j PLATYPUS"; 2]);
        next.stop();
    });
}

#[test]
fn without_the_right_to_it_the_agent_says_so() {
    with_each_variant(|site| {
        let mut unprivileged = site.namespace.command("setpriv");
        unprivileged.arg("--bounding-set=-net_admin").arg(bin("pp-iptables"));
        let pass = pass(agent(site.host, unprivileged).args(["--apply", "--once"]));
        assert!(!pass.ok && pass.log.contains("takes root, or CAP_NET_ADMIN"), "{}", pass.log);
    });
}

#[test]
fn a_kernel_without_ipv6_gets_its_ipv4_rules() {
    with_each_variant(|site| {
        site.open("slug", json!([80]));
        // All that is seen of it is that a file is not there.
        let script = "mount -t tmpfs none /proc && exec \"$@\"";
        let mut without = site.namespace.command("unshare");
        without.args(["--mount", "sh", "-c", script, "sh"]).arg(bin("pp-iptables"));
        let mut agent = agent(site.host, without);
        agent.args(["--once", "--apply", "--variant", site.variant]).arg("--lock").arg(site.host.path("lock"));
        let pass = pass(agent.env("RUST_LOG", "debug"));
        assert!(pass.ok && pass.log.contains("without IPv6"), "{}", pass.log);
        assert_eq!(site.lines("-A INPUT"), ["-A INPUT -j PLATYPUS"]);
        assert_eq!(site.ports("slug"), ["80"]);
    });
}

#[test]
fn ipv4_gets_its_rules_while_ipv6_cannot_be_read() {
    with_each_variant(|site| {
        site.open("slug", json!([80]));
        let programs = site.host.path("programs");
        fs::create_dir(&programs).unwrap();
        let save = programs.join(format!("ip6tables-{}-save", site.variant));
        script(&save, "echo '# Table `filter'\\'' is incompatible, use '\\''nft'\\'' tool.'");
        let path = format!("{}:{}:/usr/sbin", programs.display(), std::env::var("PATH").unwrap());
        for _ in 0..2 {
            let pass = pass(site.agent().arg("--once").env("PATH", &path));
            assert!(!pass.ok && pass.log.contains("Table `filter' is incompatible"), "{}", pass.log);
            assert_eq!(site.ports("slug"), ["80"]);
        }
        site.open("slug", json!([81]));
        let plan = pass(site.agent().arg("--plan").env("PATH", &path));
        assert!(
            plan.status == Some(1) && plan.log.contains("is incompatible"),
            "as a pass fails, so does its plan: {}",
            plan.log
        );
        assert_eq!(plan.out, "slug: Opening 81/tcp\nslug: Closing 80/tcp\n");
        site.open("slug", json!([80]));
        site.converge(&[]);
        assert_eq!(site.ports("slug"), ["80", "80"]);
    });
}

#[test]
fn a_command_that_is_not_there_or_fails_is_named_with_what_it_says() {
    with_each_variant(|site| {
        site.open("slug", json!([80]));
        let programs = site.host.path("programs");
        fs::create_dir(&programs).unwrap();
        script(&programs.join(format!("iptables-{}-restore", site.variant)), "echo 'not today' >&2\nexit 4");
        let mut agent = site.agent();
        agent.arg("--once").env("PATH", format!("{}:{}:/usr/sbin", programs.display(), std::env::var("PATH").unwrap()));
        let pass = pass(&mut agent);
        assert!(!pass.ok, "{}", pass.log);
        let said = format!("iptables-{}-restore --noflush -w 20 failed (exit status: 4): not today", site.variant);
        assert!(pass.log.contains(&said), "{}", pass.log);
        assert_eq!(site.ports("slug"), ["80"], "IPv6 is done all the same");
        // Also what has gone.
        site.host.delete("nodes/web1/slug");
        site.open("other", json!([90]));
        let pass = fixtures::pass(&mut agent);
        assert!(!pass.ok && pass.log.contains(&said), "{}", pass.log);
        assert_eq!((site.ports("slug"), site.ports("other")), (vec![], vec!["90".to_owned()]));
    });
}

#[test]
fn a_chain_that_is_left_in_the_other_iptables_is_said_with_how_to_remove_it() {
    with_each_variant(|site| {
        live(site);
        let other = if site.variant == "nft" { "legacy" } else { "nft" };
        let changed = Site { variant: other, ..*site };
        let says = format!("iptables-{} has a chain of this name, too", site.variant);
        for _ in 0..2 {
            let pass = changed.once(&[]);
            assert_eq!((pass.ok, pass.log.matches(&says).count()), (true, 1), "{}", pass.log);
        }
        for words in ["-D INPUT -j PLATYPUS", "-F PLATYPUS", "-X PLATYPUS"] {
            site.by_hand(words);
        }
        assert_eq!(changed.once(&[]).log, "");
    });
}
