//! What the fuzz targets share.
//!
//! `json` is a second reader of JSON, written apart from the guard's: it keeps
//! members that stand twice and surrogates that stand alone. `request` holds
//! what the guard understood of a body against what that reader sees, and
//! `understood` prints it for Python to do the same. `bound` holds what the guard
//! would hold against the oracle.

pub mod bound;
pub mod json;
pub mod request;
pub mod understood;

/// Takes the first `N` bytes of an input as knobs; the rest is the text.
///
/// Knobs are read modulo something, so that ASCII digits make readable seeds.
pub fn knobs<const N: usize>(input: &[u8]) -> Option<([usize; N], &[u8])> {
    let (knobs, rest) = input.split_first_chunk::<N>()?;
    Some((knobs.map(|knob| usize::from(knob.wrapping_sub(b'0'))), rest))
}
