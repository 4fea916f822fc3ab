//! Any JSON Lines: the guard finds the lines that there are, however they are cut, and in each what
//! another reader of JSON finds.
//!
//! Lines are read as those of a batch's input and of its output. The other reader keeps the last of
//! two members of one name and knows no type: where the guard has accepted a line, both have
//! understood the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;
use spendguard::protocol::lines::{Line, LineReader};
use spendguard::protocol::openai::batch::{InputLine, MODERATIONS, OutputLine};

/// The lines that a reader finds in a text that comes in pieces of `size` bytes; `None` is one that
/// is too long.
fn in_pieces(text: &[u8], size: usize, bytes_max: usize) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut reader) = (Vec::new(), LineReader::new(bytes_max));
    let mut on = |line: Line<'_>| match line {
        Line::Whole(line) => lines.push(Some(line.to_vec())),
        Line::TooLong => lines.push(None),
    };
    for piece in text.chunks(size) {
        reader.feed(piece, &mut on);
        assert!(reader.held_bytes() <= 2 * (bytes_max + 1).max(8), "a line is bounded");
    }
    reader.finish(&mut on);
    lines
}

/// The lines by definition: each ends with `\n` or `\r\n`, or with the text.
fn in_whole(text: &[u8], bytes_max: usize) -> Vec<Option<Vec<u8>>> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let last = lines.pop().unwrap_or_default();
    let mut lines: Vec<&[u8]> =
        lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    if !last.is_empty() {
        lines.push(last);
    }
    lines.into_iter().map(|line| (line.len() <= bytes_max).then(|| line.to_vec())).collect()
}

/// What another reader finds; `None` for what it can't keep, such as a number without a value.
fn leniently(line: &[u8]) -> Option<Value> {
    let read = serde_json::from_slice(line).ok();
    assert!(read.is_some() || serde_json::from_slice::<IgnoredAny>(line).is_ok(), "a line that is no JSON");
    read
}

fn check_input(line: &[u8]) {
    let Ok(read) = InputLine::read(line) else { return };
    let Some(found) = leniently(line) else { return };
    assert_eq!(found["method"], "POST");
    let InputLine::Metered(operation, request, body) = read else {
        return assert_eq!(found["url"], MODERATIONS);
    };
    assert_eq!(found["url"], operation.path);
    let demand = &request.demand;
    assert_eq!(found["body"]["model"], *demand.model);
    assert_eq!(
        found["body"],
        serde_json::from_str::<Value>(body).expect("it was read as a part of the line")
    );
    assert_ne!(found["body"]["background"], true);
    if let (true, Some(choices)) = (operation.path == "/v1/chat/completions", found["body"]["n"].as_u64()) {
        assert_eq!(choices, demand.choices);
    }
}

fn check_output(line: &[u8]) {
    let Ok(Some(read)) = OutputLine::read(line) else { return };
    let Some(found) = leniently(line) else { return };
    assert_eq!(found["response"]["status_code"], read.status);
    let body: Value = serde_json::from_str(read.body).expect("it was read as a part of the line");
    assert_eq!(found["response"]["body"], body);
}

fuzz_target!(|text: &[u8]| {
    for bytes_max in [0, 40, 4096] {
        let whole = in_whole(text, bytes_max);
        for size in [1, 2 + text.len() % 61, text.len().max(1)] {
            assert_eq!(in_pieces(text, size, bytes_max), whole, "in pieces of {size}");
        }
    }
    for line in text.split(|byte| *byte == b'\n') {
        check_input(line);
        check_output(line);
    }
});
