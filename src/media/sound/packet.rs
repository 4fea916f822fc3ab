//! How long packets of a codec last.

use crate::media::audio::span;

/// The longest that one packet of Opus lasts (RFC 6716, 3.2.5).
const OPUS_NS_MAX: u64 = 120_000_000;
/// Sample rates by their index in AAC (ISO/IEC 14496-3, 1.6.3.4).
pub(in crate::media) const AAC_RATES: [u64; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// The largest frame of AAC, in bytes: 6,144 bits for each of two channels (ISO/IEC 14496-3,
/// 4.5.3.1). A larger packet is more than one frame, or one of more channels.
pub(in crate::media) const AAC_FRAME_BYTES_MAX: u64 = 1_536;
/// Samples of a frame of AAC.
pub(in crate::media) const AAC_SAMPLES: u64 = 1_024;

/// The lowest rate that lossy sound is taken to have where its frames can't be counted, in bits a
/// second: that of AMR (3GPP TS 26.071), the lowest of the codecs that phones record with.
pub const SLOWEST_BIT_RATE: u64 = 4_750;

/// A codec, with what its packets do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) enum Codec {
    /// Opus: each packet begins with its length.
    Opus,
    /// FLAC: frames say how many samples they have, and may leave their rate to the stream.
    Flac {
        /// Samples a second, by the head of the stream.
        rate: u64,
    },
    /// AAC: a packet should be one frame, but decoders play all that are in it.
    Aac {
        /// Samples a second.
        rate: u64,
    },
    /// A lossy codec whose packets are not read: AMR, AC-3.
    Lossy,
    /// Packets that have no more samples than this, as decoders read one frame from each.
    Even {
        /// The samples of a packet.
        samples: u64,
        /// Samples a second.
        rate: u64,
    },
}

impl Codec {
    /// The codec of a stream of Ogg by its first packet; `None` for any other.
    pub(in crate::media) fn of_ogg(packet: &[u8]) -> Option<Self> {
        if packet.starts_with(b"OpusHead") {
            return Some(Self::Opus);
        }
        let flac = packet.strip_prefix(b"\x7fFLAC").and_then(|rest| rest.get(4..)).and_then(Self::of_flac);
        flac.or_else(|| Self::of_vorbis(packet))
    }

    /// FLAC, by what begins with `fLaC`.
    pub(in crate::media) fn of_flac(head: &[u8]) -> Option<Self> {
        let rate: &[u8; 3] = head.strip_prefix(b"fLaC")?.get(4 + 10..)?.first_chunk()?;
        let rate = u64::from(rate[0]) << 12 | u64::from(rate[1]) << 4 | u64::from(rate[2]) >> 4;
        (rate > 0).then_some(Self::Flac { rate })
    }

    /// Vorbis, by its first header: a packet adds at most half of the larger block.
    pub(in crate::media) fn of_vorbis(head: &[u8]) -> Option<Self> {
        let head = head.strip_prefix(b"\x01vorbis")?;
        let rate = u64::from(u32::from_le_bytes(*head.get(5..)?.first_chunk()?));
        let larger = head.get(21)? >> 4;
        ((6..=13).contains(&larger) && rate > 0).then(|| Self::Even { samples: (1 << larger) / 2, rate })
    }

    /// AAC by its `AudioSpecificConfig`; `None` for object types of other frames.
    pub(in crate::media) fn of_aac(config: &[u8]) -> Option<Self> {
        let &[first, second] = config.first_chunk()?;
        // Main, LC, SSR, LTP, and LC with what doubles its rate, but not its frames.
        let is_known = matches!(first >> 3, 1..=5 | 29);
        let rate = *AAC_RATES.get(usize::from((first & 7) << 1 | second >> 7))?;
        is_known.then_some(Self::Aac { rate })
    }

    /// The longest that so many packets last that have so many bytes in all, in nanoseconds; of
    /// AAC those bytes alone that are in packets larger than a frame. `None` if nothing useful
    /// bounds it, as silence in FLAC takes no room.
    pub(in crate::media) fn longest(self, packets: u64, bytes: u64) -> Option<u64> {
        let by_rate = span(bytes.saturating_mul(8), SLOWEST_BIT_RATE);
        match self {
            Self::Opus => Some(OPUS_NS_MAX.saturating_mul(packets)),
            Self::Flac { .. } => None,
            Self::Aac { rate } => {
                Some(span(AAC_SAMPLES, rate).saturating_mul(packets).saturating_add(by_rate))
            }
            Self::Lossy => Some(by_rate),
            Self::Even { samples, rate } => Some(span(samples, rate).saturating_mul(packets)),
        }
    }
}

