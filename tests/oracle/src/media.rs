//! Sizes of pictures, sounds and documents, read from their headers; and small files of any size.
//!
//! Each reader takes the larger where a file contradicts itself: a decoder may believe either.

/// Width and height in pixels of a PNG, JPEG, GIF or WebP; none if no decoder could read it.
pub fn pixels(file: &[u8]) -> Option<(u64, u64)> {
    if file.starts_with(b"\x89PNG\r\n\x1a\n") {
        return png(file);
    }
    if file.starts_with(b"\xff\xd8") {
        return jpeg(file);
    }
    if file.starts_with(b"GIF8") {
        return gif(file);
    }
    if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
        return webp(file);
    }
    None
}

fn be(file: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn le(file: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}

fn png(file: &[u8]) -> Option<(u64, u64)> {
    (file.get(12..16)? == b"IHDR").then_some(())?;
    Some((be(file, 16, 4)?, be(file, 20, 4)?))
}

fn jpeg(file: &[u8]) -> Option<(u64, u64)> {
    let mut at = 2;
    let mut largest = None;
    while let Some(marker) = file.get(at + 1) {
        if file[at] != 0xFF {
            break;
        }
        match marker {
            0xFF => at += 1,
            0x01 | 0xD0..=0xD8 => at += 2,
            0xD9 | 0xDA => break,
            _ => {
                let is_frame = matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF);
                if is_frame && let (Some(height), Some(width)) = (be(file, at + 5, 2), be(file, at + 7, 2)) {
                    let (w, h) = largest.unwrap_or((0, 0));
                    largest = Some((width.max(w), height.max(h)));
                }
                at += 2 + index(be(file, at + 2, 2)?)?;
            }
        }
    }
    largest
}

/// The screen, or the first frame where that is larger.
fn gif(file: &[u8]) -> Option<(u64, u64)> {
    let mut size = (le(file, 6, 2)?, le(file, 8, 2)?);
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + table(*file.get(10)?);
    while let Some(block) = file.get(at) {
        match block {
            0x21 => {
                at += 2;
                while let Some(length) = file.get(at).filter(|length| **length > 0) {
                    at += 1 + usize::from(*length);
                }
                at += 1;
            }
            0x2C => {
                let end = |origin, extent| Some(le(file, origin, 2)? + le(file, extent, 2)?);
                let (Some(right), Some(bottom)) = (end(at + 1, at + 5), end(at + 3, at + 7)) else { break };
                size = (size.0.max(right), size.1.max(bottom));
                break;
            }
            _ => break,
        }
    }
    Some(size)
}

/// The canvas, or the first frame where that is larger.
fn webp(file: &[u8]) -> Option<(u64, u64)> {
    let mut at = 12;
    let mut size: Option<(u64, u64)> = None;
    while let Some(kind) = file.get(at..at + 4) {
        let data = at + 8;
        let found = match kind {
            b"VP8X" => Some((le(file, data + 4, 3)? + 1, le(file, data + 7, 3)? + 1)),
            b"VP8L" => le(file, data + 1, 4).map(|bits| ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)),
            b"VP8 " => le(file, data + 6, 2)
                .zip(le(file, data + 8, 2))
                .map(|(width, height)| (width & 0x3FFF, height & 0x3FFF)),
            _ => None,
        };
        if let Some((width, height)) = found {
            let (w, h) = size.unwrap_or((0, 0));
            size = Some((width.max(w), height.max(h)));
        }
        let length = index(le(file, at + 4, 4)?)?;
        at = data.checked_add(length)?.checked_add(length & 1)?;
    }
    size
}

/// Milliseconds that a sound plays, at the most; none if no decoder could read it. One that is
/// sent as an MP3 may be read as one, whatever it begins with.
pub fn sound_ms(file: &[u8], is_sent_as_mp3: bool) -> Option<u64> {
    if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WAVE") {
        let as_mp3 = u64::try_from(file.len()).ok().filter(|_| is_sent_as_mp3);
        return wav_ms(file).max(as_mp3);
    }
    let is_mp3 = file.starts_with(b"ID3") || (file.first() == Some(&0xFF) && *file.get(1)? & 0xE0 == 0xE0);
    // No MP3 has less than 8 kbit/s: a byte plays a millisecond.
    is_mp3.then(|| u64::try_from(file.len()).unwrap_or(u64::MAX))
}

fn wav_ms(file: &[u8]) -> Option<u64> {
    let mut at = 12;
    let mut bytes_a_second = None;
    while let Some(kind) = file.get(at..at + 4) {
        let length = index(le(file, at + 4, 4)?)?;
        let data = at + 8;
        match kind {
            b"fmt " => {
                let samples = le(file, data + 4, 4)? * le(file, data + 12, 2)?;
                let stated = le(file, data + 8, 4)?;
                // Neither is trusted to be the only one that a decoder uses.
                bytes_a_second = [samples, stated].into_iter().filter(|rate| *rate > 0).min();
            }
            b"data" => {
                let bytes = length.min(file.len() - data.min(file.len()));
                return Some(u64::try_from(bytes).ok()? * 1_000 / bytes_a_second?);
            }
            _ => {}
        }
        at = data.checked_add(length)?.checked_add(length & 1)?;
    }
    None
}

