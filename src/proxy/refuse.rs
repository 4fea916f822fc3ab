//! Refusals: the only place that chooses their status, code and headers.
//!
//! They have exactly OpenAI's form, so that every SDK raises its own exception, and
//! state whether to retry, which OpenAI's own do not.

mod batch;
mod denied;
mod edge;
mod levers;
mod missing;
mod rates;
mod state;
mod stopped;
mod upstream;

use self::rates::go_duration;
pub use self::rates::rate_headers;
use self::state::{busy, conversation_changed, too_many_jobs, too_slow, unavailable, unwritable};

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::domain::{Limit, ObjectReference, Stop};
use crate::guard::{Denied, NotPaced};
use crate::ledger::denial::Denial;
use crate::protocol::openai::endpoint::Reason;
use crate::protocol::openai::refusal::ErrorBody;
use crate::throttle::Throttled;

pub use self::edge::Edge;
pub use self::missing::Named;
pub use self::upstream::{Billed, NoAnswer};

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const LIMIT: HeaderName = HeaderName::from_static("x-spendguard-limit");
const RESETS_AT: HeaderName = HeaderName::from_static("x-spendguard-resets-at");
const REASON: HeaderName = HeaderName::from_static("x-spendguard-reason");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

pub use levers::Levers;

/// The status of a refusal that no retry can help: a used-up limit or credit. Clients that
/// repeat each 429 whatever it says stop at another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpendStatus {
    /// 429, as OpenAI has it today.
    #[default]
    TooManyRequests,
    /// 402.
    PaymentRequired,
    /// 400 with the code `billing_hard_limit_reached`, as OpenAI had it for images.
    BadRequest,
}

impl SpendStatus {
    /// Every value with the status that it stands for.
    pub const ALL: [(u16, Self); 3] =
        [(429, Self::TooManyRequests), (402, Self::PaymentRequired), (400, Self::BadRequest)];
}

/// How refusals are worded.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether spend refusals have the old code `insufficient_quota`.
    pub classic: bool,
    /// The status of spend refusals.
    pub spend_status: SpendStatus,
    /// Whether messages name amounts of money.
    pub show_amounts: bool,
}

const ADMIN_TOKEN: &str = "This is an admin token of spendguard. It opens the admin API, and never goes to OpenAI: send an \
                           API key instead.";

