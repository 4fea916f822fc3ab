//! Adds up the packets of an Ogg stream (RFC 3533) as its bytes pass.

use memchr::memmem;

use super::flac::FlacFrames;
use super::packet::{Codec, opus};

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
    is_unread: bool,
    is_doubtful: bool,
}

/// One of the streams, by its number.
#[derive(Debug)]
struct Stream {
    serial: [u8; 4],
    codec: Codec,
    /// Its frames, if it is of FLAC.
    flac: Option<FlacFrames>,
}

impl OggPackets {
    /// Takes up the next bytes.
    pub(in crate::media) fn feed(&mut self, part: &[u8]) {
        for block in part.chunks(PAGE_BYTES_MAX) {
            let mut bytes = std::mem::take(&mut self.rest);
            bytes.extend_from_slice(block);
            let mut at = 0;
            loop {
                let (start, ends) = page(&bytes[at..]);
                at += start;
                let Some((body, end)) = ends else { break };
                self.count(&bytes[at..at + end], body);
                at += end;
            }
            bytes.drain(..at);
            self.rest = bytes;
        }
    }

    /// Takes up the end, which may be within a page.
    pub(in crate::media) fn finish(&mut self) {
        let page = std::mem::take(&mut self.rest);
        let body = page.get(HEAD_BYTES - 1).map(|segments| HEAD_BYTES + usize::from(*segments));
        if let Some(body) = body.filter(|body| *body <= page.len()) {
            self.count(&page, body);
        }
        for flac in self.streams.iter_mut().filter_map(|stream| stream.flac.as_mut()) {
            flac.finish();
        }
    }

    /// Adds the packets that begin on a page whose content begins at `body`.
    fn count(&mut self, page: &[u8], body: usize) {
        // A decoder that finds the checksum wrong looks for the next page in this one.
        self.is_doubtful |= memmem::find(&page[PAGE.len()..], PAGE).is_some();
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
        // Frames of FLAC count wherever they stand in a packet.
        let stream = self.streams.iter_mut().find(|stream| stream.serial == serial);
        if let Some(flac) = stream.and_then(|stream| stream.flac.as_mut()) {
            flac.feed(&page[body..]);
        }
    }

    /// Adds a packet by its beginning.
    fn take(&mut self, serial: [u8; 4], packet: &[u8]) {
        let first = packet.first().copied().unwrap_or_default();
        if let Some(codec) = Codec::of_ogg(packet) {
            self.begin(serial, codec);
            return;
        }
        let Some(stream) = self.streams.iter().find(|stream| stream.serial == serial) else {
            self.is_unread = true;
            return;
        };
        let nanos = match stream.codec {
            Codec::Opus if packet.starts_with(b"OpusTags") => 0,
            Codec::Opus => opus(packet).unwrap_or(0),
            // Headers, which are no sound, have an odd first byte in Vorbis.
            Codec::Even { .. } if first & 1 == 1 => 0,
            codec @ Codec::Even { .. } => codec.longest(1, 0).unwrap_or(0),
            Codec::Flac { .. } | Codec::Aac { .. } | Codec::Lossy => 0,
        };
        self.nanos = self.nanos.saturating_add(nanos);
    }

    fn begin(&mut self, serial: [u8; 4], codec: Codec) {
        match self.streams.iter().find(|known| known.serial == serial) {
            Some(known) => self.is_doubtful |= known.codec != codec,
            None if self.streams.len() < STREAMS_MAX => {
                let flac = if let Codec::Flac { rate } = codec { Some(FlacFrames::of(rate)) } else { None };
                self.streams.push(Stream { serial, codec, flac });
            }
            None => self.is_unread = true,
        }
    }

    /// How long all packets so far of all streams last. `None` if there were none, if a stream was
    /// not understood, or if one says twice, and differently, what it is.
    pub(in crate::media) fn nanos(&self) -> Option<u64> {
        let flac = self.streams.iter().filter_map(|stream| stream.flac.as_ref()?.nanos());
        let nanos = flac.fold(self.nanos, u64::saturating_add);
        (nanos > 0 && !self.is_unread && !self.is_doubtful).then_some(nanos)
    }
}

/// Where the first page begins, or could; from there, where its content begins and where it ends,
/// if all of it is there.
fn page(bytes: &[u8]) -> (usize, Option<(usize, usize)>) {
    let Some(start) = memmem::find(bytes, PAGE) else {
        return (bytes.len().saturating_sub(PAGE.len() - 1), None);
    };
    let page = &bytes[start..];
    let body = page.get(HEAD_BYTES - 1).map(|segments| HEAD_BYTES + usize::from(*segments));
    let sizes = body.and_then(|body| Some((body, page.get(HEAD_BYTES..body)?)));
    let ends =
        sizes.map(|(body, sizes)| (body, body + sizes.iter().map(|size| usize::from(*size)).sum::<usize>()));
    (start, ends.filter(|(_, end)| *end <= page.len()))
}
