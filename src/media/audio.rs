//! How long an audio file can be.
//!
//! OpenAI bills audio by its seconds and takes WAV and MP3. The header of a WAV
//! gives the byte rate, and a header may be wrong or contradict itself: the longest
//! duration by any of its figures counts. An MP3 is walked frame by frame.

use std::io::ErrorKind;

use memchr::memmem;

use crate::media::reader::{MediaReader, Plain, Source};

/// A second, in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;
/// Chunks of a WAV that are looked at.
const CHUNKS_MAX: usize = 64;
/// Frames of an MP3 that are walked: six hours of the usual kind.
const FRAMES_MAX: usize = 1 << 20;
/// The duration that one byte of an MP3 outside of its walked frames can have. The
/// smallest frame for its duration is an empty frame of layer II without a fixed
/// bit rate: 14 bytes for 144 ms.
const MP3_BYTE_US: u64 = 11_000;

/// An upper bound of an audio file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLength {
    /// Thousandths of a second, rounded up.
    pub millis: u64,
    /// How it is known.
    pub basis: LengthBasis,
    /// The format of the file by its first bytes.
    pub format: AudioFormat,
}

/// A format of audio that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioFormat {
    /// RIFF WAVE.
    Wav,
    /// MPEG audio.
    Mp3,
}

impl AudioFormat {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Mp3 => "mp3",
        }
    }
}

/// How the length of an audio file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthBasis {
    /// The headers agree with each other and with the bytes.
    Measured,
    /// The longest that the bytes can mean.
    Longest,
}

/// The longest that a WAV or MP3 in a JSON string of base64 can last.
///
/// `None` if it is neither, or if nothing bounds it: a WAV that is not of plain
/// samples (PCM, float, A-law, µ-law), has no sample rate, or can be read two
/// ways. The sizes that a WAV states are not trusted, only where its bytes end.
/// Work: 64 chunks, or a million frames of an MP3, some milliseconds.
pub fn audio_length(json_string: &str) -> Option<AudioLength> {
    let mut reader = MediaReader::new(json_string)?;
    let start: [u8; 12] = reader.array().ok()?;
    match start {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => wav(&mut reader),
        [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..] => mp3(MediaReader::new(json_string)?),
        _ => None,
    }
}

/// What a WAV's header says about its samples.
struct Samples {
    /// The bytes of a second by each of the figures that a decoder may use.
    byte_rates: [u64; 3],
}

/// The longest that a WAV can last, from after its first twelve bytes.
pub(super) fn wav(reader: &mut impl Source) -> Option<AudioLength> {
    let mut slowest: Option<u64> = None;
    let mut fastest = 0;
    let mut is_odd = false;
    for _ in 0..CHUNKS_MAX {
        let kind: [u8; 4] = match reader.array() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            kind => kind.ok()?,
        };
        if is_odd {
            return None;
        }
        let length = u64::from(reader.le_u32().ok()?);
        let mut left = length;
        if kind == *b"fmt " {
            let (samples, read) = samples(reader, length)?;
            left -= read;
            for rate in samples.byte_rates.into_iter().filter(|rate| *rate > 0) {
                slowest = Some(slowest.map_or(rate, |slowest| slowest.min(rate)));
                fastest = fastest.max(rate);
            }
        }
        // A chunk after the samples may be a second header.
        if left >= reader.bytes_max() {
            break;
        }
        // Decoders differ in whether a chunk of an odd length is followed by a
        // byte of padding: what they find next would differ.
        is_odd = length % 2 == 1;
        reader.skip(left + length % 2).ok()?;
    }
    let slowest = slowest?;
    let basis = if slowest == fastest { LengthBasis::Measured } else { LengthBasis::Longest };
    Some(AudioLength {
        millis: (reader.bytes_max().saturating_mul(1_000)).div_ceil(slowest),
        basis,
        format: AudioFormat::Wav,
    })
}

/// The longest that a WAV can last whose chunks can be read in two ways: at the slowest rate of all
/// headers that stand anywhere in it. `None` if one is of samples that are not plain.
pub(super) fn any_wav(bytes: &[u8]) -> Option<AudioLength> {
    let mut slowest: Option<u64> = None;
    for at in memmem::find_iter(bytes, b"fmt ") {
        let mut reader = Plain::new(&bytes[at + 4..]);
        let length = u64::from(reader.le_u32().ok()?);
        let (samples, _) = samples(&mut reader, length)?;
        let rates = samples.byte_rates.into_iter().filter(|rate| *rate > 0);
        slowest = rates.chain(slowest).min();
    }
    let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let millis = bytes.saturating_mul(1_000).div_ceil(slowest?);
    Some(AudioLength { millis, basis: LengthBasis::Longest, format: AudioFormat::Wav })
}

/// Reads a `fmt ` chunk; also how much of it was read. `None` if its samples
/// are not plain.
fn samples(reader: &mut impl Source, length: u64) -> Option<(Samples, u64)> {
    if length < 16 {
        return None;
    }
    let mut tag = reader.le_u16().ok()?;
    let channels = u64::from(reader.le_u16().ok()?);
    let (rate, byte_rate) = (u64::from(reader.le_u32().ok()?), u64::from(reader.le_u32().ok()?));
    let (block, bits) = (u64::from(reader.le_u16().ok()?), u64::from(reader.le_u16().ok()?));
    let mut read = 16;
    if tag == 0xfffe && length >= 40 {
        reader.skip(8).ok()?;
        tag = reader.le_u16().ok()?;
        reader.skip(14).ok()?;
        read = 40;
    }
    // PCM, float, A-law, µ-law.
    let is_plain = matches!(tag, 1 | 3 | 6 | 7);
    let by_samples = rate.checked_mul(channels)?.checked_mul(bits)? / 8;
    let by_blocks = rate.checked_mul(block)?;
    if !is_plain || by_samples == 0 {
        return None;
    }
    Some((Samples { byte_rates: [byte_rate, by_blocks, by_samples] }, read))
}

