//! Charts, drawn on the server as SVG.
//!
//! Places across are percentages, so that a chart fits any screen and its
//! letters keep their size; nothing in it needs a style of its own.

use maud::{Markup, html};

use crate::admin::dashboard::figures::{self, share};
use crate::admin::dashboard::language::Lang;
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

/// One bar.
pub(super) struct Bar {
    /// What stands below it.
    pub(super) label: String,
    /// Its height.
    pub(super) cost: Money,
    /// What it says when pointed at.
    pub(super) title: String,
}

/// A bar for each day.
pub(super) fn bars(lang: Lang, label: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.cost.nano()).max().unwrap_or(0);
    let top = round_top(most);
    let ground = HEIGHT - FOOT;
    let tall = |nano: i64| {
        let exact = i128::from(nano.max(0)) * i128::from(ground - HEAD) / i128::from(top);
        // What is there is seen, however little.
        i64::try_from(exact).unwrap_or(0).max(i64::from(nano > 0) * 2)
    };
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
                    @let height = tall(bar.cost.nano());
                    g.bar {
                        rect.hit x=(place(at, 0)) y=(HEAD) width=(share(1, count)) height=(ground - HEAD) {}
                        rect.fill x=(place(at, 3)) y=(ground - height) width=(share(14, count * 20))
                            height=(height) rx="2" {}
                        title { (bar.title) }
                    }
                    @if at % every == every / 2 {
                        text.axis.middle.odd[(at / every) % 2 == 1] x=(place(at, 10)) y=(HEIGHT - 6) { (bar.label) }
                    }
                }
            }
        }
    }
}

/// What the lines stand for, beside the bars. It is as wide as its longest amount.
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
    /// What the whole width stands for.
    fn whole(&self) -> i64 {
        let soft = self.soft.iter().copied().max().unwrap_or(0);
        self.hard.unwrap_or_else(|| soft.max(self.settled.saturating_add(self.held))).max(1)
    }

    /// How alarming it is, as the stylesheet names it.
    pub(super) fn state(&self) -> &'static str {
        let used = self.settled.saturating_add(self.held);
        if self.hard.is_some_and(|hard| used >= hard) {
            return "full";
        }
        if self.soft.iter().any(|soft| self.settled >= *soft) { "warned" } else { "calm" }
    }

    /// The bar. What it says in colours is said in words beside it.
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