/// Pages and bytes of text of a PDF whose streams are not compressed; none if it is no PDF.
pub fn pdf(file: &[u8]) -> Option<(u64, u64)> {
    file.starts_with(b"%PDF-").then_some(())?;
    let text = String::from_utf8_lossy(file);
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let pages = compact.matches("/Type/Page").count() - compact.matches("/Type/Pages").count();
    let shown = text.split(") Tj").filter_map(|before| before.rsplit_once('(')).map(|(_, text)| text.len());
    Some((u64::try_from(pages).ok()?, u64::try_from(shown.sum::<usize>()).ok()?))
}

/// Kinds of pictures that are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the formats")]
pub enum Picture {
    Png,
    Jpeg,
    Gif,
    Webp,
    WebpLossless,
    WebpCanvas,
}

impl Picture {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Png, Self::Jpeg, Self::Gif, Self::Webp, Self::WebpLossless, Self::WebpCanvas];

    /// Its media type.
    pub const fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp | Self::WebpLossless | Self::WebpCanvas => "image/webp",
        }
    }

    /// A file of that size whose pixels are `filling`. Sides are cut to what the format can say.
    pub fn file(self, width: u32, height: u32, filling: &[u8]) -> Vec<u8> {
        let side = |most: u32| (width.clamp(1, most), height.clamp(1, most));
        match self {
            Self::Png => png_file(width.max(1), height.max(1), filling),
            Self::Jpeg => jpeg_file(side(65_535), filling),
            Self::Gif => gif_file(side(65_535), filling),
            Self::Webp => {
                let (w, h) = side(16_383);
                let mut data = vec![0x30, 0x01, 0x00, 0x9D, 0x01, 0x2A];
                data.extend([w.to_le_bytes(), h.to_le_bytes()].iter().flat_map(|side| &side[..2]));
                riff(*b"WEBP", &[(b"VP8 ", &[&data, filling].concat())])
            }
            Self::WebpLossless => {
                let (w, h) = side(16_384);
                let bits = (w - 1) | (h - 1) << 14;
                let data = [&[0x2F][..], &bits.to_le_bytes(), filling].concat();
                riff(*b"WEBP", &[(b"VP8L", &data)])
            }
            Self::WebpCanvas => {
                let (w, h) = side(1 << 24);
                let mut canvas = vec![0; 4];
                canvas.extend([w - 1, h - 1].iter().flat_map(|side| side.to_le_bytes()[..3].to_vec()));
                riff(*b"WEBP", &[(b"VP8X", &canvas), (b"VP8L", &[0x2F, 0, 0, 0, 0])])
            }
        }
    }
}

fn png_file(width: u32, height: u32, filling: &[u8]) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 0, 0, 0, 0]);
    // Compression method "stored", so that the bytes are as they are.
    let mut data = vec![0x78, 0x01];
    for (at, block) in filling.chunks(65_535).enumerate() {
        let is_last = (at + 1) * 65_535 >= filling.len();
        let length = u16::try_from(block.len()).expect("a block of 65,535 bytes at the most");
        data.push(u8::from(is_last));
        data.extend(length.to_le_bytes());
        data.extend((!length).to_le_bytes());
        data.extend(block);
    }
    data.extend(adler32(filling).to_be_bytes());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", &header), (b"IDAT", &data), (b"IEND", &Vec::new())] {
        file.extend(u32::try_from(data.len()).expect("a small file").to_be_bytes());
        let start = file.len();
        file.extend(kind);
        file.extend(data);
        let sum = crc32(&file[start..]);
        file.extend(sum.to_be_bytes());
    }
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

fn jpeg_file((width, height): (u32, u32), filling: &[u8]) -> Vec<u8> {
    let comment = &filling[..filling.len().min(60_000)];
    let length = u16::try_from(comment.len() + 2).expect("a comment of 60,000 bytes at the most");
    let mut file = vec![0xFF, 0xD8, 0xFF, 0xFE];
    file.extend(length.to_be_bytes());
    file.extend(comment);
    file.extend([0xFF, 0xC0, 0, 11, 8]);
    file.extend(&height.to_be_bytes()[2..]);
    file.extend(&width.to_be_bytes()[2..]);
    file.extend([1, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0, 0xFF, 0xD9]);
    file
}

