//! How much a process has had of the processor.

use std::fs;

/// Of the kernel's clock in /proc, in a second: `getconf CLK_TCK` on every Linux.
const TICKS: f64 = 100.0;

/// How long a process and all its threads have been on a core, in seconds, to a hundredth.
///
/// # Panics
///
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // Behind the name, which may hold anything: from the state on, see proc(5).
    let fields = stat.rsplit_once(')').expect("it has a name").1.split_whitespace().collect::<Vec<_>>();
    [11, 12].iter().map(|at| fields[*at].parse::<f64>().expect("a number of ticks")).sum::<f64>() / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    #[test]
    fn who_is_at_work_is_on_a_core() {
        let before = cpu_seconds(std::process::id());
        eventually("a tick has passed", std::time::Duration::from_secs(10), || {
            (cpu_seconds(std::process::id()) > before).then_some(())
        });
    }
}
