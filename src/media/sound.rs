//! Measures sound while it passes, by its frames, without decoding any.
//!
//! Nothing is kept but the beginning of a frame. What can't be read gives no length; it is
//! never guessed.

pub(in crate::media) mod flac;
pub(in crate::media) mod ogg;
pub(in crate::media) mod packet;

use self::flac::FlacFrames;
use self::ogg::OggPackets;
use self::packet::{AAC_RATES, AAC_SAMPLES};
use super::audio::{self, span};

/// Bytes of a second of the plain samples that OpenAI makes: 24 kHz, 16 bits, one channel.
const PLAIN_BYTE_RATE: u64 = 48_000;
/// The head of a WAV, in bytes.
const WAV_HEAD_BYTES: usize = 44;
/// The head of a frame of ADTS, and the longest head, which is that of an `ID3v2` tag.
const ADTS_HEAD_BYTES: usize = 7;
const HEAD_BYTES: usize = 10;

/// How long the sound lasts that has passed.
#[derive(Debug)]
pub struct SoundMeter {
    form: Form,
    bytes: u64,
}

#[derive(Debug)]
enum Form {
    /// Its first bytes have not come.
    Open(Vec<u8>),
    /// Samples, after a head.
    Samples {
        head: u64,
        byte_rate: u64,
    },
    Frames(Frames),
    Ogg(OggPackets),
    Flac(FlacFrames),
    Unread,
}

impl SoundMeter {
    /// A meter of what is requested as plain samples, or in a form that its first bytes name:
    /// WAV, MP3, AAC, FLAC, Ogg.
    pub fn new(is_plain: bool) -> Self {
        let plain = Form::Samples { head: 0, byte_rate: PLAIN_BYTE_RATE };
        Self { form: if is_plain { plain } else { Form::Open(Vec::new()) }, bytes: 0 }
    }

    /// Takes up the next bytes.
    pub fn feed(&mut self, part: &[u8]) {
        self.bytes = self.bytes.saturating_add(to_u64(part.len()));
        match &mut self.form {
            Form::Open(start) => {
                start.extend_from_slice(part);
                if start.len() >= WAV_HEAD_BYTES {
                    let start = std::mem::take(start);
                    self.form = Form::of(&start);
                    self.form.feed(&start);
                }
            }
            form @ (Form::Samples { .. } | Form::Frames(_) | Form::Ogg(_) | Form::Flac(_) | Form::Unread) => {
                form.feed(part);
            }
        }
    }

    /// Takes up the end.
    pub fn finish(&mut self) {
        match &mut self.form {
            Form::Ogg(packets) => packets.finish(),
            Form::Flac(frames) => frames.finish(),
            Form::Open(_) | Form::Samples { .. } | Form::Frames(_) | Form::Unread => {}
        }
    }

    /// The length of what has passed in milliseconds, rounded up; `None` if it can't be read.
    pub fn millis(&self) -> Option<u64> {
        let nanos = match &self.form {
            Form::Open(_) | Form::Unread => None,
            Form::Samples { head, byte_rate } => Some(span(self.bytes.saturating_sub(*head), *byte_rate)),
            Form::Frames(frames) => Some(frames.nanos),
            Form::Ogg(packets) => packets.nanos(),
            Form::Flac(frames) => frames.nanos(),
        };
        nanos.map(|nanos| nanos.div_ceil(1_000_000))
    }
}

impl Form {
    /// The form of a sound by its first bytes.
    fn of(start: &[u8]) -> Self {
        match start {
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', b'f', b'm', b't', b' ', ..] => {
                let rate =
                    start.get(28..).and_then(<[u8]>::first_chunk).map(|rate| u32::from_le_bytes(*rate));
                let byte_rate = u64::from(rate.unwrap_or(0));
                let samples = Self::Samples { head: to_u64(WAV_HEAD_BYTES), byte_rate };
                if byte_rate > 0 { samples } else { Self::Unread }
            }
            [b'O', b'g', b'g', b'S', ..] => Self::Ogg(OggPackets::default()),
            [b'f', b'L', b'a', b'C', ..] => Self::Flac(FlacFrames::default()),
            [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..] => Self::Frames(Frames::default()),
            _ => Self::Unread,
        }
    }

    fn feed(&mut self, part: &[u8]) {
        match self {
            Self::Frames(frames) => {
                if frames.feed(part).is_none() {
                    *self = Self::Unread;
                }
            }
            Self::Ogg(packets) => packets.feed(part),
            Self::Flac(frames) => frames.feed(part),
            Self::Open(_) | Self::Samples { .. } | Self::Unread => {}
        }
    }
}

/// Frames that say how long they are: of MP3, or of AAC in ADTS.
#[derive(Debug, Default)]
struct Frames {
    /// The beginning of a head.
    head: Vec<u8>,
    /// Bytes that belong to what has been counted.
    skip: usize,
    nanos: u64,
}

impl Frames {
    /// Takes up the next bytes; `None` where no frame stands.
    fn feed(&mut self, mut part: &[u8]) -> Option<()> {
        while !part.is_empty() {
            let skipped = self.skip.min(part.len());
            self.skip -= skipped;
            part = &part[skipped..];
            let missing = (HEAD_BYTES - self.head.len()).min(part.len());
            self.head.extend_from_slice(&part[..missing]);
            part = &part[missing..];
            if self.head.len() == HEAD_BYTES {
                let Head { bytes, nanos } = head(&self.head)?;
                self.nanos = self.nanos.saturating_add(nanos);
                // A head that is longer than its frame belongs to the next one, too.
                let taken = self.head.len().min(bytes);
                self.head.drain(..taken);
                self.skip = bytes - taken;
            }
        }
        Some(())
    }
}

/// What a head says of its frame.
struct Head {
    bytes: usize,
    nanos: u64,
}

/// The head of a frame, or of an `ID3v2` tag before the first.
fn head(bytes: &[u8]) -> Option<Head> {
    let &[first, second, third, fourth, fifth, sixth, seventh, ..] = bytes else { return None };
    if let Some(bytes) = tag_bytes(bytes) {
        return Some(Head { bytes, nanos: 0 });
    }
    // ADTS has no layer.
    if first == 0xff && second & 0xf6 == 0xf0 {
        let rate = *AAC_RATES.get(usize::from(third >> 2 & 0x0f))?;
        let length = usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5);
        let blocks = u64::from(seventh & 3) + 1;
        return (length >= ADTS_HEAD_BYTES)
            .then(|| Head { bytes: length, nanos: span(AAC_SAMPLES * blocks, rate) });
    }
    let frame = audio::frame([first, second, third, fourth])?;
    Some(Head { bytes: usize::try_from(frame.bytes).ok()?, nanos: span(frame.samples, frame.rate) })
}

/// The size of an `ID3v2` tag, if one begins here that decoders take for a tag.
pub(in crate::media) fn tag_bytes(bytes: &[u8]) -> Option<usize> {
    let &[b'I', b'D', b'3', major, minor, flags, ref sizes @ ..] = bytes.first_chunk::<HEAD_BYTES>()? else {
        return None;
    };
    if major == 0xff || minor == 0xff || sizes.iter().any(|byte| *byte > 0x7f) {
        return None;
    }
    // Four times seven bits; a footer is as long as the head.
    let size = sizes.iter().fold(0, |size, byte| size << 7 | usize::from(*byte));
    let footer = if flags & 0x10 == 0 { 0 } else { HEAD_BYTES };
    Some(size + HEAD_BYTES + footer)
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
