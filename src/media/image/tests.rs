//! Images as programs write them, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::media::spelling::Spelling;

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length[..], &kind, data, &[0; 4]].concat()
}

fn ihdr(width: u32, height: u32) -> Vec<u8> {
    chunk(*b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat())
}

fn a_png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", &chunks.concat()[..]].concat()
}

fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&[0xff, marker], &length[..], data].concat()
}

fn sof(marker: u8, width: u16, height: u16) -> Vec<u8> {
    segment(marker, &[&[8], &height.to_be_bytes()[..], &width.to_be_bytes(), &[1, 1, 0x11, 0]].concat())
}

fn a_jpeg(segments: &[Vec<u8>]) -> Vec<u8> {
    let scan = segment(0xda, &[1, 1, 0, 0, 63, 0]);
    [&[0xff, 0xd8], &segments.concat()[..], &scan, &[0x12; 40], &[0xff, 0xd9]].concat()
}

fn pairs(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn a_frame(left: u16, top: u16, width: u16, height: u16) -> Vec<u8> {
    [b",", &pairs(&[left, top, width, height])[..], &[0, 2, 3, 1, 2, 3, 0]].concat()
}

fn a_gif(width: u16, height: u16, blocks: &[Vec<u8>]) -> Vec<u8> {
    [b"GIF89a", &pairs(&[width, height])[..], &[0x80, 0, 0], &[0; 6], &blocks.concat(), b";"].concat()
}

fn part(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&kind, &length[..], data, &vec![0; data.len() % 2]].concat()
}

fn a_webp(parts: &[Vec<u8>]) -> Vec<u8> {
    let parts = parts.concat();
    let length = u32::try_from(parts.len() + 4).unwrap().to_le_bytes();
    [b"RIFF", &length[..], b"WEBP", &parts].concat()
}

fn vp8(width: u16, height: u16) -> Vec<u8> {
    part(*b"VP8 ", &[&[0, 0, 0, 0x9d, 1, 0x2a], &pairs(&[width, height])[..], &[0; 8]].concat())
}

fn vp8l(width: u32, height: u32) -> Vec<u8> {
    let bits = (width - 1) | (height - 1) << 14;
    part(*b"VP8L", &[&[0x2f], &bits.to_le_bytes()[..], &[0; 7]].concat())
}

fn vp8x(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let (width, height) = ((width - 1).to_le_bytes(), (height - 1).to_le_bytes());
    part(*b"VP8X", &[&[flags, 0, 0, 0], &width[..3], &height[..3]].concat())
}

fn idat() -> Vec<u8> {
    chunk(*b"IDAT", &[0; 20])
}

fn measured(bytes: &[u8]) -> Option<(u32, u32)> {
    image_size(&Spelling::plain().token(bytes)).map(|size| (size.width, size.height))
}

#[test]
fn the_four_kinds_are_measured() {
    assert_eq!(measured(&a_png(&[ihdr(640, 480), chunk(*b"tEXt", &[7; 300]), idat()])), Some((640, 480)));
    assert_eq!(measured(&a_jpeg(&[segment(0xe0, &[0; 14]), sof(0xc0, 640, 480)])), Some((640, 480)));
    assert_eq!(measured(&a_gif(640, 480, &[a_frame(0, 0, 640, 480)])), Some((640, 480)));
    assert_eq!(measured(&a_webp(&[vp8(640, 480)])), Some((640, 480)));
    assert_eq!(measured(&a_webp(&[vp8l(640, 480)])), Some((640, 480)));
    let extended = [vp8x(0, 640, 480), part(*b"ICCP", &[1; 777]), vp8(640, 480)];
    assert_eq!(measured(&a_webp(&extended)), Some((640, 480)));
}

#[test]
fn bytes_decide_what_an_image_is() {
    let spelling = Spelling { head: "data:text/html;base64,", ..Spelling::plain() };
    let token = spelling.token(&a_jpeg(&[sof(0xc2, 3, 4)]));
    assert_eq!(image_size(&token), Some(ImageSize { width: 3, height: 4 }));
    for other in [&b"BM\x00\x00rest of a bitmap"[..], b"II*\0\x08\0\0\0 a tiff", b"%PDF-1.7 something", b""] {
        assert_eq!(measured(other), None);
    }
}

#[test]
fn the_largest_sizes_are_read_as_they_are() {
    assert_eq!(measured(&a_png(&[ihdr(1 << 31, 1 << 31), idat()])), Some((1 << 31, 1 << 31)));
    assert_eq!(measured(&a_png(&[ihdr(u32::MAX, 1), idat()])), Some((u32::MAX, 1)));
    assert_eq!(measured(&a_jpeg(&[sof(0xc0, 65_535, 65_535)])), Some((65_535, 65_535)));
    let webp = a_webp(&[vp8x(0, 1 << 24, 1 << 24), vp8l(16_384, 16_384)]);
    assert_eq!(measured(&webp), None, "the canvas is not the image");
}

