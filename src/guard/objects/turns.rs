//! How much a conversation holds, though several requests may add to it at once.
//!
//! A request on a conversation is a turn. While one is open, the database says
//! that the size of the conversation is not known, so that a crash can't leave one
//! that is too small; the next turn that is alone on it measures its tokens again. Its
//! containers become no smaller: any of them may still run.
//!
//! Where guards share the database, its row says which turns are open on any of them, and is
//! locked while one begins. Only a turn that was alone all the time leaves a size that is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::put;
use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContainers, KeptContext, ObjectKind, ObjectReference, Rendering};
use crate::guard::Guard;
use crate::store::objects::{BegunTurn, ObjectChange, ObjectKey};
use crate::store::{Journal, Lanes};

/// Why a turn was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// Another request has added to the conversation since its size was looked up,
    /// so what was held for this one may be too little.
    Changed,
    /// The database that guards share can't be written.
    Unavailable,
}

/// The conversation that a turn's bound allows for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldFor {
    /// One of any size.
    AnySize,
    /// One of at most so many tokens, read under a rendering: what
    /// [`super::Objects::lookup`] said when the bound was made.
    Tokens(u64, Rendering),
    /// What upstream counted after this change of it ([`super::Objects::change_of`]),
    /// while no other turn was open.
    Counted(u64),
}

/// A conversation with open turns.
#[derive(Debug)]
pub(super) struct Turns {
    of: KnownObject,
    /// What it holds without the open turns.
    known: KeptContext,
    /// What each open turn may add, by its number.
    open: BTreeMap<u64, KeptContext>,
    /// How many turns were ever begun while it was open.
    begun: u64,
}

impl Turns {
    /// The conversation with all that the open turns may add.
    pub(super) fn known(&self) -> KnownObject {
        let context = self.open.values().fold(self.known.clone(), |sum, added| sum.plus(added));
        KnownObject { context, ..self.of.clone() }
    }
}

/// An open turn on a conversation. If dropped, it counts as having added as much as it might.
#[derive(Debug)]
pub struct Turn {
    guard: Arc<Guard>,
    conversation: ObjectReference,
    key: ObjectKey,
    number: u64,
    /// Whether no other turn was open when it began.
    was_alone: bool,
    is_open: bool,
    /// The same turn in a database that guards share.
    begun: Option<BegunTurn>,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// It added nothing.
    Nothing,
    /// It read the whole conversation and added to it: the tokens of input and
    /// output, and the pictures that it added.
    Measured(KeptContext),
    /// It may have added all that it could.
    Unknown,
}

impl Guard {
    /// Begins a turn that adds at most `added_max` to a conversation, and that is held for
    /// containers of it up to `container_max`.
    ///
    /// `maker` is what is known of a conversation that is not in the index. When this
    /// returns, the database knows that the conversation is changing.
    pub async fn begin_turn(
        self: &Arc<Self>,
        id: &str,
        (held_for, container_max): (HeldFor, Option<ContainerMemory>),
        added_max: KeptContext,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<Turn, NotBegun> {
        let added = added_max.containers;
        let (turn, of) = self.begin_here(id, (&held_for, container_max), added_max, maker)?;
        match self.core.journal() {
            Journal::Embedded(_) => {
                let containers = of.context.containers.plus(added);
                let context = KeptContext { containers, ..KeptContext::default() };
                let changing = put(turn.conversation.clone(), KnownObject { context, ..of });
                let written = self.core.push_objects(vec![changing]);
                self.objects_written(written).await;
                Ok(turn)
            }
            Journal::Shared(lanes) => {
                turn.begin_among_guards(lanes, (held_for, container_max), added, of).await
            }
        }
    }

    /// Begins a turn in memory. Returns what is known of the conversation, with all that other open
    /// turns may add.
    fn begin_here(
        self: &Arc<Self>,
        id: &str,
        (held_for, container_max): (&HeldFor, Option<ContainerMemory>),
        added_max: KeptContext,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<(Turn, KnownObject), NotBegun> {
        let conversation = ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() };
        let key = ObjectKey::of(conversation.kind, id);
        let mut memory = self.objects.memory();
        let known = memory.find(conversation.kind, key);
        let covers = match held_for {
            HeldFor::Counted(change) => memory.change_of(key) == *change && !memory.turns.contains_key(&key),
            HeldFor::AnySize | HeldFor::Tokens(..) => held_for.covers(known.as_ref()),
        };
        let container = known.as_ref().and_then(|known| known.context.containers.largest);
        if !covers || container > container_max {
            return Err(NotBegun::Changed);
        }
        let of = known.unwrap_or_else(maker);
        memory.change(key);
        let turns = memory.turns.entry(key).or_insert_with(|| Turns {
            // Among guards, the database says what it holds.
            known: if self.core.is_shared() { unknown_size(&of.context) } else { of.context.clone() },
            of: of.clone(),
            open: BTreeMap::new(),
            begun: 0,
        });
        let was_alone = turns.open.is_empty();
        turns.begun += 1;
        let number = turns.begun;
        turns.open.insert(number, added_max);
        let guard = Arc::clone(self);
        Ok((Turn { guard, conversation, key, number, was_alone, is_open: true, begun: None }, of))
    }
}

impl HeldFor {
    /// Whether it allows for a conversation of which this is known; one that was counted is to be
    /// compared by its changes.
    fn covers(&self, known: Option<&KnownObject>) -> bool {
        match self {
            Self::AnySize => true,
            Self::Tokens(held_for, rendering) => {
                let now = known.and_then(|known| known.context.under(rendering).tokens);
                now.is_some_and(|now| now <= *held_for)
            }
            Self::Counted(_) => false,
        }
    }

