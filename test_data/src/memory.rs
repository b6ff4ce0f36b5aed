//! How much memory a program takes.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

/// Between two looks: what a program takes only after the last one is missed.
const LOOK: Duration = Duration::from_micros(500);

/// The most that a process has resident until it ends, in kB.
///
/// # Panics
///
/// When it fails.
pub fn peak_memory(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // Gone, or without the line, once it has ended.
        let seen = fs::read_to_string(&status).unwrap_or_default();
        let line = seen.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak).max(peak);
        if let Some(ended) = child.try_wait().expect("it is our child") {
            assert!(ended.success(), "{ended}");
            return peak;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_program_took_once_is_counted_to_its_end() {
        let peak = |script: &str| peak_memory(Command::new("sh").args(["-c", script]).spawn().unwrap());
        let large = peak("x=$(printf %30000000d 1); sleep 0.1");
        let small = peak("sleep 0.1");
        assert!(small > 100 && large > small + 25_000, "{small} kB and {large} kB");
    }
}