#[test]
fn a_second_size_or_none_is_doubtful() {
    let doubtful = [
        ("PNG with two headers", a_png(&[ihdr(1, 1), ihdr(9_000, 9_000), idat()])),
        ("PNG without its header first", a_png(&[chunk(*b"tEXt", b"a"), ihdr(1, 1), idat()])),
        ("PNG as Apple writes it", a_png(&[chunk(*b"CgBI", &[0; 4]), ihdr(1, 1), idat()])),
        ("PNG of no width", a_png(&[ihdr(0, 1), idat()])),
        ("PNG without pixels", a_png(&[ihdr(1, 1), chunk(*b"IEND", b"")])),
        ("animated PNG", a_png(&[ihdr(1, 1), chunk(*b"acTL", &[0; 8]), idat()])),
        ("JPEG with two frame headers", a_jpeg(&[sof(0xc0, 1, 1), sof(0xc0, 9_000, 9_000)])),
        ("JPEG that states its height later", a_jpeg(&[sof(0xc0, 1, 0)])),
        ("hierarchical JPEG", a_jpeg(&[sof(0xde, 9_000, 9_000), sof(0xc0, 1, 1)])),
        ("JPEG of bytes between segments", a_jpeg(&[vec![0; 3], sof(0xc0, 1, 1)])),
        ("JPEG with a segment of no length", a_jpeg(&[vec![0xff, 0xe1, 0, 0], sof(0xc0, 1, 1)])),
        ("JPEG without a frame header", a_jpeg(&[segment(0xdb, &[0; 65])])),
        ("GIF of two frames", a_gif(1, 1, &[a_frame(0, 0, 1, 1), a_frame(0, 0, 1, 1)])),
        ("GIF of no frame", a_gif(9, 9, &[])),
        ("GIF with bytes between blocks", a_gif(9, 9, &[vec![0], a_frame(0, 0, 1, 1)])),
        ("animated WebP", a_webp(&[vp8x(2, 1, 1), part(*b"ANIM", &[0; 6]), part(*b"ANMF", &[0; 40])])),
        ("WebP with frames unannounced", a_webp(&[vp8x(0, 1, 1), part(*b"ANMF", &[0; 40]), vp8(1, 1)])),
        ("WebP larger than its canvas", a_webp(&[vp8x(0, 1, 1), vp8(9_000, 9_000)])),
        ("WebP that is no key frame", a_webp(&[part(*b"VP8 ", &[1, 0, 0, 0x9d, 1, 0x2a, 1, 0, 1, 0])])),
        ("WebP with a chunk before", a_webp(&[part(*b"EXIF", &[0; 4]), vp8(1, 1)])),
    ];
    for (name, bytes) in doubtful {
        assert_eq!(measured(&bytes), None, "{name}");
    }
}

#[test]
fn a_gif_is_as_large_as_its_frame_reaches() {
    assert_eq!(measured(&a_gif(1, 1, &[a_frame(100, 7, 9_000, 5)])), Some((9_100, 12)));
    let looped = [vec![b'!', 0xff, 3, 1, 2, 3, 0], a_frame(0, 0, 4, 4)];
    assert_eq!(measured(&a_gif(9, 9, &looped)), Some((9, 9)));
}

#[test]
fn long_headers_are_walked_and_endless_ones_given_up() {
    let long: Vec<_> = (0..20).map(|_| segment(0xe2, &vec![9; 65_533])).collect();
    assert_eq!(measured(&a_jpeg(&[long.concat(), sof(0xc0, 5, 6)])), Some((5, 6)));
    let many = segment(0xe2, b"").repeat(PARTS_MAX + 1);
    assert_eq!(measured(&a_jpeg(&[many, sof(0xc0, 5, 6)])), None);
    let huge = chunk(*b"tEXt", &vec![0; usize::try_from(HEADER_BYTES_MAX).unwrap()]);
    assert_eq!(measured(&a_png(&[ihdr(5, 6), huge, idat()])), None);
    let blocks = [&[b'!', 0xfe][..], &[1, 0].repeat(GIF_BLOCKS_MAX + 1), &[0]].concat();
    assert_eq!(measured(&a_gif(5, 6, &[blocks, a_frame(0, 0, 5, 6)])), None);
}

proptest! {
    #[test]
    fn a_size_survives_any_spelling_and_is_gone_before_any_cut(
        spelling in Spelling::any(), width in 1_u16..=16_383, height in 1_u16..=16_383, cut in 0_usize..2_000,
    ) {
        let (w, h) = (u32::from(width), u32::from(height));
        let images = [
            a_png(&[ihdr(w, h), chunk(*b"iCCP", &[7; 600]), idat()]),
            a_jpeg(&[segment(0xe1, &[7; 600]), sof(0xc2, width, height)]),
            a_gif(width, height, &[a_frame(0, 0, width, height)]),
            a_webp(&[vp8(width, height)]),
            a_webp(&[vp8x(0x10, w, h), part(*b"ALPH", &[7; 333]), vp8(width, height)]),
            a_webp(&[vp8l(w, h)]),
        ];
        for bytes in images {
            prop_assert_eq!(image_size(&spelling.token(&bytes)), Some(ImageSize { width: w, height: h }));
            let part = image_size(&spelling.token(&bytes[..cut.min(bytes.len())]));
            let size = ImageSize { width: w, height: h };
            prop_assert!(part.is_none_or(|part| part == size));
        }
    }

    #[test]
    fn bytes_that_are_changed_break_nothing(
        spelling in Spelling::any(), kind in 0_usize..5, changes in prop::collection::vec((0_usize..200, any::<u8>()), 1..6),
    ) {
        let images = [
            a_png(&[ihdr(64, 64), idat()]),
            a_jpeg(&[segment(0xe1, &[7; 60]), sof(0xc2, 64, 64)]),
            a_gif(64, 64, &[a_frame(0, 0, 64, 64)]),
            a_webp(&[vp8x(0, 64, 64), vp8(64, 64)]),
            a_webp(&[vp8l(64, 64)]),
        ];
        let mut bytes = images[kind].clone();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = image_size(&spelling.token(&bytes));
    }
}
