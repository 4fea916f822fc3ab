//! Pages of lists: where a page starts, how long it is, and which items it has.

use std::ops::Range;

use serde::Deserialize;
use utoipa::IntoParams;

use crate::admin::error::ApiError;
use crate::admin::view::List;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Where a page starts and how long it is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// The number of items in a page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// The page begins after this id.
    pub(super) after: Option<String>,
    /// The page ends before this id.
    pub(super) before: Option<String>,
    /// `asc` or `desc`.
    #[param(pattern = "^(asc|desc)$")]
    pub(super) order: Option<String>,
}

/// Returns a page of a list that is in memory, in the order of creation.
pub(super) fn page<T>(all: Vec<T>, paging: &Paging, id: impl Fn(&T) -> String) -> Result<List<T>, ApiError> {
    page_of(all, paging, page_length(paging.limit)?, id)
}

/// Returns a page of a given length.
pub(super) fn page_of<T>(
    all: Vec<T>,
    paging: &Paging,
    limit: usize,
    id: impl Fn(&T) -> String,
) -> Result<List<T>, ApiError> {
    let place = |all: &[T], cursor: &str| {
        let at = all.iter().position(|item| id(item) == *cursor)?;
        Some(at..at + 1)
    };
    page_beside(all, paging, limit, &id, place)
}

/// Returns a page of a list in which `place` finds what a cursor names, or the gap that this has left.
pub(super) fn page_beside<T>(
    mut all: Vec<T>,
    paging: &Paging,
    limit: usize,
    id: impl Fn(&T) -> String,
    place: impl Fn(&[T], &str) -> Option<Range<usize>>,
) -> Result<List<T>, ApiError> {
    let place = |all: &[T], cursor: &str, param| {
        place(all, cursor).ok_or_else(|| ApiError::bad(Some(param), "there is nothing of that id"))
    };
    if !ascending(paging.order.as_deref(), true)? {
        all.reverse();
    }
    if let Some(after) = &paging.after {
        let at = place(&all, after, "after")?;
        all.drain(..at.end);
    }
    if let Some(before) = &paging.before {
        // The page that ends there, not the first one.
        all.truncate(place(&all, before, "before")?.start);
        let start = all.len().saturating_sub(limit);
        all.drain(..start);
        return Ok(List::new(all, start > 0, id));
    }
    let has_more = all.len() > limit;
    all.truncate(limit);
    Ok(List::new(all, has_more, id))
}

pub(super) fn page_length(limit: Option<usize>) -> Result<usize, ApiError> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad(Some("limit"), "use 1 to 1000"))
    }
}

pub(super) fn ascending(order: Option<&str>, default: bool) -> Result<bool, ApiError> {
    match order {
        None => Ok(default),
        Some("asc") => Ok(true),
        Some("desc") => Ok(false),
        Some(_) => Err(ApiError::bad(Some("order"), "use asc or desc")),
    }
}
