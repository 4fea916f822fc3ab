//! Charts, drawn on the server as SVG.
//!
//! Places across are percentages, so that a chart fits any screen and its
//! letters keep their size; nothing in it needs a style of its own.

use maud::{Markup, html};

use crate::admin::dashboard::figures::{self, share};
use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::names;
use crate::domain::Money;

const HEIGHT: i64 = 220;
/// Room for the days below.
const FOOT: i64 = 26;
/// Room for the upper line's letters.
const HEAD: i64 = 18;
/// The width of a letter beside the bars.
const LETTER: usize = 7;
/// Days named below, at most.
const LABELS_MAX: usize = 6;

/// Colours of parts in the stylesheet; those beyond share the last one.
const COLOURS: usize = 8;

/// One bar.
pub(super) struct Bar {
    /// The text below it.
    pub(super) label: String,
    /// Its parts from the ground up; the nth is in the nth colour.
    pub(super) parts: Vec<Money>,
    /// The text that is shown on hover and read out.
    pub(super) title: String,
}

impl Bar {
    fn height(&self) -> i64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.nano().max(0)))
    }
}

/// A chart with a bar for each day.
pub(super) fn bars(lang: Lang, label: &str, bars: &[Bar]) -> Markup {
    let top = round_top(bars.iter().map(Bar::height).max().unwrap_or(0));
    let ground = HEIGHT - FOOT;
    let count = i64::try_from(bars.len()).unwrap_or(1).max(1);
    let place = |at: usize, twentieths: i64| {
        let at = i64::try_from(at).unwrap_or(0);
        share(at * 20 + twentieths, count * 20)
    };
    let every = bars.len().div_ceil(LABELS_MAX).max(1);
    let digits = figures::decimals(Money::from_nano(top));
    let lines = [(top, HEAD), (top / 2, i64::midpoint(HEAD, ground)), (0, ground)];
    html! {
        div.chart {
            (axis(lang, &lines, digits))
            svg.plot role="img" aria-label=(label) width="100%" height=(HEIGHT) {
                @for (_, at) in lines {
                    line.grid x1="0" x2="100%" y1=(at) y2=(at) {}
                }
                @for (at, bar) in bars.iter().enumerate() {
                    g.bar {
                        title { (bar.title) }
                        rect.hit x=(place(at, 0)) y=(HEAD) width=(share(1, count)) height=(ground - HEAD) {}
                        @for (colour, from, height) in stack(bar, top, ground - HEAD) {
                            rect class={ "fill c" (colour) } x=(place(at, 3)) y=(ground - from - height)
                                width=(share(14, count * 20)) height=(height) {}
                        }
                    }
                    @if at % every == every / 2 {
                        text.axis.middle.odd[(at / every) % 2 == 1] x=(place(at, 10)) y=(HEIGHT - 6) { (bar.label) }
                    }
                }
            }
        }
    }
}

/// The visible parts of a bar: colour, distance from the ground, and height.
fn stack(bar: &Bar, top: i64, room: i64) -> Vec<(usize, i64, i64)> {
    let level = |nano: i64| {
        let exact = i128::from(nano) * i128::from(room) / i128::from(top);
        i64::try_from(exact).unwrap_or(0)
    };
    let (mut drawn, mut sum) = (Vec::new(), 0_i64);
    for (colour, part) in bar.parts.iter().enumerate() {
        let from = level(sum);
        sum = sum.saturating_add(part.nano().max(0));
        let height = level(sum) - from;
        if height > 0 {
            drawn.push((colour.min(COLOURS - 1), from, height));
        }
    }
    // A day with any spend is visible, however little.
    if drawn.is_empty() && sum > 0 {
        let largest = bar.parts.iter().enumerate().max_by_key(|(_, part)| part.nano());
        drawn.push((largest.map_or(0, |(colour, _)| colour.min(COLOURS - 1)), 0, 2));
    }
    drawn
}

/// The names of a chart's parts, each with its colour.
pub(super) fn legend(series: &[String]) -> Markup {
    html! {
        @if !series.is_empty() {
            ul.legend {
                @for (colour, name) in series.iter().enumerate() {
                    li {
                        svg.swatch aria-hidden="true" width="10" height="10" {
                            rect class={ "fill c" (colour.min(COLOURS - 1)) } width="10" height="10" rx="2" {}
                        }
                        (names::name(name))
                    }
                }
            }
        }
    }
}