fn gif_file((width, height): (u32, u32), filling: &[u8]) -> Vec<u8> {
    let size = || [width.to_le_bytes(), height.to_le_bytes()].into_iter().flat_map(|side| [side[0], side[1]]);
    let mut file = b"GIF89a".to_vec();
    file.extend(size());
    file.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    file.push(0x2C);
    file.extend([0; 4]);
    file.extend(size());
    file.extend([0, 2]);
    for block in filling.chunks(255) {
        file.push(u8::try_from(block.len()).expect("a block of 255 bytes at the most"));
        file.extend(block);
    }
    file.extend([0, 0x3B]);
    file
}

fn riff(kind: [u8; 4], chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = kind.to_vec();
    for (name, data) in chunks {
        body.extend(*name);
        body.extend(u32::try_from(data.len()).expect("a small file").to_le_bytes());
        body.extend(*data);
        body.extend(std::iter::repeat_n(0, data.len() % 2));
    }
    let mut file = b"RIFF".to_vec();
    file.extend(u32::try_from(body.len()).expect("a small file").to_le_bytes());
    file.extend(body);
    file
}

/// A WAV of one channel: samples a second, bits a sample, and bytes of sound.
pub fn wav_file(rate_hz: u32, bits: u16, bytes: usize) -> Vec<u8> {
    let block = u32::from((bits / 8).max(1));
    let mut format = vec![1, 0, 1, 0];
    format.extend(rate_hz.to_le_bytes());
    format.extend((rate_hz * block).to_le_bytes());
    format.extend([u8::try_from(block).expect("few bytes"), 0]);
    format.extend(bits.to_le_bytes());
    riff(*b"WAVE", &[(b"fmt ", &format), (b"data", &vec![0x80; bytes])])
}

/// An MP3 of 8 kbit/s, the slowest there is: frames of 72 bytes that play 72 ms each.
pub fn mp3_file(frames: usize) -> Vec<u8> {
    let mut frame = vec![0xFF, 0xE3, 0x18, 0xC4];
    frame.resize(72, 0);
    frame.repeat(frames)
}

/// A PDF of so many pages, each of which shows the text.
pub fn pdf_file(pages: usize, text: &str) -> Vec<u8> {
    let shown: String = text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ' ').collect();
    let stream = format!("BT /F1 9 Tf 40 700 Td ({shown}) Tj ET");
    let mut file = String::from("%PDF-1.4\n");
    let mut offsets = Vec::new();
    let mut put = |text: &mut String, body: &str| {
        offsets.push(text.len());
        let number = offsets.len();
        *text += &format!("{number} 0 obj\n{body}\nendobj\n");
    };
    put(&mut file, "<< /Type /Catalog /Pages 2 0 R >>");
    let kids: Vec<String> = (0..pages).map(|page| format!("{} 0 R", 4 + page * 2)).collect();
    put(&mut file, &format!("<< /Type /Pages /Kids [{}] /Count {pages} >>", kids.join(" ")));
    put(&mut file, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>");
    for page in 0..pages {
        let content = 5 + page * 2;
        let resources = "/Resources << /Font << /F1 3 0 R >> >>";
        put(
            &mut file,
            &format!(
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {resources} /Contents {content} 0 R >>"
            ),
        );
        put(&mut file, &format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len()));
    }
    let start = file.len();
    file += &format!("xref\n0 {}\n0000000000 65535 f \n", offsets.len() + 1);
    for offset in &offsets {
        file += &format!("{offset:010} 00000 n \n");
    }
    file += &format!("trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n", offsets.len() + 1);
    file.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64;

    #[test]
    fn pictures_are_read_as_they_were_made() {
        for picture in Picture::ALL {
            for (width, height) in [(1, 1), (640, 480), (16_000, 16_000)] {
                let file = picture.file(width, height, b"pixels");
                let size = (u64::from(width), u64::from(height));
                assert_eq!(pixels(&base64::decode(&base64::encode(&file))), Some(size), "{picture:?}");
            }
        }
        let huge = Picture::Png.file(1 << 31, 1 << 31, b"");
        assert_eq!(pixels(&huge), Some((1 << 31, 1 << 31)));
        assert_eq!(pixels(&huge[..20]), None, "a truncated header");
        assert_eq!(pixels(b"no picture"), None);
    }

    #[test]
    fn sounds_last_as_long_as_their_rate_says() {
        assert_eq!(sound_ms(&wav_file(8_000, 8, 80_000), false), Some(10_000));
        assert_eq!(sound_ms(&wav_file(24_000, 16, 480_000), false), Some(10_000));
        assert_eq!(sound_ms(&wav_file(8, 8, 80_000), false), Some(10_000_000), "an odd rate");
        assert_eq!(sound_ms(&mp3_file(10), true), Some(720));
        assert_eq!(sound_ms(&wav_file(48_000, 16, 100_000), true), Some(100_044), "as an MP3 of 8 kbit/s");
        assert_eq!(sound_ms(b"no sound", true), None);
    }

    #[test]
    fn pages_of_a_document_are_counted() {
        assert_eq!(pdf(&pdf_file(10, "ten words")), Some((10, 90)));
        assert_eq!(pdf(b"no document"), None);
    }
}
