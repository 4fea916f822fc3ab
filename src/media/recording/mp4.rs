//! Adds up the samples of an MP4 (ISO/IEC 14496-12), by its own tables.
//!
//! A sample is a packet of the codec, and lasts as long as the codec says; the times that the
//! tables state are not used.

use crate::media::sound::packet::Codec;

/// The most tracks that are read, and the depth to which boxes are opened.
const TRACKS_MAX: usize = 64;
const DEPTH_MAX: usize = 8;
/// The sample description of a track of sound, up to its own boxes.
const SOUND_ENTRY_BYTES: usize = 36;

/// What the boxes of a file say.
#[derive(Debug, Default)]
struct Movie {
    tracks: Vec<Track>,
    /// Samples of fragments, with the track that they are of.
    fragments: Vec<(u32, u64)>,
    is_doubtful: bool,
    is_unread: bool,
}

#[derive(Debug, Default)]
struct Track {
    id: u32,
    is_sound: bool,
    codec: Option<Codec>,
    samples: u64,
}

/// What an MP4 lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many nanoseconds at most, by every track; whether every one was understood.
    Nanos(u64, bool),
    /// It plays a part more than once, or hides its tables: nothing bounds it.
    Doubtful,
}

/// How long the longest track of sound lasts.
pub(super) fn length(bytes: &[u8]) -> Length {
    let mut movie = Movie::default();
    if movie.open(bytes, DEPTH_MAX).is_none() {
        movie.is_unread = true;
    }
    if movie.is_doubtful {
        return Length::Doubtful;
    }
    let (mut longest, mut is_read) = (0, !movie.is_unread);
    for track in movie.tracks.iter().filter(|track| track.is_sound) {
        let added = movie.fragments.iter().filter(|(of, _)| *of == track.id);
        let samples = added.fold(track.samples, |sum, (_, samples)| sum.saturating_add(*samples));
        let nanos = track.codec.and_then(Codec::nanos_max);
        // Packets of Opus are counted as the longest kind, and seldom are.
        is_read &= matches!(track.codec, Some(Codec::Even { .. }));
        longest = longest.max(nanos.unwrap_or(0).saturating_mul(samples));
    }
    Length::Nanos(longest, is_read && longest > 0)
}

impl Movie {
    /// Reads boxes; `None` if one goes beyond what it is in.
    fn open(&mut self, mut bytes: &[u8], depth: usize) -> Option<()> {
        while !bytes.is_empty() {
            let (kind, content, rest) = next(bytes)?;
            bytes = rest;
            match &kind {
                b"trak" => {
                    if self.tracks.len() == TRACKS_MAX {
                        return None;
                    }
                    self.tracks.push(Track::default());
                    self.open(content, depth.checked_sub(1)?)?;
                }
                b"moov" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"edts" => {
                    self.open(content, depth.checked_sub(1)?)?;
                }
                b"traf" => {
                    self.fragments.push((0, 0));
                    self.open(content, depth.checked_sub(1)?)?;
                }
                // A table of contents that is compressed.
                b"cmov" => self.is_doubtful = true,
                b"elst" => self.is_doubtful |= !plays_once(content)?,
                b"tfhd" => self.fragments.last_mut()?.0 = be_u32(content, 4)?,
                b"trun" => {
                    let samples = &mut self.fragments.last_mut()?.1;
                    *samples = samples.saturating_add(u64::from(be_u32(content, 4)?));
                }
                _ => self.describe(kind, content)?,
            }
        }
        Some(())
    }

    /// Reads a box that describes a track.
    fn describe(&mut self, kind: [u8; 4], content: &[u8]) -> Option<()> {
        let Some(track) = self.tracks.last_mut() else { return Some(()) };
        match &kind {
            b"tkhd" => track.id = be_u32(content, if content.first()? == &1 { 20 } else { 12 })?,
            b"hdlr" => track.is_sound |= content.get(8..12)? == b"soun",
            b"stsz" | b"stz2" => {
                track.samples = track.samples.saturating_add(u64::from(be_u32(content, 8)?));
            }
            // With more than one description the codec may change on the way.
            b"stsd" if be_u32(content, 4)? == 1 => track.codec = described(content.get(8..)?),
            _ => {}
        }
        Some(())
    }
}

/// The kind of the first box, its content, and what follows it.
fn next(bytes: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let kind = *bytes.get(4..)?.first_chunk()?;
    let (head, size) = match be_u32(bytes, 0)? {
        0 => (8, bytes.len()),
        1 => (16, usize::try_from(u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?)).ok()?),
        size => (8, usize::try_from(size).ok()?),
    };
    // Sound that is cut off counts as if it were there.
    let size = if &kind == b"mdat" { size.min(bytes.len()) } else { size };
    Some((kind, bytes.get(head..size)?, &bytes[size..]))
}

/// Whether a list of edits plays what is there once at most.
fn plays_once(list: &[u8]) -> Option<bool> {
    let is_long = list.first()? == &1;
    let (size, time) = if is_long { (20, 8) } else { (12, 4) };
    let count = usize::try_from(be_u32(list, 4)?).ok()?;
    if count > 16 {
        return Some(false);
    }
    let mut played = 0;
    for entry in list.get(8..)?.chunks_exact(size).take(count) {
        // A time of -1 is of a pause.
        let is_pause = entry[time..size - 4].iter().all(|byte| *byte == 0xff);
        played += usize::from(!is_pause);
    }
    Some(played <= 1)
}

/// The codec of a sample description; `None` if its packets can't be measured.
fn described(entry: &[u8]) -> Option<Codec> {
    let (kind, content, _) = next(entry)?;
    // A description in another version has more fields before its boxes.
    let mut boxes = content.get(SOUND_ENTRY_BYTES - 8..).filter(|_| content.get(8..10) == Some(&[0, 0]))?;
    while !boxes.is_empty() {
        let (inner, data, rest) = next(boxes)?;
        match (&kind, &inner) {
            (b"mp4a", b"esds") => return aac(data.get(4..)?),
            (b"alac", b"alac") => {
                let (samples, rate) = (u64::from(be_u32(data, 4)?), u64::from(be_u32(data, 24)?));
                return (samples > 0 && rate > 0).then_some(Codec::Even { samples, rate });
            }
            (b"Opus", b"dOps") => return Some(Codec::Opus),
            _ => boxes = rest,
        }
    }
    None
}

/// AAC by its descriptors (ISO/IEC 14496-1, 7.2.6); `None` for another codec.
fn aac(descriptors: &[u8]) -> Option<Codec> {
    let stream = descriptor(descriptors, 3)?;
    let flags = *stream.get(2)?;
    // Without what may stand before it.
    let decoder = descriptor(stream.get(3..)?, 4).filter(|_| flags & 0xe0 == 0)?;
    let is_aac = matches!(decoder.first()?, 0x40 | 0x66..=0x68);
    let config = descriptor(decoder.get(13..)?, 5).filter(|_| is_aac)?;
    Codec::of_aac(config)
}

/// The content of a descriptor that begins here.
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&[tag])?;
    let mut size = 0;
    for (at, byte) in rest.iter().enumerate().take(4) {
        size = size << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return rest.get(at + 1..)?.get(..size);
        }
    }
    None
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
