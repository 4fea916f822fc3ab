//! Billing: prepaid credit, its balance and its grants.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{PageQuery, PageRequest, PageResult, query_or_default};
use crate::admin::dashboard::sort::{Column, Direction, Sorting, by_name};
use crate::admin::dashboard::{Dashboard, figures, names, parts, see_other};
use crate::domain::Money;
use crate::domain::limit::Mode;
use crate::ledger::account::GrantReading;
use crate::rulebook::credit::{Credit, CreditError};

/// Grants on one page.
const PAGE: usize = 50;
/// For how many days credit may be granted.
const LIVES: [&str; 4] = ["30", "90", "180", "365"];
const DAY_S: i64 = 86_400;

pub(super) fn routes() -> Router<Dashboard> {
    Router::new().route("/billing", get(show).post(grant)).route("/billing/add", get(add))
}

#[derive(Debug, Default, Deserialize)]
struct GrantListQuery {
    from: Option<usize>,
    sort: Option<String>,
    dir: Option<String>,
}

const COLUMNS: &[Column<GrantReading>] = &[
    Column::time("created", |words| words.created, |a, b| a.grant.created_ms.cmp(&b.grant.created_ms)),
    Column::text("note", |words| words.note, |a, b| by_name(&a.grant.note, &b.grant.note)),
    Column::fixed(|words| words.status, ""),
    Column::time("expires", |words| words.expires, |a, b| expiry(a).cmp(&expiry(b))),
    Column::number("spent", |words| words.spent, |a, b| a.used.cmp(&b.used)),
    Column::number("amount", |words| words.amount, |a, b| a.grant.amount.cmp(&b.grant.amount)),
];

/// When a grant expires; one that never does is the last.
fn expiry(reading: &GrantReading) -> i64 {
    reading.grant.expires_s.unwrap_or(i64::MAX)
}

async fn show(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    query: PageQuery<GrantListQuery>,
) -> PageResult {
    let words = request.words();
    let query = query_or_default(query);
    let add = html! {
        @if request.may_change { a.button.primary href="/billing/add" { "+ " (words.add_credit) } }
    };
    let credit = dashboard.admin.rulebook.credit();
    let body = html! {
        (parts::heading(words.billing, Some(words.billing_lead), &add))
        @match &credit {
            Some(credit) => (account(request.lang, credit, &query)),
            None => (parts::empty(words.no_credit, words.no_credit_how, &add)),
        }
    };
    Ok(request.page(words.billing, &body))
}

fn account(lang: Lang, credit: &Credit, query: &GrantListQuery) -> Markup {
    let words = lang.words();
    let balance = credit.balance;
    let left = balance.left();
    let tile = |name, amount: Money| {
        parts::tile(name, &parts::money(lang, amount, figures::decimals(amount)), &html! {})
    };
    html! {
        @if credit.mode == Mode::Shadow {
            p.notice { (words.credit_shadow) }
        } @else if left <= Money::ZERO {
            p.notice.bad role="status" { (words.credit_used_up) }
        }
        dl.tiles #tiles data-live {
            (parts::tile(words.credit_balance, &parts::money(lang, left, 2), &html! {
                (words.held) " " (parts::money(lang, balance.held, 2))
            }))
            (tile(words.granted, balance.granted))
            (tile(words.spent, balance.used))
            (tile(words.expired, balance.expired))
        }
        section.card aria-labelledby="history" {
            h2 #history { (words.credit_history) }
            (history(lang, &credit.grants, query))
        }
    }
}

/// The grants, newest first unless another order is chosen.
fn history(lang: Lang, grants: &[GrantReading], query: &GrantListQuery) -> Markup {
    let words = lang.words();
    let digits = figures::decimals(grants.iter().map(|reading| reading.used).max().unwrap_or_default());
    let newest_first = Some(("created", Direction::Descending));
    let sorting = Sorting::of(COLUMNS, newest_first, query.sort.as_deref(), query.dir.as_deref());
    let from = query.from.unwrap_or(0);
    let (before, after) = parts::neighbours(from, PAGE, grants.len());
    let rows = sorting.page(grants.iter().rev().cloned().collect(), from, PAGE);
    let order = sorting.query();
    let at = |from: usize| parts::link("/billing", &[("from", &from.to_string()), order[0], order[1]]);
    let in_order = |sort: &str, dir: &str| parts::link("/billing", &[("sort", sort), ("dir", dir)]);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.credit_history) {
            table.cards.sortable {
                thead { tr { (sorting.headings(words, in_order)) } }
                tbody {
                    @for reading in &rows {
                        @let grant = &reading.grant;
                        tr {
                            th scope="row" { (parts::time(lang, grant.created_ms.div_euclid(1_000))) }
                            td data-label=(words.note) {
                                @if grant.note.is_empty() { span.muted { "–" } } @else { (names::name(&grant.note)) }
                            }
                            td data-label=(words.status) { (state(lang, reading)) }
                            td data-label=(words.expires) {
                                @match grant.expires_s {
                                    Some(at_s) => (parts::date(lang, at_s)),
                                    None => span.muted { (words.no_expiry) },
                                }
                            }
                            td.number data-label=(words.spent) { (parts::money(lang, reading.used, digits)) }
                            td.number data-label=(words.amount) { (parts::money(lang, grant.amount, 2)) }
                        }
                    }
                }
            }
        }
        (parts::pager(lang, before.map(at), after.map(at)))
    }
}

