//! The scripts beside the fixtures: the fake `sv`, and `make-artifacts`, which has to agree with [`Repo`]; and what
//! `kickstart/pack` puts into the platform's artifact for people: manual pages and completions.

use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::{Behaviour, Repo, Scratch, Tree, bin, differences, tree};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Runs the fake: its exit status and what it printed.
fn sv(scratch: &Scratch, args: &str) -> (Option<i32>, String) {
    let output = Command::new(Path::new(HERE).join("bin/sv"))
        .args(args.split(' '))
        .current_dir(scratch.path())
        .env("SV_LOG", scratch.path().join("sv.log"))
        .env("SVDIR", scratch.path())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_fake_sv_remembers_what_it_was_told_and_answers_like_the_real_one() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("slug");
    fs::create_dir(&dir).unwrap();
    let dir = dir.display();
    let run = format!("run: {dir}: (pid 4242) 12s\n");
    let down = format!("down: {dir}: 3s, normally up\n");
    let calls = [
        (format!("status {dir}"), 0, run.clone()),
        (format!("-w 7 stop {dir}"), 0, format!("ok: {down}")),
        (format!("status {dir}"), 0, down),
        (format!("-w 7 start {dir}"), 0, format!("ok: {run}")),
        ("status slug".to_owned(), 0, run.clone()),
        (format!("term {dir}"), 0, format!("ok: {run}")),
        (format!("kill {dir}"), 0, format!("ok: {run}")),
        (format!("exit {dir}"), 0, format!("ok: {dir}: runsv not running\n")),
        (format!("start {dir}"), 1, format!("fail: {dir}: runsv not running\n")),
        (
            "start /no/such".to_owned(),
            1,
            "fail: /no/such: unable to change to service directory: file does not exist\n".to_owned(),
        ),
        ("dance slug".to_owned(), 1, format!("fail: {dir}: runsv not running\n")),
    ];
    for (call, status, says) in &calls {
        assert_eq!(sv(&scratch, call), (Some(*status), says.clone()), "sv {call}");
    }
    let log = fs::read_to_string(scratch.path().join("sv.log")).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), calls.iter().map(|(call, ..)| call).collect::<Vec<_>>());
}

#[test]
fn what_make_artifacts_makes_is_what_the_fixtures_make() {
    let scratch = Scratch::new();
    let made = Command::new(Path::new(HERE).join("make-artifacts"))
        .arg(scratch.path().join("made"))
        // The one that the fixture packs too, not one of another profile.
        .env("SLUG", bin("slug"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let repo = Repo::new(scratch.path().join("repo"));
    for (version, behaviour) in [("0.1", Behaviour::Good), ("0.2", Behaviour::Good), ("0.3", Behaviour::NeverHealthy)] {
        let by_script = scratch.path().join(format!("made/slug/slug_{version}.tar.gz"));
        let (one, other) = (unpacked(&scratch, &by_script), unpacked(&scratch, &repo.slug(version, behaviour)));
        assert_eq!(differences(&one, &other), [""; 0], "{version}");
        assert!(one.contains_key(Path::new("bin/slug")));
    }
}

#[test]
fn manual_pages_and_completions_are_of_every_command_and_bash_reads_them() {
    let scratch = Scratch::new();
    let share = scratch.path().join("share");
    for example in ["examples/manual", "examples/manuals"] {
        let written = Command::new(bin(example)).arg(&share).output().unwrap();
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    }

    let help = Command::new(bin("pp-store")).arg("-h").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().lines();
    let commands = listed.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help");
    let commands = commands.collect::<Vec<_>>();
    assert!(commands.contains(&"undrain") && commands.len() > 15, "{commands:?}");

    let text = |path: &str| fs::read_to_string(share.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for completions in ["bash-completion/completions/pp-store", "zsh/site-functions/_pp-store"] {
        assert!(commands.iter().all(|name| text(completions).contains(name)), "{completions}");
    }
    let fish = text("fish/vendor_completions.d/pp-store.fish");
    assert!(commands.iter().all(|name| fish.contains(&format!("-a \"{name}\""))), "{fish}");

    let of_all = text("man/man1/pp-store.1");
    let agents = ["pp-iptables", "pp-preparer", "pp-setlive", "pt-direct", "pp-store"].map(str::to_owned);
    for page in agents.into_iter().chain(commands.iter().map(|name| format!("pp-store-{name}"))) {
        let path = format!("man/man1/{page}.1");
        let in_roff = page.replace('-', "\\-");
        assert!(text(&path).contains(&format!("\n.SH NAME\n{in_roff} \\- ")), "{page}: {}", text(&path));
        let is_listed = of_all.contains(&format!("{in_roff}(1)"));
        assert_eq!(is_listed, page.starts_with("pp-store-"), "{page}: {of_all}");
    }

    let completed = Command::new("bash")
        .args(["-euc", "source \"$0\"; COMP_WORDS=(pp-store dr); COMP_CWORD=1; _pp__store pp-store dr pp-store; echo \"${COMPREPLY[@]}\""])
        .arg(share.join("bash-completion/completions/pp-store"))
        .output()
        .unwrap();
    let (completed, said) = (String::from_utf8_lossy(&completed.stdout), String::from_utf8_lossy(&completed.stderr));
    assert_eq!((&*completed, &*said), ("drain\n", ""));
}

fn unpacked(scratch: &Scratch, artifact: &Path) -> Tree {
    let to = scratch.path().join("unpacked");
    let file = fs::File::open(artifact).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(&to).unwrap();
    let unpacked = tree(&to).into_iter().map(|(path, entry)| (path, entry.copied())).collect();
    fs::remove_dir_all(&to).unwrap();
    unpacked
}
