//! Adds up the samples of an MP4 (ISO/IEC 14496-12), by its own tables.
//!
//! A sample is a packet of the codec, and lasts as long as the codec says; the times that the
//! tables state are not used.

use crate::media::sound::packet::{AAC_FRAME_BYTES_MAX, Codec};

/// The most tracks that are read, and the depth to which boxes are opened.
const TRACKS_MAX: usize = 64;
const DEPTH_MAX: usize = 8;
/// The sample description of a track of sound, up to its own boxes.
const SOUND_ENTRY_BYTES: usize = 36;

/// What the boxes of a file say.
#[derive(Debug, Default)]
struct Movie {
    tracks: Vec<Track>,
    /// Samples of fragments, by their tracks.
    fragments: Vec<Fragment>,
    /// The fragment that is being read.
    fragment: Fragment,
    /// The largest size that samples of fragments have where these say none.
    size: u64,
}

#[derive(Debug, Default)]
struct Track {
    id: u32,
    is_sound: bool,
    codec: Option<Codec>,
    samples: Samples,
}

/// Samples of a fragment.
#[derive(Clone, Copy, Debug, Default)]
struct Fragment {
    /// Its track, once that is known.
    track: Option<u32>,
    /// The size of samples that say none.
    size: Option<u64>,
    samples: Samples,
}

/// How many samples there are, and bytes of them.
#[derive(Clone, Copy, Debug, Default)]
struct Samples {
    count: u64,
    bytes: u64,
    /// Those in samples that are larger than a frame of AAC.
    large: u64,
}

impl Samples {
    /// Samples of these sizes, or, where a table is cut off, more of none.
    fn of(count: u32, sizes: impl Iterator<Item = u64>) -> Self {
        let mut samples = Self { count: count.into(), ..Self::default() };
        for size in sizes {
            samples.bytes = samples.bytes.saturating_add(size);
            samples.large = samples.large.saturating_add(if size > AAC_FRAME_BYTES_MAX { size } else { 0 });
        }
        samples
    }

    /// So many samples of one size.
    fn alike(count: u32, size: u64) -> Self {
        let bytes = size.saturating_mul(count.into());
        Self { count: count.into(), bytes, large: if size > AAC_FRAME_BYTES_MAX { bytes } else { 0 } }
    }

    const fn add(&mut self, more: Self) {
        self.count = self.count.saturating_add(more.count);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.large = self.large.saturating_add(more.large);
    }
}

/// How long the longest track of sound lasts, in nanoseconds, and whether its frames were counted;
/// `None` if nothing bounds it: a track that was not understood, tables that are hidden, a part
/// that is played more than once.
pub(super) fn nanos(bytes: &[u8]) -> Option<(u64, bool)> {
    let mut movie = Movie::default();
    movie.open(bytes, DEPTH_MAX)?;
    movie.end_fragment()?;
    let (mut longest, mut is_counted) = (0, true);
    for track in movie.tracks.iter().filter(|track| track.is_sound) {
        let mut samples = track.samples;
        for fragment in movie.fragments.iter().filter(|fragment| fragment.track == Some(track.id)) {
            samples.add(fragment.samples);
        }
        let codec = track.codec?;
        let is_aac = matches!(codec, Codec::Aac { .. });
        // Packets of Opus are counted as the longest kind, and seldom are.
        is_counted &= matches!(codec, Codec::Even { .. }) || (is_aac && samples.large == 0);
        let bytes = if is_aac { samples.large } else { samples.bytes };
        longest = longest.max(codec.longest(samples.count, bytes)?);
    }
    (longest > 0).then_some((longest, is_counted))
}