fn state(lang: Lang, reading: &GrantReading) -> Markup {
    let words = lang.words();
    if reading.grant.corrects.is_some() {
        parts::badge("blue", words.kind_adjust)
    } else if reading.left <= Money::ZERO {
        parts::badge("grey", words.used_up)
    } else if reading.is_expired {
        parts::badge("amber", words.expired)
    } else {
        parts::badge("green", words.active)
    }
}

#[derive(Debug, Default, Deserialize)]
struct GrantForm {
    amount: String,
    #[serde(default)]
    note: String,
    #[serde(default)]
    days: String,
}

async fn add(State(dashboard): State<Dashboard>, Extension(request): Extension<PageRequest>) -> PageResult {
    let body = form(&dashboard, &request, &GrantForm::default(), None);
    Ok(request.page(request.words().add_credit, &body))
}

fn form(dashboard: &Dashboard, request: &PageRequest, sent: &GrantForm, problem: Option<&str>) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let least = figures::exact(lang, dashboard.admin.rulebook.credit_terms().minimum);
    let lives: Vec<_> = LIVES
        .iter()
        .map(|days| (*days, figures::counted(lang, words.n_days, days.parse().unwrap_or(0))))
        .collect();
    let is_shadow = dashboard.admin.rulebook.credit_terms().mode == Mode::Shadow;
    let lead = if is_shadow { words.credit_shadow } else { words.add_credit_lead };
    html! {
        (parts::heading(words.add_credit, Some(lead), &html! {}))
        form.card.narrow method="post" action="/billing" {
            (request.csrf_field())
            @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
            div.field {
                label for="amount" { (words.amount) " (" (words.us_dollars) ")" }
                input #amount name="amount" required maxlength="32" inputmode="decimal" autocomplete="off" value=(sent.amount)
                    autofocus placeholder="25" aria-describedby="amount-hint";
                p.hint #amount-hint { (words.amount_hint.replace("{what}", &least)) }
            }
            div.field {
                label for="note" { (words.note) }
                input #note name="note" maxlength="1000" autocomplete="off" value=(sent.note) aria-describedby="note-hint";
                p.hint #note-hint { (words.note_hint) }
            }
            div.field {
                label for="days" { (words.expires_after) }
                select #days name="days" {
                    option value="" { (words.no_expiry) }
                    (parts::options(&sent.days, lives.iter().map(|(days, text)| (*days, text.as_str()))))
                }
            }
            div.actions {
                button.button.primary type="submit" { (words.add_credit) }
                a.button href="/billing" { (words.cancel) }
            }
        }
    }
}

async fn grant(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<GrantForm>, FormRejection>,
) -> PageResult {
    let words = request.words();
    let sent = sent.map(|Form(sent)| sent).unwrap_or_default();
    let rulebook = &dashboard.admin.rulebook;
    let days: Option<i64> = LIVES.contains(&sent.days.as_str()).then(|| sent.days.parse().ok()).flatten();
    let expires_s =
        days.map(|days| dashboard.admin.guard.clock().now_s().saturating_add(days.saturating_mul(DAY_S)));
    let typed =
        if figures::is_spaced(request.lang) { sent.amount.replace(',', ".") } else { sent.amount.clone() };
    let done = match typed.trim().parse::<Money>() {
        Ok(amount) => rulebook.grant(amount, sent.note.trim().to_owned(), expires_s, &request.actor).await,
        Err(_) => Err(CreditError::TooMuch),
    };
    let least = || figures::exact(request.lang, rulebook.credit_terms().minimum);
    let problem = match done {
        Ok(_) => return Ok(see_other("/billing")),
        Err(CreditError::TooLittle(_) | CreditError::TooMuch) => words.bad_credit.replace("{what}", &least()),
        Err(CreditError::LongNote | CreditError::BeyondGrant { .. } | CreditError::Ungranted(_)) => {
            words.not_done.to_owned()
        }
        Err(CreditError::Store(error)) => return Err(request.unavailable(&error)),
    };
    let body = form(&dashboard, &request, &sent, Some(&problem));
    Ok(request.with_status(StatusCode::UNPROCESSABLE_ENTITY, words.add_credit, &body))
}
