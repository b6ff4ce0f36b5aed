//! Which processes belong to a directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Every other process whose command line, working directory, program or environment mentions `path`.
///
/// Looks at what a process cannot help having: a runsv has its service as working directory, an app its install as
/// program. A process that is dead but not yet waited for mentions nothing.
pub fn mentioning(path: &Path) -> Vec<i32> {
    let path = path.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != getpid().as_raw_nonzero().get() && mentions(*pid, path)).collect()
}

fn mentions(pid: i32, path: &[u8]) -> bool {
    let of = |name: &str| format!("/proc/{pid}/{name}");
    // What cannot be read is another user's, the kernel's own, or gone.
    let in_file = |name| fs::read(of(name)).is_ok_and(|text| contains(&text, path));
    let in_link = |name| fs::read_link(of(name)).map(|target| contains(target.as_os_str().as_bytes(), path)).ok();
    let Some(in_exe) = in_link("exe") else { return false };
    in_exe || in_link("cwd") == Some(true) || in_file("cmdline") || in_file("environ")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Sends a signal; that the process is gone is fine.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the `PATH` has such a program.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/bin:/bin").into());
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_installed_and_no_other() {
        assert!(installed("sh") && !installed("no-such-program"));
    }
}
