//! The lines of a file that is scanned, as its bytes pass.

use std::sync::Arc;

use bytes::Bytes;

use crate::guard::Guard;
use crate::protocol::lines::{Line, LineReader};
use crate::proxy::batches::file::BatchFile;
use crate::proxy::batches::scan::{ReadLine, Scan};
use crate::proxy::refuse::Refusal;
use crate::proxy::room::{Pool, Room};

/// A line up to this size is read on the thread that serves the request.
pub(super) const READ_HERE_BYTES_MAX: usize = 128 << 10;

/// How lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Depth {
    /// By their bytes: each is a token at the most.
    Bytes,
    /// With the tokens of their text, which takes ten times as long.
    Tokens,
}

/// A scan of a file whose bytes are fed to it.
#[derive(Debug)]
pub(in crate::proxy) struct ScannedLines {
    reader: LineReader,
    lines: Lines,
    /// The memory of a line that is not whole yet, in that of the bodies of its key.
    room: Room,
}

/// The lines that are whole.
#[derive(Debug)]
struct Lines {
    scan: Scan,
    depth: Depth,
    bytes_max: usize,
    /// Those that are read on another thread, by their numbers.
    later: Vec<(u64, Bytes)>,
}

impl ScannedLines {
    /// A scan of a file whose lines have at most so many bytes, for a key.
    pub(in crate::proxy) fn new(scan: Scan, depth: Depth, line_bytes_max: usize, key: Arc<str>) -> Self {
        let room = Room::of(Pool::Requests, key);
        let lines = Lines { scan, depth, bytes_max: line_bytes_max, later: Vec::new() };
        Self { reader: LineReader::new(line_bytes_max), lines, room }
    }

    /// Takes the next bytes. [`ScannedLines::catch_up`] has to follow.
    pub(in crate::proxy) fn take(&mut self, bytes: &[u8]) {
        let Self { reader, lines, .. } = self;
        if !lines.scan.has_fault() {
            reader.feed(bytes, |line| lines.add(line));
        }
    }

    /// Whether the file can't make a batch, whatever follows.
    pub(in crate::proxy) fn has_fault(&self) -> bool {
        self.lines.scan.has_fault()
    }

    /// Takes the end of the file. [`ScannedLines::catch_up`] has to follow.
    pub(in crate::proxy) fn end(&mut self) {
        let Self { reader, lines, .. } = self;
        if !lines.scan.has_fault() {
            reader.finish(|line| lines.add(line));
        }
    }

    /// Reads the lines that were left for another thread, there.
    pub(in crate::proxy) async fn catch_up(&mut self, guard: &Guard) -> Result<(), Refusal> {
        let held_bytes = self.reader.held_bytes();
        if !self.room.grow(held_bytes) {
            return Err(Refusal::NoRoom);
        }
        if !self.lines.later.is_empty() {
            self.lines.read_later(guard).await;
        }
        self.room.shrink(held_bytes);
        Ok(())
    }

    /// What is known of the file.
    pub(in crate::proxy) fn finish(self) -> BatchFile {
        self.lines.scan.finish(self.lines.depth == Depth::Tokens)
    }
}

impl Lines {
    fn add(&mut self, line: Line<'_>) {
        let number = self.scan.next();
        match line {
            Line::TooLong => self.scan.too_long(number, self.bytes_max),
            Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(line) if self.depth == Depth::Tokens || line.len() > READ_HERE_BYTES_MAX => {
                self.later.push((number, Bytes::copy_from_slice(line)));
            }
            Line::Whole(line) => self.scan.add(number, ReadLine::of(line)),
        }
    }

    async fn read_later(&mut self, guard: &Guard) {
        let later = std::mem::take(&mut self.later);
        let bytes = later.iter().map(|(_, line)| line.len()).sum();
        let (depth, pricing) = (self.depth, self.scan.pricing().clone());
        let read = move |(number, line): (u64, Bytes)| match depth {
            Depth::Bytes => (number, ReadLine::of(&line)),
            Depth::Tokens => (number, ReadLine::counted(&line, &pricing)),
        };
        for (number, line) in
            guard.offload(bytes, move || later.into_iter().map(read).collect::<Vec<_>>()).await
        {
            self.scan.add(number, line);
        }
    }
}
