//! How large a conversation is taken to be.

use super::*;

const NOW: Duration = Duration::from_secs(1_000);

fn settings() -> Settings {
    Settings::of(Some("gpt-realtime".to_owned())).with(&serde_json::json!({ "instructions": "" }))
}

fn by_hand() -> Settings {
    settings().with(&serde_json::json!({ "audio": { "input": { "turn_detection": null } } }))
}

/// Samples of so many milliseconds.
fn heard(context: &mut Context, millis: u64) {
    context.append(millis * 48, SoundFormat::Samples, NOW);
}

fn usage(classes: &[(Class, u64)]) -> Quantities {
    let mut usage = Quantities::default();
    for (class, count) in classes {
        usage[*class] = *count;
    }
    usage
}

#[test]
fn speech_is_an_item_from_where_it_began_to_where_it_ended() {
    let mut context = Context::default();
    heard(&mut context, 5_000);
    context.speech_began(3_700);
    assert_eq!(context.pending_ms(&settings(), NOW), 1_300);
    heard(&mut context, 1_000);
    context.speech_ended(5_500);
    assert!(context.committed());
    assert_eq!(context.pending_ms(&settings(), NOW), 500, "what came behind it is of the next one");
    assert_eq!(context.read(&settings(), NOW).sound, 18 + 5);
}

#[test]
fn silence_before_speech_counts_for_as_long_as_speech_may_be_reported_late() {
    let mut context = Context::default();
    heard(&mut context, 1_800_000);
    assert_eq!(context.pending_ms(&settings(), NOW), 1_800_000, "sent at once, it may all be speech");
    let at = |second: u64| NOW + Duration::from_secs(second);
    for second in 1..=1_800 {
        context.append(48_000, SoundFormat::Samples, at(second));
    }
    let pending = context.pending_ms(&settings(), at(1_800));
    assert!((2 * REPORT_MS_MAX..2 * REPORT_MS_MAX + 3_000).contains(&pending), "{pending}");
    assert_eq!(context.pending_ms(&by_hand(), at(1_800)), 3_600_000, "a client may commit all of it");
}

#[test]
fn what_a_client_commits_or_clears_ends_where_it_did_so() {
    let mut context = Context::default();
    heard(&mut context, 1_000);
    assert!(context.commit("a", false));
    heard(&mut context, 700);
    assert!(!context.committed(), "upstream answers no item that a client has made");
    assert_eq!(context.pending_ms(&by_hand(), NOW), 700);
    assert!(context.clear("b", true));
    heard(&mut context, 100);
    context.cleared();
    assert_eq!(context.pending_ms(&by_hand(), NOW), 100);
    for _ in 0..UNANSWERED_MAX {
        assert!(context.commit("a", false));
    }
    assert!(!context.commit("a", false), "upstream has to answer some");
}

#[test]
fn times_that_can_not_be_are_brought_to_what_was_sent() {
    let mut context = Context::default();
    heard(&mut context, 1_000);
    context.speech_began(u64::MAX);
    assert_eq!(context.pending_ms(&settings(), NOW), 0);
    context.speech_began(0);
    assert_eq!(context.pending_ms(&settings(), NOW), 0, "time does not go back");
    context.speech_ended(u64::MAX);
    context.committed();
    assert_eq!(context.read(&settings(), NOW).sound, 0);
    context.cleared();
}

#[test]
fn a_telephones_byte_is_an_eighth_of_a_millisecond() {
    let mut context = Context::default();
    context.append(8_000, SoundFormat::Telephone, NOW);
    assert_eq!(context.pending_ms(&by_hand(), NOW), 1_000);
}

#[test]
fn an_item_counts_until_the_second_response_after_it_has_begun() {
    let mut context = Context::default();
    let item = Content { text_bytes: 100, ..Content::default() };
    context.add(&item, SoundFormat::Samples);
    context.begun();
    let used = usage(&[
        (Class::Input, 30),
        (Class::AudioCachedInput, 5),
        (Class::AudioOutput, 7),
        (Class::Output, 3),
    ]);
    context.ended(Some(&used), 4_096, true);
    let own = settings().text_bytes();
    // It may have come too late for that response.
    assert_eq!(context.read(&settings(), NOW), Amount { text: own + 30 + 3 + ITEM_TOKENS + 100, sound: 12 });
    context.begun();
    context.ended(Some(&used), 4_096, true);
    assert_eq!(context.read(&settings(), NOW), Amount { text: own + 30 + 3 + ITEM_TOKENS, sound: 12 });
}

#[test]
fn a_response_without_usage_adds_as_much_as_it_may_have_written() {
    let mut context = Context::default();
    context.add(&Content { text_bytes: 10, ..Content::default() }, SoundFormat::Samples);
    context.begun();
    context.ended(None, 4_096, false);
    let own = settings().text_bytes();
    assert_eq!(context.read(&settings(), NOW), Amount { text: own + 10 + ITEM_TOKENS, sound: 4_096 });
    context.written(Some(&usage(&[(Class::AudioOutput, 4)])), 9);
    assert_eq!(context.read(&settings(), NOW).sound, 4_100);
}

#[test]
fn a_usage_that_does_not_tell_the_size_makes_no_conversation_smaller() {
    let mut context = Context::default();
    context.add(&Content { text_bytes: 50_000, ..Content::default() }, SoundFormat::Samples);
    context.begun();
    context.ended(Some(&usage(&[])), 4_096, false);
    context.begun();
    let own = settings().text_bytes();
    assert_eq!(context.read(&settings(), NOW).text, own + 50_000 + ITEM_TOKENS);
}

#[test]
fn what_upstream_refuses_to_commit_ends_no_item() {
    let mut context = Context::default();
    heard(&mut context, 50);
    assert!(context.commit("refused", true));
    assert_eq!((context.uncut("refused"), context.uncut("refused")), (Some(true), None));
    heard(&mut context, 500);
    assert!(context.commit("taken", false));
    context.committed();
    assert_eq!(context.pending_ms(&by_hand(), NOW), 0);
}