/// Why a request is not served. `Refusal::response` turns it into an answer.
#[derive(Debug)]
pub enum Refusal {
    /// No key was sent.
    NoKey,
    /// The key is unknown, mistyped, revoked or expired; masked.
    BadKey(String),
    /// It contains an admin token, which is not repeated.
    AdminToken,
    /// The path is not served: method and path, and why.
    EndpointNotAllowed(String, Reason),
    /// Refused because of its head, or because upstream does not accept the guard's key.
    Edge(Edge),
    /// A field asks for what can't be metered.
    FieldNotAllowed(String, Option<&'static str>),
    /// The key may not use the model; and how the request comes to it, if it does not name it.
    ModelNotAllowed(String, Cow<'static, str>),
    /// An object that it names is not there, or another project's.
    ObjectNotFound(ObjectReference, Named),
    /// The model that its path names is not there, or not for the key.
    NoSuchModel(String),
    /// A conversation grew while the request on it was admitted.
    ConversationChanged,
    /// The model has no price, and a dollar limit applies; and the line of a batch's file that
    /// names it.
    NotPriced(String, Option<u64>),
    /// The request can't be understood.
    Invalid(String, Option<&'static str>),
    /// The body is larger than this many bytes.
    TooLarge(usize),
    /// An upload is larger than this many bytes.
    FileTooLarge(u64),
    /// A batch of a file that is not there, or whose lines are not known.
    NoBatchFile(String),
    /// The body came too slowly.
    TooSlow,
    /// A limit denies it; these fields could make it smaller.
    Denied(Denial, Levers),
    /// Its key, project or organization is stopped.
    Stopped(Arc<Stop>),
    /// A rate limit is reached.
    Throttled(Box<Throttled>),
    /// The key has too many self-service questions at the same time.
    Busy,
    /// The key has as many jobs open as it may.
    TooManyJobs,
    /// The ledger can't be written.
    LedgerUnavailable,
    /// As many requests are open as may be.
    Overloaded,
    /// Other requests' bodies take all of the memory for bodies.
    NoRoom,
    /// There is no answer of upstream's to pass on.
    Upstream(NoAnswer),
}

const NO_ROOM: &str = "The memory for request bodies is taken by other requests. Try again in a moment, or send a smaller \
                       body.";
const NO_KEY: &str = "You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.";

struct Answer {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
    headers: HeaderMap,
}

impl From<NotPaced> for Refusal {
    fn from(refused: NotPaced) -> Self {
        match refused {
            NotPaced::Throttled(throttled) => Self::Throttled(throttled),
            NotPaced::Unavailable => Self::LedgerUnavailable,
        }
    }
}

impl From<Denied> for Refusal {
    fn from(refused: Denied) -> Self {
        match refused {
            Denied::ByLimit(denial) => Self::denied(denial),
            Denied::Unpriced(model) => Self::NotPriced(model.to_string(), None),
            Denied::Unavailable | Denied::Outdated => Self::LedgerUnavailable,
            Denied::Full => Self::Overloaded,
        }
    }
}

impl Refusal {
    /// A denial by a limit, without fields that could make the request smaller.
    pub fn denied(denial: Denial) -> Self {
        Self::Denied(denial, Levers::default())
    }

    /// The same, with fields that could make the request smaller.
    #[must_use]
    pub fn with_levers(mut self, levers: Levers) -> Self {
        if let Self::Denied(_, known) = &mut self {
            *known = levers;
        }
        self
    }

    /// The label of the metric, one of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoKey | Self::BadKey(_) | Self::AdminToken => "invalid_api_key",
            Self::Edge(edge) => edge.reason(),
            Self::EndpointNotAllowed(..) | Self::FieldNotAllowed(..) => "endpoint_not_allowed",
            Self::ModelNotAllowed(..) | Self::NoSuchModel(_) => "model_not_found",
            Self::ObjectNotFound(..) | Self::NoBatchFile(_) => "object_not_found",
            Self::ConversationChanged => "conversation_locked",
            Self::NotPriced(..) => "model_not_priced",
            Self::Invalid(..) | Self::TooSlow => "invalid_request",
            Self::TooLarge(_) | Self::FileTooLarge(_) => "too_large",
            Self::Denied(Denial::Exhausted(_), _) => "spend_limit_exceeded",
            Self::Denied(Denial::NoCredit(_), _) => "credit_balance_exhausted",
            Self::Denied(Denial::Held(_) | Denial::CreditHeld(_), _) => "spend_limit_held",
            Self::Denied(Denial::TooLarge(_) | Denial::OverClientCap { .. }, _) => {
                "request_cost_exceeds_limit"
            }
            Self::Stopped(stop) => stopped::code(stop),
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Denied(Denial::TooManyMeters(_), _) | Self::Overloaded | Self::NoRoom => "overloaded",
            Self::Throttled(_) | Self::Busy | Self::TooManyJobs => "rate_limit_exceeded",
            Self::Upstream(no_answer) => no_answer.reason(),
        }
    }

    /// Whether it came without a key that opens the proxy.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::BadKey(_) | Self::AdminToken)
    }

    /// The limit that stood in the way, if it was one.
    pub fn limit(&self) -> Option<&Limit> {
        match self {
            Self::Denied(denial, _) => denial.limit().map(|limit| &**limit),
            Self::Throttled(throttled) => Some(&throttled.limit),
            Self::NoKey
            | Self::BadKey(_)
            | Self::AdminToken
            | Self::EndpointNotAllowed(..)
            | Self::Edge(_)
            | Self::FieldNotAllowed(..)
            | Self::ModelNotAllowed(..)
            | Self::ObjectNotFound(..)
            | Self::NoSuchModel(_)
            | Self::ConversationChanged
            | Self::NotPriced(..)
            | Self::Stopped(_)
            | Self::Invalid(..)
            | Self::TooLarge(_)
            | Self::FileTooLarge(_)
            | Self::NoBatchFile(_)
            | Self::TooSlow
            | Self::Busy
            | Self::TooManyJobs
            | Self::LedgerUnavailable
            | Self::Overloaded
            | Self::NoRoom
            | Self::Upstream(_) => None,
        }
    }

