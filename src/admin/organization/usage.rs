//! Usage and costs in buckets of time, as OpenAI counts them: in UTC.
//!
//! Buckets are whole: the first one starts at or before the time asked for, and
//! the last one ends at or after it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Pairs;
use super::usage_query::{BucketsQuery, CostsQuery, UsageKind, UsageQuery};
use super::usage_units::{
    Group, ImagesView, SearchesView, SessionsView, SpeechesView, TranscriptionsView, VectorStoresView,
    file_searches, sessions, web_searches,
};
use super::usage_view::{BucketView, CompletionsView, CostsView, EmbeddingsView, PageView, ResultView};
use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::{Path, Query};
use crate::domain::{Class, Money, Span};
use crate::protocol::openai::endpoint::BATCHES;
use crate::protocol::openai::operation::{self, UsageReport};
use crate::store::reports::{Pruned, ROLLUP_S, UsageRow, UsageSum};

/// The end of the year 9999.
const TIME_MAX_S: i64 = 253_402_300_800;
/// Groups of all buckets of a page together.
const GROUPS_MAX: usize = 20_000;
/// Values of one list of the query.
const VALUES_MAX: usize = 100;
const PAGE: &str = "page_";

/// A width of buckets, in seconds, how many are shown, and at most.
struct Width {
    name: &'static str,
    s: i64,
    default: usize,
    max: usize,
}

const DAY: &str = "1d";
const USAGE_WIDTHS: &[Width] = &[
    Width { name: "1m", s: 60, default: 60, max: 1_440 },
    Width { name: "1h", s: 3_600, default: 24, max: 168 },
    Width { name: DAY, s: 86_400, default: 7, max: 31 },
];
const COST_WIDTHS: &[Width] = &[Width { name: DAY, s: 86_400, default: 7, max: 180 }];

/// Every kind of usage that OpenAI counts, and how it is shown. Moderations are not in the ledger.
const KINDS: &[(&str, Option<Kind>)] = &[
    ("completions", Some(COMPLETIONS)),
    ("embeddings", Some(EMBEDDINGS)),
    ("moderations", None),
    ("images", Some(IMAGES)),
    ("audio_speeches", Some(SPEECHES)),
    ("audio_transcriptions", Some(TRANSCRIPTIONS)),
    ("vector_stores", Some(VECTOR_STORES)),
    ("code_interpreter_sessions", Some(SESSIONS)),
    ("file_search_calls", Some(FILE_SEARCHES)),
    ("web_search_calls", Some(WEB_SEARCHES)),
    ("decisions", Some(DECISIONS)),
];

#[derive(Clone, Copy)]
struct Kind {
    /// Whether it shows operations that are reported so; `None`: all.
    of: Option<fn(UsageReport) -> bool>,
    groups: &'static [&'static str],
    shows: fn(&UsageSum) -> bool,
    view: fn(Group, &UsageSum) -> ResultView,
}

