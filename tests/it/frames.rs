//! HTTP/2 by hand: frames as a hostile client would write them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::attack::Target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field in HPACK: literal, in no table.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // Seven bits, and what is beyond them seven bits at a time.
        let mut rest = text.len();
        bytes.push(u8::try_from(rest.min(127)).unwrap());
        if rest >= 127 {
            rest -= 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The header block of a request with the target's key.
pub(crate) fn head(target: &Target, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let bearer = format!("Bearer {}", target.key);
    let mut fields = vec![
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("authorization", &bearer),
    ];
    fields.extend_from_slice(more);
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A whole request on a stream.
pub(crate) fn request(target: &Target, stream: u32, more: &[(&str, &str)], body: &str) -> Vec<u8> {
    let head = head(target, "POST", "/v1/chat/completions", more);
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
    bytes.extend(frame(DATA, END_STREAM, stream, body.as_bytes()));
    bytes
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection whose frames are written and read by hand.
pub(crate) struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Connection {
    /// Greets, with one setting.
    pub(crate) async fn open(target: &Target, setting: Option<(u16, u32)>) -> Self {
        let (read, mut write) = target.connect().await.into_split();
        let mut greeting = PREFACE.to_vec();
        let setting = setting.map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        greeting.extend(frame(SETTINGS, 0, 0, &setting.unwrap_or_default()));
        write.write_all(&greeting).await.unwrap();
        Self { read, write }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` if the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Came> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        let mut payload = vec![0; usize::try_from(number(&head[..3])).unwrap()];
        self.read.read_exact(&mut payload).await.ok()?;
        Some(Came { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
    }

    /// The next frame of a kind; meanwhile it answers pings, as one that wants
    /// to be kept does. `None` if the connection has ended.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Came> {
        loop {
            let came = timeout(Duration::from_secs(10), self.next()).await.expect("no such frame came")?;
            if came.kind == kind {
                return Some(came);
            }
            if came.kind == PING && came.flags == 0 {
                let _ = self.write.write_all(&frame(PING, ACK, 0, &came.payload)).await;
            }
        }
    }

    /// Writes what comes next again and again, reading away what comes back, until
    /// so many bytes have gone or three seconds are over. Says whether the other
    /// side cut it off before.
    pub(crate) async fn flood(self, mut next: impl FnMut() -> Vec<u8>, most: usize) -> bool {
        let Self { mut read, mut write } = self;
        let reading = tokio::task::spawn_local(async move {
            let mut part = vec![0; 1 << 16];
            while let Ok(1..) = read.read(&mut part).await {}
        });
        let writing = async {
            let mut sent = 0;
            while sent < most {
                let bytes = next();
                if write.write_all(&bytes).await.is_err() {
                    return true;
                }
                sent += bytes.len();
            }
            false
        };
        // One who is not read any more is held up enough.
        let is_cut_off = timeout(Duration::from_secs(3), writing).await.unwrap_or(false);
        reading.abort();
        is_cut_off
    }
}
