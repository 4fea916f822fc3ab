//! Compressed request bodies: unpacked within bounds, or refused.
//!
//! The body that is read must be the one that is forwarded, so a body is unpacked
//! here and forwarded unpacked. The bounds are the largest body, and how much larger
//! than its compressed form it may be: otherwise a few kilobytes could take 64 MiB
//! of memory and the time to unpack it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use ruzstd::decoding::StreamingDecoder;

use crate::guard::Guard;
use crate::proxy::body::{self, ReadError};
use crate::proxy::refuse::{Edge, Refusal};

/// How many times larger than its compressed form a body may be.
const RATIO_MAX: usize = 100;
/// A body of this size is taken whatever its ratio.
const SMALL_BYTES: usize = 1 << 20;
/// The largest compressed body that is unpacked where requests are served; a larger
/// one would keep others waiting.
const AT_ONCE_BYTES_MAX: usize = 4 << 10;
/// The size of one step of unpacking.
const STEP_BYTES: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and RFC 1951 for clients that leave its frame out.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The coding that a request names; one that is not known, or several, are an error.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut found = None;
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let named = values.flat_map(|value| value.to_str().unwrap_or("?").split(','));
        for name in named.map(|name| name.trim().to_ascii_lowercase()) {
            let coding = match name.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Self::Gzip,
                "deflate" => Self::Deflate,
                "zstd" => Self::Zstd,
                _ => return Err(Refusal::Edge(Edge::UnknownCoding)),
            };
            if found.replace(coding).is_some() {
                return Err(Refusal::Edge(Edge::UnknownCoding));
            }
        }
        Ok(found)
    }
}

/// Unpacks a body of at most so many bytes.
pub async fn unpacked(
    guard: &Guard,
    packed: Bytes,
    coding: Coding,
    bytes_max: usize,
    key: Arc<str>,
) -> Result<Bytes, Unpacked> {
    let into = body::Buffer::of(key);
    if packed.len() <= AT_ONCE_BYTES_MAX {
        return unpack(&packed, coding, bytes_max, into);
    }
    let at_most = packed.len().saturating_mul(RATIO_MAX).min(bytes_max);
    guard.offload(at_most, move || unpack(&packed, coding, bytes_max, into)).await
}

/// Why a body can't be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// It is larger than a body may be.
    TooLarge,
    /// It is too many times larger than its compressed form.
    TooDense,
    /// Other requests' bodies take all of the memory for bodies.
    NoRoom,
    /// It does not match its content coding, or its end is missing.
    Broken,
}

fn unpack(packed: &[u8], coding: Coding, bytes_max: usize, into: body::Buffer) -> Result<Bytes, Unpacked> {
    match coding {
        Coding::Gzip => all_of(MultiGzDecoder::new(packed), packed.len(), bytes_max, into),
        Coding::Deflate if is_zlib(packed) => all_of(ZlibDecoder::new(packed), packed.len(), bytes_max, into),
        Coding::Deflate => all_of(DeflateDecoder::new(packed), packed.len(), bytes_max, into),
        Coding::Zstd => all_of(Frames { rest: packed, frame: None }, packed.len(), bytes_max, into),
    }
}

fn all_of(
    mut decoder: impl Read,
    packed_bytes: usize,
    bytes_max: usize,
    mut all: body::Buffer,
) -> Result<Bytes, Unpacked> {
    let dense_max = packed_bytes.saturating_mul(RATIO_MAX).max(SMALL_BYTES);
    let mut step = vec![0; STEP_BYTES.min(dense_max)];
    loop {
        let count = decoder.read(&mut step).map_err(|_| Unpacked::Broken)?;
        if count == 0 {
            return Ok(all.freeze());
        }
        let bytes = all.filled_bytes() + count;
        if bytes > bytes_max {
            return Err(Unpacked::TooLarge);
        }
        if bytes > dense_max {
            return Err(Unpacked::TooDense);
        }
        all.push(&step[..count], bytes_max).map_err(|error| match error {
            ReadError::NoRoom => Unpacked::NoRoom,
            ReadError::TooLarge | ReadError::TooSlow | ReadError::Broken(_) => Unpacked::TooLarge,
        })?;
    }
}

/// Whether a body begins as RFC 1950 says.
fn is_zlib(packed: &[u8]) -> bool {
    let [method, flags, ..] = packed else { return false };
    method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
}

/// The frames of a zstd body, one after another.
struct Frames<'a> {
    rest: &'a [u8],
    frame: Option<StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>>,
}

impl Read for Frames<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None if self.rest.is_empty() => return Ok(0),
                None => StreamingDecoder::new(self.rest).map_err(io::Error::other)?,
            };
            let count = frame.read(into)?;
            if count > 0 {
                self.frame = Some(frame);
                return Ok(count);
            }
            self.rest = frame.into_inner();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpacked(packed: &[u8], coding: Coding, bytes_max: usize) -> Result<Bytes, Unpacked> {
        unpack(packed, coding, bytes_max, body::Buffer::of("key_1".into()))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_coding_is_unpacked_and_a_body_without_its_end_is_not() {
        let text = br#"{"model":"gpt-4o-mini","input":"hello hello hello"}"#.as_slice();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text).unwrap();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(text).unwrap();
        let zstd = compress_to_vec(text, CompressionLevel::Fastest);
        for (coding, packed) in [
            (Coding::Gzip, gzip(text)),
            (Coding::Deflate, zlib.finish().unwrap()),
            (Coding::Deflate, deflate.finish().unwrap()),
            (Coding::Zstd, zstd),
        ] {
            assert_eq!(unpacked(&packed, coding, 1_000).unwrap(), text, "{coding:?}");
            let twice = [packed.as_slice(), &packed].concat();
            if coding != Coding::Deflate {
                assert_eq!(unpacked(&twice, coding, 1_000).unwrap(), [text, text].concat(), "{coding:?}");
            }
            assert_eq!(unpacked(&packed, coding, text.len() - 1), Err(Unpacked::TooLarge), "{coding:?}");
            for end in 1..packed.len() {
                let cut = unpacked(&packed[..end], coding, 1_000);
                assert!(cut.as_ref().is_err() || cut.unwrap() != text, "{coding:?} without its end at {end}");
            }
        }
    }

    #[test]
    fn a_bomb_is_given_up_early() {
        let bomb = gzip(&vec![b' '; 32 << 20]);
        assert!(bomb.len() < 40 << 10);
        assert_eq!(unpacked(&bomb, Coding::Gzip, 64 << 20), Err(Unpacked::TooDense));
        let bomb = compress_to_vec(vec![b' '; 32 << 20].as_slice(), CompressionLevel::Fastest);
        assert_eq!(unpacked(&bomb, Coding::Zstd, 64 << 20), Err(Unpacked::TooDense));
        assert_eq!(
            unpacked(&gzip(&vec![b' '; 900 << 10]), Coding::Gzip, 64 << 20).map(|body| body.len()),
            Ok(900 << 10)
        );
    }

    #[test]
    fn codings_are_read_as_clients_write_them() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, value.parse().unwrap())]);
            Coding::of(&headers).ok()
        };
        assert_eq!(of("GZIP"), Some(Some(Coding::Gzip)));
        assert_eq!(of("identity, zstd"), Some(Some(Coding::Zstd)));
        assert_eq!(of("identity"), Some(None));
        for unknown in ["br", "gzip, gzip", "zstd, gzip", "compress", "\u{e9}"] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }
}
