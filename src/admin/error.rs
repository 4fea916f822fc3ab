//! Errors of the admin API, in OpenAI's envelope.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::books::adjust::AdjustError;
use crate::directory::keyring::KeyError;
use crate::rulebook::limits::LimitError;
use crate::stops::StopError;
use crate::store::StoreError;

const MESSAGE_CHARS_MAX: usize = 1_000;

/// An error in OpenAI's envelope.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorView {
    error: ErrorFields,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorFields {
    /// What is wrong, in a sentence.
    message: String,
    /// `invalid_request_error`: the request's fault; `server_error`: the guard's.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field or parameter at fault, where there is one.
    param: Option<&'static str>,
    /// The error for programs.
    code: &'static str,
}

/// An error answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<&'static str>,
    code: &'static str,
}

impl ApiError {
    pub(crate) fn bad(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param, code: "invalid_request" }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into(), param: None, code: "not_found" }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "this path does not support the method".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, message, param: None, code: "method_not_allowed" }
    }

    pub(crate) fn not_json() -> Self {
        let message = "send the body as 'Content-Type: application/json'".to_owned();
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self { status, message, param: None, code: "unsupported_media_type" }
    }

    pub(crate) fn too_large() -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self { status, ..Self::bad(None, "the body is larger than 1 MiB") }
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "Send the admin token as 'Authorization: Bearer TOKEN'.".to_owned();
        Self { status: StatusCode::UNAUTHORIZED, message, param: None, code: "invalid_api_key" }
    }

    pub(crate) fn misdirected() -> Self {
        let message =
            "This is not an address of this listener. Add the names that it is reached by to admin.hosts \
                       of spendguard's configuration."
                .to_owned();
        Self { status: StatusCode::MISDIRECTED_REQUEST, message, param: None, code: "misdirected_request" }
    }

    pub(crate) fn too_many_attempts(seconds: i64) -> Self {
        let message =
            format!("Too many wrong tokens. The next wrong token is answered in {seconds} seconds.");
        Self { status: StatusCode::TOO_MANY_REQUESTS, message, param: None, code: "rate_limit_exceeded" }
    }

    pub(crate) fn read_only() -> Self {
        let message = "This admin key is read-only: it can't change anything.".to_owned();
        Self { status: StatusCode::FORBIDDEN, message, param: None, code: "insufficient_permissions" }
    }

    pub(crate) fn unsupported(param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param, code: "not_supported" }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: StatusCode::CONFLICT, message, param: None, code: "conflict" }
    }

    fn no_random_numbers(message: String) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, message, param: None, code: "no_random_numbers" }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let Self { status, mut message, param, code } = self;
        // It may repeat a part of the request, which can be long.
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        (status, Json(ErrorView { error: ErrorFields { message, kind, param, code } })).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::ActorGone) {
            return Self::unauthorized();
        }
        tracing::error!(event = "admin_database_failed", %error, "the admin API could not use the database");
        let message = "The ledger can't be used right now.".to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message, param: None, code: "ledger_unavailable" }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        let message = error.to_string();
        match error {
            KeyError::NoSuchKey(_) | KeyError::NoSuchAccount(_) => Self::not_found(message),
            KeyError::NoSuchProject(_) => Self::bad(Some("project_id"), message),
            KeyError::SecretTaken
            | KeyError::ProjectTaken(_)
            | KeyError::PassThrough(_)
            | KeyError::InGrace { .. }
            | KeyError::TooMany(..) => Self::conflict(message),
            KeyError::BadSecret => Self::bad(Some("secret"), message),
            KeyError::BadName => Self::bad(Some("name"), message),
            KeyError::BadModels => Self::bad(Some("models"), message),
            KeyError::Random(_) => Self::no_random_numbers(message),
            KeyError::Store(error) => error.into(),
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        let message = error.to_string();
        match error {
            LimitError::Rule(rule) => Self::bad(Some(rule.field), message),
            LimitError::Name(_) => Self::bad(Some("only"), message),
            LimitError::ManagedByFile(_) | LimitError::ManagedAsAlert(_) | LimitError::TooManyAlerts(_) => {
                Self::conflict(message)
            }
            LimitError::NoSuchLimit(_) | LimitError::NoSuchAlert(_) => Self::not_found(message),
            LimitError::Random(_) => Self::no_random_numbers(message),
            LimitError::Store(error) => error.into(),
        }
    }
}

impl From<StopError> for ApiError {
    fn from(error: StopError) -> Self {
        let message = error.to_string();
        match error {
            StopError::NoSuchSpender(_)
            | StopError::NotOn(_)
            | StopError::NoSuchFuse(_)
            | StopError::NotBlown { .. } => Self::not_found(message),
            StopError::BadNote => Self::bad(Some("note"), message),
            StopError::Store(error) => error.into(),
        }
    }
}

impl From<AdjustError> for ApiError {
    fn from(error: AdjustError) -> Self {
        match error {
            AdjustError::NoSuchEntry | AdjustError::Pruned { .. } => Self::not_found(error.to_string()),
            AdjustError::BelowZero { .. } => Self::bad(Some("amount_usd"), error.to_string()),
            AdjustError::Credit(error) => error.into(),
            AdjustError::Store(error) => error.into(),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), ..Self::bad(None, rejection.body_text()) }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad(None, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad(None, rejection.body_text())
    }
}