const COMPLETIONS: Kind = Kind {
    of: Some(|of| of == UsageReport::Completions),
    groups: &["project_id", "api_key_id", "model", "batch", "api_source", "user_id", "service_tier"],
    shows: is_used,
    view: |group, sum| made("organization.usage.completions.result", group, sum),
};
const EMBEDDINGS: Kind = Kind {
    of: Some(|of| of == UsageReport::Embeddings),
    groups: &["project_id", "api_key_id", "model", "user_id"],
    shows: is_used,
    view: |group, sum| ResultView::Embeddings(EmbeddingsView::of(group, sum)),
};
const DECISIONS: Kind = Kind {
    of: Some(|of| of == UsageReport::Decisions),
    view: |group, sum| made("organization.usage.decisions.result", group, sum),
    ..COMPLETIONS
};
const IMAGES: Kind = Kind {
    of: Some(is_of_images),
    groups: &["project_id", "api_key_id", "model", "user_id", "size", "source"],
    shows: is_used,
    view: |group, sum| ResultView::Images(ImagesView::of(group, sum)),
};
const SPEECHES: Kind = Kind {
    of: Some(|of| of == UsageReport::AudioSpeeches),
    groups: &["project_id", "api_key_id", "model", "user_id"],
    shows: is_used,
    view: |group, sum| ResultView::Speeches(SpeechesView::of(group, sum)),
};
const TRANSCRIPTIONS: Kind = Kind {
    of: Some(|of| of == UsageReport::AudioTranscriptions),
    groups: &["project_id", "api_key_id", "model", "user_id"],
    shows: is_used,
    view: |group, sum| ResultView::Transcriptions(TranscriptionsView::of(group, sum)),
};
const SESSIONS: Kind = Kind {
    of: None,
    groups: &["project_id"],
    shows: |sum| sessions(sum) > 0,
    view: |group, sum| ResultView::Sessions(SessionsView::of(group, sum)),
};
const VECTOR_STORES: Kind = Kind {
    of: None,
    groups: &["project_id"],
    shows: |sum| sum.quantities[Class::VectorStorage] > 0,
    view: |group, sum| ResultView::VectorStores(VectorStoresView::of(group, sum)),
};
const FILE_SEARCHES: Kind = Kind {
    of: None,
    groups: &["project_id", "api_key_id", "user_id", "vector_store_id"],
    shows: |sum| file_searches(sum) > 0,
    view: |group, sum| ResultView::Searches(SearchesView::of_files(group, sum)),
};
const WEB_SEARCHES: Kind = Kind {
    of: None,
    groups: &["project_id", "api_key_id", "model", "user_id", "context_level"],
    shows: |sum| web_searches(sum) > 0,
    view: |group, sum| ResultView::Searches(SearchesView::of_web(group, sum)),
};
const COSTS: Kind = Kind {
    of: None,
    groups: &["project_id", "api_key_id", "line_item", "api_source", "user_id"],
    shows: |sum| sum.cost != Money::ZERO,
    view: |group, sum| ResultView::Costs(CostsView::of(group, sum)),
};

fn made(object: &'static str, group: Group, sum: &UsageSum) -> ResultView {
    ResultView::Completions(Box::new(CompletionsView::of(object, group, sum)))
}

/// A correction of a cost alone is no usage.
fn is_used(sum: &UsageSum) -> bool {
    sum.requests > 0 || sum.quantities.tokens_total() > 0
}

/// A query for usage or costs, checked.
#[derive(Default)]
struct SumsQuery {
    start_s: Option<i64>,
    end_s: Option<i64>,
    width: Option<String>,
    limit: Option<usize>,
    page: Option<String>,
    group_by: Vec<String>,
    projects: Vec<String>,
    keys: Vec<String>,
    models: Vec<String>,
    sources: Vec<String>,
    batch: Option<bool>,
}

/// The buckets of a page: where the first starts, where the last ends, how wide
/// they are, and whether there are more.
struct Frame {
    start_s: i64,
    end_s: i64,
    width_s: i64,
    has_more: bool,
}

fn time(value: &str, param: &'static str) -> Result<i64, ApiError> {
    let seconds = value.parse().ok().filter(|seconds| (0..TIME_MAX_S).contains(seconds));
    seconds.ok_or_else(|| ApiError::bad(Some(param), "use Unix seconds"))
}

impl SumsQuery {
    /// `kind` is what may be asked; without one nothing is known, so that no
    /// filter can leave out anything.
    fn of(pairs: Pairs, kind: Option<&Kind>) -> Result<Self, ApiError> {
        let mut wanted = Self::default();
        let costs = kind.is_some_and(|kind| kind.groups.contains(&"line_item"));
        for (name, value) in pairs {
            match name.strip_suffix("[]").unwrap_or(&name) {
                "start_time" => wanted.start_s = Some(time(&value, "start_time")?),
                "end_time" => wanted.end_s = Some(time(&value, "end_time")?),
                "bucket_width" => wanted.width = Some(value),
                "page" => wanted.page = Some(value),
                "limit" => {
                    let wrong = |_| ApiError::bad(Some("limit"), "use a number of buckets");
                    wanted.limit = Some(value.parse().map_err(wrong)?);
                }
                _ if kind.is_none() => {}
                "group_by" => wanted.group_by.push(value),
                "project_ids" => wanted.projects.push(value),
                "api_key_ids" => wanted.keys.push(value),
                "models" if !costs => wanted.models.push(value),
                "line_items" if costs => wanted.models.push(value),
                "batch" if !costs => {
                    let wrong = |_| ApiError::bad(Some("batch"), "use true or false");
                    wanted.batch = Some(value.parse().map_err(wrong)?);
                }
                "sources" if kind.is_some_and(|kind| kind.groups.contains(&"source")) => {
                    wanted.sources.push(value);
                }
                "user_ids" => return Err(no_users("user_ids")),
                other => return Err(ApiError::bad(None, format!("there is no parameter {other:?}"))),
            }
        }
        let lists = [&wanted.group_by, &wanted.projects, &wanted.keys, &wanted.models, &wanted.sources];
        if lists.iter().any(|list| list.len() > VALUES_MAX) {
            return Err(ApiError::bad(None, "give up to 100 values of one kind"));
        }
        if let Some(kind) = kind {
            wanted.group_by.iter().try_for_each(|by| kind.check(by))?;
        }
        Ok(wanted)
    }

