//! Turns of one guard: which size they leave, whatever their order and end.

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
        has_job: false,
        idle_s: 0,
        created_s: 0,
        used_s: 0,
        changes: 0,
    }
}

fn tokens(guard: &Guard) -> Option<u64> {
    guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context.tokens
}

fn held_for(guard: &Guard) -> HeldFor {
    tokens(guard).map_or(HeldFor::AnySize, |tokens| HeldFor::Tokens(tokens, Rendering::of(&"m".into(), "")))
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
    turn.end(TurnEnd::Measured(on_model(300))).await;
    assert_eq!(tokens(&guard), Some(300));
    begin(&guard, 500).await.end(TurnEnd::Nothing).await;
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
        first.end(TurnEnd::Measured(on_model(150))).await;
        assert_eq!(tokens(&guard), Some(100 + 150 + 500));
        second.end(TurnEnd::Measured(on_model(170))).await;
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
    assert_eq!(late.unwrap_err(), NotBegun::Changed);
    other.end(TurnEnd::Measured(on_model(90))).await;
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
    assert_eq!(begin(None, KeptContainers::NONE).await.unwrap_err(), NotBegun::Changed);
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
    begin(&next, 500).await.end(TurnEnd::Measured(on_model(700))).await;
    assert_eq!(tokens(&next), Some(700), "it is measured again");
    drop((turn, writer));
}

#[tokio::test]
async fn a_count_is_not_relied_on_once_another_turn_began_or_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, _writer) = opened(folder.path());
    drop(guard.learn_objects(vec![put(of("c"), made(KeptContext::default()))]));
    let begin_counted = async |change| {
        let begun = guard.begin_turn("c", (HeldFor::Counted(change), ANY), on_model(500), || unreachable!());
        begun.await.map(|turn| drop(turn.ended(TurnEnd::Nothing)))
    };
    let change = || guard.objects().change_of("c");
    let idle = change();
    let other = begin(&guard, 500).await;
    let during = change();
    assert_eq!(begin_counted(idle).await, Err(NotBegun::Changed), "another turn is open");
    assert_eq!(begin_counted(during).await, Err(NotBegun::Changed), "it may add to it after the count");
    other.end(TurnEnd::Unknown).await;
    assert_eq!(begin_counted(during).await, Err(NotBegun::Changed), "it has added to it since");
    assert_eq!(begin_counted(change()).await, Ok(()));
}

#[tokio::test]
async fn turns_of_different_models_leave_a_size_that_is_not_known_but_for_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, _writer) = opened(folder.path());
    drop(guard.learn_objects(vec![put(of("c"), made(on_model(100)))]));
    let elsewhere = KeptContext { rendering: Rendering::of(&"other".into(), ""), ..on_model(70) };
    let one = begin(&guard, 500).await;
    let two =
        guard.begin_turn("c", (HeldFor::AnySize, ANY), elsewhere.clone(), || unreachable!()).await.unwrap();
    assert_eq!(tokens(&guard), None);
    two.end(TurnEnd::Measured(elsewhere.clone())).await;
    one.end(TurnEnd::Measured(on_model(50))).await;
    let known = guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context;
    assert_eq!((known.tokens, known.pictures), (None, Some(3)));
    let alone =
        guard.begin_turn("c", (HeldFor::AnySize, ANY), elsewhere.clone(), || unreachable!()).await.unwrap();
    alone.end(TurnEnd::Measured(elsewhere.clone())).await;
    let known = guard.objects().lookup(ObjectKind::Conversation, "c").unwrap().context;
    assert_eq!(known, KeptContext { pictures: Some(4), ..elsewhere }, "it is measured again");
}
