//! What a pass knows again from an earlier one, on a real runit: it must never keep it from repairing what changed.

use std::fs::{self, File};
use std::io::Write;

use fixtures::{Host, differences};

#[test]
fn what_was_edited_without_leaving_a_trace_is_repaired_and_a_further_pass_changes_nothing() {
    let host = Host::running("1");
    let pid = host.serves("1")["pid"].as_i64().unwrap();
    let known = host.path("stage/.platypus/.known");
    let note = fs::read_to_string(&known).unwrap();
    assert!(note.starts_with("slug "), "a pass that changes something notes what came of it: {note}");

    let run = host.path("stage/slug/run");
    let (text, modified) = (fs::read_to_string(&run).unwrap(), fs::metadata(&run).unwrap().modified().unwrap());
    let mut file = File::options().write(true).open(&run).unwrap();
    file.write_all(text.replace("exec 2>&1", "exec 2>&2").as_bytes()).unwrap();
    file.set_modified(modified).unwrap();
    let repaired = host.converge();
    assert!(repaired.log.contains("slug: Writing the files of 1 anew"), "{}", repaired.log);
    assert_eq!((fs::read_to_string(&run).unwrap(), host.pid()), (text, pid));
    assert_ne!(fs::read_to_string(&known).unwrap(), note);

    let before = host.everything();
    assert_eq!(host.converge().log, "");
    assert_eq!(differences(&before, &host.everything()), Vec::<String>::new());
}
