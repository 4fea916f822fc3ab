//! The log: to standard error, buffered, flushed a few times a second.
//!
//! A line for each request must not cost a system call for each request.

use std::io::{self, BufWriter, Stderr, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;

const BUFFER_BYTES: usize = 64 * 1024;

static SINK: OnceLock<Mutex<BufWriter<Stderr>>> = OnceLock::new();

fn sink() -> &'static Mutex<BufWriter<Stderr>> {
    SINK.get_or_init(|| Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, io::stderr())))
}

/// Writes into the shared buffer.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sink().lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log at a level, as text or JSON. `RUST_LOG` is over the level.
pub fn start(level: &str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Line);
    // A second start, in tests, keeps the first.
    let _ = if json { log.json().flatten_event(true).try_init() } else { log.with_target(false).try_init() };
}

/// Writes out what is buffered.
pub fn flush() {
    // Standard error may be closed; there is nobody left to tell.
    let _ = sink().lock().unwrap_or_else(PoisonError::into_inner).flush();
}
