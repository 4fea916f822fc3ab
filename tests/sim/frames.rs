//! `WebSocket`s on simulated connections (RFC 6455), written and read without the guard's library: handshakes,
//! frames in parts, pings, and closing.

use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::chance::Chance;
use crate::wire::End;

/// The key of each handshake: sixteen bytes in base64.
const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The mask of each frame of a client.
const MASK: [u8; 4] = [7, 77, 177, 211];

const CONTINUED: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The normal end of a socket.
const NORMAL: u16 = 1_000;

/// Which side of a socket this is: a client masks what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What the other side has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// What was read of a socket, and how it is written.
#[derive(Debug)]
pub(crate) struct Frames {
    side: Side,
    unread: Vec<u8>,
    /// The parts of a text so far.
    partial: Vec<u8>,
}

impl Frames {
    pub(crate) fn of(side: Side, unread: Vec<u8>) -> Self {
        Self { side, unread, partial: Vec::new() }
    }

    /// Reads more; false at the end of the connection.
    pub(crate) async fn read(&mut self, end: &mut End) -> bool {
        end.read_buf(&mut self.unread).await.is_ok_and(|bytes| bytes > 0)
    }

    /// The next message, if it is whole.
    pub(crate) fn next(&mut self) -> Option<Message> {
        loop {
            let Frame { is_last, kind, payload } = self.frame()?;
            match kind {
                PING => return Some(Message::Ping(payload)),
                PONG => return Some(Message::Pong),
                CLOSE => return Some(Message::Close),
                TEXT | CONTINUED => self.partial.extend(payload),
                other => panic!("a frame of the kind {other}"),
            }
            if is_last {
                return Some(Message::Text(String::from_utf8(std::mem::take(&mut self.partial)).unwrap()));
            }
        }
    }

    /// The next frame, if it is whole.
    fn frame(&mut self) -> Option<Frame> {
        let [first, second, ..] = *self.unread.as_slice() else { return None };
        let number = |from: usize, to: usize| {
            let bytes = self.unread.get(from..to)?;
            Some(bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        };
        let (length, at) = match second & 0x7F {
            126 => (number(2, 4)?, 4),
            127 => (number(2, 10)?, 10),
            short => (usize::from(short), 2),
        };
        // Exactly the other side's frames are masked.
        assert_eq!(second & 0x80 != 0, self.side == Side::Server, "a mask");
        let (mask, at) = match self.side {
            Side::Client => ([0; 4], at),
            Side::Server => (self.unread.get(at..at + 4)?.try_into().unwrap(), at + 4),
        };
        let payload = self.unread.get(at..at + length)?.to_vec();
        self.unread.drain(..at + length);
        Some(Frame { is_last: first & 0x80 != 0, kind: first & 0x0F, payload: masked(payload, mask) })
    }

    /// A text in one frame or in several, maybe with a ping between them.
    pub(crate) fn text(&self, text: &str, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        let mut kind = TEXT;
        while chance.percent(10) && rest.len() > 1 {
            let (part, more) = rest.split_at(rest.len() / 2);
            self.put(&mut bytes, (kind, false), part);
            if chance.percent(20) {
                self.put(&mut bytes, (PING, true), b"there?");
            }
            (rest, kind) = (more, CONTINUED);
        }
        self.put(&mut bytes, (kind, true), rest);
        bytes
    }

    pub(crate) fn pong(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, (PONG, true), payload);
        bytes
    }

    /// The frame that closes a socket, with a code or without one.
    pub(crate) fn close(&self, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = Vec::new();
        let code = NORMAL.to_be_bytes();
        self.put(&mut bytes, (CLOSE, true), if chance.percent(70) { &code } else { &[] });
        bytes
    }

    fn put(&self, bytes: &mut Vec<u8>, (kind, is_last): (u8, bool), payload: &[u8]) {
        bytes.push(kind | if is_last { 0x80 } else { 0 });
        let is_masked = self.side == Side::Client;
        let mask_bit: u8 = if is_masked { 0x80 } else { 0 };
        let length = payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => bytes.push(mask_bit + short),
            (_, Ok(length)) => {
                bytes.push(mask_bit + 126);
                bytes.extend(length.to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit + 127);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        let mask = if is_masked { MASK } else { [0; 4] };
        if is_masked {
            bytes.extend(mask);
        }
        bytes.extend(masked(payload.to_vec(), mask));
    }
}

#[derive(Debug)]
struct Frame {
    is_last: bool,
    kind: u8,
    payload: Vec<u8>,
}

fn masked(mut payload: Vec<u8>, mask: [u8; 4]) -> Vec<u8> {
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    payload
}

/// The answer of a server that opens a socket, to a request with this key.
pub(crate) fn agreed(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
}

/// Opens a socket at a path: its frames, or the status of the answer that refuses it. None if the connection is over.
pub(crate) async fn open(end: &mut End, path: &str, headers: &[(&str, &str)]) -> Option<Result<Frames, u16>> {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nhost: guard.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {NONCE}\r\n"
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    end.send(format!("{head}\r\n").as_bytes(), None).ok()?;
    let mut unread = Vec::new();
    let at = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if end.read_buf(&mut unread).await.ok()? == 0 {
            return None;
        }
    };
    let rest = unread.split_off(at + 4);
    let head = String::from_utf8(unread).unwrap();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let is_agreed = status == 101 && head.contains(&derive_accept_key(NONCE.as_bytes()));
    Some(if is_agreed { Ok(Frames::of(Side::Client, rest)) } else { Err(status) })
}
