//! Recordings as ffmpeg writes them, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::media::sound::SoundMeter;

/// A recording of `tests/fixtures/audio`, with the samples of 16 kHz that ffmpeg reads from it.
macro_rules! recorded {
    ($name:literal, $samples:literal) => {
        ($name, include_bytes!(concat!("../../../tests/fixtures/audio/", $name)).as_slice(), $samples)
    };
}

const MEASURED: [(&str, &[u8], u64); 13] = [
    recorded!("spoken.wav", 46_290),
    recorded!("spoken.mp3", 46_289),
    recorded!("spoken.mpga", 47_232),
    recorded!("spoken.flac", 46_290),
    recorded!("flac.ogg", 46_290),
    recorded!("opus.ogg", 46_289),
    recorded!("vorbis.ogg", 46_289),
    recorded!("spoken.m4a", 47_104),
    recorded!("fragments.mp4", 48_128),
    recorded!("alac.m4a", 46_290),
    recorded!("spoken.webm", 46_289),
    recorded!("vorbis.webm", 46_592),
    recorded!("mp3.mkv", 47_394),
];

fn file(name: &str) -> Vec<u8> {
    MEASURED.iter().find(|(known, ..)| *known == name).unwrap().1.to_vec()
}

/// The milliseconds of so many samples of 16 kHz.
fn ms(samples: u64) -> u64 {
    samples.div_ceil(16)
}

#[test]
fn a_recording_is_no_shorter_than_what_a_decoder_reads_and_little_longer() {
    for (name, bytes, samples) in MEASURED {
        let Recording { millis, basis } = recording(bytes).unwrap();
        let read = ms(samples);
        // What is beside the sound of a WAV counts as sound, packets of Vorbis as the longest kind,
        // and the last frame as a whole one.
        let slack = match name {
            "vorbis.ogg" | "vorbis.webm" => 1_500,
            "alac.m4a" => 512,
            _ => 150,
        };
        assert!((read..read + slack).contains(&millis), "{name}: {millis}, not {read}");
        assert_eq!(basis, LengthBasis::Measured, "{name}");
    }
}

#[test]
fn a_tag_before_the_recording_is_passed_over() {
    for (name, bytes, samples) in MEASURED {
        let tag = [b"ID3\x04\0\0\0\0\x02\0", &[0xff; 256][..]].concat();
        let Recording { millis, .. } = recording(&[&tag, bytes].concat()).unwrap();
        assert!((ms(samples)..ms(samples) + 1_800).contains(&millis), "{name}: {millis}");
    }
}

#[test]
fn what_is_not_read_lasts_as_long_as_its_bytes_can() {
    let mpeg = include_bytes!("../../../tests/fixtures/audio/spoken.mpeg");
    for (name, bytes) in [
        ("MPEG program stream", &mpeg[..]),
        ("text", b"To be, or not to be".repeat(50).as_slice()),
        ("a WAV of another codec", &{
            let mut wav = file("spoken.wav");
            wav[20] = 0x11;
            wav
        }),
        ("an MP4 without its tables", &{
            let mp4 = file("spoken.m4a");
            let tables = memchr::memmem::find(&mp4, b"moov").unwrap();
            mp4[..tables - 4].to_vec()
        }),
        ("an MP4 of another codec", &memmem_replaced(file("spoken.m4a"), b"mp4a", b"samr")),
        ("a WebM of another codec", &memmem_replaced(file("spoken.webm"), b"A_OPUS", b"A_ABCD")),
        ("a WebM of packets in another form", &{
            let webm = file("spoken.webm");
            let codec = memchr::memmem::find(&webm, b"A_OPUS").unwrap();
            [&webm[..codec - 2], b"\x6d\x80\x80", &webm[codec - 2..]].concat()
        }),
        ("an Ogg of another codec", &memmem_replaced(file("opus.ogg"), b"OpusHead", b"Speex   ")),
    ] {
        let Recording { millis, basis } = recording(bytes).unwrap();
        let longest = u64::try_from(bytes.len()).unwrap() * 8_000 / 4_750;
        assert!((longest..=longest + 1).contains(&millis), "{name}: {millis}, not {longest}");
        assert_eq!(basis, LengthBasis::Longest, "{name}");
    }
}

