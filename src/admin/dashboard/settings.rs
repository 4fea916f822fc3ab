//! Settings: the language, how the guard is, and what configuration is in force.

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};

use crate::admin::dashboard::page::{self, Shown, Visit};
use crate::admin::dashboard::{Desk, figures, parts};

pub(super) fn routes() -> Router<Desk> {
    Router::new().route("/settings", get(show))
}

async fn show(State(desk): State<Desk>, Extension(visit): Extension<Visit>) -> Shown {
    let words = visit.words();
    let body = html! {
        (parts::heading(words.settings, None, &html! {}))
        section.card {
            h2 { (words.language) }
            p.muted { (words.language_lead) }
            (page::languages(visit.lang, "/settings"))
        }
        section.card {
            h2 { (words.this_guard) }
            (state(&desk, &visit))
        }
        section.card {
            h2 { (words.in_force) }
            p.muted { (words.in_force_lead) }
            (configuration(&desk, &visit))
        }
    };
    Ok(visit.page(words.settings, &body))
}

fn state(desk: &Desk, visit: &Visit) -> Markup {
    let (lang, words) = (visit.lang, visit.words());
    let in_force = desk.admin.in_force.load();
    let guard = &desk.admin.guard;
    let (held, open) = guard.in_doubt();
    html! {
        dl.rule {
            div { dt { (words.version) } dd { (env!("CARGO_PKG_VERSION")) } }
            div { dt { (words.time_zone) } dd { (in_force.zone) } }
            div { dt { (words.prices_as_of) } dd {
                (figures::day(lang, figures::date_of(in_force.prices_as_of_s, &jiff::tz::TimeZone::UTC)))
            } }
            div { dt { (words.ledger) } dd {
                @if guard.is_healthy() { (parts::badge("green", words.ledger_sound)) }
                @else { (parts::badge("red", words.ledger_unavailable)) }
            } }
            div { dt { (words.held_now) } dd {
                (figures::exact(lang, held)) " · "
                (figures::counted(lang, words.n_open, u64::try_from(open).unwrap_or(u64::MAX)))
            } }
        }
    }
}

/// The settings as the guard resolved them; a secret is only said to be set.
fn configuration(desk: &Desk, visit: &Visit) -> Markup {
    let words = visit.words();
    let in_force = desk.admin.in_force.load();
    let lines = in_force.text.lines().filter_map(|line| line.split_once(' '));
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.in_force) {
            table.settings lang="en" {
                thead { tr { th scope="col" lang=(visit.lang.code()) { (words.setting) } th scope="col" lang=(visit.lang.code()) { (words.value) } } }
                tbody {
                    @for (key, value) in lines {
                        tr { th scope="row" { code { (key) } } td { bdi { (value.trim()) } } }
                    }
                }
            }
        }
    }
}
