//! Activity: the newest entries of the ledger, and rejected requests.

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{ErrorPage, PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::{Dashboard, figures, names, parts, refusals};
use crate::ledger::entry::{Basis, Entry, Kind, entry_id};
use crate::store::reports::EntryFilter;

/// Entries on one page.
const PAGE: usize = 30;
/// The most entries that are searched for those that fit a filter. A link leads
/// on to those before.
const SEARCHED_MAX: u64 = 200_000;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/activity", get(show))
}

#[derive(Debug, Default, Deserialize)]
struct ActivityQuery {
    kind: Option<String>,
    basis: Option<String>,
    project: Option<String>,
    key: Option<String>,
    before: Option<u64>,
}

/// A page of the ledger.
struct EntryPage {
    entries: Vec<Entry>,
    /// The id before which the next page begins, if there is one.
    before: Option<u64>,
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<ActivityQuery>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let query = query_or_default(query);
    let page = read(&dashboard, &request, &query).await?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (kind, basis) = (text(&query.kind), text(&query.basis));
    let (project, key) = (text(&query.project), text(&query.key));
    let at = |before: &str| {
        let query = [
            ("kind", &*kind),
            ("basis", &*basis),
            ("project", &*project),
            ("key", &*key),
            ("before", before),
        ];
        parts::link("/activity", &query)
    };
    let older = page.before.map(|before| at(&before.to_string()));
    let newest = query.before.map(|_| at(""));
    let body = html! {
        (parts::heading(words.activity, Some(words.activity_lead), &parts::live_switch(lang)))
        (tabs(&request))
        (refusals::card(&dashboard, lang))
        (filters(&dashboard, &request, &query))
        div.scroll #entries data-live tabindex="0" role="region" aria-label=(words.activity) {
            @if page.entries.is_empty() {
                (parts::empty(words.nothing_found, if older.is_some() { words.look_further } else { words.no_activity_how }, &html! {}))
            } @else {
                (table(&dashboard, lang, &page.entries))
            }
        }
        (parts::pager(lang, newest, older))
    };
    Ok(request.page(words.activity, &body))
}

/// The tabs: requests, open sockets, and the audit log.
pub(super) fn tabs(request: &PageRequest) -> Markup {
    let words = request.words();
    let tabs = [
        ("/activity", words.requests),
        ("/activity/sockets", words.sockets),
        ("/activity/audit", words.audit_trail),
    ];
    html! {
        nav.tabs aria-label=(words.activity) {
            @for (path, name) in tabs {
                a href=(path) aria-current=[(request.path == path).then_some("page")] { (name) }
            }
        }
    }
}

async fn read(
    dashboard: &Dashboard,
    request: &PageRequest,
    query: &ActivityQuery,
) -> Result<EntryPage, ErrorPage> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let filter = EntryFilter {
        key: given(&query.key),
        project: given(&query.project),
        basis: query.basis.as_deref().and_then(Basis::named),
        kind: query.kind.as_deref().and_then(Kind::named),
        after: query.before,
        count_max: PAGE + 1,
        ..EntryFilter::default()
    };
    let found = dashboard.admin.books.reports().newest_entries(filter, SEARCHED_MAX);
    let (mut entries, from) = found.await.map_err(|error| request.unavailable(&error))?;
    let more = entries.len() > PAGE;
    entries.truncate(PAGE);
    let last = entries.last().map(|entry| entry.id).filter(|_| more);
    Ok(EntryPage { before: last.or((from > 0).then_some(from)), entries })
}

