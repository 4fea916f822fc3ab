//! Reads whole bodies within bounds.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use crate::proxy::room::{Pool, Room, STEP_BYTES};

/// The largest answer that is read whole; the largest embeddings answer that
/// OpenAI's limits allow (2,048 inputs of 3,072 floats) is below it.
pub const ANSWER_BYTES_MAX: usize = 192 << 20;
/// The largest event of a stream that is looked into.
pub const EVENT_BYTES_MAX: usize = 32 << 20;
/// The largest upload: a file of 512 MB, OpenAI's most, and the form around it.
pub(super) const UPLOAD_BYTES_MAX: u64 = (512 << 20) + (1 << 20);
/// The most bytes that are discarded of a body that is refused.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);
/// The most memory that is reserved for an announced length: a client can announce
/// a length that it never sends.
const TRUSTED_BYTES_MAX: usize = 1 << 20;
/// An answer up to this size needs no room: most have some kilobytes.
const SMALL_ANSWER_BYTES: usize = 4 << 20;
/// How often an answer that waits for room looks for it.
const ROOM_LOOK: Duration = Duration::from_millis(50);
/// After each so much of a body, other requests of the thread have their turn: reading a
/// body of megabytes that has all arrived would else delay them by milliseconds.
const TURN_BYTES: usize = 128 << 10;

/// The bounds of a body that is read whole.
#[derive(Debug)]
pub struct Bounds {
    bytes_max: usize,
    idle: Duration,
    /// A sender must bring so much, or the rest, within `idle`: else a byte now and
    /// then would hold a connection and what it brought for ever.
    step_bytes: usize,
    room: Option<Room>,
    /// Whether it waits for room instead of being lost.
    waits: bool,
}

impl Bounds {
    /// The bounds of a client's body: it has to keep a pace, and shares memory with
    /// others, per key and in total.
    pub fn request(bytes_max: usize, idle: Duration, key: Arc<str>) -> Self {
        Self {
            bytes_max,
            idle,
            step_bytes: STEP_BYTES,
            room: Some(Room::of(Pool::Requests, key)),
            waits: false,
        }
    }

    /// The bounds of upstream's answer: any byte resets the time limit.
    pub fn answer(bytes_max: usize, idle: Duration) -> Self {
        Self { bytes_max, idle, step_bytes: 1, room: None, waits: false }
    }

    /// Upstream's to a request of that key: it is paid for, so one that is large waits for
    /// room instead of being lost, for `idle` at the most.
    pub fn paid_answer(bytes_max: usize, idle: Duration, key: Arc<str>) -> Self {
        Self { room: Some(Room::of(Pool::Answers, key)), waits: true, ..Self::answer(bytes_max, idle) }
    }
}

/// Why a body could not be read whole.
#[derive(Debug)]
pub enum ReadError {
    /// It has more bytes than allowed.
    TooLarge,
    /// Too few bytes arrived for too long.
    TooSlow,
    /// Other requests' bodies take all of the memory for bodies.
    NoRoom,
    /// The sender disconnected or failed.
    Broken(AnswerError),
}

