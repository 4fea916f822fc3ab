//! The runtime of a serving thread, and its background threads.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The nice value of background threads: under load they get a tenth of the
/// processor share of a thread that serves requests.
const NICE: i32 = 10;

/// A runtime that serves on the current thread. Long work runs on its background
/// threads, which have a lower priority.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().on_thread_start(give_way).build()
}

/// Lowers the priority of the calling thread. Elsewhere than on Linux, that would be the
/// priority of the whole program.
fn give_way() {
    if cfg!(target_os = "linux") {
        // If the system refuses it, long work competes with requests.
        let _ = rustix::process::nice(NICE);
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    #[test]
    #[cfg(target_os = "linux")]
    fn long_work_gives_way_and_what_serves_does_not() {
        let before = getpriority_process(None).unwrap();
        let (serving, beside) = super::runtime().unwrap().block_on(async {
            let beside = tokio::task::spawn_blocking(|| getpriority_process(None).unwrap());
            (getpriority_process(None).unwrap(), beside.await.unwrap())
        });
        assert_eq!((serving, beside), (before, (before + super::NICE).min(19)));
    }
}