/// How long a packet of Opus lasts (RFC 6716, 3.1), in nanoseconds; `None` if it is none.
pub(in crate::media) fn opus(packet: &[u8]) -> Option<u64> {
    let &first = packet.first()?;
    let frame_ns = match first >> 3 {
        silk @ 0..=11 => [10, 20, 40, 60][usize::from(silk % 4)] * 1_000_000,
        hybrid @ 12..=15 => [10, 20][usize::from(hybrid % 2)] * 1_000_000,
        celt => 2_500_000 << (celt % 4),
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1)? & 0x3f),
    };
    Some((frame_ns * frames).min(OPUS_NS_MAX))
}

/// The longest head of a FLAC frame, in bytes.
pub(in crate::media) const FLAC_HEAD_BYTES_MAX: usize = 16;

/// A frame of FLAC (RFC 9639, 9.1); `None` if it does not begin with a whole head that its
/// checksum fits.
pub(in crate::media) fn flac(frame: &[u8], stream_rate: u64) -> Option<u64> {
    let &[0xff, sync, sizes, channels] = frame.first_chunk()? else { return None };
    let is_head = sync & 0xfe == 0xf8 && channels >> 4 < 11 && channels & 1 == 0;
    let number_bytes = match frame.get(4)?.leading_ones() {
        0 => 1,
        ones @ 2..=7 => usize::try_from(ones).ok()?,
        _ => return None,
    };
    let mut at = 4 + number_bytes;
    let mut extra = |bytes: usize| {
        let value = frame.get(at..at + bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        at += bytes;
        Some(value)
    };
    let samples = match sizes >> 4 {
        0 => return None,
        1 => 192,
        few @ 2..=5 => 576 << (few - 2),
        6 => extra(1)? + 1,
        7 => extra(2)? + 1,
        more => 256 << (more - 8),
    };
    let rate = match sizes & 0x0f {
        0 => stream_rate,
        12 => extra(1)? * 1_000,
        13 => extra(2)?,
        14 => extra(2)? * 10,
        15 => return None,
        known => [88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]
            [usize::from(known - 1)],
    };
    let is_whole = is_head && rate > 0 && crc8(frame.get(..at)?) == *frame.get(at)?;
    is_whole.then(|| span(samples, rate))
}

/// The checksum of a head of FLAC: x⁸ + x² + x + 1.
fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_opus_lasts_as_its_first_byte_says() {
        let ms = |packet: &[u8]| opus(packet).map(|ns| (ns / 1_000, ns % 1_000));
        assert_eq!(ms(&[0x00]), Some((10_000, 0)), "SILK");
        assert_eq!(ms(&[3 << 3 | 1]), Some((120_000, 0)), "two of 60 ms");
        assert_eq!(ms(&[13 << 3]), Some((20_000, 0)), "hybrid");
        assert_eq!(ms(&[16 << 3]), Some((2_500, 0)), "CELT");
        assert_eq!(ms(&[31 << 3 | 3, 0x85]), Some((100_000, 0)), "five of 20 ms");
        assert_eq!(ms(&[31 << 3 | 3, 0x3f]), Some((120_000, 0)), "no packet is longer");
        assert_eq!((ms(&[]), ms(&[3])), (None, None));
    }

    #[test]
    fn a_head_of_flac_counts_if_its_checksum_fits() {
        // The first frame that ffmpeg 5.1 writes: 4,608 samples at 48 kHz, mono, 16 bits.
        let head = [0xff, 0xf8, 0x7a, 0x08, 0x00, 0x11, 0xff];
        let mut whole = head.to_vec();
        whole.push(crc8(&head));
        assert_eq!(flac(&whole, 1), Some(96_000_000));
        whole[3] ^= 0x10;
        assert_eq!(flac(&whole, 1), None);
        assert_eq!(crc8(b"123456789"), 0xf4, "as published for CRC-8");
    }

    #[test]
    fn packets_of_aac_last_as_long_as_their_bytes_can() {
        let aac = Codec::Aac { rate: 16_000 };
        assert_eq!(aac.longest(10, 0), Some(640_000_000), "10 frames");
        // Many frames in a packet.
        assert_eq!(aac.longest(1, 4_750), Some(8_064_000_000));
        assert_eq!(Codec::Lossy.longest(1, 4_750), Some(8_000_000_000));
        assert_eq!(Codec::Flac { rate: 16_000 }.longest(1, 14), None);
    }
}
