//! The runtime of one thread, and the threads beside it.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How much lower than the priority of the threads that serve requests that of the
/// threads beside them is: a tenth of their share of a processor that both want.
const NICE: i32 = 10;

/// A runtime that serves on the thread it is run by. What may take long runs on other
/// threads of it, which give way to all that serve.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().on_thread_start(give_way).build()
}

/// Lowers the priority of the calling thread. Elsewhere than on Linux, that would be the
/// priority of the whole program.
fn give_way() {
    if cfg!(target_os = "linux") {
        // A system that refuses it only has long work compete with requests.
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