    /// The refusal in HTTP, as of `now_s` in Unix seconds.
    pub fn response(&self, config: Config, now_s: i64, request_id: &HeaderValue) -> Response<Bytes> {
        let Answer { status, message, kind, param, code, mut headers } = self.answer(config, now_s);
        let body = ErrorBody { message: &message, kind, param, code }.to_json();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-request-id", request_id.clone());
        if let Some(limit) = self.limit() {
            headers.extend(HeaderValue::from_str(&limit.name).ok().map(|name| (LIMIT, name)));
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn answer(&self, config: Config, now_s: i64) -> Answer {
        match self {
            Self::Denied(denial, levers) => denied::answer(denial, *levers, config, now_s),
            Self::Stopped(stop) => stopped::answer(stop, config, now_s),
            Self::Throttled(throttled) => too_fast(throttled),
            Self::Busy => busy(),
            Self::TooManyJobs => too_many_jobs(),
            Self::LedgerUnavailable => unwritable(),
            Self::Overloaded => unavailable("overloaded", "Too many requests are open at spendguard."),
            Self::NoRoom => unavailable("overloaded", NO_ROOM),
            Self::Upstream(no_answer) => no_answer.answer(),
            Self::NoKey => key(NO_KEY.to_owned()),
            Self::BadKey(masked) => {
                key(format!("Incorrect API key provided: {masked}. It is unknown, revoked or expired."))
            }
            Self::AdminToken => key(ADMIN_TOKEN.to_owned()),
            Self::EndpointNotAllowed(endpoint, reason) => client(
                StatusCode::FORBIDDEN,
                Some("endpoint_not_allowed"),
                None,
                format!("{endpoint} is refused: {reason}"),
            ),
            Self::Edge(edge) => edge.answer(),
            Self::FieldNotAllowed(message, param) => {
                client(StatusCode::FORBIDDEN, Some("endpoint_not_allowed"), *param, message.clone())
            }
            Self::ModelNotAllowed(model, why) => client(
                StatusCode::FORBIDDEN,
                Some("model_not_found"),
                None,
                format!("This key does not have access to model `{model}`{why}."),
            ),
            Self::ObjectNotFound(of, named) => missing::answer(of, *named),
            Self::NoSuchModel(model) => missing::model(model),
            Self::ConversationChanged => conversation_changed(),
            Self::NotPriced(model, line) => client(
                StatusCode::FORBIDDEN,
                Some("model_not_priced"),
                Some("model"),
                format!(
                    "Model `{model}`{} has no price, so it can't be used under a dollar limit. Add a [[price]] for it \
                     to spendguard's configuration, update its price sheet, or set pricing.unknown_model = \"dearest\".",
                    line.map_or(String::new(), |line| format!(", which line {line} of the file names,"))
                ),
            ),
            Self::Invalid(message, param) => client(StatusCode::BAD_REQUEST, None, *param, message.clone()),
            Self::TooLarge(max) => client(
                StatusCode::PAYLOAD_TOO_LARGE,
                None,
                None,
                format!("The request body is larger than {max} bytes (server.request_body_max)."),
            ),
            Self::FileTooLarge(max) => client(
                StatusCode::PAYLOAD_TOO_LARGE,
                None,
                None,
                format!("The upload is larger than {max} bytes. Send a large file in parts, by /v1/uploads."),
            ),
            Self::NoBatchFile(id) => missing::batch_file(id),
            Self::TooSlow => too_slow(),
        }
    }
}

fn client(
    status: StatusCode,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
) -> Answer {
    Answer { status, message, kind: "invalid_request_error", param, code, headers: HeaderMap::new() }
}

fn key(message: String) -> Answer {
    client(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), None, message)
}

fn server(status: StatusCode, code: &'static str, message: &str) -> Answer {
    Answer {
        status,
        message: message.to_owned(),
        kind: "server_error",
        param: None,
        code: Some(code),
        headers: HeaderMap::new(),
    }
}

fn retry(headers: &mut HeaderMap, should: bool, after_s: Option<i64>) {
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(if should { "true" } else { "false" }));
    if let Some(after_s) = after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after_s.max(1)));
    }
}

fn too_fast(throttled: &Throttled) -> Answer {
    let Throttled { limit, requested, left, retry_after } = throttled;
    let (kind, what) = if left.of_requests {
        ("requests", "requests per min (RPM)")
    } else {
        ("tokens", "tokens per min (TPM)")
    };
    let mut headers = HeaderMap::new();
    rate_headers(&mut headers, left);
    let message = if let Some(wait) = retry_after {
        let ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1);
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(ms));
        headers.insert(header::RETRY_AFTER, HeaderValue::from((ms + 999) / 1_000));
        format!(
            "Rate limit reached for limit \"{}\" on {what}: Limit {}, Used {}, Requested {requested}. Please try \
             again in {}.",
            limit.name,
            left.limit,
            left.limit.saturating_sub(left.remaining),
            go_duration(*wait)
        )
    } else {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        format!(
            "Request too large for limit \"{}\" on {what}: Limit {}, Requested {requested}. The input or output tokens \
             must be reduced in order to run successfully.",
            limit.name, left.limit
        )
    };
    let status = StatusCode::TOO_MANY_REQUESTS;
    Answer { status, message, kind, param: None, code: Some("rate_limit_exceeded"), headers }
}

/// The most characters of a client's text that an answer repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// A client's text, cut to the length that an answer repeats.
pub(super) fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
