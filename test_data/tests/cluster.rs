//! `kickstart/cluster`: it does what its help says, and leaves nothing behind, whatever happens to it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fixtures::{Behaviour, Cluster, SOON, Scratch, bin, end_all, eventually, kickstart_cluster, script};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

/// Those that `/proc/<pid>/ns` has of each host.
const NAMESPACES: [&str; 5] = ["net", "pid", "mnt", "uts", "ipc"];

/// What a cluster could leave behind outside its directory.
#[derive(Debug, PartialEq)]
struct Machine {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
}

impl Machine {
    /// Of what is mounted, only what has to do with this directory: other tests mount, too.
    fn around(dir: &Path) -> Self {
        let links =
            fs::read_dir("/sys/class/net").unwrap().map(|link| link.unwrap().file_name().into_string().unwrap());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = mounts.lines().filter(|line| line.contains(dir.to_str().unwrap()));
        Self { links: links.collect(), mounts: ours.map(str::to_owned).collect() }
    }
}

/// Processes and their namespaces that have to do with this directory: by their environment, which all of them inherit.
fn running(dir: &Path) -> (BTreeSet<i32>, BTreeSet<PathBuf>) {
    let text = dir.to_str().unwrap();
    let mut found = (BTreeSet::new(), BTreeSet::new());
    for pid in pids() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(text) {
            found.0.insert(pid);
            found.1.extend(namespaces(&pid.to_string()));
        }
    }
    let ours = namespaces("self");
    found.1.retain(|namespace| !ours.contains(namespace));
    found
}

/// Every process, but those that are dead and that nobody has waited for yet.
fn pids() -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))).collect()
}

fn namespaces(pid: &str) -> Vec<PathBuf> {
    let link = |kind: &&str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    NAMESPACES.iter().filter_map(link).collect()
}

/// Nothing runs, is mounted or is there that has to do with this directory.
#[track_caller]
fn assert_gone(dir: &Path, before: &Machine) {
    assert_eq!(running(dir), Default::default());
    assert_eq!(&Machine::around(dir), before);
    assert!(!dir.exists());
}

fn answers(cluster: &Cluster, node: &str) -> Option<String> {
    cluster.http_get(node, 8080, "/").map(|(_, body)| body)
}

#[track_caller]
fn serves(cluster: &Cluster, node: &str) {
    let right = || answers(cluster, node).filter(|body| body.starts_with("slug 1\n"));
    eventually(&format!("{node} serves"), SOON, right);
}

#[test]
fn hosts_serve_what_intent_says_through_faults_and_leave_nothing_behind() {
    let cluster = Cluster::up(3);
    let dir = cluster.dir().to_owned();
    let before = Machine::around(&dir);
    cluster.repo.slug("1", Behaviour::Good);
    let user_config = json!({"port": 8080, "bind": "0.0.0.0"});
    cluster.put("clusters/slug/demo/deploy_config", &json!({"basedir": "/srv/slug", "ports": [8080]}));
    cluster.put("clusters/slug/demo/config", &json!({"versions": {"1": "active"}, "user_config": user_config}));
    for host in cluster.hosts() {
        cluster.put(&format!("nodes/{host}/slug"), &json!({"cluster": "demo"}));
    }
    for host in cluster.hosts() {
        serves(&cluster, &host);
        assert_eq!(cluster.run(&host, &["hostname"]).trim(), host);
        assert!(cluster.run(&host, &["iptables", "-S"]).contains("--dport 8080"));
    }

    cluster.cut("web1");
    assert_eq!((answers(&cluster, "web1"), answers(&cluster, "web2").is_some()), (None, true));
    assert!(cluster.status().contains("cut"), "{}", cluster.status());
    cluster.heal("web1");
    serves(&cluster, "web1");

    let agent = || cluster.run("web2", &["cat", "/var/lib/platypus/service/pp-setlive/supervise/pid"]);
    let killed = agent();
    cluster.kill_agent("web2", "pp-setlive");
    eventually("it runs again", SOON, || Some(agent()).filter(|pid| !pid.is_empty() && *pid != killed));

    // Two servers of three go on.
    cluster.kill("server1");
    cluster.kill("web3");
    assert_eq!((answers(&cluster, "web3"), answers(&cluster, "web2").is_some()), (None, true));
    assert_eq!(cluster.status().matches(" off ").count(), 2, "{}", cluster.status());
    cluster.put("nodes/web9/slug", &json!({"cluster": "demo"}));
    cluster.delete("nodes/web9/slug");
    assert_eq!(cluster.get("nodes/web9/slug"), None);
    cluster.start("web3");
    serves(&cluster, "web3");
    assert_eq!(cluster.log("web3", "pp-preparer").matches("slug: Prepared slug_1").count(), 1, "its disk is as it was");
    assert!(cluster.log("web3", "slug").contains("slug 1: listening"));

    let again = succeed(kickstart_cluster(&dir).args(["up", "3"]));
    assert!(again.contains("is up already"), "{again}");
    let (processes, namespaces) = running(&dir);
    // As long as somebody has them open, no others get their numbers.
    let open = |pid: &i32| NAMESPACES.map(|kind| File::open(format!("/proc/{pid}/ns/{kind}")));
    let held = processes.iter().flat_map(open).collect::<Vec<_>>();
    assert!(processes.len() > 30 && namespaces.len() > 5 * 5, "{processes:?} {namespaces:?}");
    cluster.down();
    assert_gone(&dir, &before);
    let left = pids().iter().flat_map(|pid| self::namespaces(&pid.to_string())).collect::<BTreeSet<_>>();
    assert_eq!(left.intersection(&namespaces).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    drop(held);
}

/// `up`, as far as a host's file is there. It does not come to its end: its pp-preparer never makes a pass.
fn half_up(dir: &Path, file: &str, scratch: &Path) -> Child {
    let bins = scratch.join("bin");
    if !bins.exists() {
        fs::create_dir(&bins).unwrap();
        for program in ["pp-setlive", "pp-iptables", "pp-store", "slug"] {
            symlink(bin(program), bins.join(program)).unwrap();
        }
        script(&bins.join("pp-preparer"), "exec sleep 1000");
    }
    let mut up = kickstart_cluster(dir);
    up.env("BIN", bins);
    up.args(["up", "1", "--repo"]).arg(scratch).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = up.spawn().unwrap();
    let there = || fs::metadata(dir.join(file)).is_ok_and(|found| found.len() > 0).then_some(());
    eventually(&format!("up has made {file}"), SOON, || there().or(up.try_wait().unwrap().map(drop)));
    assert_eq!(up.try_wait().unwrap(), None, "it has not come to its end yet");
    up
}

#[test]
fn an_up_that_is_killed_at_any_moment_leaves_what_down_ends() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("cluster");
    let before = Machine::around(&dir);
    for moment in
        [".platypus-cluster", "hosts/server1/run", "init", "hosts/web1/init", "hosts/web1/disk/var/log/consul"]
    {
        let mut up = half_up(&dir, moment, scratch.path());
        up.kill().unwrap();
        up.wait().unwrap();
        if moment == "hosts/web1/init" {
            let again = kickstart_cluster(&dir).arg("up").output().unwrap();
            assert!(!again.status.success() && said(&again).contains("was killed there"), "{}", said(&again));
        }
        succeed(kickstart_cluster(&dir).arg("down"));
        assert_gone(&dir, &before);
    }
}