    /// The same of a conversation as it is stored, where guards share it. `seen` is how often it had
    /// changed when the bound was made.
    fn covers_stored(&self, stored: &KnownObject, is_alone: bool, seen: u64) -> bool {
        match self {
            Self::Counted(_) => is_alone && stored.changes == seen,
            Self::AnySize | Self::Tokens(..) => self.covers(Some(stored)),
        }
    }
}

/// The same of a size that is not known.
fn unknown_size(context: &KeptContext) -> KeptContext {
    KeptContext { containers: context.containers, ..KeptContext::default() }
}

impl Turn {
    /// Ends it.
    pub fn end(mut self, end: TurnEnd) {
        self.close(end);
    }

    /// Begins it in the database that guards share, if no other guard has made the conversation
    /// larger than what is held for.
    async fn begin_among_guards(
        mut self,
        lanes: &Lanes,
        (held_for, container_max): (HeldFor, Option<ContainerMemory>),
        added: KeptContainers,
        known: KnownObject,
    ) -> Result<Self, NotBegun> {
        let seen = known.changes;
        let covers = move |stored: &KnownObject, is_alone: bool| {
            let containers = stored.context.containers.largest;
            held_for.covers_stored(stored, is_alone, seen) && containers <= container_max
        };
        match lanes.begin_turn(self.conversation.clone(), known, added, covers).await {
            Ok(Some(begun)) => {
                self.begun = Some(begun);
                Ok(self)
            }
            Ok(None) => Err(self.not_begun(NotBegun::Changed)),
            Err(error) => {
                tracing::warn!(
                    event = "turn_not_begun", %error,
                    "a request on a conversation is refused, since the conversation can't be locked"
                );
                Err(self.not_begun(NotBegun::Unavailable))
            }
        }
    }

    /// Forgets it, since the database does not know it.
    fn not_begun(mut self, why: NotBegun) -> NotBegun {
        self.is_open = false;
        drop(self.forget(TurnEnd::Nothing));
        why
    }

    fn close(&mut self, end: TurnEnd) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        // After a crash before that, its size is unknown, so it is overestimated and never
        // underestimated.
        if let Some(change) = self.forget(end) {
            drop(self.guard.learn_objects(vec![change]));
        }
    }

    /// Takes it out of memory. Returns what is to be written of its end.
    fn forget(&mut self, end: TurnEnd) -> Option<ObjectChange> {
        let mut memory = self.guard.objects.memory();
        memory.change(self.key);
        let turns = memory.turns.get_mut(&self.key)?;
        let added_max = turns.open.remove(&self.number).unwrap_or_default();
        let of = self.conversation.clone();
        if self.guard.core.is_shared() {
            if turns.open.is_empty() {
                memory.turns.remove(&self.key);
            }
            let BegunTurn { number: turn, was_alone, before } = self.begun.take()?;
            let context = was_alone.then(|| after(&before, end, &added_max, true));
            return Some(ObjectChange::EndTurn { of, turn, context });
        }
        let was_alone = self.was_alone && self.number == turns.begun;
        turns.known = after(&turns.known, end, &added_max, was_alone);
        if !turns.open.is_empty() {
            return None;
        }
        let Turns { of: object, known, .. } = memory.turns.remove(&self.key)?;
        Some(put(of, KnownObject { context: known, ..object }))
    }
}

/// What a conversation holds after a turn.
fn after(before: &KeptContext, end: TurnEnd, added_max: &KeptContext, was_alone: bool) -> KeptContext {
    match end {
        TurnEnd::Nothing => before.clone(),
        TurnEnd::Measured(measured) => {
            let sum = before.plus(&measured);
            // A turn that was alone has read the whole conversation, so its size is known again.
            if was_alone {
                KeptContext { tokens: measured.tokens, rendering: measured.rendering, ..sum }
            } else {
                sum
            }
        }
        TurnEnd::Unknown => before.plus(added_max),
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.close(TurnEnd::Unknown);
    }
}

#[cfg(test)]
mod tests;
