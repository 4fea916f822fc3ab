//! `WebSocket`s: each request on one is admitted, billed and refused like any other.
//!
//! A socket of a client has one to upstream beside it, since upstream keeps the context of responses by
//! the connection. What differs from HTTP is how a request comes and its answer goes: a message asks for a
//! response, and the events of its lane are the event stream of its answer. The responses of a lane
//! follow one another, so that each event of upstream belongs to one request.

mod budget;
mod handshake;
mod lanes;
mod pair;
mod realtime;
mod request;
mod responses;
mod session;
mod steer;
mod translation;
mod turn;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::domain::demand::Labels;
use crate::guard::sockets::OpenSocket;
use crate::net::InUse;
use crate::protocol::openai::operation::{Operation, SocketForm};
use crate::protocol::openai::realtime::{BoundSession, Settings};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::body::ANSWER_BYTES_MAX;
use crate::proxy::exchange::class;
use crate::proxy::in_flight::InFlight;
use crate::proxy::refuse::{Billed, NoAnswer, Refusal};
use crate::proxy::socket::budget::{Budget, Budgeted};
use crate::proxy::socket::handshake::Offer;
use crate::proxy::socket::pair::{Pair, serve};
use crate::proxy::socket::session::Session;
use crate::proxy::{Content, Failed, Proxy, Rules, headers, outgoing, receive};
use crate::upstream::Upgrade;