impl Movie {
    /// Reads boxes; `None` if they are not understood. Fewer bytes than the head of a box are none.
    fn open(&mut self, mut bytes: &[u8], depth: usize) -> Option<()> {
        while bytes.len() >= 8 {
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
                b"moov" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"edts" | b"mvex" => {
                    self.open(content, depth.checked_sub(1)?)?;
                }
                b"traf" => {
                    self.end_fragment()?;
                    self.open(content, depth.checked_sub(1)?)?;
                    self.end_fragment()?;
                }
                // A table of contents that is compressed.
                b"cmov" => return None,
                b"elst" => plays_once(content)?.then_some(())?,
                b"trex" => self.size = self.size.max(u64::from(be_u32(content, 16)?)),
                b"tfhd" => {
                    self.end_fragment()?;
                    self.fragment.track = Some(be_u32(content, 4)?);
                    self.fragment.size = size_of_samples(content)?;
                }
                b"trun" => {
                    self.fragment.track?;
                    self.fragment.samples.add(run(content, self.fragment.size.unwrap_or(self.size))?);
                }
                _ => self.describe(kind, content)?,
            }
        }
        Some(())
    }

    /// Adds the fragment to the others of its track; `None` if there are too many tracks.
    fn end_fragment(&mut self) -> Option<()> {
        let fragment = std::mem::take(&mut self.fragment);
        if fragment.track.is_none() {
            return Some(());
        }
        match self.fragments.iter().position(|known| known.track == fragment.track) {
            Some(known) => self.fragments[known].samples.add(fragment.samples),
            None if self.fragments.len() < TRACKS_MAX => self.fragments.push(fragment),
            None => return None,
        }
        Some(())
    }

    /// Reads a box that describes a track.
    fn describe(&mut self, kind: [u8; 4], content: &[u8]) -> Option<()> {
        let Some(track) = self.tracks.last_mut() else { return Some(()) };
        match &kind {
            b"tkhd" => track.id = be_u32(content, if content.first()? == &1 { 20 } else { 12 })?,
            b"hdlr" => track.is_sound |= content.get(8..12)? == b"soun",
            b"stsz" => track.samples.add(table(content)?),
            // Sizes of another width.
            b"stz2" => return None,
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

/// The samples of a table of sizes: one for all, or, if that is zero, one for each.
fn table(content: &[u8]) -> Option<Samples> {
    let (size, count) = (u64::from(be_u32(content, 4)?), be_u32(content, 8)?);
    if size > 0 {
        return Some(Samples::alike(count, size));
    }
    let sizes = content.get(12..)?.chunks_exact(4).take(usize::try_from(count).ok()?);
    Some(Samples::of(count, sizes.filter_map(|size| be_u32(size, 0)).map(u64::from)))
}

/// The size that a fragment gives its samples, if it does (14496-12, 8.8.7).
fn size_of_samples(tfhd: &[u8]) -> Option<Option<u64>> {
    let flags = be_u32(tfhd, 0)?;
    if flags & 0x10 == 0 {
        return Some(None);
    }
    let before: usize = [(0x01, 8), (0x02, 4), (0x08, 4)]
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, bytes)| bytes)
        .sum();
    be_u32(tfhd, 8 + before).map(|size| Some(size.into()))
}

/// The samples of a run, of this size if they say none (14496-12, 8.8.8).
fn run(trun: &[u8], size: u64) -> Option<Samples> {
    let (flags, count) = (be_u32(trun, 0)?, be_u32(trun, 4)?);
    if flags & 0x200 == 0 {
        return Some(Samples::alike(count, size));
    }
    let has = |flag: u32| usize::from(flags & flag != 0);
    let first = 8 + 4 * (has(0x01) + has(0x04));
    let (at, each) = (4 * has(0x100), 4 * (1 + has(0x100) + has(0x400) + has(0x800)));
    let samples = trun.get(first..)?.chunks_exact(each).take(usize::try_from(count).ok()?);
    Some(Samples::of(count, samples.filter_map(|sample| be_u32(sample, at)).map(u64::from)))
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
    if matches!(&kind, b"samr" | b"sawb" | b"ac-3" | b"ec-3") {
        return Some(Codec::Lossy);
    }
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
