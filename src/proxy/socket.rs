//! `WebSocket`s: each request on one is admitted, billed and refused like any other.
//!
//! A socket of a client has one to upstream beside it, since upstream keeps the context of responses by
//! the connection. What differs from HTTP is how a request comes and its answer goes: a message asks for a
//! response, and the events of its lane are the event stream of its answer. The responses of a lane
//! follow one another, so that each event of upstream belongs to one request.

mod budget;
mod handshake;
mod lanes;
mod request;
mod session;
mod wire;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::protocol::openai::operation::Operation;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::body::ANSWER_BYTES_MAX;
use crate::proxy::in_flight::InFlight;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::socket::budget::{Budget, Budgeted};
use crate::proxy::socket::handshake::Offer;
use crate::proxy::socket::session::Session;
use crate::proxy::{Content, Failed, Proxy, Rules, headers, outgoing, receive};
use crate::upstream::Upgrade;

/// The buffer that each side of a socket has for what it reads.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// A connection that is a socket's.
type Io = TokioIo<hyper::upgrade::Upgraded>;
/// The socket of a client.
type ClientSocket = WebSocketStream<Budgeted<Io>>;
/// A socket to upstream.
type UpstreamSocket = WebSocketStream<Io>;

impl Proxy {
    /// Opens a socket to upstream, then that of the client. Whether its requests are admitted is
    /// decided for each of them.
    pub(super) async fn open_socket(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        operation: &'static Operation,
        head: http::request::Parts,
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let offer = match Offer::of(&head.headers) {
            Ok(offer) => offer,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        let mut request = Request::from_parts(head, ());
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, ()) = request.into_parts();
        let mut to_upstream =
            outgoing(rules, head.clone(), bytes::Bytes::new(), &caller, Content::AsItCame, &in_flight);
        let key = match handshake::ask(&mut to_upstream.headers) {
            Ok(key) => key,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        let began = in_flight.age();
        let asked = self.upstream(rules).upgrade(&to_upstream.suffix, to_upstream.headers).await;
        let took = in_flight.age().saturating_sub(began);
        let (answer, upstream) = match asked {
            Ok(Upgrade::Agreed(answer, io)) if handshake::is_answer_to(&key, &answer) => {
                in_flight.upstream_answered("1xx", took);
                (answer, io)
            }
            Ok(Upgrade::Refused(answer)) if !answer.status().is_success() => {
                in_flight.upstream_answered("4xx", took);
                return self.no_socket(rules, answer.map(Answer::Plain), &caller, in_flight).await;
            }
            Ok(Upgrade::Agreed(..) | Upgrade::Refused(_)) => {
                return Err((Refusal::Upstream(NoAnswer::Unreachable(Billed::No)), in_flight));
            }
            Err(error) => {
                tracing::warn!(event = "upstream_request_failed", %error, "no socket to upstream");
                return Err((Refusal::Upstream(NoAnswer::of(&error, Billed::No)), in_flight));
            }
        };
        self.remember(&caller, true).await;
        let config = |bytes_max| {
            WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .max_message_size(Some(bytes_max))
                .max_frame_size(Some(bytes_max))
        };
        let of_clients = config(rules.request_body_bytes_max);
        let of_upstream = config(ANSWER_BYTES_MAX);
        let (budget, idle) = (Budget::of(receive::allowance(&caller)), rules.request_idle);
        let session = Session::new(self, operation, head, budget.clone());
        session.begin(async move {
            let client = Budgeted::new(TokioIo::new(upgrade.await?), budget, idle);
            let client = ClientSocket::from_raw_socket(client, Role::Server, Some(of_clients));
            let upstream = TokioIo::new(upstream);
            let upstream = UpstreamSocket::from_raw_socket(upstream, Role::Client, Some(of_upstream));
            Ok(tokio::join!(client, upstream))
        });
        let mut response = Response::new(Answer::whole(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = answer_headers(&offer, answer);
        in_flight.status = response.status().as_u16();
        in_flight.ended("ok");
        Ok(response)
    }

    /// Passes on the answer of an upstream that opens no socket.
    async fn no_socket(
        &self,
        rules: &Rules,
        answer: Response<Answer>,
        caller: &Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let mut answer = answer;
        headers::to_client(answer.headers_mut());
        in_flight.status = answer.status().as_u16();
        in_flight.ended("upstream_error");
        self.concealed(rules, Ok(answer), caller.key.pass_through).await
    }
}

/// The headers of the answer to a client that gets its socket.
fn answer_headers(offer: &Offer, mut answer: HeaderMap) -> HeaderMap {
    headers::to_client(&mut answer);
    // They are about the socket to upstream.
    for name in
        [header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_EXTENSIONS]
    {
        answer.remove(name);
    }
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, offer.accept.clone());
    answer
}
