//! The part of usage that a page or a download is about, read from its query.

use jiff::ToSpan as _;
use jiff::civil::Date;
use serde::Deserialize;

use crate::admin::dashboard::parts;
use crate::admin::dashboard::sort::{Column, Direction, Sorting};
use crate::admin::dashboard::usage::rows::{self, UsageRow};
use crate::admin::dashboard::words::Words;

/// The most days on one page.
pub(super) const DAYS_MAX: i32 = 366;
const DAYS_DEFAULT: i64 = 30;

#[derive(Debug, Default, Deserialize)]
pub(in crate::admin::dashboard) struct UsageQuery {
    by: Option<String>,
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    project: Option<String>,
    sort: Option<String>,
    dir: Option<String>,
}

/// The dimension that usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Model,
    Key,
    Project,
    User,
    Day,
}

impl Dimension {
    pub(super) const ALL: [Self; 5] = [Self::Model, Self::Key, Self::Project, Self::User, Self::Day];

    /// Its name in the query and in file names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Key => "key",
            Self::Project => "project",
            Self::User => "user",
            Self::Day => "day",
        }
    }

    const fn columns(self) -> &'static [Column<UsageRow>] {
        match self {
            Self::Model => rows::BY_MODEL,
            Self::Key => rows::BY_KEY,
            Self::Project => rows::BY_PROJECT,
            Self::User => rows::BY_USER,
            Self::Day => rows::BY_DAY,
        }
    }

    /// The order before one is chosen: the costliest group or the newest day first.
    const fn default_order(self) -> (&'static str, Direction) {
        match self {
            Self::Day => ("name", Direction::Descending),
            Self::Model | Self::Key | Self::Project | Self::User => ("spend", Direction::Descending),
        }
    }

    pub(super) const fn title(self, words: &Words) -> &'static str {
        match self {
            Self::Model => words.model,
            Self::Key => words.key,
            Self::Project => words.project,
            Self::User => words.end_user,
            Self::Day => words.day,
        }
    }
}

/// A query with every value checked.
pub(super) struct Selection {
    pub(super) by: Dimension,
    pub(super) first: Date,
    pub(super) last: Date,
    /// The last day that can be chosen.
    pub(super) today: Date,
    /// Ids, or empty for all.
    pub(super) key: String,
    pub(super) project: String,
    pub(super) sorting: Sorting<UsageRow>,
    /// Whether the query named days that can't be shown.
    pub(super) has_bad_days: bool,
}

impl Selection {
    pub(super) fn of(query: UsageQuery, today: Date) -> Self {
        let date = |text: Option<String>| text.and_then(|text| text.parse::<Date>().ok());
        let names_days = query.since.is_some() || query.until.is_some();
        let last = date(query.until);
        let earlier = |last: Date| last.checked_sub((DAYS_DEFAULT - 1).days()).unwrap_or(last);
        let first = date(query.since).or_else(|| last.map(earlier));
        let days = first.zip(Some(last.unwrap_or(today)));
        let valid = days
            .filter(|(first, last)| (0..DAYS_MAX).contains(&(*last - *first).get_days()) && *last <= today);
        let (first, last) = valid.unwrap_or((earlier(today), today));
        let by = Dimension::ALL.into_iter().find(|by| Some(by.name()) == query.by.as_deref());
        let by = by.unwrap_or(Dimension::Model);
        Self {
            by,
            first,
            last,
            today,
            key: query.key.unwrap_or_default(),
            project: query.project.unwrap_or_default(),
            sorting: Sorting::of(
                by.columns(),
                Some(by.default_order()),
                query.sort.as_deref(),
                query.dir.as_deref(),
            ),
            has_bad_days: names_days && valid.is_none(),
        }
    }

    /// The address of a download of what the page shows.
    pub(super) fn download(&self, path: &str) -> String {
        self.address(path, self.by, (self.first, self.last), &self.key, self.sorting.query())
    }

    /// The same for other days.
    pub(super) fn link_to_days(&self, first: Date, last: Date) -> String {
        self.address("/usage", self.by, (first, last), &self.key, self.sorting.query())
    }

    /// The same by another dimension, in its own order.
    pub(super) fn link_to_dimension(&self, by: Dimension) -> String {
        self.address("/usage", by, (self.first, self.last), &self.key, [("sort", ""), ("dir", "")])
    }

    /// The same of all keys.
    pub(super) fn link_to_all_keys(&self) -> String {
        self.address("/usage", self.by, (self.first, self.last), "", self.sorting.query())
    }

    /// The same in another order.
    pub(super) fn link_to_order(&self, sort: &str, dir: &str) -> String {
        let order = [("sort", sort), ("dir", dir)];
        self.address("/usage", self.by, (self.first, self.last), &self.key, order)
    }

    fn address(
        &self,
        path: &str,
        by: Dimension,
        (first, last): (Date, Date),
        key: &str,
        order: [(&str, &str); 2],
    ) -> String {
        let (first, last) = (first.to_string(), last.to_string());
        let query = [("by", by.name()), ("since", &*first), ("until", &*last), ("key", key)];
        parts::link(path, &[&query[..], &[("project", &*self.project)], &order].concat())
    }
}
