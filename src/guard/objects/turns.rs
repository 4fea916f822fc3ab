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

use super::{Memory, put};
use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContext, ObjectKind, ObjectReference, Rendering};
use crate::guard::Guard;
use crate::store::objects::{BegunTurn, ObjectChange, ObjectKey, SizeAt};
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
    /// What it may add.
    added_max: KeptContext,
    /// Where it is open; `None` once it has ended.
    open: Option<Open>,
}

/// Where a turn is open.
#[derive(Debug)]
enum Open {
    /// In memory, by its number among the turns of its conversation.
    Here { key: ObjectKey, number: u64, was_alone: bool },
    /// In the database that guards share.
    AmongGuards(BegunTurn),
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
        held: (HeldFor, Option<ContainerMemory>),
        added_max: KeptContext,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<Turn, NotBegun> {
        let of = ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() };
        match self.core.journal() {
            Journal::Embedded(_) => self.begin_here(of, &held, added_max, maker).await,
            Journal::Shared(lanes) => self.begin_among_guards(lanes, of, held, added_max, maker).await,
        }
    }

    async fn begin_here(
        self: &Arc<Self>,
        of: ObjectReference,
        held: &(HeldFor, Option<ContainerMemory>),
        added_max: KeptContext,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<Turn, NotBegun> {
        let key = ObjectKey::of(of.kind, &of.id);
        let (known, number, was_alone) = {
            let mut memory = self.objects.memory();
            let known = memory.covered(key, held)?.unwrap_or_else(maker);
            memory.change(key);
            let turns = memory.turns.entry(key).or_insert_with(|| Turns {
                known: known.context.clone(),
                of: known.clone(),
                open: BTreeMap::new(),
                begun: 0,
            });
            let was_alone = turns.open.is_empty();
            turns.begun += 1;
            turns.open.insert(turns.begun, added_max.clone());
            (known, turns.begun, was_alone)
        };
        let containers = known.context.containers.plus(added_max.containers);
        let open = Some(Open::Here { key, number, was_alone });
        let turn = Turn { guard: Arc::clone(self), conversation: of.clone(), added_max, open };
        let context = KeptContext { containers, ..KeptContext::default() };
        let written = self.core.push_objects(vec![put(of, KnownObject { context, ..known })]);
        self.objects_written(written).await;
        Ok(turn)
    }

    /// Begins a turn in the database that guards share, if no other guard has made the conversation
    /// larger than what is held for.
    async fn begin_among_guards(
        self: &Arc<Self>,
        lanes: &Lanes,
        of: ObjectReference,
        held: (HeldFor, Option<ContainerMemory>),
        added_max: KeptContext,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<Turn, NotBegun> {
        let known = self.objects.memory().covered(ObjectKey::of(of.kind, &of.id), &held)?;
        let known = known.unwrap_or_else(maker);
        let (seen, (held_for, container_max)) = (known.changes, held);
        let covers = move |stored: &KnownObject, is_alone: bool| {
            let containers = stored.context.containers.largest;
            held_for.covers_stored(stored, is_alone, seen) && containers <= container_max
        };
        match lanes.begin_turn(of.clone(), known, added_max.containers, covers).await {
            Ok(Some(begun)) => {
                let (guard, open) = (Arc::clone(self), Some(Open::AmongGuards(begun)));
                Ok(Turn { guard, conversation: of, added_max, open })
            }
            Ok(None) => Err(NotBegun::Changed),
            Err(error) => {
                tracing::warn!(
                    event = "turn_not_begun", %error,
                    "a request on a conversation is refused, since the conversation can't be locked"
                );
                Err(NotBegun::Unavailable)
            }
        }
    }
}

impl Memory {
    /// What is known of a conversation, with all that open turns of this guard may add; an error if
    /// that is more than a turn is held for.
    fn covered(
        &mut self,
        key: ObjectKey,
        (held_for, container_max): &(HeldFor, Option<ContainerMemory>),
    ) -> Result<Option<KnownObject>, NotBegun> {
        let known = self.find(ObjectKind::Conversation, key);
        let covers = match held_for {
            HeldFor::Counted(change) => self.change_of(key) == *change && !self.turns.contains_key(&key),
            HeldFor::AnySize | HeldFor::Tokens(..) => held_for.covers(known.as_ref()),
        };
        let container = known.as_ref().and_then(|known| known.context.containers.largest);
        if covers && container <= *container_max { Ok(known) } else { Err(NotBegun::Changed) }
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

impl Turn {
    /// Ends it. When this returns, a next turn may be held for what this one has left, on any guard
    /// that shares the database.
    pub async fn end(self, end: TurnEnd) {
        let guard = Arc::clone(&self.guard);
        if let Some(change) = self.ended(end) {
            guard.record_objects(vec![change]).await;
        }
    }

    /// Ends it. Returns what is to be written before the client goes on; nothing on the embedded
    /// engine, where memory knows it.
    pub fn ended(mut self, end: TurnEnd) -> Option<ObjectChange> {
        self.close(end)
    }

    /// The same. Until that is written, or queued on the embedded engine, the size of the
    /// conversation is unknown, so it is overestimated and never underestimated.
    fn close(&mut self, end: TurnEnd) -> Option<ObjectChange> {
        match self.open.take()? {
            Open::Here { key, number, was_alone } => {
                if let Some(change) = self.end_here(end, (key, number, was_alone)) {
                    drop(self.guard.learn_objects(vec![change]));
                }
                None
            }
            Open::AmongGuards(BegunTurn { number: turn, alone }) => {
                let of = self.conversation.clone();
                let alone = alone.map(|SizeAt { changes, context }| SizeAt {
                    changes,
                    context: after(&context, end, &self.added_max, true),
                });
                Some(ObjectChange::EndTurn { of, turn, alone })
            }
        }
    }

    /// Takes it out of memory. Returns what is to be written once no other is open.
    fn end_here(
        &self,
        end: TurnEnd,
        (key, number, was_alone): (ObjectKey, u64, bool),
    ) -> Option<ObjectChange> {
        let mut memory = self.guard.objects.memory();
        memory.change(key);
        let turns = memory.turns.get_mut(&key)?;
        turns.open.remove(&number);
        let was_alone = was_alone && number == turns.begun;
        turns.known = after(&turns.known, end, &self.added_max, was_alone);
        if !turns.open.is_empty() {
            return None;
        }
        let Turns { of: object, known, .. } = memory.turns.remove(&key)?;
        Some(put(self.conversation.clone(), KnownObject { context: known, ..object }))
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
        if let Some(change) = self.close(TurnEnd::Unknown) {
            drop(self.guard.learn_objects(vec![change]));
        }
    }
}

#[cfg(test)]
mod tests;
