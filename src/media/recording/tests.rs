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
        let (slack, known) = match name {
            "vorbis.ogg" | "vorbis.webm" => (1_500, LengthBasis::Measured),
            "alac.m4a" => (512, LengthBasis::Measured),
            _ => (150, LengthBasis::Measured),
        };
        assert!((read..read + slack).contains(&millis), "{name}: {millis}, not {read}");
        assert_eq!(basis, known, "{name}");
    }
}

#[test]
fn a_tag_before_the_recording_is_passed_over() {
    for (name, bytes, samples) in MEASURED {
        let tag = [b"ID3\x04\0\0\0\0\x02\0", &[0xff; 256][..]].concat();
        let tagged = recording(&[&tag, bytes].concat()).unwrap();
        assert!(tagged.millis >= ms(samples), "{name}");
        assert_eq!(Some(tagged), recording(bytes), "{name}");
    }
    // Bytes of a size have seven bits, and versions are not 255.
    let flac = file("spoken.flac");
    for tag in [b"ID3\x04\0\0\0\0\x82\0", b"ID3\xff\0\0\0\0\x02\0", b"ID3\x04\xff\0\0\0\x02\0"] {
        assert_eq!(recording(&[&tag[..], &[0xff; 256], &flac].concat()), None);
    }
}

#[test]
fn a_known_lossy_codec_lasts_as_long_as_its_bytes_can() {
    // 47 packets of 10,000 bytes or fewer.
    for kind in [b"samr", b"sawb", b"ac-3", b"ec-3"] {
        let mp4 = memmem_replaced(file("spoken.m4a"), b"mp4a", kind);
        let Recording { millis, basis } = recording(&mp4).unwrap();
        assert!((14_000..18_120).contains(&millis), "{millis}");
        assert_eq!(basis, LengthBasis::Longest);
    }
    // A WAV with a chunk of an odd length: its slowest header counts.
    let wav = file("spoken.wav");
    let odd = [&wav[..12], b"LIST\x01\0\0\0x\0", &wav[12..]].concat();
    let Recording { millis, basis } = recording(&odd).unwrap();
    assert!((ms(46_290)..ms(46_290) + 150).contains(&millis) && basis == LengthBasis::Longest, "{millis}");
}

#[test]
fn what_is_not_read_is_not_taken() {
    let mpeg = include_bytes!("../../../tests/fixtures/audio/spoken.mpeg");
    let aac = include_bytes!("../../../tests/fixtures/audio/spoken.aac");
    for (name, bytes) in [
        ("MPEG program stream", &mpeg[..]),
        ("text", b"To be, or not to be".repeat(50).as_slice()),
        ("nothing", b""),
        ("AAC after a byte", &[b"\0", &aac[..]].concat()),
        ("RF64", &memmem_replaced(file("spoken.wav"), b"RIFF", b"RF64")),
        ("AIFF", &[b"FORM\0\0\x10\0AIFFCOMM", &[0; 4_096][..]].concat()),
        ("CAF", &[b"caff\0\x01\0\0desc", &[0; 4_096][..]].concat()),
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
        ("an MP4 of FLAC", &memmem_replaced(file("spoken.m4a"), b"mp4a", b"fLaC")),
        ("a WebM of another codec", &memmem_replaced(file("spoken.webm"), b"A_OPUS", b"A_ABCD")),
        ("a WebM of packets in another form", &encoded(&file("spoken.webm"))),
        ("an Ogg of another codec", &memmem_replaced(file("opus.ogg"), b"OpusHead", b"Speex   ")),
        ("an Ogg with a page in a page", &{
            let mut ogg = file("opus.ogg");
            let last = ogg.len() - 4;
            ogg[last..].copy_from_slice(b"OggS");
            ogg
        }),
    ] {
        assert_eq!(recording(bytes), None, "{name}");
    }
}

/// A `WebM` whose first track is encoded: the element takes three bytes from the one before it.
fn encoded(webm: &[u8]) -> Vec<u8> {
    let codec = memchr::memmem::find(webm, b"A_OPUS").unwrap() - 2;
    [&webm[..codec], b"\x6d\x80\x80", &webm[codec..]].concat()
}

/// An element of Matroska.
fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
    let size = 1 << 28 | u32::try_from(content.len()).unwrap();
    [id, &size.to_be_bytes(), content].concat()
}

const CLUSTER: &[u8] = &[0x1f, 0x43, 0xb6, 0x75];

/// A Matroska file of one track with this kind, codec and head, and of these blocks.
fn matroska(kind: &[u8], codec: &[u8], head: &[u8], blocks: &[Vec<u8>]) -> Vec<u8> {
    let entry = [
        element(&[0xd7], &[1]),
        element(&[0x83], kind),
        element(&[0x86], codec),
        element(&[0x63, 0xa2], head),
    ];
    let tracks = element(&[0x16, 0x54, 0xae, 0x6b], &element(&[0xae], &entry.concat()));
    let segment = [tracks, element(CLUSTER, &blocks.concat())].concat();
    [element(&[0x1a, 0x45, 0xdf, 0xa3], b""), element(&[0x18, 0x53, 0x80, 0x67], &segment)].concat()
}

