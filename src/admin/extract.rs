//! The parts of a request: the parameters in its path, its query, its body. A part
//! that can't be read is an error in OpenAI's envelope.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::admin::BODY_BYTES_MAX;
use crate::admin::error::ApiError;

/// How much of a body that is too large is read before it is refused: most clients
/// don't read an answer while they send.
const REFUSED_BYTES_MAX: usize = 16 << 20;

/// The parameters in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Path(named) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(named))
    }
}

/// The query.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Query(query) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(query))
    }
}

/// The body: a JSON object, sent with a content type of JSON.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::not_json());
        }
        let Raw(body) = Raw::from_request(request, state).await?;
        object(&body).map(Self)
    }
}

/// The body as bytes, whatever its content type.
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (mut body, mut read, mut size) = (request.into_body(), Vec::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::bad(None, "the body was cut off"))?;
            let Ok(part) = frame.into_data() else { continue };
            size = size.saturating_add(part.len());
            if size > REFUSED_BYTES_MAX {
                break;
            }
            if size <= BODY_BYTES_MAX {
                read.extend_from_slice(&part);
            }
        }
        if size > BODY_BYTES_MAX { Err(ApiError::too_large()) } else { Ok(Self(read)) }
    }
}

/// Reads a JSON object. A list, whose items would be read as fields by position, is
/// refused.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let starts = |lead: &u8| *lead == b'{';
    if !body.trim_ascii_start().first().is_some_and(starts) {
        return Err(ApiError::bad(None, "send a JSON object"));
    }
    let axum::Json(said) = axum::Json::from_bytes(body)?;
    Ok(said)
}
