//! A named point right before an effect, at which a test can have the process die.
//!
//! Ensures: in a debug build, where `PLATYPUS_DIE_AT` is `[<process>:]<name>:<k>`, the process (by its program's name, or
//! [`process_is`]) that comes to the step of that name for the k-th time is killed there, with no effect had and nothing
//! tidied up; and where `PLATYPUS_STEPS` names a file, `<process>:<name>` is a line in it for each step that was come to.
//! `PLATYPUS_DIE_AT` may also be `@<file>`, for processes that run already and those that come after them: who comes to the
//! step in that file, as soon as there is one, for the k-th time by that list, dies, and removes the file.
//! In a release build there is nothing of this.

use std::fmt;

/// Has an effect. It is had when `effect` is called, or when what it returns is first awaited.
#[inline(always)]
pub fn step<T>(name: impl fmt::Display, effect: impl FnOnce() -> T) -> T {
    #[cfg(debug_assertions)]
    test::come_to(&name.to_string());
    #[cfg(not(debug_assertions))]
    let _ = name;
    effect()
}

/// How a process is called in `PLATYPUS_DIE_AT` and `PLATYPUS_STEPS` whose program has more than one part to play. Before
/// the first step.
pub fn process_is(name: &'static str) {
    #[cfg(debug_assertions)]
    test::process_is(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod test {
    #![expect(clippy::disallowed_methods, reason = "a test's doing, not an agent's")]

    use std::env;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    static PROCESS: OnceLock<String> = OnceLock::new();
    static DIE_AT: LazyLock<Option<String>> = LazyLock::new(|| env::var("PLATYPUS_DIE_AT").ok());
    /// Held by who comes to a step: what another thread comes to while this one dies is not come to.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    /// How often this process has come to the step at which it is to die.
    static COME: AtomicUsize = AtomicUsize::new(0);

    /// Where to die, if that is at this step: the how manieth time.
    fn number(die_at: &str, process: &str, name: &str) -> Option<usize> {
        let read = || {
            let (step, number) = die_at.trim_end().rsplit_once(':')?;
            let (own, named) = step.split_once(':').map_or((process, step), |(process, name)| (process, name));
            let number = number.parse::<usize>().ok()?;
            Some((own == process && named == name).then_some(number))
        };
        read().unwrap_or_else(|| panic!("PLATYPUS_DIE_AT is [<process>:]<name>:<k>, not {die_at:?}"))
    }

    fn is_last(process: &str, name: &str) -> bool {
        let Some(die_at) = &*DIE_AT else { return false };
        let Some(file) = die_at.strip_prefix('@') else {
            let number = number(die_at, process, name);
            return number.is_some_and(|number| COME.fetch_add(1, Ordering::SeqCst) + 1 == number);
        };
        let Ok(die_at) = fs::read_to_string(file) else { return false };
        let is_now = |number| {
            let list = fs::read_to_string(env::var_os("PLATYPUS_STEPS").unwrap_or_default()).unwrap_or_default();
            list.lines().filter(|line| line.split_once(':') == Some((process, name))).count() >= number
        };
        // One only dies of it.
        number(&die_at, process, name).is_some_and(is_now) && fs::remove_file(file).is_ok()
    }

    pub(super) fn process_is(name: &'static str) {
        PROCESS.set(name.to_owned()).expect("it is said before the first step, once");
    }

    pub(super) fn come_to(name: &str) {
        let process = PROCESS.get_or_init(|| {
            let program = env::current_exe().ok();
            program.and_then(|program| Some(program.file_name()?.to_str()?.to_owned())).unwrap_or_default()
        });
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = env::var_os("PLATYPUS_STEPS") {
            let list = OpenOptions::new().append(true).create(true).open(list);
            list.and_then(|mut list| list.write_all(format!("{process}:{name}\n").as_bytes()))
                .expect("steps can be listed");
        }
        if is_last(process, name) {
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_step_is_named_with_or_without_its_process() {
            assert_eq!(number("write record:3", "pp-setlive", "write record"), Some(3));
            assert_eq!(number("pp-setlive:write record:1", "pp-setlive", "write record"), Some(1));
            assert_eq!(number("pt-direct:write record:1", "pp-setlive", "write record"), None);
            assert_eq!(number("write record:1", "pp-setlive", "rename record"), None);
        }
    }
}