/// A frame of an MPEG audio stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) bytes: u64,
    pub(super) samples: u64,
    pub(super) rate: u64,
    /// The bits that all frames of a stream have in common: version, layer,
    /// sample rate.
    kind: [u8; 2],
}

/// Frames of one kind without gaps have their stated duration. Everything after or
/// between them may be frames of the smallest kind.
pub(super) fn mp3(mut reader: impl Source) -> Option<AudioLength> {
    skip_tag(&mut reader)?;
    let mut samples = 0_u64;
    let mut first: Option<Frame> = None;
    let mut end = reader.position();
    let mut bytes = reader.bytes_max();
    for _ in 0..FRAMES_MAX {
        let head = match reader.array() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                bytes = reader.position();
                break;
            }
            head => head.ok().and_then(frame),
        };
        let Some(frame) = head.filter(|frame| first.is_none_or(|first| first.kind == frame.kind)) else {
            break;
        };
        let is_whole = reader.skip(frame.bytes - 4).is_ok() && reader.position() == end + frame.bytes;
        if !is_whole {
            break;
        }
        end = reader.position();
        samples = samples.saturating_add(frame.samples);
        first = first.or(Some(frame));
    }
    // Where no frame follows a tag, the tag may be none.
    let rest = if first.is_some() { bytes.saturating_sub(end) } else { bytes };
    let measured = first.map_or(0, |first| samples.saturating_mul(1_000).div_ceil(first.rate));
    let longest = rest.saturating_mul(MP3_BYTE_US).div_ceil(1_000);
    let basis = if rest == 0 { LengthBasis::Measured } else { LengthBasis::Longest };
    Some(AudioLength { millis: measured.saturating_add(longest), basis, format: AudioFormat::Mp3 })
}

/// How long a packet can last that should be one frame of MPEG audio, in nanoseconds: all frames that
/// follow each other in it, and the rest of its bytes as the smallest kind.
pub(super) fn packet_nanos(mut packet: &[u8]) -> u64 {
    let mut nanos = 0_u64;
    while let Some((frame, rest)) = first_frame(packet) {
        nanos = nanos.saturating_add(span(frame.samples, frame.rate));
        packet = rest;
    }
    nanos.saturating_add(longest_nanos(packet))
}

/// How long bytes can last that are frames of MPEG audio, in nanoseconds.
pub(super) fn longest_nanos(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_mul(MP3_BYTE_US * 1_000)
}

/// A frame that begins here and is whole, and what follows it.
fn first_frame(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let frame = frame(*bytes.first_chunk()?)?;
    Some((frame, bytes.get(usize::try_from(frame.bytes).ok()?..)?))
}

/// Passes over an `ID3v2` tag at the start, which every decoder does.
fn skip_tag(reader: &mut impl Source) -> Option<()> {
    let mut ahead = reader.clone();
    let kind: [u8; 3] = ahead.array().ok()?;
    let [major, minor, flags, sizes @ ..] = ahead.array::<7>().ok()?;
    if kind != *b"ID3" {
        return Some(());
    }
    // A size of four times seven bits; a footer is as long as the head.
    if major == 0xff || minor == 0xff || sizes.iter().any(|byte| *byte > 0x7f) {
        return None;
    }
    let size = sizes.iter().fold(0, |size, byte| size << 7 | u64::from(*byte));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    ahead.skip(size + footer).ok()?;
    *reader = ahead;
    Some(())
}

/// Kilobits a second by the four bits of a header; the first is without a fixed
/// rate, and there is no sixteenth.
const V1_L1: [u64; 15] = [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448];
const V1_L2: [u64; 15] = [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384];
const V1_L3: [u64; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const V2_L1: [u64; 15] = [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256];
const V2_L23: [u64; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/// A frame of a fixed bit rate from its header (ISO/IEC 11172-3, 13818-3).
pub(super) fn frame([sync, kind, rates, _]: [u8; 4]) -> Option<Frame> {
    if sync != 0xff || kind < 0xe0 {
        return None;
    }
    // 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5.
    let version = kind >> 3 & 3;
    let is_first = version == 3;
    let layer = 4 - (kind >> 1 & 3);
    let bit_rates = match (is_first, layer) {
        (true, 1) => V1_L1,
        (true, 2) => V1_L2,
        (true, 3) => V1_L3,
        (false, 1) => V2_L1,
        (false, 2 | 3) => V2_L23,
        _ => return None,
    };
    let bit_rate = bit_rates.get(usize::from(rates >> 4)).filter(|rate| **rate > 0)? * 1_000;
    let halved = match version {
        3 => 1,
        2 => 2,
        0 => 4,
        _ => return None,
    };
    let rate = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))? / halved;
    let samples = match layer {
        1 => 384,
        3 if !is_first => 576,
        _ => 1_152,
    };
    let padding = u64::from(rates >> 1 & 1);
    let bytes = if layer == 1 {
        (12 * bit_rate / rate + padding) * 4
    } else {
        samples / 8 * bit_rate / rate + padding
    };
    // All but the bit about a checksum, and the sample rate.
    Some(Frame { bytes, samples, rate, kind: [kind & 0xfe, rates & 0x0c] })
}

/// Samples as nanoseconds, rounded up; the rate is not zero.
pub(super) const fn span(samples: u64, rate: u64) -> u64 {
    samples.saturating_mul(SECOND_NS).div_ceil(rate)
}

#[cfg(test)]
mod tests;
