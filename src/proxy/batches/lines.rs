//! The lines of a file that is scanned, as its bytes pass.

use std::sync::Arc;

use bytes::Bytes;

use crate::guard::Guard;
use crate::protocol::lines::{Line, LineReader};
use crate::protocol::openai::batch::InputLine;
use crate::proxy::batches::file::BatchFile;
use crate::proxy::batches::scan::Scan;
use crate::proxy::refuse::Refusal;
use crate::proxy::room::{Pool, Room};

/// A line up to this size is read on the thread that serves the request.
pub(super) const READ_HERE_BYTES_MAX: usize = 128 << 10;

/// A scan of a file whose bytes are fed to it.
#[derive(Debug)]
pub(in crate::proxy) struct ScannedLines {
    reader: LineReader,
    scan: Scan,
    line_bytes_max: usize,
    /// Lines that are read on another thread, by their numbers.
    large: Vec<(u64, Bytes)>,
    /// The memory of a line that is not whole yet, in that of the bodies of its key.
    room: Room,
}

impl ScannedLines {
    /// A scan of a file whose lines have at most so many bytes, for a key.
    pub(in crate::proxy) fn new(scan: Scan, line_bytes_max: usize, key: Arc<str>) -> Self {
        let room = Room::of(Pool::Requests, key);
        Self { reader: LineReader::new(line_bytes_max), scan, line_bytes_max, large: Vec::new(), room }
    }

    /// Takes the next bytes. [`ScannedLines::catch_up`] has to follow.
    pub(in crate::proxy) fn take(&mut self, bytes: &[u8]) {
        let Self { reader, scan, large, line_bytes_max, .. } = self;
        if !scan.is_over() {
            reader.feed(bytes, |line| read(scan, large, line, *line_bytes_max));
        }
    }

    /// Takes the end of the file. [`ScannedLines::catch_up`] has to follow.
    pub(in crate::proxy) fn end(&mut self) {
        let Self { reader, scan, large, line_bytes_max, .. } = self;
        if !scan.is_over() {
            reader.finish(|line| read(scan, large, line, *line_bytes_max));
        }
    }

    /// Reads the large lines that were taken, on another thread.
    pub(in crate::proxy) async fn catch_up(&mut self, guard: &Guard) -> Result<(), Refusal> {
        let held_bytes = self.reader.held_bytes();
        if !self.room.grow(held_bytes) {
            return Err(Refusal::NoRoom);
        }
        for (number, line) in std::mem::take(&mut self.large) {
            let read = guard.parsed(&line, |line| InputLine::read(line)).await;
            self.scan.add(number, read);
        }
        self.room.shrink(held_bytes);
        Ok(())
    }

    /// What is known of the file.
    pub(in crate::proxy) fn finish(self) -> BatchFile {
        self.scan.finish()
    }
}

fn read(scan: &mut Scan, large: &mut Vec<(u64, Bytes)>, line: Line<'_>, bytes_max: usize) {
    let number = scan.next();
    match line {
        Line::TooLong => scan.too_long(number, bytes_max),
        Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => {}
        Line::Whole(line) if line.len() > READ_HERE_BYTES_MAX => {
            large.push((number, Bytes::copy_from_slice(line)));
        }
        Line::Whole(line) => scan.add(number, InputLine::read(line)),
    }
}
