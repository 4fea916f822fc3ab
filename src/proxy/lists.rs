//! Lists of upstream's, which contain objects of all projects, filtered for one project.
//!
//! Upstream's pages are read until there are as many objects of the project as were
//! asked for, so that a page is as long as the client's paging expects. It may be
//! shorter where the client pages backwards (`before`), which reads one page of
//! upstream's, and where `PAGES_MAX` of them have too few objects of the project; where
//! they have none and more follow, the answer is an error and not an end of the list.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::ObjectKind;
use crate::guard::objects::Reach;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::body::{self, Bounds};
use crate::proxy::headers;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::query::encoded;
use crate::proxy::refuse::{Billed, Edge, NoAnswer, Refusal};
use crate::proxy::{Proxy, Rules};
use crate::upstream::{AnswerBody, Upstream};

/// Pages of upstream's that are read for one of the client's.
const PAGES_MAX: usize = 50;
/// The most items on a page of upstream's, except files.
const PAGE_MAX: usize = 100;
/// The default length of a page: of files, and of others.
const FILES_DEFAULT: usize = 10_000;
const OTHERS_DEFAULT: usize = 20;

/// The largest answer that is read for the ids in it.
const READ_BYTES_MAX: usize = 32 << 20;

/// A request for a list.
#[derive(Debug)]
pub(super) struct ListRequest {
    path: String,
    /// Name and value, as they were written.
    query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    has_more: Option<bool>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
}

/// The part of a list collected so far.
#[derive(Default)]
struct Gathered {
    /// Each object with its id, as upstream wrote it.
    objects: Vec<(String, Box<RawValue>)>,
    has_more: bool,
}

