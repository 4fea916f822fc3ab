//! Small parts that pages are made of.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::admin::dashboard::chart::Gauge;
use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::page::{ErrorPage, PageRequest};
use crate::admin::dashboard::{Dashboard, figures, names};
use crate::domain::limit::{Per, Unit};
use crate::domain::{Limit, Money, Span, Window};
use crate::keys::Key;
use crate::ledger::calendar;
use crate::ledger::meter::{Reading, Subject, key_and_tag};
use crate::store::reports::{GroupBy, UsageFilter};

/// A page's heading, with its actions beside it.
pub(super) fn heading(title: &str, lead: Option<&str>, actions: &Markup) -> Markup {
    html! {
        div.heading {
            div {
                h1 { (title) }
                @if let Some(lead) = lead { p.muted { (lead) } }
            }
            div.actions { (actions) }
        }
    }
}

/// An instant: UTC here, made local by the script.
pub(super) fn time(lang: Lang, at_s: i64) -> Markup {
    html! { time datetime=(figures::rfc3339(at_s)) { (figures::moment(lang, at_s)) } }
}

/// An instant to the second with its day below it, for lists of events.
pub(super) fn event_time(lang: Lang, at_s: i64) -> Markup {
    let day = figures::day(lang, figures::date_of(at_s, &TimeZone::UTC));
    let machine = figures::rfc3339(at_s);
    html! {
        time datetime=(machine) data-clock { (figures::clock(at_s)) }
        time.sub datetime=(machine) data-day { (day) }
    }
}

/// The day of an instant, for narrow columns.
pub(super) fn date(lang: Lang, at_s: i64) -> Markup {
    let day = figures::day(lang, figures::date_of(at_s, &TimeZone::UTC));
    html! { time datetime=(figures::rfc3339(at_s)) data-day { (day) } }
}

/// A small label; its tone is said by the text too.
pub(super) fn badge(tone: &str, text: &str) -> Markup {
    html! { span.badge.(tone) { (text) } }
}

/// The text in place of an empty list.
pub(super) fn empty(title: &str, text: &str, action: &Markup) -> Markup {
    html! { div.empty { p.title { (title) } p.muted { (text) } (action) } }
}

/// A page that asks before something is removed for good.
pub(super) struct Confirmation<'a> {
    pub(super) title: &'a str,
    /// Where the form is sent, and where Cancel leads.
    pub(super) action: &'a str,
    pub(super) back: &'a str,
    /// The hidden field with the id of what is removed.
    pub(super) field: (&'a str, &'a str),
    /// What is removed, by name.
    pub(super) subject: Markup,
    /// What removing it means.
    pub(super) consequence: &'a str,
    pub(super) confirm: &'a str,
}

/// Asks before something is removed for good.
pub(super) fn confirmation(request: &PageRequest, page: &Confirmation<'_>) -> Markup {
    let Confirmation { title, action, back, field: (field, value), subject, consequence, confirm } = page;
    html! {
        (heading(title, None, &html! {}))
        form.card.narrow method="post" action=(action) {
            (request.csrf_field())
            input type="hidden" name=(field) value=(value);
            p { (subject) }
            p.notice.warn { (consequence) }
            div.actions {
                button.button.danger.filled type="submit" { (confirm) }
                a.button href=(back) { (request.words().cancel) }
            }
        }
    }
}

/// One figure with its name.
pub(super) fn tile(name: &str, value: &Markup, below: &Markup) -> Markup {
    html! { div.card.tile { dt { (name) } dd.figure { (value) } dd.muted { (below) } } }
}

/// An amount whose exact value is in its title. One that would be rounded to
/// zero is shown exactly.
pub(super) fn money(lang: Lang, amount: Money, decimals: usize) -> Markup {
    let exact = figures::exact(lang, amount);
    let shown = figures::money(lang, amount, decimals);
    let vanishes = amount != Money::ZERO && shown == figures::money(lang, Money::ZERO, decimals);
    html! { span.money title=(exact) { @if vanishes { (exact) } @else { (shown) } } }
}

/// The subject of a meter, by name.
pub(super) fn subject(dashboard: &Dashboard, lang: Lang, limit: &Limit, of: &Subject) -> Markup {
    let ring = dashboard.admin.guard.ring();
    let id = match of {
        Subject::Organization => return html! { (lang.words().whole_organization) },
        Subject::One(id) | Subject::Tagged(id) => id,
    };
    match &limit.per {
        Per::Project => names::name(&ring.project_name(id)),
        Per::Key => names::name(&ring.key_name(id)),
        Per::Organization | Per::User | Per::Model => names::name(id),
        Per::Tag(_) => {
            let (key, tag) = key_and_tag(id).unwrap_or(("", id));
            html! { (names::name(tag)) " · " (names::name(&ring.key_name(key))) }
        }
    }
}

