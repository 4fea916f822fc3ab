//! Simulated connections: bytes that take their time, arrive in parts, and
//! don't always arrive.
//!
//! The guard's end of each is watched: every read and write there is an event
//! at which the guard may die.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::chance::Chance;

/// What a sender has on its way before it waits, as a socket's buffers do.
const ON_THE_WAY_MAX: usize = 32 * 1024;

/// Called for each read and write; may cut the connection immediately.
pub(crate) type Watch = Arc<dyn Fn() + Send + Sync>;

/// Counts what has been delivered, each of some things.
#[derive(Clone, Debug)]
pub(crate) struct Mark(pub(crate) Vec<(Arc<AtomicU64>, u64)>);

impl Mark {
    /// A mark of one thing.
    pub(crate) fn of(counter: &Arc<AtomicU64>, count: u64) -> Self {
        Self(vec![(Arc::clone(counter), count)])
    }

    /// A mark of all that several are of.
    pub(crate) fn all(marks: impl IntoIterator<Item = Self>) -> Self {
        Self(marks.into_iter().flat_map(|Self(counts)| counts).collect())
    }
}

struct Parcel {
    at: Instant,
    bytes: VecDeque<u8>,
    mark: Option<Mark>,
}

#[derive(Default)]
struct Lane {
    parcels: VecDeque<Parcel>,
    on_the_way: usize,
    last_at: Option<Instant>,
    closed: bool,
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

type Shared = Arc<Mutex<Lane>>;

fn lock(lane: &Shared) -> std::sync::MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a connection. Dropped, it closes both directions.
pub(crate) struct End {
    incoming: Shared,
    outgoing: Shared,
    chance: Chance,
    latency_ms: u64,
    sleep: Option<Pin<Box<Sleep>>>,
    watch: Option<Watch>,
}

/// Cuts a connection from outside: what is on its way is lost.
#[derive(Clone)]
pub(crate) struct Scissors([Shared; 2]);

impl Scissors {
    pub(crate) fn cut(&self) {
        for lane in &self.0 {
            let mut lane = lock(lane);
            lane.cut = true;
            lane.parcels.clear();
            lane.wake();
        }
    }
}

/// A connection: the guard's end, the other's, and scissors.
pub(crate) fn connection(chance: &mut Chance, watch: Watch) -> (End, End, Scissors) {
    let lanes: [Shared; 2] = Default::default();
    let latency_ms = chance.one(&[0, 1, 1, 5, 40]);
    let mut end = |incoming: &Shared, outgoing: &Shared, watch| End {
        incoming: Arc::clone(incoming),
        outgoing: Arc::clone(outgoing),
        chance: chance.fork(),
        latency_ms,
        sleep: None,
        watch,
    };
    let guards = end(&lanes[0], &lanes[1], Some(watch));
    let others = end(&lanes[1], &lanes[0], None);
    (guards, others, Scissors(lanes))
}

impl End {
    /// Sends bytes at once, however much is on its way, and marks their arrival.
    pub(crate) fn send(&mut self, bytes: &[u8], mark: Option<Mark>) -> io::Result<()> {
        let delay = Duration::from_micros(self.chance.within(0, self.latency_ms * 1_000));
        let mut lane = lock(&self.outgoing);
        if lane.cut || lane.closed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let soonest = now() + delay;
        let at = lane.last_at.map_or(soonest, |last| last.max(soonest));
        lane.last_at = Some(at);
        lane.on_the_way += bytes.len();
        lane.parcels.push_back(Parcel { at, bytes: bytes.iter().copied().collect(), mark });
        lane.wake();
        Ok(())
    }

    fn watched(&self) {
        if let Some(watch) = &self.watch {
            watch();
        }
    }
}

/// The simulated time.
#[expect(clippy::disallowed_methods, reason = "the simulation is where its time comes from")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let due = {
            let mut lane = lock(&self.incoming);
            if lane.cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            match lane.parcels.front() {
                None if lane.closed => return Poll::Ready(Ok(())),
                None => {
                    lane.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Some(parcel) => parcel.at,
            }
        };
        if due > now() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            sleep.as_mut().reset(due);
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        // Called before the bytes are taken: a guard that dies here has not read them.
        self.watched();
        let part = usize::try_from(self.chance.within(1, 4_000)).unwrap().min(buf.remaining());
        let mut lane = lock(&self.incoming);
        let Some(parcel) = lane.parcels.front_mut() else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let end = parcel.bytes.len().min(part);
        buf.put_slice(&parcel.bytes.drain(..end).collect::<Vec<u8>>());
        if parcel.bytes.is_empty() {
            for (counter, count) in parcel.mark.iter().flat_map(|Mark(counts)| counts) {
                counter.fetch_add(*count, Ordering::Relaxed);
            }
            lane.parcels.pop_front();
        }
        lane.on_the_way -= end;
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Called before the bytes are given: a guard that dies here has not sent them.
        self.watched();
        {
            let mut lane = lock(&self.outgoing);
            if !lane.cut && !lane.closed && lane.on_the_way >= ON_THE_WAY_MAX {
                lane.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let part = usize::try_from(self.chance.within(1, 8_000)).unwrap().min(bytes.len());
        Poll::Ready(self.send(&bytes[..part], None).map(|()| part))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = lock(&self.outgoing);
        lane.closed = true;
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for lane in [&self.incoming, &self.outgoing] {
            let mut lane = lock(lane);
            lane.closed = true;
            lane.wake();
        }
    }
}

impl Connection for End {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