/// Reads a body whole. A body that comes in one frame, as small ones do, is not
/// copied.
pub async fn read<B>(mut body: B, bounds: Bounds) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes, Error: Into<AnswerError>> + Unpin,
{
    let Bounds { bytes_max, idle, step_bytes, room, waits } = bounds;
    let announced = announced_bytes(&body);
    if announced > bytes_max {
        discard(body).await;
        return Err(ReadError::TooLarge);
    }
    let mut first = Bytes::new();
    let mut all = BudgetedBuffer { bytes: Vec::new(), room };
    let mut time = pin!(sleep(idle));
    let mut pace = Pace { idle, step_bytes, brought: 0, in_turn: 0 };
    while let Some(part) = pace.next_part(&mut body, time.as_mut()).await? {
        let bytes = first.len() + all.bytes.len() + part.len();
        let fits = bytes <= bytes_max;
        let has_room = if waits {
            // All of it at once: those that have some of it and wait for more might wait for
            // each other.
            let most = if announced >= bytes { announced } else { bytes_max };
            bytes <= SMALL_ANSWER_BYTES || all.has_room(most) || Box::pin(all.room_in_time(most, idle)).await
        } else {
            all.has_room(bytes)
        };
        if !fits || !has_room {
            drop(all);
            discard(body).await;
            return Err(if fits { ReadError::NoRoom } else { ReadError::TooLarge });
        }
        if first.is_empty() && all.bytes.is_empty() {
            first = part;
        } else {
            all.grow(bytes, announced, bytes_max);
            all.bytes.extend_from_slice(&std::mem::take(&mut first));
            all.bytes.extend_from_slice(&part);
        }
    }
    Ok(if all.bytes.is_empty() { first } else { all.freeze() })
}

/// The pace that the sender of a body has to keep.
#[derive(Debug)]
pub(super) struct Pace {
    idle: Duration,
    step_bytes: usize,
    /// Bytes since the time limit was set last.
    brought: usize,
    /// Bytes since other requests had their turn.
    in_turn: usize,
}

impl Pace {
    /// That of a client's body.
    pub(super) fn of_request(idle: Duration) -> Self {
        Self { idle, step_bytes: STEP_BYTES, brought: 0, in_turn: 0 }
    }

    /// The next part of a body; `None` at its end. `time` is the time limit, which is set again
    /// whenever enough has arrived.
    pub(super) async fn next_part<B>(
        &mut self,
        body: &mut B,
        mut time: Pin<&mut Sleep>,
    ) -> Result<Option<Bytes>, ReadError>
    where
        B: Body<Data = Bytes, Error: Into<AnswerError>> + Unpin,
    {
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = time.as_mut() => return Err(ReadError::TooSlow),
            };
            let Some(frame) = frame else { return Ok(None) };
            let Ok(part) = frame.map_err(|error| ReadError::Broken(error.into()))?.into_data() else {
                continue;
            };
            self.brought += part.len();
            if self.brought >= self.step_bytes {
                self.brought = 0;
                time.as_mut().set(sleep(self.idle));
            }
            self.in_turn += part.len();
            if self.in_turn >= TURN_BYTES {
                self.in_turn = 0;
                tokio::task::yield_now().await;
            }
            return Ok(Some(part));
        }
    }
}

/// Whether upstream may read a body as JSON, whatever its head says.
pub(super) fn may_be_json(headers: &HeaderMap, body: &Bytes) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let begins = body.iter().find(|byte| !byte.is_ascii_whitespace());
    !kind.starts_with("multipart/")
        && (kind.contains("json") && !body.is_empty() || matches!(begins, Some(b'{' | b'[')))
}

/// The length of a body as its head announces it, at the least.
fn announced_bytes(body: &impl Body) -> usize {
    usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX)
}

/// Bytes with the room they take, which is free again when the last part of
/// them is dropped.
struct BudgetedBuffer {
    bytes: Vec<u8>,
    room: Option<Room>,
}

impl BudgetedBuffer {
    /// Makes the buffer large enough for so many bytes; not larger than what is
    /// announced or allowed, since growing copies what is there.
    fn grow(&mut self, bytes: usize, announced: usize, bytes_max: usize) {
        let now = self.bytes.capacity();
        if bytes <= now {
            return;
        }
        let capacity = match announced {
            _ if bytes <= TRUSTED_BYTES_MAX => announced.min(TRUSTED_BYTES_MAX),
            announced if announced >= bytes => announced,
            _ => now.saturating_mul(2),
        };
        self.bytes.reserve_exact(capacity.clamp(bytes, bytes_max) - self.bytes.len());
    }

