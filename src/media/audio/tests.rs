//! Recordings as programs write them, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::media::spelling::Spelling;

/// The fields of a `fmt ` chunk: tag, channels, rate, byte rate, block, bits.
fn fmt(tag: u16, channels: u16, rate: u32, byte_rate: u32, block: u16, bits: u16) -> Vec<u8> {
    let pair = |value: u16| value.to_le_bytes();
    let head = [pair(tag), pair(channels)].concat();
    let rates = [rate.to_le_bytes(), byte_rate.to_le_bytes()].concat();
    chunk(*b"fmt ", &[head, rates, pair(block).to_vec(), pair(bits).to_vec()].concat())
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&kind, &length[..], data].concat()
}

fn a_wav(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"RIFF\xff\xff\xff\xffWAVE", &chunks.concat()[..]].concat()
}

fn of(bytes: &[u8]) -> Option<(u64, LengthBasis)> {
    audio_length(&Spelling::plain().token(bytes)).map(|length| (length.millis, length.basis))
}

#[test]
fn a_wav_is_as_long_as_its_bytes_at_its_rate() {
    // A second of 16-bit mono at 24 kHz, and 44 bytes of header.
    let wav = a_wav(&[fmt(1, 1, 24_000, 48_000, 2, 16), chunk(*b"data", &vec![0; 48_000])]);
    let (millis, basis) = of(&wav).unwrap();
    assert_eq!(basis, LengthBasis::Measured);
    assert!((1_000..1_003).contains(&millis), "{millis}");
    let list = chunk(*b"LIST", b"INFOISFT");
    let with_list = a_wav(&[fmt(1, 2, 8_000, 32_000, 4, 16), list, chunk(*b"data", &vec![0; 64_000])]);
    let (millis, basis) = of(&with_list).unwrap();
    assert!(basis == LengthBasis::Measured && (2_000..2_004).contains(&millis), "{millis}");
}

#[test]
fn the_longest_of_a_wavs_figures_counts() {
    let data = || chunk(*b"data", &[0; 8_000]);
    for (name, wav, seconds) in [
        ("one sample a second", a_wav(&[fmt(1, 1, 1, 1, 1, 8), data()]), 8_000),
        ("a byte rate that is too high", a_wav(&[fmt(1, 1, 1, 48_000, 1, 8), data()]), 8_000),
        ("a byte rate that is too low", a_wav(&[fmt(1, 1, 8_000, 4, 1, 8), data()]), 2_000),
        ("blocks larger than a sample", a_wav(&[fmt(1, 1, 8, 8_000, 1_000, 8), data()]), 1_000),
        (
            "a size that is too small",
            a_wav(&[fmt(1, 1, 8, 8, 1, 8), b"data\x02\0\0\0".to_vec(), vec![0; 8_000]]),
            1_000,
        ),
        (
            "a size that is too large",
            a_wav(&[fmt(1, 1, 8, 8, 1, 8), b"data\xff\xff\xff\xff".to_vec(), vec![0; 8_000]]),
            1_000,
        ),
        ("two headers", a_wav(&[fmt(1, 1, 8_000, 8_000, 1, 8), fmt(1, 1, 8, 8, 1, 8), data()]), 1_000),
        (
            "a header after the samples",
            a_wav(&[fmt(1, 1, 8_000, 8_000, 1, 8), data(), fmt(1, 1, 8, 8, 1, 8)]),
            1_000,
        ),
    ] {
        let (millis, _) = of(&wav).unwrap();
        assert!(millis >= seconds * 1_000, "{name}: {millis}");
    }
}

