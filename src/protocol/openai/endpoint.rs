//! Sorts a method and path into metered, free, our own, or refused, and says why.
//!
//! The lists are closed: a path that isn't written here can't be priced, so it is
//! refused. Matching is exact on the raw path; nothing is decoded or normalised,
//! because upstream may read `%63hat` or `..` differently.

mod misspelt;
mod place;
mod refused;

use http::Method;

use crate::protocol::openai::operation::{OPERATIONS, Operation, SOCKETS, SocketForm};

pub use self::misspelt::is_misspelt;
pub use self::place::{Place, is_of, place, shows_content};
pub use self::refused::{Reason, Remedy, reason};

/// A path that spendguard answers itself, with the virtual key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SelfService {
    /// `GET /`: a line that names the service.
    Root,
    /// `GET /spendguard/me`.
    Me,
    /// `GET /spendguard/usage`.
    Usage,
    /// `GET /dashboard/billing/subscription`.
    BillingSubscription,
    /// `GET /dashboard/billing/usage`.
    BillingUsage,
    /// `GET /dashboard/billing/credit_grants`.
    BillingCreditGrants,
}

/// A path that takes a file in a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upload {
    /// `POST /files`.
    File,
    /// `POST /uploads/{}/parts`: a part of a file.
    Part,
    /// `POST /containers/{}/files`. It takes JSON as well, which names a file.
    ContainerFile,
}

impl Upload {
    /// Every such path.
    const ALL: [Self; 3] = [Self::File, Self::Part, Self::ContainerFile];

    /// Its name in metrics and logs; `{}` stands for an id.
    pub const fn path(self) -> &'static str {
        match self {
            Self::File => "/v1/files",
            Self::Part => "/v1/uploads/{}/parts",
            Self::ContainerFile => "/v1/containers/{}/files",
        }
    }
}

/// The name of `POST /batches` in ledger entries, metrics and logs.
pub const BATCHES: &str = "/v1/batches";

/// The path of requests for client secrets of realtime sessions.
pub const CLIENT_SECRETS: &str = "/v1/realtime/client_secrets";

/// What a request does with a container or a vector store that is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hosted {
    /// It makes a container.
    NewContainer,
    /// It makes a vector store.
    NewStore,
    /// It adds files to a vector store.
    AddFiles,
    /// It searches a vector store.
    Search,
}

