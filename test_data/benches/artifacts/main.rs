//! What unpacking costs: `pp-preparer --once`, its whole process with sha256 on, over three artifacts that this builds, beside
//! what people unpack with, and beside the floors: inflating alone, and writing alone.
//!
//! Run by `kickstart/bench artifacts`. All that is compared is run in turn, each time into a fresh directory, so that what
//! else the machine does meets all of it; trees are removed between, outside of what is timed. Everything is on tmpfs but
//! for what durability costs, which is on the disk that the build is on, and where nothing is removed before the end: right
//! after the deletion of thousands of files, ext4 is several times slower for minutes.

mod content;
mod tarballs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use fixtures::{Host, Scratch, bin, median, pass, peak_memory};
use serde_json::json;

use tarballs::Tarball;

const ROUNDS: usize = 9;

/// The targets: so many times as fast as `tar xzf`; of the time of `tar -I igzip`; of that of the slower floor; in MB.
const TIMES_AS_FAST_AS_TAR: f64 = 2.5;
const OF_IGZIP: f64 = 1.0;
const OF_FLOOR: f64 = 1.3;
const MOST_MEMORY: f64 = 64.0;

/// What this needs besides what tests need.
const PROGRAMS: [(&str, &str); 3] = [("igzip", "isal"), ("pigz", "pigz"), ("bsdtar", "libarchive-tools")];

/// What unpacks the artifact `$1`, or the plain archive `$2`, here.
const OTHERS: [(&str, &str); 6] = [
    ("tar xzf", "exec tar -xzf \"$1\""),
    ("tar -I pigz", "exec tar -I pigz -xf \"$1\""),
    ("tar -I igzip", "exec tar -I igzip -xf \"$1\""),
    ("bsdtar xf", "exec bsdtar -xf \"$1\""),
    ("igzip -dc", "exec igzip -dc \"$1\" >/dev/null"),
    ("plain tar", "exec tar -xf \"$2\""),
];
const SYNCED: &str = "tar -xzf \"$1\" && sync -f .";

fn main() {
    refuse_without_programs();
    let host = Host::within(Scratch::in_memory());
    println!("building three artifacts; load before: {}", load());
    let tarballs = tarballs::build(&host.repo, host.scratch.path());
    let mut bench = Bench { host, runs: 0 };
    if !bench.checks_digests() {
        println!("THIS BUILD OF pp-preparer DOES NOT CHECK sha256: its figures are without");
    }
    println!("in memory, median of {ROUNDS}, in ms:\n");
    print!("{:<7}{:>12}", "", "pp-preparer");
    OTHERS.iter().for_each(|(name, _)| print!("{name:>14}"));
    println!("{:>12}", "memory");
    let figures = tarballs.each_ref().map(|tarball| bench.measure(tarball));
    println!();
    for (tarball, figures) in tarballs.iter().zip(&figures) {
        println!("{}: {}", tarball.app, tarball.described());
        figures.judge();
    }
    bench.measure_durability(&tarballs);
    println!("load after: {}", load());
}

fn refuse_without_programs() {
    let there = |program: &str| {
        let shell = Command::new("sh").args(["-c", "command -v \"$1\"", "sh", program]).stdout(Stdio::null()).status();
        shell.expect("sh starts").success()
    };
    let missing =
        PROGRAMS.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect::<Vec<_>>();
    if !missing.is_empty() {
        let missing = missing.join(" ");
        eprintln!(
            "this bench compares with programs that are not here; on Debian and Ubuntu: apt-get install {missing}"
        );
        std::process::exit(1);
    }
}

struct Bench {
    host: Host,
    /// Each is into a directory of its own.
    runs: u32,
}

/// Times in milliseconds.
struct Figures {
    preparer: f64,
    others: [f64; OTHERS.len()],
    /// In MB.
    memory: f64,
}

impl Bench {
    fn measure(&mut self, tarball: &Tarball) -> Figures {
        let dir = self.host.path("unpacked");
        let (mut preparer, mut others) = (Vec::new(), OTHERS.map(|_| Vec::new()));
        for _ in 0..ROUNDS {
            preparer.push(self.prepare(tarball, &dir, |agent| timed(|| succeed(agent))));
            remove(&dir);
            for ((_, script), times) in OTHERS.iter().zip(&mut others) {
                times.push(self.unpack(script, tarball, &dir));
                remove(&dir);
            }
        }
        let memory = self.prepare(tarball, &dir, |agent| peak_memory(agent.stderr(Stdio::null()).spawn().unwrap()));
        remove(&dir);
        let figures =
            Figures { preparer: median(preparer), others: others.map(median), memory: memory as f64 / 1024.0 };
        print!("{:<7}{:>12.0}", tarball.app, figures.preparer);
        figures.others.iter().for_each(|time| print!("{time:>14.0}"));
        println!("{:>9.1} MB", figures.memory);
        figures
    }

