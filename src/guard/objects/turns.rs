//! How much a conversation holds, though several requests may add to it at once.
//!
//! A request on a conversation is a turn. While one is open, the database says
//! that the size of the conversation is not known, so that a crash can't leave one
//! that is too small; the next turn that is alone on it measures it again.

use std::sync::Arc;

use super::put;
use crate::domain::object::KnownObject;
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::Guard;
use crate::store::objects::ObjectKey;

/// Another request has added to the conversation since its size was looked up,
/// so what was held for this one may be too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationChanged;

/// A conversation with open turns.
#[derive(Debug)]
pub(super) struct Turns {
    of: KnownObject,
    /// Tokens that it holds without the open turns.
    known: Option<u64>,
    /// Tokens that the open turns may add.
    pending: u64,
    open: usize,
    /// How many turns were ever begun while it was open.
    begun: u64,
}

impl Turns {
    pub(super) fn context_tokens(&self) -> Option<u64> {
        Some(self.known?.saturating_add(self.pending))
    }
}

/// An open turn on a conversation. Dropped, it has added as much as it might.
#[derive(Debug)]
pub struct Turn {
    guard: Arc<Guard>,
    conversation: ObjectReference,
    key: ObjectKey,
    added_max: u64,
    /// How many turns had been begun; `None` if others were open by then.
    alone_at: Option<u64>,
    is_open: bool,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// It added nothing.
    Nothing,
    /// It read the whole conversation and added to it: input and output tokens.
    Measured(u64),
    /// It may have added all that it could.
    Unknown,
}

impl Guard {
    /// Begins a turn that adds at most `added_max` tokens to a conversation.
    ///
    /// `held_for` is what [`super::Objects::lookup`] said of the conversation when
    /// the turn's bound was made; `None` if the bound covers any size. `maker` is
    /// what is known of a conversation that is not in the index. When this returns,
    /// the database knows that the conversation is changing.
    pub async fn begin_turn(
        self: &Arc<Self>,
        id: &str,
        held_for: Option<u64>,
        added_max: u64,
        maker: impl FnOnce() -> KnownObject,
    ) -> Result<Turn, ConversationChanged> {
        let conversation = ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() };
        let key = ObjectKey::of(conversation.kind, id);
        let (turn, of) = {
            let mut memory = self.objects.memory();
            let known = memory.find(conversation.kind, key);
            let now = known.as_ref().and_then(|known| known.context_tokens);
            if held_for.is_some_and(|held_for| now.is_none_or(|now| now > held_for)) {
                return Err(ConversationChanged);
            }
            let of = known.unwrap_or_else(maker);
            let turns = memory.turns.entry(key).or_insert_with(|| Turns {
                known: of.context_tokens,
                of: of.clone(),
                pending: 0,
                open: 0,
                begun: 0,
            });
            turns.open += 1;
            turns.begun += 1;
            turns.pending = turns.pending.saturating_add(added_max);
            let alone_at = (turns.open == 1).then_some(turns.begun);
            let guard = Arc::clone(self);
            (Turn { guard, conversation: conversation.clone(), key, added_max, alone_at, is_open: true }, of)
        };
        let changing = KnownObject { context_tokens: None, ..of };
        let written = self.writer.push_objects(vec![put(conversation, changing)]);
        self.objects_written(written).await;
        Ok(turn)
    }
}

impl Turn {
    /// Ends it.
    pub fn end(mut self, end: TurnEnd) {
        self.close(end);
    }

    fn close(&mut self, end: TurnEnd) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        let over = {
            let mut memory = self.guard.objects.memory();
            let Some(turns) = memory.turns.get_mut(&self.key) else { return };
            turns.open = turns.open.saturating_sub(1);
            turns.pending = turns.pending.saturating_sub(self.added_max);
            match end {
                TurnEnd::Nothing => {}
                // It has read all that there is, so that is known again.
                TurnEnd::Measured(tokens) if self.alone_at == Some(turns.begun) => turns.known = Some(tokens),
                TurnEnd::Measured(tokens) => {
                    turns.known = turns.known.map(|known| known.saturating_add(tokens));
                }
                TurnEnd::Unknown => {
                    turns.known = turns.known.map(|known| known.saturating_add(self.added_max));
                }
            }
            if turns.open > 0 {
                return;
            }
            memory.turns.remove(&self.key).map(|Turns { of, known, .. }| KnownObject { context_tokens: known, ..of })
        };
        if let Some(known) = over {
            // If a crash comes first, its size is unknown, which is too much and not too little.
            drop(self.guard.learn_objects(vec![put(self.conversation.clone(), known)]));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.close(TurnEnd::Unknown);
    }
}