/// A block of the track, laced or not.
fn block(flags: u8, packet: &[u8]) -> Vec<u8> {
    element(&[0xa3], &[&[0x81, 0, 0, flags], packet].concat())
}

#[test]
fn every_frame_in_a_packet_counts() {
    let of = |codec: &[u8], head: &[u8], flags: u8, packet: &[u8]| {
        recording(&matroska(&[2], codec, head, &[block(flags, packet)])).map(|found| found.millis)
    };
    // MPEG-2, layer III, 8 kbit/s, 24 kHz: 24 bytes for 24 ms.
    let frame = [&[0xff, 0xf3, 0x14, 0][..], &[0; 20]].concat();
    assert_eq!(of(b"A_MPEG/L3", b"", 0, &frame), Some(24));
    assert_eq!(of(b"A_MPEG/L3", b"", 0, &frame.repeat(50)), Some(1_200));
    assert_eq!(of(b"A_MPEG/L3", b"", 0, &[&frame[..], &[0; 100]].concat()), Some(24 + 100 * 11));
    assert!(of(b"A_MPEG/L3", b"", 6, &frame.repeat(50)) >= Some(1_200));
    let flac = file("spoken.flac");
    let frames = &flac[memchr::memmem::find(&flac, &[0xff, 0xf8]).unwrap()..];
    let all = of(b"A_FLAC", &flac[..42], 0, frames).unwrap();
    assert_eq!(Some(all), recording(&flac).map(|found| found.millis), "the whole stream as one packet");
    assert_eq!(of(b"A_FLAC", &flac[..42], 6, frames), None, "laced");
    // 16 kHz, mono.
    assert_eq!(of(b"A_AAC", &[0x14, 0x08], 0, &[0; 5]), Some(64));
    assert_eq!(of(b"A_AAC", &[0x14, 0x08], 0, &[0; 4_750]), Some(8_064));
    // All of a stream of Ogg as the packet of one page after the other.
    let ogg = file("flac.ogg");
    let read = recording(&ogg).unwrap().millis;
    let mut page = b"OggS\0\0\0\0\0\0\0\0\0\0".to_vec();
    page.extend_from_slice(&ogg[14..18]);
    page.extend_from_slice(&[0; 8]);
    page.push(255);
    page.extend_from_slice(&[255; 255]);
    page.extend_from_slice(&[frames, &vec![0; 65_025]].concat()[..65_025]);
    assert!(recording(&[ogg, page].concat()).unwrap().millis + 1 >= read + all);
}

#[test]
fn a_track_is_described_by_its_head_alone() {
    let packets = [block(0, &[3 << 3, 0])];
    let whole = matroska(&[2], b"A_OPUS", b"", &packets);
    assert_eq!(recording(&whole).map(|found| found.millis), Some(60));
    assert_eq!(recording(&matroska(&[0, 2], b"A_OPUS", b"", &packets)), recording(&whole));
    for (id, content) in [
        (&[0x83][..], &[1][..]),
        (&[0xd7], &[2]),
        (&[0x86], b"A_VORBIS"),
        (&[0x63, 0xa2], b"x"),
        (&[0xae], b""),
    ] {
        let late = element(CLUSTER, &element(id, content));
        assert_eq!(recording(&[&whole[..], &late].concat()), None, "{id:?}");
        assert_eq!(
            recording(&matroska(&[2], b"A_OPUS", b"", &[element(id, content), packets[0].clone()])),
            None
        );
    }
}

/// A box of MP4.
fn mp4_box(kind: &[u8], content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len() + 8).unwrap().to_be_bytes()[..], kind, content].concat()
}

#[test]
fn fragments_are_added_up_by_their_tracks() {
    let mp4 = file("fragments.mp4");
    let read = recording(&mp4).unwrap();
    let empty = mp4_box(b"moof", &mp4_box(b"traf", b"").repeat(200_000));
    assert_eq!(recording(&[&mp4[..], &empty].concat()), Some(read));
    // Ten samples that take their size, 4,750 bytes, from the head of their fragment: more than a frame.
    let head = mp4_box(b"tfhd", &[0, 0, 0, 0x10, 0, 0, 0, 1, 0, 0, 0x12, 0x8e]);
    let run = mp4_box(b"trun", &[0, 0, 0, 0, 0, 0, 0, 10]);
    let more = mp4_box(b"moof", &mp4_box(b"traf", &[head, run.clone()].concat()));
    let longer = recording(&[&mp4[..], &more].concat()).unwrap().millis;
    assert!(longer.abs_diff(read.millis + 80_640) <= 1, "{longer}");
    let of_none = mp4_box(b"moof", &mp4_box(b"traf", &run));
    assert_eq!(recording(&[&mp4[..], &of_none].concat()), None, "samples of an unknown track");
}

#[test]
fn many_small_pages_take_no_more_time_than_their_bytes() {
    let mut ogg = file("opus.ogg");
    let page = [b"OggS\0\0\0\0\0\0\0\0\0\0", &ogg[14..18], &[0; 9]].concat();
    let read = recording(&ogg);
    ogg.extend_from_slice(&page.repeat(200_000));
    assert_eq!(recording(&ogg), read);
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
