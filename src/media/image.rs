//! The size of an image, as the largest that a decoder would use.
//!
//! The size that a header states first is not enough: a GIF's frame may be larger
//! than its screen, a JPEG or PNG may state its size twice, and decoders (Pillow,
//! libjpeg, libwebp) differ in which they take. So the header is walked to where
//! the pixels begin, and an image is measured only if all statements on the way
//! agree. The `imagesize` crate, which takes the first statement, must agree as
//! well.

use std::io::{ErrorKind, Seek as _, SeekFrom};

use crate::media::reader::{MediaReader, Source as _};

/// Chunks of a PNG or WebP and segments of a JPEG before its pixels. Cameras
/// write some dozens.
const PARTS_MAX: usize = 1_024;
/// Decoded bytes before the pixels, or of a GIF's first frame.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Blocks of at most 255 bytes in a GIF.
const GIF_BLOCKS_MAX: usize = 1 << 17;

/// The pixels of a still image; neither side is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The size of a PNG, JPEG, GIF or WebP in a JSON string of base64.
///
/// At least what a decoder would use. `None` for any other data, and if the
/// image is cut before its size, moves, states two sizes, or is doubtful in any
/// other way. Work: at most 1,024 chunks or segments (131,072 blocks of a GIF)
/// and 16 MiB passed over, which takes some milliseconds; microseconds for what
/// cameras and programs write. With escapes or line breaks each character passed
/// over is looked at.
pub fn image_size(json_string: &str) -> Option<ImageSize> {
    let mut reader = MediaReader::new(json_string)?;
    let walked = walk(&mut reader).ok().flatten()?;
    reader.seek(SeekFrom::Start(0)).ok()?;
    let stated = imagesize::reader_size(&mut reader).ok()?;
    let covers = |walked: u32, stated: usize| usize::try_from(walked).is_ok_and(|walked| walked >= stated);
    let agree = covers(walked.width, stated.width) && covers(walked.height, stated.height);
    (agree && walked.width > 0 && walked.height > 0).then_some(walked)
}

type Walked = std::io::Result<Option<ImageSize>>;

fn walk(reader: &mut MediaReader<'_>) -> Walked {
    let start: [u8; 12] = reader.bytes()?;
    reader.seek(SeekFrom::Start(0))?;
    match start {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png(reader),
        [0xff, 0xd8, 0xff, ..] => jpeg(reader),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif(reader),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => webp(reader),
        _ => Ok(None),
    }
}

/// Passes over a part; false if it is more than may lie before the pixels.
fn pass(reader: &mut MediaReader<'_>, bytes: u64) -> std::io::Result<bool> {
    if reader.position().saturating_add(bytes) > HEADER_BYTES_MAX {
        return Ok(false);
    }
    reader.skip(bytes)?;
    Ok(true)
}

