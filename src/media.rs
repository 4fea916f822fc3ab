//! What inline media can cost, read from their own headers.
//!
//! Input is always a JSON string token as it stands in a body: base64 with or
//! without a data URL around it, in any spelling. Headers are read in place:
//! images and audio are neither copied nor decoded. Bytes decide what something
//! is; whether that is what it was declared as is for the caller to compare. Every function has a bound on its work, and gives
//! `None` or a problem for anything that two decoders could read differently:
//! a caller then has to take the most that the model takes.

mod audio;
mod image;
mod pdf;
mod reader;
#[cfg(test)]
mod spelling;

pub use audio::{AudioLength, audio_length};
pub use image::{ImageSize, image_size};
pub use pdf::{PdfFacts, PdfProblem, pdf};
pub use reader::is_data_url;
