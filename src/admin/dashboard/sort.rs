//! Tables that can be sorted by a column.
//!
//! The headings are links with `?sort=…&dir=…`, so sorting works without
//! scripts. Rows that compare equal keep the order in which the page lists them.

use std::cmp::Ordering;

use maud::{Markup, html};

use crate::admin::dashboard::words::Words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    /// Its name in the query.
    const fn name(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }

    /// Its name in `aria-sort`.
    const fn aria(self) -> &'static str {
        match self {
            Self::Ascending => "ascending",
            Self::Descending => "descending",
        }
    }

    const fn arrow(self) -> &'static str {
        match self {
            Self::Ascending => "↑",
            Self::Descending => "↓",
        }
    }

    const fn opposite(self) -> Self {
        match self {
            Self::Ascending => Self::Descending,
            Self::Descending => Self::Ascending,
        }
    }
}

/// A column of a table whose rows are `T`.
pub(super) struct Column<T: 'static> {
    /// Its name in the query.
    key: &'static str,
    title: fn(&Words) -> &'static str,
    /// The class of its heading.
    class: &'static str,
    /// The direction of the first click.
    first: Direction,
    /// How its rows compare, unless it can't be sorted by.
    compare: Option<fn(&T, &T) -> Ordering>,
}

impl<T> Column<T> {
    /// A column of names, sorted from A to Z first.
    pub(super) const fn text(
        key: &'static str,
        title: fn(&Words) -> &'static str,
        compare: fn(&T, &T) -> Ordering,
    ) -> Self {
        Self { key, title, class: "", first: Direction::Ascending, compare: Some(compare) }
    }

    /// A column of times, sorted from the newest first.
    pub(super) const fn time(
        key: &'static str,
        title: fn(&Words) -> &'static str,
        compare: fn(&T, &T) -> Ordering,
    ) -> Self {
        Self { key, title, class: "", first: Direction::Descending, compare: Some(compare) }
    }

    /// A column of numbers, sorted from the largest first.
    pub(super) const fn number(
        key: &'static str,
        title: fn(&Words) -> &'static str,
        compare: fn(&T, &T) -> Ordering,
    ) -> Self {
        Self { key, title, class: "number", first: Direction::Descending, compare: Some(compare) }
    }

    /// A column that can't be sorted by.
    pub(super) const fn fixed(title: fn(&Words) -> &'static str, class: &'static str) -> Self {
        Self { key: "", title, class, first: Direction::Ascending, compare: None }
    }
}

/// The order of a table.
pub(super) struct Sorting<T: 'static> {
    columns: &'static [Column<T>],
    /// The column by its key; `None` is the order in which the page lists its rows.
    chosen: Option<(&'static str, Direction)>,
    /// Whether the query has chosen it.
    is_from_query: bool,
}