fn filters(dashboard: &Dashboard, request: &PageRequest, query: &ActivityQuery) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let kinds = [Kind::Settle, Kind::Release, Kind::Adjust, Kind::Threshold, Kind::Grant]
        .map(|kind| (kind.name(), kind_name(lang, kind)));
    let bases = [Basis::Reported, Basis::Counted, Basis::Assumed]
        .map(|basis| (basis.name(), basis_name(lang, basis)));
    let projects = dashboard.admin.guard.ring().projects();
    let chosen = |text: &Option<String>| text.clone().unwrap_or_default();
    html! {
        form.filters method="get" action="/activity" {
            div.field { label for="kind" { (words.kind) } select #kind name="kind" {
                option value="" { (words.all) } (parts::options(&chosen(&query.kind), kinds))
            } }
            div.field { label for="basis" { (words.basis) } select #basis name="basis" {
                option value="" { (words.all) } (parts::options(&chosen(&query.basis), bases))
            } }
            div.field { label for="project" { (words.project) } select #project name="project" {
                option value="" { (words.all) }
                (parts::options(&chosen(&query.project), projects.iter().map(|project| (&*project.id, &*project.name))))
            } }
            @if let Some(key) = query.key.as_deref().filter(|key| !key.is_empty()) {
                input type="hidden" name="key" value=(key);
            }
            button.button type="submit" { (words.apply) }
            a.button.quiet href="/activity" { (words.show_all) }
        }
    }
}

fn table(dashboard: &Dashboard, lang: Lang, entries: &[Entry]) -> Markup {
    let words = lang.words();
    let ring = dashboard.admin.guard.ring();
    html! {
        table.cards.dense {
            thead { tr {
                th scope="col" { (words.time) } th scope="col" { (words.kind) } th scope="col" { (words.key) }
                th scope="col" { (words.model) } th scope="col" { (words.status) }
                th.number scope="col" { (words.input_tokens) } th.number scope="col" { (words.output_tokens) }
                th.number scope="col" { (words.cost) }
            } }
            tbody {
                @for entry in entries {
                    @let of = &entry.attribution;
                    tr title=(entry_id(entry.id)) id=(entry_id(entry.id)) {
                        th scope="row" data-label=(words.time) { (parts::event_time(lang, entry.created_ms.div_euclid(1_000))) }
                        td data-label=(words.kind) { (kind_badge(lang, entry)) }
                        @if matches!(entry.kind, Kind::Threshold | Kind::Grant) {
                            td.note colspan="6" lang="en" { (names::note(entry.note.as_deref().unwrap_or_default())) }
                        } @else {
                            td data-label=(words.key) {
                                a href=(parts::link("/activity", &[("key", &of.key)])) { (names::name(&ring.key_name(&of.key))) }
                                span.sub { (names::name(&ring.project_name(&of.project))) }
                            }
                            td data-label=(words.model) {
                                (names::name(entry.served_model.as_deref().unwrap_or(&of.model)))
                                span.sub { (names::name(&of.endpoint)) }
                            }
                            td data-label=(words.status) {
                                @if entry.status > 0 { (entry.status) } @else { "–" }
                                @if entry.disconnected { span.sub { (words.client_left) } }
                            }
                            td.number data-label=(words.input_tokens) { (figures::number(lang, entry.quantities.input_tokens_total())) }
                            td.number data-label=(words.output_tokens) { (figures::number(lang, entry.quantities.output_tokens_total())) }
                            td.number data-label=(words.cost) { (parts::money(lang, entry.cost, 6)) }
                        }
                    }
                }
            }
        }
    }
}

fn kind_badge(lang: Lang, entry: &Entry) -> Markup {
    let tone = match entry.kind {
        Kind::Settle => "green",
        Kind::Release => "grey",
        Kind::Adjust | Kind::Grant => "blue",
        Kind::Threshold => "amber",
    };
    html! {
        (parts::badge(tone, kind_name(lang, entry.kind)))
        @if let Some(basis) = entry.basis.filter(|basis| *basis != Basis::Reported) {
            span.sub { (basis_name(lang, basis)) }
        }
    }
}

const fn kind_name(lang: Lang, kind: Kind) -> &'static str {
    let words = lang.words();
    match kind {
        Kind::Settle => words.kind_settle,
        Kind::Release => words.kind_release,
        Kind::Adjust => words.kind_adjust,
        Kind::Threshold => words.kind_threshold,
        Kind::Grant => words.kind_grant,
    }
}

const fn basis_name(lang: Lang, basis: Basis) -> &'static str {
    let words = lang.words();
    match basis {
        Basis::Reported => words.basis_reported,
        Basis::Counted => words.basis_counted,
        Basis::Assumed => words.basis_assumed,
    }
}