/// How a request is served, by its method and path alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Priced and limited.
    Metered(&'static Operation),
    /// Made of a file, each of whose lines is priced and limited.
    Batch,
    /// Forwarded as it arrives and counted as a request.
    Upload(Upload),
    /// Forwarded and counted as a request; a label from a closed set.
    Free(&'static str),
    /// Billed by the time for which what it makes is there, or by the call; and a label.
    Hosted(Hosted, &'static str),
    /// Forwarded unmetered, since the operator allows it; never returned by `classify`.
    Allowed,
    /// Answered here.
    SelfService(SelfService),
    /// Answered here, with a secret that opens realtime sessions.
    ClientSecret,
    /// A `WebSocket`, each of whose requests is priced and limited; never returned by `classify`.
    Socket(&'static Operation, SocketForm),
}

/// The longest id in a path, in bytes: one that is longer than any of upstream's is
/// still an id, of nothing.
const ID_BYTES_MAX: usize = 16 << 10;

/// Paths that `POST` may reach without cost; `{}` stands for an id.
const FREE_POST: [&str; 17] = [
    "/v1/moderations",
    "/v1/responses/input_tokens",
    "/v1/responses/{}/cancel",
    "/v1/chat/completions/{}",
    "/v1/conversations",
    "/v1/conversations/{}",
    "/v1/conversations/{}/items",
    "/v1/batches/{}/cancel",
    "/v1/uploads",
    "/v1/uploads/{}/complete",
    "/v1/uploads/{}/cancel",
    "/v1/vector_stores/{}",
    "/v1/vector_stores/{}/files/{}",
    "/v1/vector_stores/{}/file_batches/{}/cancel",
    "/v1/skills",
    "/v1/skills/{}",
    "/v1/skills/{}/versions",
];

/// Paths that `POST` may reach for what is billed as [`Hosted`] says.
const HOSTED_POST: [(&str, Hosted); 5] = [
    ("/v1/containers", Hosted::NewContainer),
    ("/v1/vector_stores", Hosted::NewStore),
    ("/v1/vector_stores/{}/files", Hosted::AddFiles),
    ("/v1/vector_stores/{}/file_batches", Hosted::AddFiles),
    ("/v1/vector_stores/{}/search", Hosted::Search),
];

/// Paths that `GET` may reach without cost; `{}` stands for an id.
const FREE_GET: [&str; 46] = [
    "/v1/models",
    "/v1/models/{}",
    "/v1/chat/completions",
    "/v1/chat/completions/{}",
    "/v1/chat/completions/{}/messages",
    "/v1/responses/{}",
    "/v1/responses/{}/input_items",
    "/v1/files",
    "/v1/files/{}",
    "/v1/files/{}/content",
    "/v1/batches",
    "/v1/batches/{}",
    "/v1/vector_stores",
    "/v1/vector_stores/{}",
    "/v1/vector_stores/{}/files",
    "/v1/vector_stores/{}/files/{}",
    "/v1/vector_stores/{}/files/{}/content",
    "/v1/vector_stores/{}/file_batches/{}",
    "/v1/vector_stores/{}/file_batches/{}/files",
    "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/jobs/{}",
    "/v1/fine_tuning/jobs/{}/events",
    "/v1/fine_tuning/jobs/{}/checkpoints",
    "/v1/containers",
    "/v1/containers/{}",
    "/v1/containers/{}/files",
    "/v1/containers/{}/files/{}",
    "/v1/containers/{}/files/{}/content",
    "/v1/conversations/{}",
    "/v1/conversations/{}/items",
    "/v1/conversations/{}/items/{}",
    "/v1/evals",
    "/v1/evals/{}",
    "/v1/evals/{}/runs",
    "/v1/evals/{}/runs/{}",
    "/v1/evals/{}/runs/{}/output_items",
    "/v1/evals/{}/runs/{}/output_items/{}",
    "/v1/videos",
    "/v1/videos/{}",
    "/v1/videos/{}/content",
    "/v1/skills",
    "/v1/skills/{}",
    "/v1/skills/{}/content",
    "/v1/skills/{}/versions",
    "/v1/skills/{}/versions/{}",
    "/v1/skills/{}/versions/{}/content",
];

/// Paths that `DELETE` may reach without cost; `{}` stands for an id.
const FREE_DELETE: [&str; 15] = [
    "/v1/models/{}",
    "/v1/chat/completions/{}",
    "/v1/responses/{}",
    "/v1/files/{}",
    "/v1/vector_stores/{}",
    "/v1/vector_stores/{}/files/{}",
    "/v1/containers/{}",
    "/v1/containers/{}/files/{}",
    "/v1/conversations/{}",
    "/v1/conversations/{}/items/{}",
    "/v1/evals/{}",
    "/v1/evals/{}/runs/{}",
    "/v1/videos/{}",
    "/v1/skills/{}",
    "/v1/skills/{}/versions/{}",
];

/// Sorts a request by its method and raw path, with or without `/v1`; `None` is not
/// served.
///
/// ```
/// use spendguard::protocol::openai::CHAT;
/// use spendguard::protocol::openai::endpoint::{Endpoint, classify};
/// let endpoint = classify(&http::Method::POST, "/v1/chat/completions");
/// assert_eq!(endpoint, Some(Endpoint::Metered(&CHAT)));
/// ```
pub fn classify(method: &Method, path: &str) -> Option<Endpoint> {
    if *method == Method::GET && path == "/" {
        return Some(Endpoint::SelfService(SelfService::Root));
    }
    let path = suffix(path);
    match *method {
        Method::POST => posted(path),
        Method::GET => own(path).map(Endpoint::SelfService).or_else(|| free(&FREE_GET, path)),
        Method::DELETE => free(&FREE_DELETE, path),
        _ => None,
    }
}

/// What a `WebSocket` at a path is for, if one is served there.
pub fn socket(path: &str) -> Option<(&'static Operation, SocketForm)> {
    SOCKETS.into_iter().find(|(operation, _)| suffix(operation.path) == suffix(path))
}

/// The path below the API's root: `/v1` is taken off where it is written.
pub fn canonical(path: &str) -> &str {
    suffix(path)
}

fn suffix(path: &str) -> &str {
    path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

fn posted(path: &str) -> Option<Endpoint> {
    let metered = OPERATIONS.into_iter().find(|operation| suffix(operation.path) == path);
    let upload = || Upload::ALL.into_iter().find(|upload| matches(suffix(upload.path()), path));
    metered
        .map(Endpoint::Metered)
        .or_else(|| (path == suffix(BATCHES)).then_some(Endpoint::Batch))
        .or_else(|| (path == suffix(CLIENT_SECRETS)).then_some(Endpoint::ClientSecret))
        .or_else(|| upload().map(Endpoint::Upload))
        .or_else(|| hosted(path))
        .or_else(|| free(&FREE_POST, path))
}

fn hosted(path: &str) -> Option<Endpoint> {
    let found = HOSTED_POST.iter().find(|(pattern, _)| matches(suffix(pattern), path));
    found.map(|(pattern, hosted)| Endpoint::Hosted(*hosted, pattern))
}

fn own(path: &str) -> Option<SelfService> {
    Some(match path {
        "/spendguard/me" => SelfService::Me,
        "/spendguard/usage" => SelfService::Usage,
        "/dashboard/billing/subscription" => SelfService::BillingSubscription,
        "/dashboard/billing/usage" => SelfService::BillingUsage,
        "/dashboard/billing/credit_grants" => SelfService::BillingCreditGrants,
        _ => return None,
    })
}

fn free(patterns: &'static [&'static str], path: &str) -> Option<Endpoint> {
    patterns.iter().find(|pattern| matches(suffix(pattern), path)).map(|pattern| Endpoint::Free(pattern))
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut actual = path.split('/');
    let fits = pattern.split('/').all(|expected| {
        actual
            .next()
            .is_some_and(|segment| if expected == "{}" { is_id(segment) } else { segment == expected })
    });
    fits && actual.next().is_none()
}

fn is_id(segment: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&segment.len())
        && segment != "."
        && segment != ".."
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte))
}

#[cfg(test)]
mod tests;