impl<T> Sorting<T> {
    /// Reads the order from a query. A column or direction that does not exist leaves the default.
    pub(super) fn of(
        columns: &'static [Column<T>],
        default: Option<(&'static str, Direction)>,
        sort: Option<&str>,
        dir: Option<&str>,
    ) -> Self {
        let column = columns.iter().find(|column| column.compare.is_some() && Some(column.key) == sort);
        let from_query = column.map(|column| {
            let all = [Direction::Ascending, Direction::Descending];
            let named = all.into_iter().find(|direction| Some(direction.name()) == dir);
            (column.key, named.unwrap_or(column.first))
        });
        Self { columns, chosen: from_query.or(default), is_from_query: from_query.is_some() }
    }

    /// The query parameters of this order; empty for the default.
    pub(super) fn query(&self) -> [(&'static str, &'static str); 2] {
        let (key, dir) =
            self.chosen.filter(|_| self.is_from_query).map_or(("", ""), |(key, d)| (key, d.name()));
        [("sort", key), ("dir", dir)]
    }

    /// The first rows in this order, and the others in any order.
    pub(super) fn first(&self, rows: Vec<T>, count: usize) -> (Vec<T>, Vec<T>) {
        let mut rows: Vec<(usize, T)> = rows.into_iter().enumerate().collect();
        let order = |a: &(usize, T), b: &(usize, T)| self.compare(&a.1, &b.1).then(a.0.cmp(&b.0));
        // Only the rows that are shown are sorted, however many there are.
        let others = if count < rows.len() {
            rows.select_nth_unstable_by(count, order);
            rows.split_off(count)
        } else {
            Vec::new()
        };
        rows.sort_unstable_by(order);
        let bare = |rows: Vec<(usize, T)>| rows.into_iter().map(|(_, row)| row).collect();
        (bare(rows), bare(others))
    }

    /// A part of the rows in this order.
    pub(super) fn page(&self, rows: Vec<T>, from: usize, count: usize) -> Vec<T> {
        self.first(rows, from.saturating_add(count)).0.into_iter().skip(from).collect()
    }

    fn compare(&self, a: &T, b: &T) -> Ordering {
        let Some((key, direction)) = self.chosen else { return Ordering::Equal };
        let compare = self.columns.iter().find(|column| column.key == key).and_then(|column| column.compare);
        let order = compare.map_or(Ordering::Equal, |compare| compare(a, b));
        match direction {
            Direction::Ascending => order,
            Direction::Descending => order.reverse(),
        }
    }

    /// The headings, as links. `link` makes the address of a column and a direction.
    pub(super) fn headings(&self, words: &Words, link: impl Fn(&str, &str) -> String) -> Markup {
        html! {
            @for column in self.columns {
                @let chosen = self.chosen.filter(|(key, _)| column.compare.is_some() && *key == column.key);
                th class=[Some(column.class).filter(|class| !class.is_empty())] scope="col" aria-sort=[chosen.map(|(_, direction)| direction.aria())] {
                    @if column.compare.is_some() {
                        @let next = chosen.map_or(column.first, |(_, direction)| direction.opposite());
                        a.sort href=(link(column.key, next.name())) {
                            ((column.title)(words))
                            span aria-hidden="true" { @if let Some((_, direction)) = chosen { " " (direction.arrow()) } }
                        }
                    } @else {
                        ((column.title)(words))
                    }
                }
            }
        }
    }
}

/// Compares names without regard to case.
pub(super) fn by_name(a: &str, b: &str) -> Ordering {
    let lower = |text: &str| text.to_lowercase();
    lower(a).cmp(&lower(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, u64);

    const COLUMNS: &[Column<Row>] = &[
        Column::text("name", |words| words.name, |a, b| by_name(a.0, b.0)),
        Column::number("cost", |words| words.cost, |a, b| a.1.cmp(&b.1)),
        Column::fixed(|words| words.share, "wide"),
    ];
    const ROWS: [Row; 4] = [("b", 1), ("A", 2), ("c", 1), ("d", 3)];

    fn sorting(sort: &str, dir: &str) -> Sorting<Row> {
        Sorting::of(COLUMNS, Some(("cost", Direction::Descending)), Some(sort), Some(dir))
    }

    fn names(rows: &[Row]) -> String {
        rows.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn rows_that_compare_equal_keep_their_order_in_both_directions() {
        for (sort, dir, order) in [
            ("name", "asc", "Abcd"),
            ("name", "desc", "dcbA"),
            ("cost", "asc", "bcAd"),
            ("cost", "desc", "dAbc"),
            ("cost", "", "dAbc"),
            ("share", "asc", "dAbc"),
            ("", "asc", "dAbc"),
            ("<script>", "sideways", "dAbc"),
        ] {
            assert_eq!(names(&sorting(sort, dir).page(ROWS.to_vec(), 0, 9)), order, "{sort} {dir}");
        }
        let own = Sorting::of(COLUMNS, None, None, None);
        assert_eq!(names(&own.page(ROWS.to_vec(), 0, 9)), "bAcd", "without a choice the page's own order");
    }

    #[test]
    fn pages_follow_each_other_in_the_same_order() {
        let sorting = sorting("cost", "asc");
        let pages: Vec<String> = (0..5).map(|from| names(&sorting.page(ROWS.to_vec(), from, 1))).collect();
        assert_eq!(pages, ["b", "c", "A", "d", ""]);
        assert_eq!(sorting.page(ROWS.to_vec(), usize::MAX, 9), []);
        let (first, others) = sorting.first(ROWS.to_vec(), 3);
        assert_eq!((names(&first), names(&others)), ("bcA".to_owned(), "d".to_owned()));
    }

    #[test]
    fn a_link_keeps_an_order_that_was_chosen_and_is_silent_about_the_default() {
        assert_eq!(sorting("cost", "asc").query(), [("sort", "cost"), ("dir", "asc")]);
        assert_eq!(sorting("", "").query(), [("sort", ""), ("dir", "")]);
    }
}
