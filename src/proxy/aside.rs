//! Work that grows with a body, on a thread beside those that serve requests.
//!
//! Each core serves its requests on one thread, so that a body of many megabytes
//! that is parsed, unpacked or counted there would delay every other request on
//! it. One piece of short work and one of long work run at a time, in the whole
//! process and first come first served: the other cores stay free for requests,
//! and an ordinary image does not wait behind the largest bodies.

use std::panic::resume_unwind;

use bytes::Bytes;
use tokio::sync::Semaphore;

/// Bodies up to this size are parsed on the thread that serves their request: it
/// takes less than a millisecond.
const PARSED_HERE_BYTES_MAX: usize = 128 << 10;
/// Work on a body up to this size is short: some milliseconds.
const SHORT_BYTES_MAX: usize = 1 << 20;
/// The queues have no bound of their own: the memory that bodies share is their bound.
static SHORT: Semaphore = Semaphore::const_new(1);
static LONG: Semaphore = Semaphore::const_new(1);

/// Parses a body, on another thread if it is large.
pub async fn parsed<T, F>(body: &Bytes, parse: F) -> T
where
    T: Send + 'static,
    F: FnOnce(&Bytes) -> T + Send + 'static,
{
    if body.len() <= PARSED_HERE_BYTES_MAX {
        return parse(body);
    }
    let body = body.clone();
    aside(body.len(), move || parse(&body)).await
}

/// Runs work on a body of that size on another thread, when its turn has come.
///
/// A panic of the work goes on in the caller.
pub async fn aside<T, F>(bytes: usize, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let turns = if bytes <= SHORT_BYTES_MAX { &SHORT } else { &LONG };
    let turn = turns.acquire().await.expect("it is never closed");
    let done = tokio::task::spawn_blocking(move || {
        // Kept until the work has ended, also when its client has gone.
        let _turn = turn;
        work()
    });
    match done.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime stops, and this task with it.
        Err(Err(_)) => std::future::pending().await,
    }
}
