//! Rejected requests: counts by limit and reason, and the latest one by one.
//!
//! A refused request leaves no line in the ledger, since nothing was spent, so
//! all of this begins with the guard's start.

use maud::{Markup, html};
use prometheus::proto::{Metric, MetricFamily};

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::{Dashboard, figures, names, parts};

/// The metric that counts them.
const REFUSALS: &str = "spendguard_rejections_total";
/// Limits and reasons named one by one.
const COUNTED_MAX: usize = 20;
/// Refusals shown one by one.
const LATEST_MAX: usize = 5;

/// The requests rejected since startup.
pub(super) fn card(dashboard: &Dashboard, lang: Lang) -> Markup {
    let words = lang.words();
    let mut counted = counted(dashboard);
    counted.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
    let total = counted.iter().map(|(_, _, count)| count).sum();
    html! {
        section.card aria-labelledby="refused" {
            div.heading.small {
                h2 #refused { (words.refused) }
                p #refused-count data-live { (figures::counted(lang, words.n_refused, total)) }
            }
            div.stack #refusals data-live {
                @if counted.is_empty() {
                    p.muted { (words.nothing_refused) }
                } @else {
                    ul.refusals {
                        @for (limit, reason, count) in counted.iter().take(COUNTED_MAX) {
                            li {
                                @if !limit.is_empty() { strong { (names::name(limit)) } " " }
                                code { (reason) } " "
                                span.count { (figures::number(lang, *count)) }
                            }
                        }
                    }
                    (latest(dashboard, lang))
                }
            }
        }
    }
}

/// The refusals of the metrics: limit, reason, count.
fn counted(dashboard: &Dashboard) -> Vec<(String, String, u64)> {
    let families = dashboard.admin.guard.metrics().gather();
    let family = families.iter().find(|family| family.name() == REFUSALS);
    let of = |series: &Metric| {
        let label = |name: &str| {
            let found = series.get_label().iter().find(|label| label.name() == name);
            found.map(|label| label.value().to_owned()).unwrap_or_default()
        };
        (label("limit"), label("reason"), whole(series.get_counter().get_value()))
    };
    family.into_iter().flat_map(MetricFamily::get_metric).map(of).collect()
}

/// A counter's value, which is a whole number though metrics are floats.
fn whole(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or(0)
}

fn latest(dashboard: &Dashboard, lang: Lang) -> Markup {
    let words = lang.words();
    let ring = dashboard.admin.guard.ring();
    html! {
        table.plain.cards {
            thead { tr {
                th scope="col" { (words.time) } th scope="col" { (words.reason) } th scope="col" { (words.key) }
                th scope="col" { (words.limit) }
            } }
            tbody {
                @for refusal in dashboard.admin.guard.rejections().iter().take(LATEST_MAX) {
                    tr id={ "refusal-" (refusal.number) } {
                        th scope="row" { (parts::event_time(lang, refusal.at_ms.div_euclid(1_000))) }
                        td data-label=(words.reason) { span { code { (refusal.reason) } " " span.small.muted { (refusal.endpoint) } } }
                        td data-label=(words.key) {
                            @match &refusal.key {
                                Some(key) => (names::name(&ring.key_name(key))),
                                None => "–",
                            }
                        }
                        td data-label=(words.limit) {
                            @match &refusal.limit {
                                Some(limit) => (names::name(limit)),
                                None => "–",
                            }
                        }
                    }
                }
            }
        }
    }
}
