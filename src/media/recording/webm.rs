//! Adds up the packets of a Matroska or `WebM` file (RFC 9559).

use memchr::memmem;

use crate::media::audio;
use crate::media::sound::flac::FlacFrames;
use crate::media::sound::packet::{AAC_FRAME_BYTES_MAX, Codec, opus};

/// The most tracks that are distinguished.
const TRACKS_MAX: usize = 64;
/// Elements whose content is read as more elements: segments, clusters, tracks, groups of blocks.
const MASTERS: [u32; 5] = [0x1853_8067, 0x1F43_B675, TRACKS, TRACK, 0xA0];
const TRACKS: u32 = 0x1654_AE6B;
const TRACK: u32 = 0xAE;
const TRACK_NUMBER: u32 = 0xD7;
const TRACK_KIND: u32 = 0x83;
const CODEC: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63A2;
/// What is in it says that packets are stored in another form.
const ENCODINGS: u32 = 0x6D80;
const BLOCKS: [u32; 2] = [0xA3, 0xA1];
/// What describes a track, and stands nowhere else.
const DESCRIPTIONS: [u32; 6] = [TRACK, TRACK_NUMBER, TRACK_KIND, CODEC, CODEC_PRIVATE, ENCODINGS];
const SOUND: u64 = 2;

/// A track as its head describes it.
#[derive(Debug, Default)]
struct Track<'a> {
    number: u64,
    kind: u64,
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

impl<'a> Track<'a> {
    fn describe(&mut self, id: u32, content: &'a [u8]) {
        let number = || content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match id {
            TRACK_NUMBER => self.number = number(),
            TRACK_KIND => self.kind = number(),
            CODEC => self.codec = content,
            CODEC_PRIVATE => self.private = content,
            ENCODINGS => self.is_encoded = true,
            _ => {}
        }
    }

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

/// How long the longest track of sound lasts, in nanoseconds, and whether its frames were counted;
/// `None` if anything was not understood.
pub(super) fn nanos(bytes: &[u8]) -> Option<(u64, bool)> {
    let mut tracks: Vec<Track<'_>> = Vec::new();
    // Where the list of tracks ends, and the last of them.
    let (mut tracks_end, mut track_end) = (0, 0);
    let mut at = 0;
    while at < bytes.len() {
        let (id, size, data) = element(bytes, at)?;
        let parent_end = if id == TRACK { tracks_end } else { track_end };
        if DESCRIPTIONS.contains(&id) && at >= parent_end {
            return None;
        }
        let end = size.and_then(|size| data.checked_add(usize::try_from(size).ok()?));
        if MASTERS.contains(&id) {
            match id {
                TRACKS => tracks_end = end?,
                TRACK if tracks.len() == TRACKS_MAX => return None,
                TRACK => {
                    track_end = end?;
                    tracks.push(Track::default());
                }
                _ => {}
            }
            at = data;
            continue;
        }
        // The last block may be cut off; anything else that goes beyond the end is doubtful.
        let end = end.filter(|end| *end <= bytes.len() || BLOCKS.contains(&id))?;
        let content = &bytes[data..end.min(bytes.len())];
        if BLOCKS.contains(&id) {
            take_block(&mut tracks, content)?;
        } else if let Some(track) = tracks.last_mut().filter(|_| at < track_end) {
            track.describe(id, content);
        }
        at = end;
    }
    let longest = tracks.iter().max_by_key(|track| track.nanos).filter(|track| track.nanos > 0)?;
    let is_counted = !matches!(longest.packets(), Some(Packets::Of(Codec::Aac { .. })));
    Some((longest.nanos, is_counted))
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
    if track.kind != SOUND {
        return Some(());
    }
    let flags = *block.get(head + 2)?;
    let packets = track.packets()?;
    let packet = block.get(head + 3..)?;
    let bytes = u64::try_from(packet.len()).ok()?;
    let nanos = if flags & 0x06 == 0 {
        match packets {
            Packets::Mpeg => audio::packet_nanos(packet),
            Packets::Of(Codec::Opus) => opus(packet)?,
            Packets::Of(Codec::Flac { rate }) => {
                let mut frames = FlacFrames::of(rate);
                frames.feed(packet);
                frames.finish();
                frames.nanos()?
            }
            Packets::Of(codec @ Codec::Aac { .. }) => {
                codec.longest(1, if bytes > AAC_FRAME_BYTES_MAX { bytes } else { 0 })?
            }
            Packets::Of(codec @ (Codec::Even { .. } | Codec::Lossy)) => codec.longest(1, bytes)?,
        }
    } else {
        // Several packets: each is taken for the longest.
        match packets {
            Packets::Of(codec) => codec.longest(u64::from(*packet.first()?) + 1, bytes)?,
            Packets::Mpeg => audio::longest_nanos(packet),
        }
    };
    track.nanos = track.nanos.saturating_add(nanos);
    Some(())
}
