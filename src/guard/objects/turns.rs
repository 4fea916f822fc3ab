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
    /// The conversation with all that the open turns may add.
    pub(super) fn known(&self) -> KnownObject {
        let context_tokens = self.known.map(|known| known.saturating_add(self.pending));
        KnownObject { context_tokens, ..self.of.clone() }
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
            memory
                .turns
                .remove(&self.key)
                .map(|Turns { of, known, .. }| KnownObject { context_tokens: known, ..of })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::objects::Reach;
    use crate::guard::recovery::Config;
    use crate::store::{Clerk, Durability, Store};

    fn open(folder: &std::path::Path) -> (Arc<Guard>, Clerk) {
        let store = Store::open(folder, Durability::Process).unwrap();
        let config = Config { open_requests_max: 10, zone: "UTC".into() };
        Guard::open(store, &config, Arc::default(), Arc::default()).unwrap()
    }

    fn of(id: &str) -> ObjectReference {
        ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() }
    }

    fn made(context_tokens: Option<u64>) -> KnownObject {
        KnownObject {
            project: "p".into(),
            key: "k".into(),
            context_tokens,
            container_memory: None,
            idle_s: 0,
            created_s: 0,
            used_s: 0,
        }
    }

    fn tokens(guard: &Guard) -> Option<u64> {
        guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context_tokens
    }

    async fn begin(guard: &Arc<Guard>, added_max: u64) -> Turn {
        let held_for = tokens(guard);
        guard.begin_turn("c", held_for, added_max, || unreachable!()).await.unwrap()
    }

    #[tokio::test]
    async fn a_turn_that_was_alone_measures_its_conversation() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _clerk) = open(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(Some(1_000)))]));
        let turn = begin(&guard, 500).await;
        assert_eq!(tokens(&guard), Some(1_500), "what it may add counts at once");
        turn.end(TurnEnd::Measured(300));
        assert_eq!(tokens(&guard), Some(300));
        begin(&guard, 500).await.end(TurnEnd::Nothing);
        assert_eq!(tokens(&guard), Some(300));
        drop(begin(&guard, 500).await);
        assert_eq!(tokens(&guard), Some(800), "what was lost may have added all it could");
    }

    #[tokio::test]
    async fn turns_at_once_are_added_up_whichever_ends_first() {
        for first_ends_first in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let (guard, _clerk) = open(folder.path());
            drop(guard.learn_objects(vec![put(of("c"), made(Some(100)))]));
            let (one, two) = (begin(&guard, 500).await, begin(&guard, 500).await);
            let (first, second) = if first_ends_first { (one, two) } else { (two, one) };
            first.end(TurnEnd::Measured(150));
            assert_eq!(tokens(&guard), Some(100 + 150 + 500));
            second.end(TurnEnd::Measured(170));
            assert_eq!(tokens(&guard), Some(100 + 150 + 170));
        }
    }

    #[tokio::test]
    async fn a_bound_that_was_made_before_another_turn_is_not_relied_on() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _clerk) = open(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(Some(100)))]));
        let before = tokens(&guard);
        let other = begin(&guard, 500).await;
        let late = guard.begin_turn("c", before, 500, || unreachable!()).await;
        assert_eq!(late.unwrap_err(), ConversationChanged);
        other.end(TurnEnd::Measured(90));
        assert!(guard.begin_turn("c", before, 500, || unreachable!()).await.is_ok());
    }

    #[tokio::test]
    async fn a_death_within_a_turn_leaves_a_size_that_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, clerk) = open(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(Some(100)))]));
        let turn = begin(&guard, 500).await;
        // As a death leaves it: nothing more is written.
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let (next, _clerk) = open(copy.path());
        let reach = Reach::Project("p".into());
        assert_eq!(next.check_objects(&[of("c")], &reach).await.unwrap(), None);
        assert_eq!(tokens(&next), None);
        begin(&next, 500).await.end(TurnEnd::Measured(700));
        assert_eq!(tokens(&next), Some(700), "it is measured again");
        drop((turn, clerk));
    }
}
