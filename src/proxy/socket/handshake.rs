//! The handshake of a `WebSocket`, on both sides (RFC 6455, section 4), and a client's over HTTP/2 (RFC 8441).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::proxy::refuse::Refusal;

const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Protocols of OpenAI's SDKs that carry a key or name an account.
const OF_ACCOUNT: &str = "openai-";

/// What a client offers with its request for a socket. No extension is taken.
pub(super) struct Offer {
    /// The answer to its key; `None` over HTTP/2, where there is none.
    pub(super) accept: Option<HeaderValue>,
    /// The protocol that is chosen: a browser insists on one of those that its page names, and of
    /// those the page has put the key into one.
    pub(super) protocol: Option<HeaderValue>,
}

impl Offer {
    /// Reads the head of a request for a socket.
    pub(super) fn of(head: &http::request::Parts) -> Result<Self, Refusal> {
        let headers = &head.headers;
        let wrong = |message: &str| Refusal::Invalid(message.to_owned(), None);
        let one = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        if one(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(wrong("A WebSocket is opened with the header Sec-WebSocket-Version: 13."));
        }
        let accept = if head.version == Version::HTTP_2 { None } else { Some(accepted(headers)?) };
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let mut offered = offered.map(str::trim);
        let protocol = offered.find(|name| !name.is_empty() && !name.starts_with(OF_ACCOUNT));
        Ok(Self { accept, protocol: protocol.and_then(|name| HeaderValue::from_str(name).ok()) })
    }
}

/// The answer to the key of a request over HTTP/1.1.
fn accepted(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let wrong = |message: &str| Refusal::Invalid(message.to_owned(), None);
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none()).map(HeaderValue::as_bytes);
    let is_key = |key: &&[u8]| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let Some(key) = key.filter(is_key) else {
        return Err(wrong("The header Sec-WebSocket-Key must be 16 bytes in base64."));
    };
    let names = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut names = names.flat_map(|value| value.split(','));
    if !names.any(|name| name.trim().eq_ignore_ascii_case("upgrade")) {
        return Err(wrong("A WebSocket is opened with the header Connection: Upgrade."));
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key));
    accept.map_err(|_| wrong("The header Sec-WebSocket-Key is no key."))
}

/// Makes a request to upstream one for a socket; returns its key.
pub(super) fn ask(headers: &mut HeaderMap) -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::Overloaded)?;
    let key = BASE64_STANDARD.encode(bytes);
    let value = HeaderValue::from_str(&key).map_err(|_| Refusal::Overloaded)?;
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
    headers.insert(header::SEC_WEBSOCKET_KEY, value);
    Ok(key)
}

/// Whether upstream has answered the request with this key, and chosen neither an extension nor a
/// protocol: none was asked for.
pub(super) fn is_answer_to(key: &str, answer: &HeaderMap) -> bool {
    let accept = answer.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    accept == Some(derive_accept_key(key.as_bytes()).as_bytes())
        && !answer.contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
        && !answer.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
}
