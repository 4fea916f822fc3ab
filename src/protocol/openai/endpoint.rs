//! Sorts a method and path into metered, free, our own, or refused, and says why.
//!
//! The lists are closed: a path that isn't written here can't be priced, so it is
//! refused. Matching is exact on the raw path; nothing is decoded or normalised,
//! because upstream may read `%63hat` or `..` differently.

mod misspelt;
mod place;
mod refused;

use http::Method;

use crate::protocol::openai::operation::{OPERATIONS, Operation};

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
}

impl Upload {
    /// Every such path.
    const ALL: [Self; 2] = [Self::File, Self::Part];

    /// Its name in metrics and logs; `{}` stands for an id.
    pub const fn path(self) -> &'static str {
        match self {
            Self::File => "/v1/files",
            Self::Part => "/v1/uploads/{}/parts",
        }
    }
}

/// The name of `POST /batches` in ledger entries, metrics and logs.
pub const BATCHES: &str = "/v1/batches";

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
}

/// The longest id in a path, in bytes: one that is longer than any of upstream's is
/// still an id, of nothing.
const ID_BYTES_MAX: usize = 16 << 10;

/// Paths that `POST` may reach without cost; `{}` stands for an id.
const FREE_POST: [&str; 18] = [
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
    "/v1/containers/{}/files",
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str) -> Option<Endpoint> {
        classify(&Method::GET, path)
    }

    #[test]
    fn metered_paths_are_known_with_and_without_their_prefix() {
        for metered in OPERATIONS {
            let bare = metered.path.strip_prefix("/v1").unwrap();
            assert_eq!(classify(&Method::POST, metered.path), Some(Endpoint::Metered(metered)));
            assert_eq!(classify(&Method::POST, bare), Some(Endpoint::Metered(metered)));
            assert_eq!(canonical(metered.path), bare);
            assert_eq!(canonical(bare), bare);
        }
    }

    #[test]
    fn reading_and_deleting_what_exists_is_free() {
        assert_eq!(get("/v1/models"), Some(Endpoint::Free("/v1/models")));
        assert_eq!(get("/models/ft:gpt-4o:acme::a1"), Some(Endpoint::Free("/v1/models/{}")));
        assert_eq!(
            get("/v1/responses/resp_1/input_items"),
            Some(Endpoint::Free("/v1/responses/{}/input_items"))
        );
        assert_eq!(classify(&Method::DELETE, "/v1/files/file-1"), Some(Endpoint::Free("/v1/files/{}")));
        assert_eq!(classify(&Method::POST, "/v1/moderations"), Some(Endpoint::Free("/v1/moderations")));
        let counted = classify(&Method::POST, "/v1/responses/input_tokens");
        assert_eq!(counted, Some(Endpoint::Free("/v1/responses/input_tokens")));
    }

    #[test]
    fn own_paths_answer_only_to_get() {
        for prefix in ["", "/v1"] {
            assert_eq!(get(&format!("{prefix}/spendguard/me")), Some(Endpoint::SelfService(SelfService::Me)));
            assert_eq!(
                get(&format!("{prefix}/dashboard/billing/usage")),
                Some(Endpoint::SelfService(SelfService::BillingUsage))
            );
            assert_eq!(
                get(&format!("{prefix}/spendguard/usage")),
                Some(Endpoint::SelfService(SelfService::Usage))
            );
            let subscription = format!("{prefix}/dashboard/billing/subscription");
            assert_eq!(get(&subscription), Some(Endpoint::SelfService(SelfService::BillingSubscription)));
            assert_eq!(classify(&Method::POST, &subscription), None);
            let grants = format!("{prefix}/dashboard/billing/credit_grants");
            assert_eq!(get(&grants), Some(Endpoint::SelfService(SelfService::BillingCreditGrants)));
        }
    }

    #[test]
    fn what_has_no_price_is_refused() {
        for path in [
            "/v1/images/variations",
            "/v1/audio/voices",
            "/v1/realtime/client_secrets",
            "/v1/fine_tuning/jobs",
            "/v1/agents/sessions",
            "/v1/assistants",
            "/v1/threads/runs",
        ] {
            assert_eq!(classify(&Method::POST, path), None, "{path}");
        }
        for path in
            ["/v1/organization/costs", "/v1/projects", "/v1/realtime", "/v1/live/sessions", "/v1/responses"]
        {
            assert_eq!(get(path), None, "{path}");
        }
        for method in [Method::HEAD, Method::OPTIONS, Method::PUT, Method::PATCH] {
            assert_eq!(classify(&method, "/v1/models"), None, "{method}");
        }
    }

    #[test]
    fn files_and_batches_are_known() {
        let posted = |path: &str| classify(&Method::POST, path);
        assert_eq!(posted("/files"), Some(Endpoint::Upload(Upload::File)));
        assert_eq!(posted("/v1/uploads/upload_1/parts"), Some(Endpoint::Upload(Upload::Part)));
        assert_eq!(posted("/v1/batches"), Some(Endpoint::Batch));
        assert_eq!(posted("/v1/uploads//parts"), None);
        assert_eq!(get("/v1/uploads/upload_1/parts"), None);
    }

    #[test]
    fn what_costs_nothing_by_nature_is_free() {
        for path in [
            "/v1/conversations",
            "/v1/conversations/{}",
            "/v1/conversations/{}/items",
            "/v1/chat/completions/{}",
            "/v1/responses/{}/cancel",
            "/v1/batches/{}/cancel",
            "/v1/uploads",
            "/v1/uploads/{}/complete",
            "/v1/uploads/{}/cancel",
            "/v1/vector_stores/{}",
            "/v1/skills",
        ] {
            assert_eq!(classify(&Method::POST, &path.replace("{}", "x_1")), Some(Endpoint::Free(path)));
        }
        assert_eq!(get("/"), Some(Endpoint::SelfService(SelfService::Root)));
    }

    #[test]
    fn what_is_billed_by_time_or_by_the_call_is_known() {
        for (path, hosted) in [
            ("/v1/containers", Hosted::NewContainer),
            ("/v1/vector_stores", Hosted::NewStore),
            ("/v1/vector_stores/{}/files", Hosted::AddFiles),
            ("/v1/vector_stores/{}/file_batches", Hosted::AddFiles),
            ("/v1/vector_stores/{}/search", Hosted::Search),
        ] {
            let found = classify(&Method::POST, &path.replace("{}", "vs_1"));
            assert_eq!(found, Some(Endpoint::Hosted(hosted, path)));
        }
    }

    #[test]
    fn tricks_with_the_path_are_refused() {
        for path in [
            "",
            "/v1",
            "/v1/",
            "v1/models",
            "/v1//models",
            "//v1/models",
            "/v1/models/",
            "/v1/v1/models",
            "/V1/models",
            "/v1/%6dodels",
            "/v1/models/..",
            "/v1/models/.",
            "/v1/models/../organization",
            "/v1/models/a%2f..",
            "/v1/models/a;b",
            "/v1/models/a?b",
            "/v1/models/a b",
            "/v1/files/f/content/",
            "http://host/v1/models",
        ] {
            assert_eq!(get(path), None, "{path}");
            assert_eq!(classify(&Method::POST, path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn only_ids_and_known_words_pass(path in "(/v1)?(/[a-z._%:-]{0,6}){0,5}") {
            if path != "/" && get(&path).is_some() {
                let segments: Vec<_> = path.split('/').skip(1).collect();
                prop_assert!(segments.iter().all(|segment| is_id(segment)), "{}", path);
            }
        }
    }
}
