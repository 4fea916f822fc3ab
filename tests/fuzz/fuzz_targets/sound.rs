//! Any bytes as a recording, and as sound that passes: they are measured without a panic, a
//! recording that is in no known form lasts as long as its bytes can, and sound lasts as long
//! however it is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spendguard::media::{self, SoundMeter};
use spendguard_fuzz::knobs;

fuzz_target!(|data: &[u8]| {
    let Some((knobs, bytes)) = knobs::<3>(data) else { return };
    let length = media::recording(bytes);
    if !bytes.starts_with(b"RIFF") && !bytes.starts_with(b"ID3") && !bytes.starts_with(b"\xff") {
        // An empty file is no exception.
        assert!(length.is_none_or(|length| length.millis > 0 || bytes.is_empty()), "{length:?}");
    }
    let passed = |part: usize| {
        let mut meter = SoundMeter::new(knobs[0] % 4 == 0);
        for part in bytes.chunks(part.max(1)) {
            meter.feed(part);
        }
        meter.finish();
        meter.millis()
    };
    let whole = passed(bytes.len());
    assert_eq!(passed(knobs[1]), whole);
    assert_eq!(passed(knobs[2] * 16), whole);
});