impl ListRequest {
    pub(super) fn of(outgoing: &Outgoing) -> Self {
        let (path, query) = outgoing.suffix.split_once('?').unwrap_or((&outgoing.suffix, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        Self { path: path.to_owned(), query: pairs.map(pair).collect(), headers: outgoing.headers.clone() }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The most items on a page of upstream's.
    fn page_max(kind: ObjectKind) -> usize {
        if kind == ObjectKind::File { FILES_DEFAULT } else { PAGE_MAX }
    }

    fn count_max(&self, kind: ObjectKind) -> usize {
        let default = if kind == ObjectKind::File { FILES_DEFAULT } else { OTHERS_DEFAULT };
        let limit = self.value("limit").and_then(|limit| limit.parse().ok());
        limit.unwrap_or(default).clamp(1, FILES_DEFAULT)
    }

    /// The same list after an object.
    fn after(&self, id: &str, kind: ObjectKind) -> String {
        let kept = self.query.iter().filter(|(name, _)| name != "after" && name != "limit");
        let mut query: Vec<String> = kept.map(|(name, value)| format!("{name}={value}")).collect();
        query.push(format!("limit={}&after={}", Self::page_max(kind), encoded(id)));
        format!("{}?{}", self.path, query.join("&"))
    }
}

impl Proxy {
    /// Filters a list for the caller's project.
    pub(super) async fn list_of_project(
        &self,
        request: &ListRequest,
        kind: ObjectKind,
        answer: Response<AnswerBody>,
        reach: &Reach,
        upstream: &Upstream,
    ) -> Result<Response<Answer>, Refusal> {
        let Reach::Project(project) = reach else { return Ok(answer.map(Answer::Plain)) };
        let count_max = request.count_max(kind);
        let (head, mut bytes) = whole(answer).await?;
        let mut gathered = Gathered::default();
        for page in 1..=PAGES_MAX {
            let next = self.gather(&mut gathered, &bytes, (kind, project, count_max)).await?;
            let Some(after) = next.filter(|_| page < PAGES_MAX && request.value("before").is_none()) else {
                break;
            };
            let Outgoing { method, suffix, headers, body } = again(request, request.after(&after, kind));
            let more = upstream.send(method, &suffix, headers, body).await;
            let more = more.ok().filter(|more| more.status().is_success());
            bytes = whole(more.ok_or(Refusal::Upstream(NoAnswer::Unreachable(Billed::No)))?).await?.1;
        }
        if gathered.objects.is_empty() && gathered.has_more && request.value("before").is_none() {
            // Clients treat a page without an object as the last one.
            return Err(Refusal::Edge(Edge::ListTooLong));
        }
        Ok(Response::from_parts(head, Answer::whole(gathered.page())))
    }

    /// Adds a page. Returns where the next one begins, if it is needed.
    async fn gather(
        &self,
        gathered: &mut Gathered,
        page: &Bytes,
        (kind, project, count_max): (ObjectKind, &Arc<str>, usize),
    ) -> Result<Option<String>, Refusal> {
        let Page { data, has_more } = serde_json::from_slice(page).map_err(|error| unreadable(&error))?;
        let ids: Vec<String> = data.iter().map(|object| id_of(object)).collect();
        let last = ids.last().cloned();
        let owners = self.guard.owners(kind, ids.clone()).await.map_err(|_| Refusal::LedgerUnavailable)?;
        gathered.has_more = has_more == Some(true);
        for ((id, object), owner) in ids.into_iter().zip(data).zip(owners) {
            if owner.as_ref() != Some(project) && !kind.is_upstreams_own(&id) {
                continue;
            }
            if gathered.objects.len() == count_max {
                gathered.has_more = true;
                return Ok(None);
            }
            gathered.objects.push((id, object.to_owned()));
        }
        let needs_more = gathered.has_more && gathered.objects.len() < count_max;
        Ok(last.filter(|_| needs_more))
    }

    /// Filters a list of models for those that the caller may use.
    pub(super) async fn list_of_models(
        &self,
        rules: &Rules,
        caller: &Caller,
        answer: Response<AnswerBody>,
    ) -> Result<Response<Answer>, Refusal> {
        let is_free = caller.key.models.is_empty();
        if is_free && self.guard.ring().model_rule(&caller.key.project).is_none() {
            return Ok(answer.map(Answer::Plain));
        }
        let (head, bytes) = whole(answer).await?;
        let Page { data, .. } = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
        let usable: Vec<_> =
            data.into_iter().filter(|model| self.may_use(rules, caller, &id_of(model))).collect();
        let list = serde_json::json!({ "object": "list", "data": usable });
        Ok(Response::from_parts(head, Answer::whole(list.to_string().into())))
    }
}

impl Gathered {
    fn page(self) -> Bytes {
        // A page without an object has no cursor to continue from.
        let has_more = self.has_more && !self.objects.is_empty();
        let id = |object: Option<&(String, Box<RawValue>)>| object.map(|(id, _)| id.clone());
        let (first_id, last_id) = (id(self.objects.first()), id(self.objects.last()));
        let data: Vec<_> = self.objects.iter().map(|(_, object)| object).collect();
        let page = serde_json::json!({
            "object": "list", "data": data, "first_id": first_id, "last_id": last_id, "has_more": has_more,
        });
        page.to_string().into()
    }
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    tracing::warn!(
        event = "upstream_list_unreadable", %error,
        "a list from upstream can't be read, so the owners of its objects are unknown"
    );
    Refusal::Upstream(NoAnswer::Unreadable)
}

fn id_of(object: &RawValue) -> String {
    serde_json::from_str::<Named>(object.get()).ok().and_then(|named| named.id).unwrap_or_default()
}

/// An answer, read whole.
pub(super) async fn whole(answer: Response<AnswerBody>) -> Result<(http::response::Parts, Bytes), Refusal> {
    let (mut head, body) = answer.into_parts();
    if headers::is_encoded(&head.headers) {
        tracing::warn!(
            event = "upstream_list_compressed",
            "an answer is compressed, so the owners of its objects are unknown"
        );
        return Err(Refusal::Upstream(NoAnswer::Unreadable));
    }
    let bounds = Bounds::answer(READ_BYTES_MAX, std::time::Duration::from_secs(60));
    let bytes = body::read(body, bounds).await.map_err(|error| {
        tracing::warn!(event = "unmetered_answer_failed", ?error, "an answer was cut off");
        Refusal::Upstream(NoAnswer::Unreachable(Billed::No))
    })?;
    head.headers.remove(header::CONTENT_LENGTH);
    Ok((head, bytes))
}

/// The request for another page.
fn again(of: &ListRequest, suffix: String) -> Outgoing {
    Outgoing { method: Method::GET, suffix, headers: of.headers.clone(), body: Bytes::new() }
}
