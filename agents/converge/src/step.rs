//! A named point right before an effect, at which a test can have the process die.
//!
//! Ensures: in a debug build, where `PLATYPUS_DIE_AT` is `[<process>:]<name>:<k>`, the process (by its program's name, or
//! [`process_is`]) that comes to the step of that name for the k-th time is killed there, with no effect had and nothing
//! tidied up; and where `PLATYPUS_STEPS` names a file, `<process>:<name>` is a line in it for each step that was come to.
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
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, OnceLock};

    use rustix::process::{Signal, getpid, kill_process};

    static PROCESS: OnceLock<String> = OnceLock::new();
    static DIE_AT: LazyLock<Option<DieAt>> =
        LazyLock::new(|| env::var("PLATYPUS_DIE_AT").ok().map(|text| DieAt::read(&text)));

    struct DieAt {
        process: Option<String>,
        name: String,
        /// How often it is still come to before.
        left: AtomicU64,
    }

    impl DieAt {
        fn read(text: &str) -> Self {
            let read = || {
                let (step, number) = text.rsplit_once(':')?;
                let (process, name) =
                    step.split_once(':').map_or((None, step), |(process, name)| (Some(process), name));
                let left = number.parse::<u64>().ok()?.checked_sub(1)?.into();
                Some(Self { process: process.map(str::to_owned), name: name.to_owned(), left })
            };
            read().unwrap_or_else(|| panic!("PLATYPUS_DIE_AT is [<process>:]<name>:<k>, not {text:?}"))
        }

        fn is_now(&self, process: &str, name: &str) -> bool {
            let is_here = self.name == name && self.process.as_ref().is_none_or(|own| own == process);
            // It stays at none: nobody comes to it twice.
            is_here && self.left.fetch_sub(1, Ordering::SeqCst) == 0
        }
    }

    pub(super) fn process_is(name: &'static str) {
        PROCESS.set(name.to_owned()).expect("it is said before the first step, once");
    }

    pub(super) fn come_to(name: &str) {
        let process = PROCESS.get_or_init(|| {
            let program = env::current_exe().ok();
            program.and_then(|program| Some(program.file_name()?.to_str()?.to_owned())).unwrap_or_default()
        });
        if let Some(list) = env::var_os("PLATYPUS_STEPS") {
            let list = OpenOptions::new().append(true).create(true).open(list);
            list.and_then(|mut list| list.write_all(format!("{process}:{name}\n").as_bytes()))
                .expect("steps can be listed");
        }
        if DIE_AT.as_ref().is_some_and(|die_at| die_at.is_now(process, name)) {
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
        fn a_process_dies_the_kth_time_that_it_comes_to_its_step() {
            let dies = |at: &str, process: &str, name: &str| {
                let at = DieAt::read(at);
                (1..5).find(|_| at.is_now(process, name))
            };
            assert_eq!(dies("write record:3", "pp-setlive", "write record"), Some(3));
            assert_eq!(dies("pp-setlive:write record:1", "pp-setlive", "write record"), Some(1));
            assert_eq!(dies("pt-direct:write record:1", "pp-setlive", "write record"), None);
            assert_eq!(dies("write record:1", "pp-setlive", "rename record"), None);
        }
    }
}
