//! Adds up the packets of a Matroska or `WebM` file (RFC 9559).

use memchr::memmem;

use crate::media::audio;
use crate::media::sound::packet::{Codec, span};

/// The most tracks that are distinguished.
const TRACKS_MAX: usize = 64;
/// The longest frame of MPEG audio: 1,152 samples at 8 kHz.
const MPEG_NS_MAX: u64 = 144_000_000;
/// Elements whose content is read as more elements.
const MASTERS: [u32; 7] = [0x1A45_DFA3, 0x1853_8067, 0x1F43_B675, 0x1654_AE6B, TRACK, 0xA0, 0xE1];
const TRACK: u32 = 0xAE;
const TRACK_NUMBER: u32 = 0xD7;
const TRACK_KIND: u32 = 0x83;
const CODEC: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63A2;
/// What is in it says that packets are stored in another form.
const ENCODINGS: u32 = 0x6D80;
const BLOCKS: [u32; 2] = [0xA3, 0xA1];
const AUDIO: &[u8] = &[2];

/// A track as its head describes it.
#[derive(Debug, Default)]
struct Track<'a> {
    number: u64,
    kind: &'a [u8],
    codec: &'a [u8],
    private: &'a [u8],
    is_encoded: bool,
    nanos: u64,
}

/// How a packet of a track is measured.
enum Packets {
    Of(Codec),
    Mpeg,
}

impl Track<'_> {
    fn packets(&self) -> Option<Packets> {
        let codec = match self.codec {
            b"A_MPEG/L3" | b"A_MPEG/L2" | b"A_MPEG/L1" => return Some(Packets::Mpeg),
            b"A_OPUS" => Some(Codec::Opus),
            b"A_FLAC" => Codec::of_flac(self.private),
            b"A_AAC" => Codec::of_aac(self.private),
            b"A_VORBIS" => {
                let head = memmem::find(self.private, b"\x01vorbis")?;
                Codec::of_vorbis(&self.private[head..])
            }
            _ => None,
        };
        codec.filter(|_| !self.is_encoded).map(Packets::Of)
    }
}

/// How long the longest track of sound lasts, in nanoseconds, and whether all was understood.
pub(super) fn nanos(bytes: &[u8]) -> (u64, bool) {
    let mut tracks: Vec<Track<'_>> = Vec::new();
    let (mut at, mut is_read) = (0, true);
    while at < bytes.len() {
        let Some((id, size, data)) = element(bytes, at) else {
            is_read = false;
            break;
        };
        if MASTERS.contains(&id) {
            if id == TRACK && tracks.len() < TRACKS_MAX {
                tracks.push(Track::default());
            }
            at = data;
            continue;
        }
        let end = size.and_then(|size| data.checked_add(usize::try_from(size).ok()?));
        // The last block may be cut off; anything else that goes beyond the end is doubtful.
        let end = end.filter(|end| *end <= bytes.len() || BLOCKS.contains(&id));
        let Some(end) = end else {
            is_read = false;
            break;
        };
        let content = &bytes[data..end.min(bytes.len())];
        if BLOCKS.contains(&id) {
            is_read &= take_block(&mut tracks, content).is_some();
        } else if let Some(track) = tracks.last_mut() {
            match id {
                TRACK_NUMBER => {
                    track.number = content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                }
                TRACK_KIND => track.kind = content,
                CODEC => track.codec = content,
                CODEC_PRIVATE => track.private = content,
                ENCODINGS => track.is_encoded = true,
                _ => {}
            }
        }
        at = end;
    }
    let longest = tracks.iter().map(|track| track.nanos).max().unwrap_or(0);
    (longest, is_read && longest > 0)
}

/// An element: its id, its size if that is known, and where its content begins.
fn element(bytes: &[u8], at: usize) -> Option<(u32, Option<u64>, usize)> {
    let id_bytes = usize::try_from(bytes.get(at)?.leading_zeros()).ok()? + 1;
    let id = bytes.get(at..at + id_bytes).filter(|id| id.len() <= 4)?;
    let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    let (size, data) = number(bytes, at + id_bytes)?;
    Some((id, size, data))
}

/// A number of variable length, `None` if it says that it is unknown, and where it ends.
fn number(bytes: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let first = *bytes.get(at)?;
    let length = first.leading_zeros() + 1;
    let end = at + usize::try_from(length).ok().filter(|length| *length <= 8)?;
    let mask = u64::MAX >> (64 - 7 * length);
    let value = bytes.get(at..end)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) & mask;
    Some(((value != mask).then_some(value), end))
}

/// Adds the packets of a block to its track; `None` if it can't be read.
fn take_block(tracks: &mut [Track<'_>], block: &[u8]) -> Option<()> {
    let (number, head) = number(block, 0)?;
    let number = number?;
    let track = tracks.iter_mut().find(|track| track.number == number)?;
    if track.kind != AUDIO {
        return Some(());
    }
    let flags = *block.get(head + 2)?;
    let packets = track.packets()?;
    let nanos = if flags & 0x06 == 0 {
        let packet = block.get(head + 3..)?;
        match packets {
            Packets::Of(codec) => codec.nanos(packet)?,
            Packets::Mpeg => {
                audio::frame(*packet.first_chunk()?).map(|frame| span(frame.samples, frame.rate))?
            }
        }
    } else {
        // Several packets: each is taken for the longest.
        let longest = match packets {
            Packets::Of(codec) => codec.nanos_max()?,
            Packets::Mpeg => MPEG_NS_MAX,
        };
        longest.saturating_mul(u64::from(*block.get(head + 3)?) + 1)
    };
    track.nanos = track.nanos.saturating_add(nanos);
    Some(())
}
