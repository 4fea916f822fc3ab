//! CORS: the origins of browser pages that may call the proxy, and the headers for browsers.
//!
//! A browser sends a preflight before it sends a key, and hides an answer from a page
//! whose origin is not named in it. Without `server.cors_origins` no answer names an
//! origin, including upstream's.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::proxy::answer::Answer;

const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE");
/// For how long browsers may remember the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// Headers of answers that a page may read beside those that are always shown.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, retry-after-ms, x-should-retry, openai-processing-ms, openai-version, \
     x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
     x-spendguard-cost-usd, x-spendguard-remaining-usd, x-spendguard-limit, x-spendguard-reason, \
     x-spendguard-resets-at, x-spendguard-output-bound, x-spendguard-clamped-output-tokens",
);

/// The origins whose pages may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// None: pages in browsers can't read answers.
    #[default]
    None,
    /// All.
    Any,
    /// These, as browsers write them: `https://chat.example`.
    Listed(Vec<HeaderValue>),
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Any => f.write_str("all"),
            Self::Listed(listed) => {
                let names: Vec<_> = listed.iter().filter_map(|origin| origin.to_str().ok()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// A browser's question whether it may send a request.
#[derive(Debug)]
pub struct Preflight {
    requested_headers: Option<HeaderValue>,
    is_to_private_network: bool,
}

/// The CORS headers of the answer to one request.
#[derive(Debug)]
pub struct Grant {
    /// The origin to name, or `*`; `None` if this one may not call.
    allowed: Option<HeaderValue>,
    /// Whether another origin would have got another answer.
    varies: bool,
}

impl Preflight {
    /// The question in a request, if it is one.
    pub fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let is_one = *method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        is_one.then(|| Self {
            requested_headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            is_to_private_network: headers.contains_key(REQUEST_PRIVATE_NETWORK),
        })
    }

    /// The answer; which origin may call is added to it as to every answer.
    pub fn answer(self) -> Response<Answer> {
        let mut response = Response::new(Answer::Whole(None));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        // Named one by one, since `*` does not stand for `authorization`.
        headers.extend(self.requested_headers.map(|headers| (header::ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        if self.is_to_private_network {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        response
    }
}

impl Origins {
    /// The CORS headers of an answer; none unless a browser sent the request, or a
    /// cache may keep the answer for one.
    pub fn grant(&self, headers: &HeaderMap) -> Option<Grant> {
        let origin = headers.get(header::ORIGIN);
        match self {
            Self::None => None,
            Self::Any => {
                origin.map(|_| Grant { allowed: Some(HeaderValue::from_static("*")), varies: false })
            }
            Self::Listed(listed) => {
                let allowed = origin.filter(|origin| listed.contains(origin)).cloned();
                Some(Grant { allowed, varies: true })
            }
        }
    }
}

impl Grant {
    /// Whether this origin may call.
    pub fn is_allowed(&self) -> bool {
        self.allowed.is_some()
    }

    /// Puts it on an answer.
    pub fn put_on(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
