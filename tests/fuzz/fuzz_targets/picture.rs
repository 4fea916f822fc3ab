//! Any bytes as a picture: a size that the guard takes is no smaller than what the oracle's own reader
//! finds, which takes the larger of two; and another spelling of the same bytes has the same size.

#![no_main]

use std::fmt::Write as _;

use libfuzzer_sys::fuzz_target;
use spendguard::media::image_size;

fuzz_target!(|data: &[u8]| {
    let text = oracle::base64::encode(data);
    let size = image_size(&format!("\"data:image/png;base64,{text}\""));
    let mut escaped = String::new();
    for (at, letter) in text.chars().enumerate() {
        if at % 7 == 3 {
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    assert_eq!(image_size(&format!("\"{escaped}\"")), size);
    // What no decoder could read has no size to the other reader.
    if let Some((size, (width, height))) = size.zip(oracle::media::pixels(data)) {
        let is_covered = u64::from(size.width) >= width && u64::from(size.height) >= height;
        assert!(is_covered, "{size:?}, {width} x {height}");
    }
});
