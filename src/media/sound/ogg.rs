//! Adds up the packets of an Ogg stream (RFC 3533) as its bytes pass.

use memchr::memmem;

use super::packet::Codec;

/// What a page begins with.
const PAGE: &[u8] = b"OggS";
/// The fixed part of a page's head, and the most that a whole page has.
const HEAD_BYTES: usize = 27;
const PAGE_BYTES_MAX: usize = HEAD_BYTES + 255 + 255 * 255;
/// The most streams that are distinguished.
const STREAMS_MAX: usize = 16;

/// A page counts wherever it stands, and whatever its checksum is: the sum is never less than
/// what a decoder finds.
#[derive(Debug, Default)]
pub(in crate::media) struct OggPackets {
    /// The beginning of a page.
    rest: Vec<u8>,
    streams: Vec<Stream>,
    nanos: u64,
    has_packets: bool,
    is_unread: bool,
    is_doubtful: bool,
}

/// One of the streams, by its number.
#[derive(Debug)]
struct Stream {
    serial: [u8; 4],
    codec: Codec,
}

impl OggPackets {
    /// Takes up the next bytes.
    pub(in crate::media) fn feed(&mut self, part: &[u8]) {
        for block in part.chunks(PAGE_BYTES_MAX) {
            self.rest.extend_from_slice(block);
            while self.take_page() {}
        }
    }

    /// Takes a whole page off the front; false if there is none yet.
    fn take_page(&mut self) -> bool {
        let Some(start) = memmem::find(&self.rest, PAGE) else {
            let kept = self.rest.len().min(PAGE.len() - 1);
            self.rest.drain(..self.rest.len() - kept);
            return false;
        };
        self.rest.drain(..start);
        let Some(&segments) = self.rest.get(HEAD_BYTES - 1) else { return false };
        let body = HEAD_BYTES + usize::from(segments);
        let Some(sizes) = self.rest.get(HEAD_BYTES..body) else { return false };
        let length: usize = sizes.iter().map(|size| usize::from(*size)).sum();
        if self.rest.len() < body + length {
            return false;
        }
        let page: Vec<u8> = self.rest.drain(..body + length).collect();
        self.count(&page, body);
        true
    }

    /// Takes up the end, which may be within a page.
    pub(in crate::media) fn finish(&mut self) {
        let page = std::mem::take(&mut self.rest);
        let body = page.get(HEAD_BYTES - 1).map(|segments| HEAD_BYTES + usize::from(*segments));
        if let Some(body) = body.filter(|body| *body <= page.len()) {
            self.count(&page, body);
        }
    }

    /// Adds the packets that begin on a page whose content begins at `body`.
    fn count(&mut self, page: &[u8], body: usize) {
        let serial = [page[14], page[15], page[16], page[17]];
        let (mut at, mut is_new) = (body, page[5] & 1 == 0);
        for size in &page[HEAD_BYTES..body] {
            let size = usize::from(*size);
            if is_new && at < page.len() {
                self.take(serial, &page[at..]);
            }
            at += size;
            is_new = size < 255;
        }
    }

    /// Adds a packet by its beginning.
    fn take(&mut self, serial: [u8; 4], packet: &[u8]) {
        let first = packet.first().copied().unwrap_or_default();
        if let Some(codec) = Codec::of_ogg(packet) {
            self.begin(Stream { serial, codec });
            return;
        }
        let Some(stream) = self.streams.iter().find(|stream| stream.serial == serial) else {
            self.is_unread = true;
            return;
        };
        let nanos = match stream.codec {
            Codec::Opus if packet.starts_with(b"OpusTags") => 0,
            Codec::Opus => stream.codec.nanos(packet).unwrap_or(0),
            // Headers, which are no sound, have an odd first byte in Vorbis, and another than
            // a frame in FLAC.
            Codec::Even { .. } if first & 1 == 1 => 0,
            Codec::Flac { .. } if first != 0xff => 0,
            Codec::Even { .. } | Codec::Flac { .. } => match stream.codec.nanos(packet) {
                Some(nanos) => nanos,
                None => return self.is_unread = true,
            },
        };
        self.has_packets |= nanos > 0;
        self.nanos = self.nanos.saturating_add(nanos);
    }

    fn begin(&mut self, stream: Stream) {
        match self.streams.iter().find(|known| known.serial == stream.serial) {
            Some(known) => self.is_doubtful |= known.codec != stream.codec,
            None if self.streams.len() < STREAMS_MAX => self.streams.push(stream),
            None => self.is_unread = true,
        }
    }

    /// Whether a stream says twice, and differently, what it is.
    pub(in crate::media) const fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// How long all packets so far of all streams last, and whether every stream was understood.
    pub(in crate::media) const fn nanos(&self) -> (u64, bool) {
        (self.nanos, self.has_packets && !self.is_unread)
    }
}