fn memmem_replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = memchr::memmem::find(&bytes, from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn a_claim_changes_nothing_where_frames_are_counted() {
    let of = |bytes: &[u8]| recording(bytes).unwrap().millis;
    // A WAV that claims 2 GB.
    let mut wav = file("spoken.wav");
    wav[40..44].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    assert_eq!(of(&wav), of(&file("spoken.wav")));
    // A FLAC that claims one sample; its last frame decides.
    let mut flac = file("spoken.flac");
    flac[8 + 14..8 + 18].copy_from_slice(&[0, 0, 0, 1]);
    assert_eq!(of(&flac), of(&file("spoken.flac")));
    // An MP3 whose header claims one frame.
    let mp3 = file("spoken.mp3");
    let xing = memchr::memmem::find(&mp3, b"Info").or_else(|| memchr::memmem::find(&mp3, b"Xing")).unwrap();
    let mut false_header = mp3.clone();
    false_header[xing + 8..xing + 12].copy_from_slice(&[0, 0, 0, 1]);
    assert_eq!(of(&false_header), of(&mp3));
    // An MP4 whose samples last no time, and whose movie lasts no time.
    for table in [b"stts", b"mvhd", b"mdhd"] {
        let mut mp4 = file("spoken.m4a");
        let at = memchr::memmem::find(&mp4, table).unwrap();
        let end = at + if table == b"stts" { 16 } else { 24 };
        mp4[end - 4..end].copy_from_slice(&[0, 0, 0, 0]);
        assert_eq!(of(&mp4), of(&file("spoken.m4a")), "{}", String::from_utf8_lossy(table));
    }
    // An Ogg whose last page says that it ends at once.
    let mut ogg = file("opus.ogg");
    let last = memchr::memmem::rfind(&ogg, b"OggS").unwrap();
    ogg[last + 6..last + 14].copy_from_slice(&[0; 8]);
    assert_eq!(of(&ogg), of(&file("opus.ogg")));
}

#[test]
fn a_rate_that_lies_makes_the_recording_longer_never_shorter() {
    // One byte a second.
    let mut wav = file("spoken.wav");
    wav[28..32].copy_from_slice(&1_u32.to_le_bytes());
    let slow = recording(&wav).unwrap();
    assert_eq!(slow, Recording { millis: 46_368_000, basis: LengthBasis::Longest });
    // As many bytes a second as there can be.
    wav[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(recording(&wav).unwrap().millis >= ms(46_290));
}

#[test]
fn a_file_that_is_cut_off_is_no_shorter_than_what_is_left() {
    for (name, bytes, samples) in MEASURED {
        for part in 12..16 {
            let left = &bytes[..bytes.len() * part / 16];
            let Some(Recording { millis, .. }) = recording(left) else { continue };
            // Heads take a part of the bytes, and none of the time.
            let at_least = ms(samples) * u64::try_from(part).unwrap() / 16;
            assert!(millis + 700 >= at_least, "{name}, {part} of 16: {millis}, not {at_least}");
        }
    }
}

#[test]
fn a_file_that_nothing_bounds_is_not_taken() {
    let edit = |times: &[i32]| {
        let count = u32::try_from(times.len()).unwrap().to_be_bytes();
        let entry = |time: &i32| [&1_000_u32.to_be_bytes()[..], &time.to_be_bytes(), &[0, 1, 0, 0]].concat();
        let list = [&[0; 4][..], &count, &times.iter().flat_map(entry).collect::<Vec<u8>>()].concat();
        let size = u32::try_from(list.len() + 8).unwrap().to_be_bytes();
        let mp4 = file("spoken.m4a");
        // In front of all, where its place in the tree does not matter.
        let first = usize::try_from(u32::from_be_bytes(*mp4.first_chunk().unwrap())).unwrap();
        [&mp4[..first], &size, b"elst", &list, &mp4[first..]].concat()
    };
    assert!(recording(&edit(&[-1, 0])).is_some(), "a pause, then all");
    assert_eq!(recording(&edit(&[0, 0])), None, "all of it twice");
    assert_eq!(recording(&edit(&[-1; 17])), None);
    assert_eq!(recording(&memmem_replaced(file("spoken.m4a"), b"stts", b"cmov")), None);
    let aac = include_bytes!("../../../tests/fixtures/audio/spoken.aac");
    assert_eq!(recording(aac), None, "AAC without a container");
    // A stream that begins as Vorbis and then says that it is Opus.
    let (vorbis, mut opus) = (file("vorbis.ogg"), file("opus.ogg"));
    opus[14..18].copy_from_slice(&vorbis[14..18]);
    assert_eq!(recording(&[vorbis, opus].concat()), None);
}

#[test]
fn chained_streams_last_as_long_as_all_of_them() {
    let (opus, vorbis) = (file("opus.ogg"), file("vorbis.ogg"));
    let both = recording(&[opus.clone(), vorbis.clone()].concat()).unwrap().millis;
    assert!(both + 1 >= recording(&opus).unwrap().millis + recording(&vorbis).unwrap().millis);
    let twice = recording(&[opus.clone(), opus.clone()].concat()).unwrap().millis;
    assert!(twice + 1 >= 2 * recording(&opus).unwrap().millis);
}

/// What a meter finds in sound that comes in parts of this size.
fn passed(bytes: &[u8], part: usize) -> Option<u64> {
    let mut meter = SoundMeter::new(false);
    for part in bytes.chunks(part.max(1)) {
        meter.feed(part);
    }
    meter.finish();
    meter.millis()
}

#[test]
fn sound_is_measured_as_it_passes_however_it_is_cut() {
    let aac = include_bytes!("../../../tests/fixtures/audio/spoken.aac");
    let formats = ["spoken.wav", "spoken.mp3", "spoken.flac", "opus.ogg"].map(|name| (name, file(name)));
    for (name, bytes) in formats.into_iter().chain([("spoken.aac", aac.to_vec())]) {
        for part in [1, 7, 1_000, bytes.len()] {
            let millis = passed(&bytes, part).unwrap_or_default();
            assert!((2_890..3_120).contains(&millis), "{name} in parts of {part}: {millis}");
        }
    }
    let mut plain = SoundMeter::new(true);
    plain.feed(&vec![0; 48_001]);
    assert_eq!(plain.millis(), Some(1_001));
    assert_eq!(passed(b"<html>an error that is longer than any head of sound</html>", 5), None);
    assert_eq!(passed(b"", 5), None);
    let mut broken = file("spoken.mp3");
    broken[4_000..4_010].fill(0);
    assert_eq!(passed(&broken[..], 100).is_none(), passed(&broken[..], 9).is_none());
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(
        start in proptest::sample::select(MEASURED.map(|(name, ..)| name).to_vec()),
        at in 0_usize..8_000, junk in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = file(start);
        let at = at % bytes.len();
        let end = (at + junk.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&junk[..end - at]);
        let _ = recording(&bytes);
        prop_assert_eq!(passed(&bytes, 13), passed(&bytes, 4_096));
    }
}
