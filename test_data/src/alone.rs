//! A network and a process namespace of a test's own: where it may change the packet filter and use any port.
//!
//! Ensures: what a test starts there ends with it, however it ends.

use std::ffi::OsStr;
use std::process::Command;

use crate::Scratch;

/// Tells the test that it is there.
const MARK: &str = "PLATYPUS_TEST_ALONE";

/// Runs the test that calls this, `test`, once more in namespaces of its own. True there; false, and the test has nothing
/// left to do, here. What it makes there is all in one scratch directory of such a kind, since its own reapers end with
/// the namespace.
pub fn alone(test: &str, scratch: fn() -> Scratch) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    // Ended from outside when the test itself is killed.
    let scratch = scratch();
    let program = std::env::current_exe().expect("a test knows its program");
    let mut again = in_namespaces([program.as_os_str(), "--exact".as_ref(), test.as_ref(), "--nocapture".as_ref()]);
    let output = again.env(MARK, "1").env("TMPDIR", scratch.path()).output().expect("unshare starts");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    println!("{}", said.join("\n"));
    assert!(output.status.success(), "{test}, on its own: {}", output.status);
    assert!(said[0].contains("1 passed"), "there is no test {test}");
    false
}

/// A command in a network of its own, in which only the loopback is, and with its own processes.
pub fn in_namespaces<A: AsRef<OsStr>>(command: impl IntoIterator<Item = A>) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
    unshare.args(["ip link set lo up && exec \"$@\"", "sh"]).args(command);
    unshare
}