#[test]
fn an_interrupted_up_cleans_up_after_itself() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("cluster");
    let before = Machine::around(&dir);
    let mut up = half_up(&dir, "hosts/web1/init", scratch.path());
    // As Ctrl-C does.
    kill_process_group(Pid::from_child(&up), Signal::INT).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130));
    assert_gone(&dir, &before);
}

#[test]
fn the_end_of_a_scratch_directory_is_the_end_of_a_cluster_in_it() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("cluster");
    let mut up = half_up(&dir, "hosts/web1/disk/var/log/consul", scratch.path());
    assert_eq!(end_all(scratch.path()), [0; 0]);
    up.wait().unwrap();
    assert_eq!(running(&dir), Default::default());
    let down = kickstart_cluster(&dir).arg("status").output().unwrap();
    assert!(said(&down).contains("has ended"), "{}", said(&down));
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_is_no_clusters_is_left_as_it_is() {
    let scratch = Scratch::new();
    let file = scratch.path().join("precious");
    fs::write(&file, "").unwrap();
    for command in ["up", "down"] {
        let output = kickstart_cluster(scratch.path()).arg(command).output().unwrap();
        assert!(!output.status.success() && said(&output).contains("is no cluster's"), "{}", said(&output));
        assert!(file.exists());
    }
}

#[test]
fn on_a_directory_store_nobody_has_hosts_that_serve_and_leave_nothing_behind() {
    let scratch = Scratch::new();
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    // From /etc/passwd, where it is the same everywhere.
    chown(&home, Some(65534), Some(65534)).unwrap();
    let dir = home.join("cluster");
    let before = Machine::around(&dir);
    let nobody = |words: &[&str]| succeed(as_nobody(&scratch, &dir).args(words));

    nobody(&["up", "3", "--directory"]);
    let in_dir = |path: &str| dir.join(path).display().to_string();
    nobody(&["run", ".", "pp-store", "import", &in_dir("intent"), "--store", &format!("file:{}", in_dir("store"))]);
    let hosts = ["web1", "web2", "web3"];
    let addr = |host: &str| {
        let url = fs::read_to_string(dir.join(format!("hosts/{host}/url"))).unwrap();
        url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned()
    };
    let addrs = hosts.map(addr);
    let serves = |addr: &String| TcpStream::connect(addr).is_ok();
    for addr in &addrs {
        eventually("it serves", SOON, || serves(addr).then_some(()));
    }
    nobody(&["kill", "web1"]);
    assert_eq!(addrs.each_ref().map(serves), [false, true, true]);
    nobody(&["start", "web1"]);
    eventually("it serves again", SOON, || serves(&addrs[0]).then_some(()));
    nobody(&["kill", "web2", "pp-setlive"]);
    let no_cable = as_nobody(&scratch, &dir).args(["cut", "web2"]).output().unwrap();
    assert!(said(&no_cable).contains("there is no cable"), "{}", said(&no_cable));
    nobody(&["down"]);
    assert_eq!(addrs.each_ref().map(serves), [false; 3]);
    assert_gone(&dir, &before);
}

/// `kickstart/cluster` by the user nobody, who can see the checkout and the programs wherever they are.
fn as_nobody(scratch: &Scratch, dir: &Path) -> Command {
    let [checkout, bins] = ["checkout", "bins"].map(|name| scratch.path().join(name));
    let program = bin("pp-setlive");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]).arg(
        "mkdir -p \"$3\" \"$4\"; mount --bind \"$1\" \"$3\"; mount --bind \"$2\" \"$4\"; checkout=$3; export BIN=\"$4\"; shift 4
         cd /; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$checkout/kickstart/cluster\" --dir \"$@\"",
    );
    command.args(["sh", concat!(env!("CARGO_MANIFEST_DIR"), "/..")]).arg(program.parent().unwrap());
    command.args([checkout.as_path(), &bins, dir]).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, said(&output));
    String::from_utf8(output.stdout).unwrap()
}
