//! Rows of the usage table, and the columns that it can be sorted by.

use std::cmp::Ordering;

use jiff::civil::Date;

use crate::admin::dashboard::sort::{Column, by_name};
use crate::admin::dashboard::words::Words;
use crate::store::reports::UsageSum;

pub(super) const BY_MODEL: &[Column<UsageRow>] = &columns(|words| words.model);
pub(super) const BY_KEY: &[Column<UsageRow>] = &columns(|words| words.key);
pub(super) const BY_PROJECT: &[Column<UsageRow>] = &columns(|words| words.project);
pub(super) const BY_USER: &[Column<UsageRow>] = &columns(|words| words.end_user);
pub(super) const BY_DAY: &[Column<UsageRow>] = &columns(|words| words.day);

const fn columns(name: fn(&Words) -> &'static str) -> [Column<UsageRow>; 6] {
    [
        Column::text("name", name, |a, b| a.label.compare(&b.label)),
        Column::number("requests", |words| words.requests, |a, b| a.sum.requests.cmp(&b.sum.requests)),
        Column::number("input", |words| words.input_tokens, |a, b| a.input().cmp(&b.input())),
        Column::number("output", |words| words.output_tokens, |a, b| a.output().cmp(&b.output())),
        Column::number("spend", |words| words.spend, |a, b| a.sum.cost.cmp(&b.sum.cost)),
        Column::fixed(|words| words.share, "wide"),
    ]
}

/// The name of a group.
#[derive(Clone, Debug)]
pub(super) enum GroupLabel {
    Name(String),
    Day(Date),
}

impl GroupLabel {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => by_name(a, b),
            (Self::Day(a), Self::Day(b)) => a.cmp(b),
            (Self::Day(_), Self::Name(_)) => Ordering::Less,
            (Self::Name(_), Self::Day(_)) => Ordering::Greater,
        }
    }
}

/// A group and its sum.
#[derive(Clone, Debug)]
pub(super) struct UsageRow {
    pub(super) label: GroupLabel,
    pub(super) sum: UsageSum,
}

impl UsageRow {
    /// Input tokens of every kind.
    pub(super) fn input(&self) -> u64 {
        self.sum.quantities.input_tokens_total()
    }

    /// Output tokens of every kind.
    pub(super) fn output(&self) -> u64 {
        self.sum.quantities.output_tokens_total()
    }
}