#[test]
fn nothing_bounds_a_wav_of_unknown_samples() {
    let data = || chunk(*b"data", &[0; 800]);
    for (name, wav) in [
        ("ADPCM", a_wav(&[fmt(2, 1, 8_000, 4_000, 256, 4), data()])),
        ("MP3 inside", a_wav(&[fmt(0x55, 1, 8_000, 1_000, 1, 0), data()])),
        ("no sample rate", a_wav(&[fmt(1, 1, 0, 8_000, 1, 8), data()])),
        ("no channel", a_wav(&[fmt(1, 0, 8_000, 8_000, 1, 8), data()])),
        ("no bits", a_wav(&[fmt(1, 1, 8_000, 8_000, 1, 0), data()])),
        ("no header", a_wav(&[data()])),
        ("extensible without its extension", a_wav(&[fmt(0xfffe, 1, 8_000, 8_000, 1, 8), data()])),
        ("an odd chunk", a_wav(&[fmt(1, 1, 8_000, 8_000, 1, 8), chunk(*b"LIST", b"odd"), vec![0], data()])),
        ("Ogg", b"OggS\0\x02 and so on and on".to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(of(&wav), None, "{name}");
    }
}

fn mp3_frames(head: [u8; 4], count: usize) -> Vec<u8> {
    let bytes = usize::try_from(frame(head).unwrap().bytes).unwrap();
    [&head[..], &vec![0; bytes - 4]].concat().repeat(count)
}

/// MPEG-1, layer III, 128 kbit/s, 44.1 kHz.
const USUAL: [u8; 4] = [0xff, 0xfb, 0x90, 0];
/// MPEG-2, layer III, 8 kbit/s, 24 kHz.
const THIN: [u8; 4] = [0xff, 0xf3, 0x14, 0];

#[test]
fn an_mp3_is_as_long_as_its_frames() {
    let hundred = mp3_frames(USUAL, 100);
    assert_eq!(hundred.len(), 41_700);
    assert_eq!(of(&hundred), Some((2_613, LengthBasis::Measured)), "100 times 26.12 ms");
    let thin = mp3_frames(THIN, 100);
    assert_eq!(thin.len(), 2_400);
    assert_eq!(of(&thin), Some((2_400, LengthBasis::Measured)));
    let tagged = [b"ID3\x04\0\0\0\0\x02\0", &[0; 256][..], &hundred].concat();
    assert_eq!(of(&tagged), Some((2_613, LengthBasis::Measured)));
}

#[test]
fn what_is_not_frames_of_one_kind_may_be_the_thinnest() {
    let usual = mp3_frames(USUAL, 10);
    for (name, rest) in [
        ("other frames", mp3_frames(THIN, 50)),
        ("junk and frames", [&[0; 3][..], &mp3_frames(USUAL, 50)].concat()),
        ("frames without a fixed rate", [0xff, 0xfb, 0, 0].repeat(100)),
        ("a cut frame", vec![0xff, 0xfb, 0x90, 0, 0]),
    ] {
        let (millis, basis) = of(&[usual.clone(), rest.clone()].concat()).unwrap();
        assert_eq!(basis, LengthBasis::Longest, "{name}");
        assert!(millis >= 261 + 10 * u64::try_from(rest.len()).unwrap(), "{name}: {millis}");
    }
    let no_frames = [b"ID3\x04\0\0\0\0\x7f\x7f", &mp3_frames(THIN, 50)[..]].concat();
    let (millis, basis) = of(&no_frames).unwrap();
    assert!(basis == LengthBasis::Longest && millis >= 11 * 1_200, "{millis}");
}

proptest! {
    #[test]
    fn a_length_survives_any_spelling(
        spelling in Spelling::any(), rate in 1_u32..200_000, bits in prop::sample::select(vec![8_u16, 16, 24, 32]), bytes in 0_usize..3_000,
    ) {
        let block = bits / 8;
        let byte_rate = rate * u32::from(block);
        let wav = a_wav(&[fmt(1, 1, rate, byte_rate, block, bits), chunk(*b"data", &vec![7; bytes])]);
        let length = audio_length(&spelling.token(&wav)).unwrap();
        prop_assert!(length.millis * u64::from(byte_rate) >= u64::try_from(bytes).unwrap() * 1_000);
        let frames = mp3_frames(USUAL, 1 + bytes / 100);
        prop_assert_eq!(audio_length(&spelling.token(&frames)).map(|length| length.basis), Some(LengthBasis::Measured));
    }

    #[test]
    fn bytes_that_are_changed_break_nothing(
        spelling in Spelling::any(), is_mp3: bool, changes in prop::collection::vec((0_usize..600, any::<u8>()), 1..6),
    ) {
        let wav = a_wav(&[fmt(1, 1, 8_000, 8_000, 1, 8), chunk(*b"data", &[7; 300])]);
        let mut bytes = if is_mp3 { mp3_frames(THIN, 30) } else { wav };
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = audio_length(&spelling.token(&bytes));
    }
}