    /// Takes room for so many bytes, if there is enough.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.room.as_mut().is_none_or(|room| room.grow(bytes))
    }

    /// Waits for room for so many bytes, and takes it.
    async fn room_in_time(&mut self, bytes: usize, most: Duration) -> bool {
        let wait = async {
            while !self.has_room(bytes) {
                sleep(ROOM_LOOK).await;
            }
        };
        tokio::time::timeout(most, wait).await.is_ok()
    }

    fn freeze(mut self) -> Bytes {
        let bytes = self.bytes.len();
        let is_roomy = self.room.as_mut().is_some_and(|room| {
            room.shrink(bytes);
            room.is_taken()
        });
        if is_roomy { Bytes::from_owner(self) } else { Bytes::from(self.bytes) }
    }
}

/// Bytes that are made here, in the room that clients' bodies share.
pub struct Buffer(BudgetedBuffer);

impl Buffer {
    /// An empty one, for a request of that key.
    pub fn of(key: Arc<str>) -> Self {
        Self(BudgetedBuffer { bytes: Vec::new(), room: Some(Room::of(Pool::Requests, key)) })
    }

    /// How many bytes there are.
    pub fn filled_bytes(&self) -> usize {
        self.0.bytes.len()
    }

    /// Adds bytes, of which there may be so many in all.
    pub fn push(&mut self, part: &[u8], bytes_max: usize) -> Result<(), ReadError> {
        let bytes = self.filled_bytes() + part.len();
        if bytes > bytes_max {
            return Err(ReadError::TooLarge);
        }
        if !self.0.has_room(bytes) {
            return Err(ReadError::NoRoom);
        }
        self.0.grow(bytes, 0, bytes_max);
        self.0.bytes.extend_from_slice(part);
        Ok(())
    }

    /// All of them. Their room is free again when the last part of them is dropped.
    pub fn freeze(self) -> Bytes {
        self.0.freeze()
    }
}

impl AsRef<[u8]> for BudgetedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Discards the body of a request that is refused by its head, unless the client
/// waits for `100 Continue`.
pub async fn discard_unless_awaited(headers: &HeaderMap, body: Incoming) {
    if !headers.contains_key(header::EXPECT) {
        discard(body).await;
    }
}

/// Discards what a refused client is still sending, within bounds: if the
/// connection were closed immediately, it would be reset and the refusal lost.
pub(super) async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this loses its refusal.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, reading).await;
}

/// Why an answer's body was cut off.
pub type AnswerError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    const LARGE_BYTES: usize = SMALL_ANSWER_BYTES + 1;

    async fn read_answer(key: &str, bytes: usize, patience: Duration) -> Result<usize, ReadError> {
        let body = Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {});
        let bounds = Bounds::paid_answer(192 << 20, patience, key.into());
        read(body, bounds).await.map(|bytes| bytes.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_waits_for_room_and_other_keys_and_small_answers_do_not() {
        let patience = Duration::from_secs(60);
        let mut taken = Room::of(Pool::Answers, "crowded".into());
        assert!(taken.grow(512 << 20), "all that the key may have");
        let lost = read_answer("crowded", LARGE_BYTES, patience).await;
        assert!(matches!(lost, Err(ReadError::NoRoom)), "{lost:?}");
        assert_eq!(read_answer("other", LARGE_BYTES, patience).await.unwrap(), LARGE_BYTES);
        assert_eq!(read_answer("crowded", SMALL_ANSWER_BYTES, patience).await.unwrap(), SMALL_ANSWER_BYTES);
        let waits = read_answer("crowded", LARGE_BYTES, patience);
        let makes_room = async {
            sleep(patience / 2).await;
            drop(taken);
        };
        let (read, ()) = tokio::join!(waits, makes_room);
        assert_eq!(read.unwrap(), LARGE_BYTES);
        let mut all = Room::of(Pool::Answers, "crowded".into());
        assert!(all.grow(512 << 20), "what was read is given back");
    }
}
