//! How much a conversation holds, though several requests may add to it at once.
//!
//! A request on a conversation is a turn. While one is open, the database says
//! that the size of the conversation is not known, so that a crash can't leave one
//! that is too small; the next turn that is alone on it measures its tokens again. Its
//! containers become no smaller: any of them may still run.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::put;
use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContext, ObjectKind, ObjectReference, Rendering};
use crate::guard::Guard;
use crate::store::objects::ObjectKey;

/// Another request has added to the conversation since its size was looked up,
/// so what was held for this one may be too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationChanged;

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
    ) -> Result<Turn, ConversationChanged> {
        let conversation = ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() };
        let key = ObjectKey::of(conversation.kind, id);
        let (turn, changing) = {
            let mut memory = self.objects.memory();
            let known = memory.find(conversation.kind, key);
            let covers = match held_for {
                HeldFor::AnySize => true,
                HeldFor::Tokens(held_for, rendering) => {
                    let now = known.as_ref().and_then(|known| known.context.under(&rendering).tokens);
                    now.is_some_and(|now| now <= held_for)
                }
                HeldFor::Counted(change) => {
                    memory.change_of(key) == change && !memory.turns.contains_key(&key)
                }
            };
            let container = known.as_ref().and_then(|known| known.context.containers.largest);
            if !covers || container > container_max {
                return Err(ConversationChanged);
            }
            let of = known.unwrap_or_else(maker);
            let containers = of.context.containers.plus(added_max.containers);
            memory.change(key);
            let turns = memory.turns.entry(key).or_insert_with(|| Turns {
                known: of.context.clone(),
                of: of.clone(),
                open: BTreeMap::new(),
                begun: 0,
            });
            let was_alone = turns.open.is_empty();
            turns.begun += 1;
            let number = turns.begun;
            turns.open.insert(number, added_max);
            let guard = Arc::clone(self);
            let changing =
                KnownObject { context: KeptContext { containers, ..KeptContext::default() }, ..of };
            (
                Turn { guard, conversation: conversation.clone(), key, number, was_alone, is_open: true },
                changing,
            )
        };
        let written = self.core.push_objects(vec![put(conversation, changing)]);
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
            memory.change(self.key);
            let Some(turns) = memory.turns.get_mut(&self.key) else { return };
            let added_max = turns.open.remove(&self.number).unwrap_or_default();
            let was_alone = self.was_alone && self.number == turns.begun;
            match end {
                TurnEnd::Nothing => {}
                TurnEnd::Measured(measured) => {
                    let sum = turns.known.plus(&measured);
                    // A turn that was alone has read the whole conversation, so its size is
                    // known again.
                    turns.known = if was_alone {
                        KeptContext { tokens: measured.tokens, rendering: measured.rendering, ..sum }
                    } else {
                        sum
                    };
                }
                TurnEnd::Unknown => turns.known = turns.known.plus(&added_max),
            }
            if !turns.open.is_empty() {
                return;
            }
            let over = memory.turns.remove(&self.key);
            over.map(|Turns { of, known, .. }| KnownObject { context: known, ..of })
        };
        if let Some(mut known) = over {
            if self.guard.core.is_shared() {
                // A turn of another guard may have added to it meanwhile.
                known.context =
                    KeptContext { containers: known.context.containers, ..KeptContext::default() };
            }
            // After a crash before that, its size is unknown, so it is overestimated and never
            // underestimated.
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
    use crate::domain::KeptContainers;
    use crate::guard::objects::Reach;
    use crate::guard::opened;

    /// Held for containers of any size.
    const ANY: Option<ContainerMemory> = Some(ContainerMemory::G64);

    /// A copy of the folder, as a crash would leave it.
    fn copied(folder: &tempfile::TempDir) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    fn of(id: &str) -> ObjectReference {
        ObjectReference { kind: ObjectKind::Conversation, id: id.to_owned() }
    }

    fn on_model(tokens: u64) -> KeptContext {
        let rendering = Rendering::of(&"m".into(), "");
        KeptContext { tokens: Some(tokens), rendering, pictures: Some(1), ..KeptContext::nothing() }
    }

    fn made(context: KeptContext) -> KnownObject {
        KnownObject {
            project: "p".into(),
            key: "k".into(),
            context,
            container_memory: None,
            idle_s: 0,
            created_s: 0,
            used_s: 0,
        }
    }

    fn tokens(guard: &Guard) -> Option<u64> {
        guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context.tokens
    }

    fn held_for(guard: &Guard) -> HeldFor {
        tokens(guard)
            .map_or(HeldFor::AnySize, |tokens| HeldFor::Tokens(tokens, Rendering::of(&"m".into(), "")))
    }

    async fn begin(guard: &Arc<Guard>, added_max: u64) -> Turn {
        let held_for = held_for(guard);
        guard.begin_turn("c", (held_for, ANY), on_model(added_max), || unreachable!()).await.unwrap()
    }

    #[tokio::test]
    async fn a_turn_that_was_alone_measures_its_conversation() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(on_model(1_000)))]));
        let turn = begin(&guard, 500).await;
        assert_eq!(tokens(&guard), Some(1_500), "what it may add counts at once");
        turn.end(TurnEnd::Measured(on_model(300)));
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
            let (guard, _writer) = opened(folder.path());
            drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
            let (one, two) = (begin(&guard, 500).await, begin(&guard, 500).await);
            let (first, second) = if first_ends_first { (one, two) } else { (two, one) };
            first.end(TurnEnd::Measured(on_model(150)));
            assert_eq!(tokens(&guard), Some(100 + 150 + 500));
            second.end(TurnEnd::Measured(on_model(170)));
            assert_eq!(tokens(&guard), Some(100 + 150 + 170));
        }
    }

    #[tokio::test]
    async fn a_bound_that_was_made_before_another_turn_is_not_relied_on() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
        let before = held_for(&guard);
        let other = begin(&guard, 500).await;
        let late = guard.begin_turn("c", (before.clone(), ANY), on_model(500), || unreachable!()).await;
        assert_eq!(late.unwrap_err(), ConversationChanged);
        other.end(TurnEnd::Measured(on_model(90)));
        assert!(guard.begin_turn("c", (before.clone(), ANY), on_model(500), || unreachable!()).await.is_ok());
    }

    #[tokio::test]
    async fn a_bound_that_was_made_before_a_turn_with_a_larger_container_is_not_relied_on() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
        let begin = async |container_max, containers| {
            let added = KeptContext { containers, ..on_model(500) };
            guard.begin_turn("c", (HeldFor::AnySize, container_max), added, || unreachable!()).await
        };
        let four = KeptContainers { largest: Some(ContainerMemory::G4), are_indexed: true };
        let first = begin(None, four).await.unwrap();
        assert_eq!(begin(None, KeptContainers::NONE).await.unwrap_err(), ConversationChanged);
        let second = begin(four.largest, KeptContainers::NONE).await.unwrap();
        drop((first, second));
        let kept =
            |guard: &Guard| guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context.containers;
        assert_eq!(kept(&guard), four, "they stay");
        let open_turn = begin(four.largest, KeptContainers::NONE).await.unwrap();
        // As after a crash: nothing more is written.
        writer.step();
        let copy = copied(&folder);
        let (next, _writer) = opened(copy.path());
        let reach = Reach::Project("p".into());
        assert_eq!(next.check_objects(&[of("c")], &reach).await.unwrap(), None);
        assert_eq!(kept(&next), four, "a death makes no others of them");
        drop((open_turn, writer));
    }

    #[tokio::test]
    async fn a_death_within_a_turn_leaves_a_size_that_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
        let turn = begin(&guard, 500).await;
        // As after a crash: nothing more is written.
        let copy = copied(&folder);
        let (next, _writer) = opened(copy.path());
        let reach = Reach::Project("p".into());
        assert_eq!(next.check_objects(&[of("c")], &reach).await.unwrap(), None);
        assert_eq!(tokens(&next), None);
        begin(&next, 500).await.end(TurnEnd::Measured(on_model(700)));
        assert_eq!(tokens(&next), Some(700), "it is measured again");
        drop((turn, writer));
    }

    #[tokio::test]
    async fn a_count_is_not_relied_on_once_another_turn_began_or_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(KeptContext::default()))]));
        let begin_counted = async |change| {
            let begun =
                guard.begin_turn("c", (HeldFor::Counted(change), ANY), on_model(500), || unreachable!());
            begun.await.map(|turn| turn.end(TurnEnd::Nothing))
        };
        let change = || guard.objects().change_of("c");
        let idle = change();
        let other = begin(&guard, 500).await;
        let during = change();
        assert_eq!(begin_counted(idle).await, Err(ConversationChanged), "another turn is open");
        assert_eq!(begin_counted(during).await, Err(ConversationChanged), "it may add to it after the count");
        other.end(TurnEnd::Unknown);
        assert_eq!(begin_counted(during).await, Err(ConversationChanged), "it has added to it since");
        assert_eq!(begin_counted(change()).await, Ok(()));
    }

    #[tokio::test]
    async fn turns_of_different_models_leave_a_size_that_is_not_known_but_for_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
        let elsewhere = KeptContext { rendering: Rendering::of(&"other".into(), ""), ..on_model(70) };
        let one = begin(&guard, 500).await;
        let two = guard
            .begin_turn("c", (HeldFor::AnySize, ANY), elsewhere.clone(), || unreachable!())
            .await
            .unwrap();
        assert_eq!(tokens(&guard), None);
        two.end(TurnEnd::Measured(elsewhere.clone()));
        one.end(TurnEnd::Measured(on_model(50)));
        let known = guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context;
        assert_eq!((known.tokens, known.pictures), (None, Some(3)));
        let alone = guard
            .begin_turn("c", (HeldFor::AnySize, ANY), elsewhere.clone(), || unreachable!())
            .await
            .unwrap();
        alone.end(TurnEnd::Measured(elsewhere.clone()));
        let known = guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context;
        assert_eq!(known, KeptContext { pictures: Some(4), ..elsewhere }, "it is measured again");
    }
}
