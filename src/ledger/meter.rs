//! One limit in force with its meters: limit × subject × window start.

use std::sync::Arc;

use crate::domain::limit::{Only, Per};
use crate::domain::{Limit, Pattern, Span, model};
use crate::ledger::calendar::Windows;
use crate::ledger::entry::Attribution;
pub(crate) use crate::ledger::meters::Meters;
pub use crate::ledger::meters::{METERS_MAX, Meter, Subject, VALUES_MAX, key_and_tag};
use crate::ledger::meters::{Place, Rows};

/// A meter with its place, as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The meter's subject.
    pub subject: Subject,
    /// The window it counts.
    pub span: Span,
    /// The counter.
    pub meter: Meter,
}

/// A limit with its meters.
#[derive(Debug)]
pub(crate) struct Metered {
    pub(crate) slot: u32,
    pub(crate) limit: Arc<Limit>,
    pub(crate) thresholds: Vec<i64>,
    /// Staged limits count but don't decide, until their past is known.
    pub(crate) in_force: bool,
    pub(crate) meters: Meters,
    /// Where guards share the meters, how many rows there are of them.
    pub(crate) rows: Rows,
    windows: Windows,
    /// The window at whose start the removal of past ones began.
    pruned_s: i64,
    /// The places below this one may have meters of past windows.
    unpruned: usize,
}

impl Metered {
    pub(crate) fn new(slot: u32, limit: Arc<Limit>) -> Self {
        let (thresholds, windows) = (limit.thresholds(), Windows::of(&limit));
        let (meters, rows) = (Meters::default(), Rows::default());
        let (pruned_s, unpruned) = (i64::MIN, 0);
        Self { slot, limit, thresholds, in_force: false, meters, rows, windows, pruned_s, unpruned }
    }

    /// The window that holds an instant.
    pub(crate) fn span(&self, at_s: i64) -> Span {
        self.windows.span(at_s)
    }

    /// The subjects whose meters a request counts on; none if the limit does not apply.
    pub(crate) fn subjects(&self, of: &Attribution) -> Subjects {
        subjects(&self.limit, of)
    }

    /// Whether a request needs a meter that is not in memory.
    pub(crate) fn lacks_meter(&self, of: &Attribution, at_s: i64) -> bool {
        self.subjects(of).any(|subject| !self.meters.has(&(subject, self.span(at_s).start_s)))
    }

    /// Whether a request needs a meter that is not in memory, and that there is no room for.
    pub(crate) fn lacks_room(&self, of: &Attribution, at_s: i64) -> bool {
        let (is_full, by_tag) = (self.meters.len() >= METERS_MAX, matches!(self.limit.per, Per::Tag(_)));
        // Nearly always.
        if !is_full && !by_tag {
            return false;
        }
        let start_s = self.span(at_s).start_s;
        let lacks = |place: &Place| !self.meters.has(place) && (is_full || self.meters.is_full_for(place));
        self.subjects(of).any(|subject| lacks(&(subject, start_s)))
    }

    /// Forgets meters of past windows that nothing is held on, `count` at a time: the
    /// first request of a window must not pay for all of the last one.
    pub(crate) fn prune(&mut self, at_s: i64, count: usize) {
        let start_s = self.span(at_s).start_s;
        if self.pruned_s < start_s {
            (self.pruned_s, self.unpruned) = (start_s, self.meters.len());
        }
        for _ in 0..count.min(self.unpruned) {
            self.unpruned -= 1;
            let is_past = |((_, start), meter): (&Place, &Meter)| *start < start_s && meter.held == 0;
            if self.meters.at(self.unpruned).is_some_and(is_past) {
                self.meters.remove_at(self.unpruned);
            }
        }
    }

    pub(crate) fn reading(&self, subject: Subject, at_s: i64) -> Reading {
        let span = self.span(at_s);
        let key = (subject, span.start_s);
        let meter = self.meters.get(&key).copied().unwrap_or_default();
        Reading { subject: key.0, span, meter }
    }
}

/// The subjects of a limit that a request counts for, one after another.
#[derive(Debug)]
pub struct Subjects([Option<Subject>; 2]);

impl Iterator for Subjects {
    type Item = Subject;

    fn next(&mut self) -> Option<Subject> {
        let [first, second] = &mut self.0;
        first.take().or_else(|| second.take())
    }
}

/// The subjects of a limit that a request counts for: one if the limit applies; for a
/// limit per model, one for each model that the request runs.
pub fn subjects(limit: &Limit, of: &Attribution) -> Subjects {
    let one = |whose: &Arc<str>| [Some(Subject::One(Arc::clone(whose))), None];
    Subjects(match (reached(&limit.only, of), &limit.per) {
        ([false, false], _) => [None, None],
        (_, Per::Organization) => [Some(Subject::Organization), None],
        (_, Per::Project) => one(&of.project),
        (_, Per::Key) => one(&of.key),
        (_, Per::User) => of.end_user.as_ref().map_or([None, None], one),
        (_, Per::Tag(name)) => {
            [of.tags.get(&**name).map(|value| Subject::tagged(&of.key, name, value)), None]
        }
        ([requested, image], Per::Model) => {
            let requested = (requested && !of.model.is_empty()).then(|| family(of));
            let image = of.image_model.as_deref().filter(|_| image).map(|name| family_of(name, of));
            let image = image.filter(|image| requested.as_ref() != Some(image));
            [requested.map(Subject::One), image.map(Subject::One)]
        }
    })
}

/// The model that a request counts on: all snapshots and fine-tunes of one count together,
/// so that none escapes the limit of its model.
fn family(of: &Attribution) -> Arc<str> {
    family_of(&of.model, of)
}

fn family_of(name: &str, of: &Attribution) -> Arc<str> {
    let family = model::family(name);
    let mut known = [Some(&of.model), of.priced_as.as_ref(), of.image_model.as_ref()].into_iter().flatten();
    known.find(|name| ***name == *family).map_or_else(|| Arc::from(&*family), Arc::clone)
}

/// Which of the two models of a request, the one asked for and that of its image tool, lie
/// within what a limit is narrowed to; neither if the request does not. Projects and keys
/// are named by their ids, so that one that is renamed keeps its limits.
fn reached(only: &Only, of: &Attribution) -> [bool; 2] {
    let named = |ids: &[String], id: &str| ids.is_empty() || ids.iter().any(|listed| listed == id);
    let tagged =
        || only.tags.iter().all(|(tag, values)| of.tags.get(tag).is_some_and(|v| values.contains(v)));
    if !(named(&only.projects, &of.project) && named(&only.keys, &of.key) && tagged()) {
        return [false, false];
    }
    let any = |reaches: &dyn Fn(&Pattern) -> bool| only.models.is_empty() || only.models.iter().any(reaches);
    let requested = any(&|rule| {
        model::reaches(rule.as_str(), &of.model) || of.priced_as.as_deref().is_some_and(|id| rule.matches(id))
    });
    let image = of.image_model.as_deref();
    [requested, image.is_some_and(|image| any(&|rule| model::reaches(rule.as_str(), image)))]
}