/// IHDR must be the first chunk and the only one before the pixels; `acTL`
/// makes it an animation.
fn png(reader: &mut MediaReader<'_>) -> Walked {
    reader.skip(8)?;
    let mut size = None;
    for _ in 0..PARTS_MAX {
        let (length, kind) = (reader.be_u32()?, reader.bytes()?);
        match (&kind, size) {
            (b"IHDR", None) if length == 13 => {
                size = Some(ImageSize { width: reader.be_u32()?, height: reader.be_u32()? });
                reader.skip(5 + 4)?;
            }
            (b"IDAT", Some(size)) => return Ok(Some(size)),
            (b"IHDR" | b"IDAT" | b"IEND" | b"acTL", _) | (_, None) => return Ok(None),
            _ if pass(reader, u64::from(length) + 4)? => {}
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Exactly one frame header before the first scan. Its height may not be left
/// to be stated after the scan, which is a height of 0 here.
fn jpeg(reader: &mut MediaReader<'_>) -> Walked {
    reader.skip(2)?;
    let mut size = None;
    for _ in 0..PARTS_MAX {
        let marker = match jpeg_marker(reader) {
            // No other size can follow.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(size),
            marker => marker?,
        };
        match marker {
            // Start of scan: the pixels.
            Some(0xda) => return Ok(size),
            // Baseline, extended, progressive, lossless; the same with arithmetic
            // coding. The hierarchical ones (and DHP, 0xde) are many images.
            Some(0xc0..=0xc3 | 0xc9..=0xcb) if size.is_none() => {
                let (length, [_precision]) = (reader.be_u16()?, reader.bytes()?);
                let (height, width) = (reader.be_u16()?.into(), reader.be_u16()?.into());
                size = Some(ImageSize { width, height });
                let Some(rest) = length.checked_sub(7) else {
                    return Ok(None);
                };
                reader.skip(u64::from(rest))?;
            }
            // Tables, restart interval, applications' segments, comments.
            Some(0xc4 | 0xcc | 0xdb | 0xdd | 0xe0..=0xef | 0xfe) => {
                let length = u64::from(reader.be_u16()?);
                if length < 2 || !pass(reader, length - 2)? {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The next marker; `None` where there is none, or behind more than a little
/// filling.
fn jpeg_marker(reader: &mut MediaReader<'_>) -> std::io::Result<Option<u8>> {
    let [first, mut marker] = reader.bytes()?;
    if first != 0xff {
        return Ok(None);
    }
    for _ in 0..PARTS_MAX {
        if marker != 0xff {
            return Ok(Some(marker));
        }
        [marker] = reader.bytes()?;
    }
    Ok(None)
}

/// The screen, made larger by the first frame as Pillow does. The image is
/// walked past that frame to see that there is no other.
fn gif(reader: &mut MediaReader<'_>) -> Walked {
    reader.skip(6)?;
    let (mut width, mut height) = (u32::from(reader.le_u16()?), u32::from(reader.le_u16()?));
    let [flags, _background, _aspect] = reader.bytes()?;
    reader.skip(gif_colors(flags))?;
    let mut has_frame = false;
    let mut blocks = 0;
    for _ in 0..PARTS_MAX {
        let kind = match reader.bytes::<1>() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && has_frame => break,
            kind => kind?,
        };
        match kind {
            [b','] if !has_frame => {
                let (left, top) = (u32::from(reader.le_u16()?), u32::from(reader.le_u16()?));
                width = width.max(left + u32::from(reader.le_u16()?));
                height = height.max(top + u32::from(reader.le_u16()?));
                let [flags] = reader.bytes()?;
                has_frame = true;
                // The colors, and the size of a code.
                reader.skip(gif_colors(flags) + 1)?;
            }
            [b'!'] => reader.skip(1)?,
            [b';'] if has_frame => return Ok(Some(ImageSize { width, height })),
            _ => return Ok(None),
        }
        loop {
            let [length] = match reader.bytes::<1>() {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && has_frame => break,
                length => length?,
            };
            blocks += 1;
            if length == 0 {
                break;
            }
            if blocks > GIF_BLOCKS_MAX || !pass(reader, u64::from(length))? {
                return Ok(None);
            }
        }
    }
    Ok(has_frame.then_some(ImageSize { width, height }))
}

/// The bytes of a table of colors, by the flags before it.
fn gif_colors(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// A simple file is its one chunk; in an extended one the canvas and the image
/// must have one size, as libwebp demands.
fn webp(reader: &mut MediaReader<'_>) -> Walked {
    reader.skip(12)?;
    let mut canvas = None;
    for part in 0..PARTS_MAX {
        let (kind, length) = (reader.bytes()?, reader.le_u32()?);
        let size = match &kind {
            b"VP8 " => webp_lossy(reader)?,
            b"VP8L" => webp_lossless(reader)?,
            b"VP8X" if part == 0 && length >= 10 => {
                let [flags, _, _, _] = reader.bytes()?;
                if flags & 0b10 != 0 {
                    return Ok(None);
                }
                canvas = Some(ImageSize { width: reader.le_u24()? + 1, height: reader.le_u24()? + 1 });
                reader.skip(u64::from(length - 10) + u64::from(length % 2))?;
                continue;
            }
            b"ANIM" | b"ANMF" | b"VP8X" => return Ok(None),
            _ if canvas.is_some() && pass(reader, u64::from(length) + u64::from(length % 2))? => {
                continue;
            }
            _ => return Ok(None),
        };
        let agree = canvas.is_none() || canvas == size;
        return Ok(size.filter(|_| agree));
    }
    Ok(None)
}

/// A key frame's size; its two upper bits only scale what is shown.
fn webp_lossy(reader: &mut MediaReader<'_>) -> Walked {
    let [tag, _, _] = reader.bytes()?;
    let start: [u8; 3] = reader.bytes()?;
    let size = ImageSize {
        width: u32::from(reader.le_u16()? & 0x3fff),
        height: u32::from(reader.le_u16()? & 0x3fff),
    };
    Ok((tag & 1 == 0 && start == [0x9d, 0x01, 0x2a]).then_some(size))
}

fn webp_lossless(reader: &mut MediaReader<'_>) -> Walked {
    let ([signature], bits) = (reader.bytes()?, reader.le_u32()?);
    let is_known = signature == 0x2f && bits >> 29 == 0;
    let side = |bits: u32| (bits & 0x3fff) + 1;
    Ok(is_known.then_some(ImageSize { width: side(bits), height: side(bits >> 14) }))
}

#[cfg(test)]
mod tests;
