//! How large a conversation is taken to be.

use super::*;

fn settings() -> Settings {
    Settings::of(Some("gpt-realtime".to_owned())).with(&serde_json::json!({ "instructions": "" }))
}

fn by_hand() -> Settings {
    settings().with(&serde_json::json!({ "audio": { "input": { "turn_detection": null } } }))
}

/// Samples of so many milliseconds.
fn heard(context: &mut Context, millis: u64) {
    context.append(millis * 48, SoundFormat::Samples);
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
    assert_eq!(context.pending_ms(&settings()), 1_300);
    heard(&mut context, 1_000);
    context.speech_ended(5_500);
    assert_eq!(context.committed(), 1_800);
    assert_eq!(context.pending_ms(&settings()), 500, "what came behind it is of the next one");
    assert_eq!(context.read(&settings()).sound, 18 + 5);
}

#[test]
fn silence_before_speech_counts_for_as_long_as_speech_may_be_reported_late() {
    let mut context = Context::default();
    heard(&mut context, 3_600_000);
    assert_eq!(context.pending_ms(&settings()), REPORT_MS_MAX);
    assert_eq!(context.pending_ms(&by_hand()), 3_600_000, "a client may commit all of it");
}

#[test]
fn what_a_client_commits_or_clears_ends_where_it_did_so() {
    let mut context = Context::default();
    heard(&mut context, 1_000);
    assert!(context.commit());
    heard(&mut context, 700);
    assert_eq!(context.committed(), 1_000);
    assert_eq!(context.pending_ms(&by_hand()), 700);
    assert!(context.clear());
    heard(&mut context, 100);
    context.cleared();
    assert_eq!(context.pending_ms(&by_hand()), 100);
    for _ in 0..UNANSWERED_MAX {
        assert!(context.commit());
    }
    assert!(!context.commit(), "upstream has to answer some");
}

#[test]
fn times_that_can_not_be_are_brought_to_what_was_sent() {
    let mut context = Context::default();
    heard(&mut context, 1_000);
    context.speech_began(u64::MAX);
    assert_eq!(context.pending_ms(&settings()), 0);
    context.speech_began(0);
    assert_eq!(context.pending_ms(&settings()), 0, "time does not go back");
    context.speech_ended(u64::MAX);
    assert_eq!(context.committed(), 0);
    context.cleared();
}

#[test]
fn a_telephones_byte_is_an_eighth_of_a_millisecond() {
    let mut context = Context::default();
    context.append(8_000, SoundFormat::Telephone);
    assert_eq!(context.pending_ms(&by_hand()), 1_000);
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
    context.ended(Some(&used), 4_096);
    let own = settings().text_bytes();
    // It may have come too late for that response.
    assert_eq!(context.read(&settings()), Amount { text: own + 30 + 3 + ITEM_TOKENS + 100, sound: 12 });
    context.begun();
    context.ended(Some(&used), 4_096);
    assert_eq!(context.read(&settings()), Amount { text: own + 30 + 3 + ITEM_TOKENS, sound: 12 });
}

#[test]
fn a_response_without_usage_adds_as_much_as_it_may_have_written() {
    let mut context = Context::default();
    context.add(&Content { text_bytes: 10, ..Content::default() }, SoundFormat::Samples);
    context.begun();
    context.ended(None, 4_096);
    let own = settings().text_bytes();
    assert_eq!(context.read(&settings()), Amount { text: own + 10 + ITEM_TOKENS, sound: 4_096 });
    context.written(Some(&usage(&[(Class::AudioOutput, 4)])), 9);
    assert_eq!(context.read(&settings()).sound, 4_100);
}
