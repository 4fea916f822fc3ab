//! Refusals because of a request's head, and of the connection to upstream.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::proxy::refuse::{Answer, client, retry, server};

const NO_WEBSOCKET: &str = "A WebSocket is served at /v1/responses and /v1/realtime only. Use one of these, or \
                            POST /v1/responses with \"stream\": true.";
const ORIGIN_NOT_ALLOWED: &str = "Pages of this origin may not call spendguard. Its operator can allow them with \
                                  server.cors_origins.";
const UNKNOWN_CODING: &str = "The request body is compressed in a way that is not known here. Send it as it is, or with one \
                              Content-Encoding of gzip, deflate or zstd.";
const KEY_REFUSED: &str = "The upstream API did not accept the key that spendguard calls it with. Only spendguard's operator \
                           can change that; its log says more.";

const LIST_TOO_LONG: &str = "Too many objects of other projects stand before the next one of yours in this list. Read what \
                             you need by its id, or ask spendguard's operator for a project of its own at OpenAI.";

/// Why a request is refused before its body is read, or after the head of upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The path is a known one behind a wrong base URL: method and path.
    InvalidUrl(String),
    /// It asks for a WebSocket that is not served.
    NoWebSocket,
    /// The body is compressed in a way that can't be unpacked.
    UnknownCoding,
    /// It comes from a browser's page of an origin that may not call.
    OriginNotAllowed,
    /// Upstream does not accept the guard's own key.
    UpstreamKeyRefused,
    /// The part of a list that was read has no object of the caller's, and more follows.
    ListTooLong,
}

impl Edge {
    /// The label of the metric, one of a fixed set.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl(_) | Self::UnknownCoding => "invalid_request",
            Self::NoWebSocket => "endpoint_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::UpstreamKeyRefused => "upstream_key_refused",
            Self::ListTooLong => "list_too_long",
        }
    }

    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::InvalidUrl(endpoint) => client(
                StatusCode::NOT_FOUND,
                None,
                None,
                format!(
                    "Invalid URL ({endpoint}). The path looks like one that is served, but the base URL in front of it \
                     is wrong: it is the guard's address and /v1, as in http://127.0.0.1:8080/v1, with nothing after it."
                ),
            ),
            // No `Upgrade` goes with it: there is no protocol to change to.
            Self::NoWebSocket => client(StatusCode::UPGRADE_REQUIRED, None, None, NO_WEBSOCKET.to_owned()),
            Self::UnknownCoding => {
                let answer =
                    client(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, None, UNKNOWN_CODING.to_owned());
                let known = HeaderValue::from_static("gzip, deflate, zstd");
                Answer { headers: HeaderMap::from_iter([(header::ACCEPT_ENCODING, known)]), ..answer }
            }
            Self::OriginNotAllowed => {
                client(StatusCode::FORBIDDEN, Some("origin_not_allowed"), None, ORIGIN_NOT_ALLOWED.to_owned())
            }
            Self::UpstreamKeyRefused => {
                let mut answer = server(StatusCode::BAD_GATEWAY, "upstream_key_refused", KEY_REFUSED);
                retry(&mut answer.headers, false, None);
                answer
            }
            Self::ListTooLong => {
                let mut answer = server(StatusCode::BAD_GATEWAY, "list_too_long", LIST_TOO_LONG);
                retry(&mut answer.headers, false, None);
                answer
            }
        }
    }
}