    fn frame(&self, widths: &[Width], now_s: i64) -> Result<Frame, ApiError> {
        let name = self.width.as_deref().unwrap_or(DAY);
        let width = widths.iter().find(|width| width.name == name).ok_or_else(|| {
            let names: Vec<_> = widths.iter().map(|width| width.name).collect();
            ApiError::bad(Some("bucket_width"), format!("use {}", names.join(" or ")))
        })?;
        let start_s = self.start_s.ok_or_else(|| ApiError::bad(Some("start_time"), "say from when"))?;
        let count = self.limit.unwrap_or(width.default);
        if !(1..=width.max).contains(&count) {
            return Err(ApiError::bad(Some("limit"), format!("use 1 to {}", width.max)));
        }
        let first_s = start_s - start_s % width.s;
        let start_s = match &self.page {
            None => first_s,
            Some(page) => {
                let at_s = page.strip_prefix(PAGE).and_then(|at| time(at, "page").ok());
                let fits = |at_s: &i64| *at_s >= first_s && at_s % width.s == 0;
                at_s.filter(fits).ok_or_else(|| ApiError::bad(Some("page"), "use next_page of an answer"))?
            }
        };
        let until_s = self.end_s.unwrap_or_else(|| now_s.saturating_add(1));
        let most_s = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(width.s);
        let end_s = start_s.saturating_add(most_s);
        let whole_s = until_s.saturating_add(width.s - 1) / width.s * width.s;
        Ok(Frame { start_s, end_s: end_s.min(whole_s), width_s: width.s, has_more: end_s < whole_s })
    }

    fn keeps(&self, line: &UsageRow<'_>, item: &str) -> bool {
        let fits =
            |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == is);
        self.batch.is_none_or(|batch| batch == is_batch(line))
            && fits(&self.projects, line.project)
            && fits(&self.keys, line.key)
            && fits(&self.models, item)
            && fits(&self.sources, source(line.endpoint).unwrap_or_default())
    }

    /// The guard has no users, and its sums don't tell tiers apart: where results are grouped by them, they are null.
    fn group(&self, line: &UsageRow<'_>, item: &str) -> Group {
        let by = |name: &str| self.group_by.iter().any(|by| by == name);
        Group {
            project: by("project_id").then(|| line.project.to_owned()),
            key: by("api_key_id").then(|| line.key.to_owned()),
            model: (by("model") || by("line_item")).then(|| item.to_owned()),
            batch: by("batch").then(|| is_batch(line)),
            api_source: by("api_source").then_some("unlabeled"),
            source: source(line.endpoint).filter(|_| by("source")),
        }
    }
}

const fn is_of_images(of: UsageReport) -> bool {
    matches!(of, UsageReport::Images(_))
}

/// How the images of an endpoint are made, in OpenAI's words.
fn source(endpoint: &str) -> Option<&'static str> {
    let operation = operation::named(endpoint)?;
    if let UsageReport::Images(source) = operation.usage_report { Some(source) } else { None }
}

fn is_batch(line: &UsageRow<'_>) -> bool {
    line.endpoint == BATCHES
}

/// What some spending is reported as. The sums of batches don't say what their lines call: they
/// are distinguished by what they used.
fn report_of(line: &UsageRow<'_>) -> Option<UsageReport> {
    if is_batch(line) {
        let used = &line.sum.quantities;
        return Some(match used.output_tokens_total() {
            _ if used[Class::ImageOutput] > 0 || used[Class::Images] > 0 => UsageReport::Images(""),
            0 => UsageReport::Embeddings,
            _ => UsageReport::Completions,
        });
    }
    let operation = operation::named(line.endpoint)?;
    Some(operation.usage_report)
}

fn no_users(param: &'static str) -> ApiError {
    let why = "the guard knows no users; for end users see /guard/v1/usage?group_by=user";
    ApiError::unsupported(Some(param), why)
}