    /// Has a run of `pp-preparer --once` make the install in a fresh directory under `dir`; what `run` tells of it.
    fn prepare<T>(&mut self, tarball: &Tarball, dir: &Path, run: impl FnOnce(&mut Command) -> T) -> T {
        let basedir = self.fresh(dir);
        let agent = &mut self.intend(tarball.app, &tarball.sha256, &basedir);
        let result = run(agent);
        let install = basedir.join(format!("installs/{}_1", tarball.app));
        assert!(install.is_dir(), "{agent:?} did not make {}", install.display());
        result
    }

    /// A pass that has this one app to prepare.
    fn intend(&mut self, app: &'static str, sha256: &str, basedir: &Path) -> Command {
        let artifacts = json!({"1": {"sha256": sha256}});
        self.host
            .put(&format!("clusters/{app}/dev/config"), &json!({"versions": {"1": "prep"}, "artifacts": artifacts}));
        self.host.deploy_config_as(app, json!({"basedir": basedir}));
        self.host.put(&format!("nodes/{app}/{app}"), &json!({"cluster": "dev"}));
        self.host.node = app;
        let mut agent = self.host.preparer();
        agent.arg("--once");
        agent
    }

    /// Milliseconds that a script takes for an artifact, in a fresh directory under `dir`.
    fn unpack(&mut self, script: &str, tarball: &Tarball, dir: &Path) -> f64 {
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"]).args([&tarball.artifact, &tarball.plain]).current_dir(self.fresh(dir));
        timed(|| succeed(&mut sh))
    }

    fn fresh(&mut self, dir: &Path) -> PathBuf {
        self.runs += 1;
        let fresh = dir.join(self.runs.to_string());
        fs::create_dir_all(&fresh).expect("a directory can be made");
        fresh
    }

    /// Whether an artifact that is not the one in intent is refused.
    fn checks_digests(&mut self) -> bool {
        let any = self.host.path("any");
        fs::create_dir(&any).expect("it is not there yet");
        self.host.repo.artifact("tiny", "1", |archive| archive.append_dir("any", any).expect("it can be written"));
        let basedir = self.host.path("tiny");
        let wrong = "0".repeat(64);
        let refused = pass(&mut self.intend("tiny", &wrong, &basedir));
        !refused.ok && refused.log.contains("sha256")
    }

    /// What it takes until an install would outlive a power failure.
    fn measure_durability(&mut self, tarballs: &[Tarball]) {
        let build = bin("pp-preparer").parent().expect("a program is in a directory").to_owned();
        let disk = Scratch::under(&build);
        println!("\non disk ({}, {}), median of {ROUNDS}, in ms:\n", build.display(), kind_of_file_system(&build));
        println!("{:<7}{:>12}{:>24}", "", "pp-preparer", "tar xzf && sync -f");
        for tarball in tarballs {
            let (mut preparer, mut synced) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                preparer.push(self.prepare(tarball, disk.path(), |agent| timed(|| succeed(agent))));
                synced.push(self.unpack(SYNCED, tarball, disk.path()));
            }
            let (preparer, synced) = (median(preparer), median(synced));
            println!("{:<7}{preparer:>12.0}{synced:>24.0}{:>10.1} times as fast", tarball.app, synced / preparer);
        }
    }
}

impl Figures {
    /// Says of each target whether it holds, and where not by how much it is missed.
    fn judge(&self) {
        let [tar, _, igzip, _, inflate, write] = self.others;
        let (floor, which) = if inflate > write { (inflate, "igzip -dc") } else { (write, "plain tar") };
        judge("times as fast as tar xzf", tar / self.preparer, TIMES_AS_FAST_AS_TAR, Bound::AtLeast);
        judge("of the time of tar -I igzip", self.preparer / igzip, OF_IGZIP, Bound::AtMost);
        judge(&format!("of the higher floor, {which}"), self.preparer / floor, OF_FLOOR, Bound::AtMost);
        judge("MB of memory", self.memory, MOST_MEMORY, Bound::AtMost);
    }
}

#[derive(PartialEq, Eq)]
enum Bound {
    AtLeast,
    AtMost,
}

fn judge(what: &str, found: f64, target: f64, bound: Bound) {
    let (holds, at) = match bound {
        Bound::AtLeast => (found >= target, "at least"),
        Bound::AtMost => (found <= target, "at most"),
    };
    let off = (found / target - 1.0).abs() * 100.0;
    let verdict = if holds { "holds".to_owned() } else { format!("MISSED by {off:.0} %") };
    println!("  {found:>6.2} {what}, {at} {target}: {verdict}");
}

fn succeed(command: &mut Command) {
    let pass = pass(command);
    assert!(pass.ok, "{command:?}: {}", pass.log);
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1000.0
}

fn remove(dir: &Path) {
    fs::remove_dir_all(dir).expect("what was unpacked can be removed");
}

fn kind_of_file_system(dir: &Path) -> String {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(dir).output().expect("stat starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