/// The buffer that each side of a socket has for what it reads. All of it is cleared before each read.
const READ_BUFFER_BYTES: usize = 4 << 10;

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
        (operation, form): (&'static Operation, SocketForm),
        mut head: http::request::Parts,
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let key = receive::allowance(&caller);
        let place = self.guard.socket_place(Arc::clone(&key)).ok_or(Refusal::Overloaded);
        let offer = Offer::of(&head)
            .and_then(|offer| Ok((offer, place?, SessionKind::of(form, &mut head, &caller)?)));
        let (offer, place, kind) = match offer {
            Ok(offer) => offer,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        let mut request = Request::from_parts(head, ());
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, ()) = request.into_parts();
        let in_use = head.extensions.get::<InUse>().cloned();
        let (answer, upstream) = match self.ask_for_socket(rules, &head, &caller, &in_flight).await {
            Ok(Upgrade::Agreed(answer, upstream)) => (answer, upstream),
            Ok(Upgrade::Refused(answer)) => return self.no_socket(rules, answer, &caller, in_flight).await,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        self.remember(&caller, true).await;
        let (budget, idle) = (Budget::of(key), rules.request_idle);
        let listed = place.open(self.described(rules, operation, &head.headers, &caller, &in_flight));
        let session = Session {
            shard: Arc::clone(self),
            operation,
            head: Session::request_head(head, operation),
            budget: budget.clone(),
            listed,
            upstream_key: rules.own_secret(caller.key.pass_through).map(str::to_owned),
            _in_use: in_use,
        };
        let message_bytes_max = rules.request_body_bytes_max;
        let tracker = self.tracker.clone();
        let sockets = async move {
            let client = Budgeted::new(TokioIo::new(upgrade.await?), budget, idle);
            let client = ClientSocket::from_raw_socket(client, Role::Server, Some(config(message_bytes_max)));
            let upstream = TokioIo::new(upstream);
            let upstream =
                UpstreamSocket::from_raw_socket(upstream, Role::Client, Some(config(ANSWER_BYTES_MAX)));
            hyper::Result::Ok(tokio::join!(client, upstream))
        };
        tracker.spawn(async move {
            match sockets.await {
                Ok((client, upstream)) => kind.serve(session, client, upstream).await,
                Err(error) => {
                    tracing::debug!(event = "no_socket", %error, "a client is gone before its socket is open");
                }
            }
        });
        let mut response = Response::new(Answer::whole(Bytes::new()));
        if offer.accept.is_some() {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        *response.headers_mut() = answer_headers(offer, answer);
        in_flight.status = response.status().as_u16();
        in_flight.ended("ok");
        Ok(response)
    }

    /// What a list of open sockets says of one.
    fn described(
        &self,
        rules: &Rules,
        operation: &Operation,
        headers: &HeaderMap,
        caller: &Caller,
        in_flight: &InFlight,
    ) -> OpenSocket {
        // Each request on it is refused for tags that can't be read.
        let own = headers::guard_headers(headers).map(|given| given.tags).unwrap_or_default();
        let tags = rules.tags.tags(own, headers, &Labels::default());
        let id = in_flight.request_id.to_str().unwrap_or_default().to_owned();
        let spender = (&caller.key.project, &caller.key.id);
        OpenSocket::new(id, spender, operation.path, self.guard.clock().now_ms(), tags)
    }

    /// Asks upstream for a socket.
    async fn ask_for_socket(
        &self,
        rules: &Rules,
        head: &http::request::Parts,
        caller: &Caller,
        in_flight: &InFlight,
    ) -> Result<Upgrade<Answer>, Refusal> {
        let mut request = outgoing(rules, head.clone(), Bytes::new(), caller, Content::AsItCame, in_flight);
        let nonce = handshake::ask(&mut request.headers)?;
        let began = in_flight.age();
        let answer = self.upstream(rules).upgrade(&request.suffix, request.headers).await;
        let answered = |status: StatusCode| {
            in_flight.upstream_answered(class(status.as_u16()), in_flight.age().saturating_sub(began));
        };
        match answer {
            Ok(Upgrade::Agreed(headers, io)) if handshake::is_answer_to(&nonce, &headers) => {
                answered(StatusCode::SWITCHING_PROTOCOLS);
                Ok(Upgrade::Agreed(headers, io))
            }
            Ok(Upgrade::Refused(answer)) if !answer.status().is_success() => {
                answered(answer.status());
                Ok(Upgrade::Refused(answer.map(Answer::Plain)))
            }
            Ok(Upgrade::Agreed(..) | Upgrade::Refused(_)) => {
                Err(Refusal::Upstream(NoAnswer::Unreachable(Billed::No)))
            }
            Err(error) => {
                tracing::warn!(
                    event = "upstream_request_failed", %error, sent = false,
                    "no socket to upstream"
                );
                Err(Refusal::Upstream(NoAnswer::of(&error, Billed::No)))
            }
        }
    }

    /// Passes on the answer of an upstream that opens no socket.
    async fn no_socket(
        &self,
        rules: &Rules,
        mut answer: Response<Answer>,
        caller: &Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        headers::to_client(answer.headers_mut());
        in_flight.status = answer.status().as_u16();
        in_flight.ended("upstream_error");
        self.concealed(rules, Ok(answer), caller.key.pass_through).await
    }
}

/// How the messages of a session ask for what is metered.
enum SessionKind {
    /// Each request is a message with the fields of a body.
    Responses,
    /// Requests are made of the settings and the conversation, of which these are the first; and the
    /// session that its secret is bound to, if it was opened with one.
    Realtime(&'static Operation, Box<Settings>, Option<BoundSession>),
    /// Sound is translated by a model.
    Translation(&'static Operation, String),
}

impl SessionKind {
    /// That of a session by the request that opens it.
    fn of(form: SocketForm, head: &mut http::request::Parts, caller: &Caller) -> Result<Self, Refusal> {
        let bound = caller.session.as_ref().map(|of| of.session.clone());
        match form {
            SocketForm::Responses => Ok(Self::Responses),
            SocketForm::Realtime(transcription) => {
                let settings = realtime::opened_for(head, bound.as_ref())?;
                Ok(Self::Realtime(transcription, Box::new(settings), bound))
            }
            SocketForm::Translation(transcription) => {
                let model = realtime::opened_for(head, None)?.model;
                let model = model.ok_or_else(|| {
                    let message = "A session that translates names its model: open it with ?model=….";
                    Refusal::Invalid(message.to_owned(), Some("model"))
                })?;
                Ok(Self::Translation(transcription, model))
            }
        }
    }

    /// Serves a client until one side closes its socket; then ends what is open.
    async fn serve(self, session: Session, client: ClientSocket, upstream: UpstreamSocket) {
        let stop = session.shard.stop.clone();
        let (pair, readers) = Pair::of(client, upstream, &session.shard.guard);
        match self {
            Self::Responses => serve(&Arc::new(responses::Running::new(session, pair)), readers, stop).await,
            Self::Realtime(transcription, settings, bound) => {
                let running = realtime::Running::new(session, transcription, *settings, pair);
                if let Some(bound) = bound {
                    running.bind(&bound).await;
                }
                serve(&running, readers, stop).await;
            }
            Self::Translation(transcription, model) => {
                let running = translation::Running::new(session, transcription, model, pair);
                serve(&running, readers, stop).await;
            }
        }
    }
}

/// The settings of a socket whose messages have so many bytes at the most.
fn config(message_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}

/// The headers of the answer to a client that gets its socket.
fn answer_headers(offer: Offer, mut answer: HeaderMap) -> HeaderMap {
    headers::to_client(&mut answer);
    // They are about the socket to upstream.
    for name in
        [header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_EXTENSIONS]
    {
        answer.remove(name);
    }
    if let Some(accept) = offer.accept {
        answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer.extend(offer.protocol.map(|name| (header::SEC_WEBSOCKET_PROTOCOL, name)));
    answer
}