/// A meter as a bar with its amounts: settled, held, remaining.
pub(super) fn meter(lang: Lang, limit: &Limit, reading: &Reading) -> Markup {
    let words = lang.words();
    let meter = reading.meter;
    let gauge =
        Gauge { settled: meter.settled, held: meter.held, soft: limit.thresholds(), hard: limit.hard };
    let largest = limit.hard.unwrap_or(0).max(meter.settled);
    let decimals = figures::decimals(Money::from_nano(largest));
    let amount = |amount: i64| figures::amount(lang, limit.unit, amount, decimals);
    let settled = amount(meter.settled);
    let label = format!("{}: {settled}, {}: {}", words.settled, words.held, amount(meter.held));
    let used = meter.settled.saturating_add(meter.held);
    html! {
        div.meter.(gauge.state()) {
            div.said {
                span { strong { (settled) } @if let Some(hard) = limit.hard { " / " (whole_amount(lang, limit.unit, hard)) } }
                @if let Some(hard) = limit.hard { span.share { (figures::percent(lang, used, hard)) } }
            }
            (gauge.bar(&label))
            div.said.small {
                span.key.held { (words.held) " " (amount(meter.held)) }
                @match limit.hard {
                    Some(hard) if used >= hard => span.full { (words.used_up) },
                    Some(hard) => span { (words.remaining) " " (amount(hard.saturating_sub(used))) },
                    None => span { (words.no_hard_limit) },
                }
            }
            @if bounded(limit.window) {
                p.small.muted { (words.resets) " " (time(lang, reading.span.end_s)) }
            }
        }
    }
}

/// An amount in a limit's unit, with all its decimals.
pub(super) fn whole_amount(lang: Lang, unit: Unit, hard: i64) -> String {
    match unit {
        Unit::Usd => figures::exact(lang, Money::from_nano(hard)),
        Unit::Tokens | Unit::InputTokens | Unit::OutputTokens | Unit::Requests => {
            figures::amount(lang, unit, hard, 0)
        }
    }
}

fn bounded(window: Window) -> bool {
    !matches!(window, Window::Total | Window::Request)
}

/// Whether a key may be used, said in a badge.
pub(super) fn key_state(lang: Lang, key: &Key, now_s: i64) -> Markup {
    let words = lang.words();
    if key.revoked_s.is_some() {
        badge("grey", words.revoked)
    } else if key.expires_s.is_some_and(|end_s| end_s <= now_s) {
        badge("amber", words.expired)
    } else {
        badge("green", words.active)
    }
}

/// Where the pages before and after one begin, if there are any.
pub(super) fn neighbours(from: usize, page: usize, total: usize) -> (Option<usize>, Option<usize>) {
    let next = from.saturating_add(page);
    ((from > 0).then(|| from.saturating_sub(page)), (total > next).then_some(next))
}

/// A link to an earlier and a later part of a list, where there are any.
pub(super) fn pager(lang: Lang, before: Option<String>, after: Option<String>) -> Markup {
    let words = lang.words();
    html! {
        @if before.is_some() || after.is_some() {
            nav.pager aria-label=(words.pages) {
                @if let Some(before) = before { a.button rel="prev" href=(before) { "← " (words.previous) } }
                @if let Some(after) = after { a.button rel="next" href=(after) { (words.next) " →" } }
            }
        }
    }
}

/// Pauses the parts of a page that a script keeps up to date; hidden without scripts.
pub(super) fn live_switch(lang: Lang) -> Markup {
    let words = lang.words();
    html! {
        button.button.small.live type="button" data-live-switch data-paused=(words.paused) hidden { (words.live) }
    }
}

/// This month's spend, by group.
pub(super) async fn spent_this_month(
    dashboard: &Dashboard,
    request: &PageRequest,
    by: GroupBy,
) -> Result<HashMap<String, Money>, ErrorPage> {
    let now_s = dashboard.admin.guard.clock().now_s();
    let start_s = calendar::span(Window::Month, &zone(dashboard), now_s).start_s;
    let until_s = now_s.saturating_add(1);
    let span = Span { start_s, end_s: until_s };
    let sums = dashboard.admin.books.reports().usage([(by, span)], UsageFilter::default());
    let [sums] = sums.await.map_err(|error| request.unavailable(&error))?;
    Ok(sums.into_iter().map(|(group, sum)| (group.concat(), sum.cost)).collect())
}

/// A text, encoded for a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let code = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(code).collect()
}

/// A path with the parts of its query that have a value.
pub(super) fn link(path: &str, query: &[(&str, &str)]) -> String {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<_> = given.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// The options of a choice, each with its value, its name, and which is chosen.
pub(super) fn options<'a>(chosen: &str, all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        @for (value, text) in all {
            option value=(value) selected[value == chosen] { (text) }
        }
    }
}

/// The guard's own time zone.
pub(super) fn zone(dashboard: &Dashboard) -> TimeZone {
    TimeZone::get(&dashboard.admin.in_force.load().zone).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_any_text() {
        assert_eq!(link("/x", &[("a", "b c&d=é\"<"), ("e", "")]), "/x?a=b%20c%26d%3D%C3%A9%22%3C");
        assert_eq!(link("/x", &[("e", "")]), "/x");
    }
}
