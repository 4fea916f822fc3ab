//! What a limit would have rejected in the last thirty days, shown before it is saved.

use maud::{Markup, html};

use crate::admin::dashboard::page::{ErrorPage, PageRequest};
use crate::admin::dashboard::{Dashboard, figures, parts};
use crate::admin::trials::{TRIED_S, most_rejected};
use crate::books::trial::{TrialError, Tried};
use crate::domain::{Limit, Span};
use crate::ledger::meter::Subject;
use crate::ledger::trial::{OutcomeOfLimit, Rejected};
use crate::rulebook::limits::LimitError;
use crate::rulebook::rule::LimitRule;

/// What is shown of the limit of a rule; the field at fault if it is no limit.
pub(super) async fn tried(
    dashboard: &Dashboard,
    request: &PageRequest,
    name: &str,
    rule: LimitRule,
) -> Result<Result<Markup, &'static str>, ErrorPage> {
    let admin = &dashboard.admin;
    let zone = admin.in_force.load().zone.to_string();
    let limits = match admin.rulebook.limits_to_try(&[(name.to_owned(), rule)], &zone) {
        Ok(limits) => limits,
        Err(LimitError::Rule(error)) => return Ok(Err(error.field)),
        Err(LimitError::Store(error)) => return Err(request.unavailable(&error)),
        Err(
            LimitError::Name(_)
            | LimitError::ManagedByFile(_)
            | LimitError::ManagedAsAlert(_)
            | LimitError::NoSuchAlert(_)
            | LimitError::TooManyAlerts(_)
            | LimitError::Random(_)
            | LimitError::NoSuchLimit(_),
        ) => return Ok(Err("only")),
    };
    let words = request.words();
    if limits.iter().any(|limit| limit.is_rate()) {
        return Ok(Ok(html! { p.notice role="status" { (words.trial_of_rate) } }));
    }
    let now_s = admin.guard.clock().now_s();
    let span = Span { start_s: now_s.saturating_sub(TRIED_S), end_s: now_s.saturating_add(1) };
    match admin.books.try_limits(&limits, span).await {
        Ok(tried) => Ok(Ok(found(dashboard, request, &tried))),
        Err(TrialError::TooMany) => Ok(Ok(html! { p.notice.warn role="status" { (words.trial_too_long) } })),
        Err(TrialError::Store(error)) => Err(request.unavailable(&error)),
    }
}

/// The requests that would have been rejected, and whose they were.
fn found(dashboard: &Dashboard, request: &PageRequest, Tried { span, outcome }: &Tried) -> Markup {
    let (lang, words) = (request.lang, request.words());
    // In shadow mode a limit rejects nothing, and its own row is what it would have.
    let of_limit = outcome.limits.first();
    let rejected = of_limit.map_or(&outcome.rejected, |of| &of.rejected);
    let count = |count: u64| figures::number(lang, count);
    let cost = |of: &Rejected| parts::money(lang, of.cost, figures::decimals(of.cost));
    html! {
        section.notice #trial role="status" {
            h2 { (words.trial) }
            p.muted { (words.trial_lead) }
            dl.rule {
                div { dt { (words.from_day) } dd { (parts::time(lang, span.start_s)) } }
                div { dt { (words.trial_requests) } dd { (count(outcome.requests)) } }
                div { dt { (words.trial_rejected) } dd { strong { (count(rejected.count)) } } }
                div { dt { (words.trial_cost) } dd { (cost(rejected)) } }
            }
            @if let Some(of) = of_limit.filter(|of| !of.subjects.is_empty()) {
                (subjects(dashboard, request, of, &cost))
            }
        }
    }
}

fn subjects(
    dashboard: &Dashboard,
    request: &PageRequest,
    of: &OutcomeOfLimit,
    cost: &dyn Fn(&Rejected) -> Markup,
) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let limit: &Limit = &of.limit;
    html! {
        div.scroll tabindex="0" role="region" aria-label=(words.trial) {
            table.cards {
                thead { tr {
                    th scope="col" { (words.counted_per) }
                    th.number scope="col" { (words.trial_rejected) }
                    th.number scope="col" { (words.cost) }
                    th scope="col" { (words.trial_first) }
                } }
                tbody {
                    @for (label, found) in most_rejected(of) {
                        tr {
                            th scope="row" {
                                (parts::subject(dashboard, lang, limit, &Subject::labelled(limit, label.clone())))
                            }
                            td.number data-label=(words.trial_rejected) { (figures::number(lang, found.rejected.count)) }
                            td.number data-label=(words.cost) { (cost(&found.rejected)) }
                            td data-label=(words.trial_first) {
                                @if let Some((first_ms, _)) = found.rejected.span_ms {
                                    (parts::time(lang, first_ms.div_euclid(1_000)))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
