//! Open sockets: how many each key has, and what each of them is used for.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::{Dashboard, activity, figures, names, parts, stops};
use crate::domain::Spender;
use crate::guard::sockets::OpenSocket;

/// The page.
const PATH: &str = "/activity/sockets";
/// Sockets that are shown, the newest first.
const SHOWN_MAX: usize = 200;
/// Keys that are named, those with the most sockets first.
const KEYS_MAX: usize = 20;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(show))
}

#[derive(Debug, Default, Deserialize)]
struct SocketsQuery {
    key: Option<String>,
}

/// How many sockets each key has.
pub(super) fn counts(sockets: &[Arc<OpenSocket>]) -> HashMap<Arc<str>, u64> {
    let mut counts = HashMap::new();
    for socket in sockets {
        *counts.entry(Arc::clone(&socket.key)).or_default() += 1;
    }
    counts
}

/// The number of a key's sockets, which leads to them.
pub(super) fn link(lang: Lang, key: &str, count: u64) -> Markup {
    html! { a href=(parts::link(PATH, &[("key", key)])) { (figures::counted(lang, lang.words().n_sockets, count)) } }
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<SocketsQuery>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let of_key = query_or_default(query).key.filter(|key| !key.is_empty());
    let mut sockets = dashboard.admin.guard.open_sockets();
    if let Some(key) = &of_key {
        sockets.retain(|socket| *socket.key == **key);
    }
    sockets.reverse();
    let unshown = u64::try_from(sockets.len().saturating_sub(SHOWN_MAX)).unwrap_or(u64::MAX);
    let body = html! {
        (parts::heading(words.activity, Some(words.sockets_lead), &parts::live_switch(lang)))
        (activity::tabs(&request))
        @if dashboard.admin.guard.core().is_shared() { p.notice { (words.sockets_of_one_guard) } }
        @if of_key.is_some() { p { a.button.quiet href=(PATH) { (words.show_all) } } }
        div.stack #sockets data-live {
            @if sockets.is_empty() {
                (parts::empty(words.no_sockets, words.no_sockets_how, &html! {}))
            } @else {
                (keys(&dashboard, &request, &sockets))
                div.scroll tabindex="0" role="region" aria-label=(words.sockets) {
                    (table(&dashboard, lang, sockets.iter().take(SHOWN_MAX)))
                }
                @if unshown > 0 { p.muted { (figures::counted(lang, words.n_more, unshown)) } }
            }
        }
    };
    Ok(request.page(words.sockets, &body))
}

/// The keys that have sockets.
fn keys(dashboard: &Dashboard, request: &PageRequest, sockets: &[Arc<OpenSocket>]) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let ring = dashboard.admin.guard.ring();
    let mut counts: Vec<_> = counts(sockets).into_iter().collect();
    counts.sort_by(|(a, of_a), (b, of_b)| (Reverse(of_a), a).cmp(&(Reverse(of_b), b)));
    let unnamed = u64::try_from(counts.len().saturating_sub(KEYS_MAX)).unwrap_or(u64::MAX);
    html! {
        section.card aria-label=(words.api_keys) {
            ul {
                @for (key, count) in counts.iter().take(KEYS_MAX) {
                    @let spender = Spender::Key(Arc::clone(key));
                    li.said {
                        span {
                            strong { (names::name(&ring.key_name(key))) } " · " (link(lang, key, *count))
                            (stops::badge(dashboard, lang, &spender))
                        }
                        @if request.may_change { span { (stops::switch(dashboard, request, &spender)) } }
                    }
                }
            }
            @if unnamed > 0 { p.muted { (figures::counted(lang, words.n_more, unnamed)) } }
        }
    }
}

fn table<'a>(
    dashboard: &Dashboard,
    lang: Lang,
    sockets: impl Iterator<Item = &'a Arc<OpenSocket>>,
) -> Markup {
    let words = lang.words();
    let ring = dashboard.admin.guard.ring();
    html! {
        table.cards.dense {
            thead { tr {
                th scope="col" { (words.opened) } th scope="col" { (words.key) } th scope="col" { (words.endpoint) }
                th scope="col" { (words.tags) } th.number scope="col" { (words.requests) }
                th.number scope="col" { (words.spent) }
            } }
            tbody {
                @for socket in sockets {
                    @let done = socket.activity();
                    tr title=(socket.id) id=(socket.id) {
                        th scope="row" data-label=(words.opened) { (parts::event_time(lang, socket.since_ms.div_euclid(1_000))) }
                        td data-label=(words.key) {
                            a href=(parts::link("/activity", &[("key", &socket.key)])) { (names::name(&ring.key_name(&socket.key))) }
                            span.sub { (names::name(&ring.project_name(&socket.project))) }
                        }
                        td data-label=(words.endpoint) { (socket.endpoint) }
                        td data-label=(words.tags) {
                            @for (name, value) in done.tags.iter() { div { (names::name(name)) "=" (names::name(value)) } }
                            @if done.tags.is_empty() { "–" }
                        }
                        td.number data-label=(words.requests) { (figures::number(lang, done.requests)) }
                        td.number data-label=(words.spent) { (parts::money(lang, done.spent, 6)) }
                    }
                }
            }
        }
    }
}
