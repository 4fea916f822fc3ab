//! Decoding the streams of a PDF within a budget.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use crate::media::pdf::PdfProblem;
use crate::media::pdf::object::{is_blank, nibble};

/// Filters in a row.
pub(super) const FILTERS_MAX: usize = 4;

/// Decodes data by a filter into at most `bytes_max` bytes.
///
/// Data that does not decode to its end is a problem: decoders differ in how
/// much of it they take.
pub(super) fn decode(filter: &[u8], data: &[u8], bytes_max: usize) -> Result<Vec<u8>, PdfProblem> {
    match filter {
        b"FlateDecode" | b"Fl" => inflate(data, bytes_max),
        b"ASCII85Decode" | b"A85" => base85(data),
        b"ASCIIHexDecode" | b"AHx" => Ok(hexadecimal(data)),
        b"Crypt" => Err(PdfProblem::Encrypted),
        _ => Err(PdfProblem::Unsupported),
    }
}

fn inflate(data: &[u8], bytes_max: usize) -> Result<Vec<u8>, PdfProblem> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut inflated = Vec::new();
    if data.iter().all(|byte| is_blank(*byte)) {
        return Ok(inflated);
    }
    ZlibDecoder::new(data).take(limit).read_to_end(&mut inflated).map_err(|_| PdfProblem::Broken)?;
    if inflated.len() > bytes_max { Err(PdfProblem::TooLarge) } else { Ok(inflated) }
}

/// Never longer than its data, except for `z`, which is four zeros.
fn base85(data: &[u8]) -> Result<Vec<u8>, PdfProblem> {
    let mut decoded = Vec::with_capacity(data.len());
    let mut group = Vec::with_capacity(5);
    for byte in data.iter().copied().filter(|byte| !is_blank(*byte)) {
        match byte {
            b'~' => break,
            b'z' if group.is_empty() => decoded.extend([0; 4]),
            b'!'..=b'u' => group.push(byte - b'!'),
            _ => return Err(PdfProblem::Broken),
        }
        if group.len() == 5 {
            decoded.extend(quad(&group));
            group.clear();
        }
    }
    if !group.is_empty() {
        let count = group.len() - 1;
        group.resize(5, 84);
        decoded.extend(&quad(&group)[..count]);
    }
    Ok(decoded)
}

fn quad(group: &[u8]) -> [u8; 4] {
    group.iter().fold(0_u32, |sum, digit| sum.wrapping_mul(85).wrapping_add(u32::from(*digit))).to_be_bytes()
}

fn hexadecimal(data: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'>', data).unwrap_or(data.len());
    let digits: Vec<u8> = data[..end].iter().filter_map(|byte| nibble(*byte)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}
