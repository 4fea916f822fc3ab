//! What a bill needs to know of a request: its body, and whether its tokens can be counted.

use bytes::Bytes;

use crate::domain::Demand;

/// Bodies up to this size are kept until the end, to count their input exactly
/// if upstream reports no usage; a larger one is charged by its bytes.
const KEPT_BODY_BYTES_MAX: usize = 256 * 1024;
/// The size of hyper's read buffers.
const SHARED_BODY_BYTES_MAX: usize = 8 * 1024;

/// Whether a request may be billed for tokens that can't be counted without usage: sound, what
/// only upstream can see the size of, rejected predictions, what compaction writes, choices that
/// are not shown, images that it makes. A recording that was measured and is written down can be.
pub fn is_uncountable(demand: &Demand) -> bool {
    let media = &demand.media;
    let is_unseen = demand.prediction_bytes > 0 || demand.compacted_at.is_some() || demand.has_unseen_choices;
    let is_heard = media.audio_ms > 0 && !demand.transcript.is_some_and(|transcript| transcript.is_measured);
    demand.drawing.is_some() || demand.audio_output || is_heard || media.opaque > 0 || is_unseen
}

/// The part of a body that a bill keeps.
pub fn kept(body: &Bytes) -> Option<Bytes> {
    if body.len() > KEPT_BODY_BYTES_MAX {
        return None;
    }
    // A small one shares the buffer that it was read into, which would stay
    // with it as long as a stream lasts.
    let shared = body.len() <= SHARED_BODY_BYTES_MAX;
    Some(if shared { Bytes::copy_from_slice(body) } else { body.clone() })
}