impl Kind {
    fn check(&self, by: &str) -> Result<(), ApiError> {
        if self.groups.contains(&by) {
            return Ok(());
        }
        Err(ApiError::bad(Some("group_by"), format!("use {}", self.groups.join(", "))))
    }

    fn is_of(&self, line: &UsageRow<'_>) -> bool {
        self.of.is_none_or(|kind| report_of(line).is_some_and(kind))
    }
}

type Sums = BTreeMap<(i64, Group), UsageSum>;

/// The sums of a page, or nothing if there are too many.
async fn sums(admin: &Admin, kind: Kind, wanted: SumsQuery, frame: &Frame) -> Result<Option<Sums>, ApiError> {
    let &Frame { start_s, end_s, width_s, .. } = frame;
    if width_s % ROLLUP_S != 0
        && let Some(Pruned { before_s, .. }) =
            admin.books.reports().pruned().await?.filter(|gone| start_s < gone.before_s)
    {
        let why = "entries before that were pruned, and sums don't tell minutes apart: use 1h or 1d";
        return Err(ApiError::bad(Some("start_time"), format!("start at {before_s} or later; {why}")));
    }
    let span = Span { start_s, end_s };
    let summed = admin.books.reports().fold_usage(width_s, span, Sums::new(), move |sums, line| {
        // What has no model is a line of its own in the costs.
        let item = if line.model.is_empty() { line.endpoint } else { line.model };
        if kind.is_of(&line) && wanted.keeps(&line, item) {
            let bucket_s = line.at_s - line.at_s.rem_euclid(width_s);
            sums.entry((bucket_s, wanted.group(&line, item))).or_default().add(&line.sum);
        }
        sums.len() <= GROUPS_MAX
    });
    Ok(Some(summed.await?).filter(|sums| sums.len() <= GROUPS_MAX))
}

async fn page(
    admin: &Admin,
    pairs: Pairs,
    kind: Option<Kind>,
    widths: &[Width],
) -> Result<Json<PageView>, ApiError> {
    let wanted = SumsQuery::of(pairs, kind.as_ref())?;
    let frame = wanted.frame(widths, admin.guard.clock().now_s())?;
    let mut results: BTreeMap<i64, Vec<ResultView>> = BTreeMap::new();
    if let Some(kind) = kind {
        let found = sums(admin, kind, wanted, &frame).await?;
        let too_many =
            || ApiError::bad(Some("group_by"), "too many groups; ask for fewer buckets, or for less");
        for ((bucket_s, group), sum) in found.ok_or_else(too_many)? {
            if (kind.shows)(&sum) {
                results.entry(bucket_s).or_default().push((kind.view)(group, &sum));
            }
        }
    }
    let mut data = Vec::new();
    let mut start_time = frame.start_s;
    while start_time < frame.end_s {
        let end_time = start_time.saturating_add(frame.width_s);
        let results = results.remove(&start_time).unwrap_or_default();
        data.push(BucketView { object: "bucket", start_time, end_time, results });
        start_time = end_time;
    }
    let next_page = frame.has_more.then(|| format!("{PAGE}{}", frame.end_s));
    Ok(Json(PageView { object: "page", data, has_more: frame.has_more, next_page }))
}

/// Sums up usage in buckets of time. What the guard knows no amounts of has empty buckets.
#[utoipa::path(
    get,
    path = "/usage/{kind}",
    params(UsageKind, BucketsQuery, UsageQuery),
    responses((status = 200, body = PageView)),
)]
pub(super) async fn usage(
    State(admin): State<Admin>,
    Path(kind): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<PageView>, ApiError> {
    let known = KINDS.iter().find(|(name, _)| *name == kind);
    let (_, kind) = known.ok_or_else(|| ApiError::not_found(format!("there is no usage of {kind:?}")))?;
    page(&admin, pairs, *kind, USAGE_WIDTHS).await
}

/// Sums up costs in buckets of days.
#[utoipa::path(get, path = "/costs", params(BucketsQuery, CostsQuery), responses((status = 200, body = PageView)))]
pub(super) async fn costs(
    State(admin): State<Admin>,
    Query(pairs): Query<Pairs>,
) -> Result<Json<PageView>, ApiError> {
    page(&admin, pairs, Some(COSTS), COST_WIDTHS).await
}
