//! The size of inline media, read from their own headers.
//!
//! Input is a JSON string token as it stands in a body: base64 with or without a data URL around it, in any
//! spelling; or a file, or sound that passes. Headers are read in place: images and audio are neither copied nor decoded. The bytes
//! decide the kind of a medium; the caller compares it with the declared one. Every function has a bound on
//! its work, and gives `None` or a problem for anything that two decoders could read differently: a caller
//! then has to assume the model's maximum.

mod audio;
mod image;
mod pdf;
mod reader;
mod recording;
mod sound;
#[cfg(test)]
mod spelling;

pub use audio::{AudioLength, LengthBasis, audio_length};
pub use image::{ImageSize, image_size};
pub use pdf::{PdfFacts, PdfProblem, pdf};
pub use reader::is_data_url;
pub use recording::{Recording, SLOWEST_BIT_RATE, recording};
pub use sound::SoundMeter;