/// The amounts of the grid lines, beside the bars; as wide as the longest amount.
fn axis(lang: Lang, lines: &[(i64, i64)], digits: usize) -> Markup {
    let amount = |nano: i64| figures::money(lang, Money::from_nano(nano), digits);
    let longest = lines.iter().map(|(line, _)| amount(*line).chars().count()).max().unwrap_or(0);
    html! {
        svg.scale aria-hidden="true" width=(longest * LETTER) height=(HEIGHT) {
            @for (line, at) in lines.iter().filter(|(line, _)| *line > 0) {
                text.axis.end x="100%" y=(at + 4) { (amount(*line)) }
            }
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below an amount.
fn round_top(nano: i64) -> i64 {
    let mut step = 1_000;
    while step < i64::MAX / 10 {
        for top in [step, step * 2, step * 5] {
            if top >= nano {
                return top;
            }
        }
        step *= 10;
    }
    nano
}

/// How full a limit is: settled and held apart, and where it warns.
pub(super) struct Gauge {
    pub(super) settled: i64,
    pub(super) held: i64,
    pub(super) soft: Vec<i64>,
    pub(super) hard: Option<i64>,
}

impl Gauge {
    /// The amount of the whole width.
    fn whole(&self) -> i64 {
        let soft = self.soft.iter().copied().max().unwrap_or(0);
        self.hard.unwrap_or_else(|| soft.max(self.settled.saturating_add(self.held))).max(1)
    }

    /// Its state, by the stylesheet's names.
    pub(super) fn state(&self) -> &'static str {
        let used = self.settled.saturating_add(self.held);
        if self.hard.is_some_and(|hard| used >= hard) {
            return "full";
        }
        if self.soft.iter().any(|soft| self.settled >= *soft) { "warned" } else { "calm" }
    }

    /// The bar. The text beside it has the same figures.
    pub(super) fn bar(&self, label: &str) -> Markup {
        let whole = self.whole();
        html! {
            svg.gauge.(self.state()) role="img" aria-label=(label) width="100%" height="12" {
                rect.track x="0" y="1" width="100%" height="10" rx="5" {}
                rect.held x="0" y="1" width=(share(self.settled.saturating_add(self.held), whole))
                    height="10" rx="5" {}
                rect.settled x="0" y="1" width=(share(self.settled, whole)) height="10" rx="5" {}
                @for soft in self.soft.iter().filter(|soft| **soft < whole) {
                    line.soft x1=(share(*soft, whole)) x2=(share(*soft, whole)) y1="0" y2="12" {}
                }
            }
        }
    }
}

/// A part of a whole, as a thin bar in a table.
pub(super) fn part(part: i64, whole: i64) -> Markup {
    html! {
        svg.part aria-hidden="true" width="100%" height="6" {
            rect.track x="0" y="0" width="100%" height="6" rx="3" {}
            rect.settled x="0" y="0" width=(share(part, whole)) height="6" rx="3" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_chart_is_round_and_not_below_what_it_shows() {
        for (nano, top) in [(0, 1_000), (1_001, 2_000), (3_000_000, 5_000_000), (7_000_000, 10_000_000)] {
            assert_eq!(round_top(nano), top);
        }
        assert!(round_top(i64::MAX) == i64::MAX);
    }

    #[test]
    fn the_parts_of_a_bar_meet_and_together_are_as_high_as_their_sum() {
        let bar = |parts: &[i64]| Bar {
            label: String::new(),
            parts: parts.iter().copied().map(Money::from_nano).collect(),
            title: String::new(),
        };
        assert_eq!(stack(&bar(&[333, 0, 333, 334]), 1_000, 100), [(0, 0, 33), (2, 33, 33), (3, 66, 34)]);
        assert_eq!(stack(&bar(&[0, 1]), 1_000, 100), [(1, 0, 2)], "however little, it is visible");
        assert_eq!(stack(&bar(&[0, 0]), 1_000, 100), []);
        assert_eq!(
            stack(&bar(&[-5, 500]), 1_000, 100),
            [(1, 0, 50)],
            "a correction below zero has no height"
        );
        let many: Vec<_> = stack(&bar(&[10; 12]), 120, 120).iter().map(|part| part.0).collect();
        assert_eq!(many, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn a_gauge_is_full_by_what_is_held_and_warned_by_what_is_settled() {
        let gauge = |settled, held| Gauge { settled, held, soft: vec![5], hard: Some(10) };
        assert_eq!(gauge(4, 2).state(), "calm");
        assert_eq!(gauge(5, 2).state(), "warned");
        assert_eq!(gauge(5, 5).state(), "full");
        assert_eq!(Gauge { hard: None, ..gauge(9, 0) }.state(), "warned");
        let zero = Gauge { settled: 0, held: 0, soft: vec![], hard: Some(0) };
        assert_eq!(zero.state(), "full", "a cap of zero blocks everything");
    }
}
