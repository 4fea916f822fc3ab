//! How long a recording can last that is sent as a file.
//!
//! The length is counted from the frames and packets that are there, never taken from what a
//! header claims. Where another reader may find more than is counted, the sum is the larger
//! one: a rate that contradicts itself counts by its slowest figure, a frame counts wherever
//! its head stands. Packets of AAC, AMR and AC-3 last no less than their bytes can at
//! [`SLOWEST_BIT_RATE`], which is an assumption.

mod mp4;
mod webm;

use crate::media::audio::{self, LengthBasis};
use crate::media::reader::{Plain, Source as _};
use crate::media::sound::flac::FlacFrames;
use crate::media::sound::ogg::OggPackets;
pub use crate::media::sound::packet::SLOWEST_BIT_RATE;
use crate::media::sound::tag_bytes;

/// The most that a recording lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Thousandths of a second, rounded up.
    pub millis: u64,
    /// How it is known.
    pub basis: LengthBasis,
}

/// The most that the recording in a file lasts.
///
/// WAV, MP3, FLAC, Ogg (Opus, Vorbis, FLAC), MP4 (AAC, ALAC, Opus, AMR, AC-3) and `WebM` (Opus, Vorbis,
/// AAC, MPEG audio, FLAC) are measured. `None` if nothing bounds it: any other file, a track of
/// another codec, a file that plays a part of itself more than once, or whose streams change what
/// they are. Work: a few passes over the bytes.
pub fn recording(file: &[u8]) -> Option<Recording> {
    let bytes = untagged(file);
    let (nanos, is_measured) = match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => {
            let mut reader = Plain::new(bytes);
            reader.skip(12).ok()?;
            return audio::wav(&mut reader).or_else(|| audio::any_wav(bytes)).map(of_audio);
        }
        // AAC without a container, which OpenAI does not take: packets of six bytes may last long.
        [0xff, 0xf0 | 0xf1 | 0xf8 | 0xf9, ..] => return None,
        [0xff, 0xe0..=0xff, ..] => return audio::mp3(Plain::new(bytes)).map(of_audio),
        [b'f', b'L', b'a', b'C', ..] => {
            let mut frames = FlacFrames::default();
            frames.feed(bytes);
            frames.finish();
            (frames.nanos()?, true)
        }
        [b'O', b'g', b'g', b'S', ..] => {
            let mut packets = OggPackets::default();
            packets.feed(bytes);
            packets.finish();
            (packets.nanos()?, true)
        }
        [0x1a, 0x45, 0xdf, 0xa3, ..] => webm::nanos(bytes)?,
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4::nanos(bytes)?,
        _ => return None,
    };
    let basis = if is_measured { LengthBasis::Measured } else { LengthBasis::Longest };
    Some(Recording { millis: nanos.div_ceil(1_000_000), basis })
}

/// What follows the tags at the beginning. One that says it is larger than the file is none.
fn untagged(file: &[u8]) -> &[u8] {
    let mut bytes = file;
    while let Some(rest) = tag_bytes(bytes).and_then(|size| bytes.get(size..)) {
        bytes = rest;
    }
    bytes
}

fn of_audio(length: audio::AudioLength) -> Recording {
    Recording { millis: length.millis, basis: length.basis }
}

#[cfg(test)]
mod tests;
