//! Adds up the frames of a FLAC stream as its bytes pass.

use memchr::memchr;

use super::packet::{Codec, FLAC_HEAD_BYTES_MAX, flac};

/// Bytes from the start that say how many samples a second has.
const STREAM_HEAD_BYTES: usize = 42;

/// Bytes that are looked through at once, and kept so long.
const BLOCK_BYTES: usize = 64 << 10;

/// Heads of frames are looked for everywhere, as frames do not say how long they are.
/// What only looks like a head makes the sum larger, by chance once in many megabytes.
#[derive(Debug, Default)]
pub(in crate::media) struct FlacFrames {
    /// What has come and may be the beginning of a head.
    rest: Vec<u8>,
    /// Samples a second, once the beginning of the stream has come.
    rate: Option<u64>,
    nanos: u64,
    has_frames: bool,
}

impl FlacFrames {
    /// Frames without the beginning of their stream, which has so many samples a second.
    pub(in crate::media) fn of(rate: u64) -> Self {
        Self { rate: Some(rate), ..Self::default() }
    }

    /// Takes up the next bytes.
    pub(in crate::media) fn feed(&mut self, part: &[u8]) {
        for block in part.chunks(BLOCK_BYTES) {
            self.feed_block(block);
        }
    }

    fn feed_block(&mut self, block: &[u8]) {
        self.rest.extend_from_slice(block);
        if self.rate.is_none() {
            if self.rest.len() < STREAM_HEAD_BYTES {
                return;
            }
            self.rate = match Codec::of_flac(&self.rest) {
                Some(Codec::Flac { rate }) => Some(rate),
                _ => Some(0),
            };
        }
        let last = self.rest.len().saturating_sub(FLAC_HEAD_BYTES_MAX);
        self.count(last);
        self.rest.drain(..last);
    }

    /// Adds the frames whose heads begin before `end`.
    fn count(&mut self, end: usize) {
        let mut at = 0;
        while let Some(found) = memchr(0xff, &self.rest[at..end.max(at)]) {
            at += found;
            if let Some(nanos) = flac(&self.rest[at..], self.rate.unwrap_or(0)) {
                self.nanos = self.nanos.saturating_add(nanos);
                self.has_frames = true;
            }
            at += 1;
        }
    }

    /// Takes up the end.
    pub(in crate::media) fn finish(&mut self) {
        self.count(self.rest.len());
        self.rest.clear();
    }

    /// How long all frames so far last; `None` if there were none.
    pub(in crate::media) fn nanos(&self) -> Option<u64> {
        self.has_frames.then_some(self.nanos)
    }
}
