//! What rates take, refuse and give back.

use super::*;
use crate::domain::Window;
use crate::domain::limit::{Only, Per, Source};
use crate::throttle::in_memory::BUCKETS_SWEPT_AT;

pub(super) const NOW: Duration = Duration::from_secs(1_000);

pub(super) fn rate(name: &str, unit: Unit, hard: i64) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.into(),
        per: Per::Key,
        only: Only::default(),
        unit,
        window: Window::Minute,
        zone: "UTC".into(),
        soft: Vec::new(),
        hard: Some(hard),
        mode: Mode::Enforce,
        source: Source::File,
    })
}

pub(super) fn key(id: &str) -> Attribution {
    Attribution { key: id.into(), ..Attribution::default() }
}

pub(super) fn tokens(input_tokens: u64, output_tokens: u64) -> RateCost {
    RateCost { tokens: input_tokens + output_tokens, input_tokens, output_tokens }
}

#[test]
fn each_rate_of_tokens_gets_back_its_own_part() {
    let limits = [
        rate("all", Unit::Tokens, 1_000),
        rate("in", Unit::InputTokens, 500),
        rate("out", Unit::OutputTokens, 800),
    ];
    let throttle = Throttle::new(&limits, &Throttle::default());
    let take = |take| throttle.take_tokens(&key("a"), take, NOW);
    let mut rate_check = take(tokens(300, 600)).unwrap();
    assert_eq!(
        rate_check.left,
        [RateLeft { of_requests: false, limit: 1_000, remaining: 100, reset: Duration::from_secs(54) }]
    );
    assert_eq!(&*take(tokens(0, 150)).unwrap_err().limit.name, "all");
    let _ = rate_check.receipt.end(tokens(100, 50), NOW);
    assert_eq!(take(tokens(0, 800)).unwrap_err().left.remaining, 750);
    assert!(take(tokens(400, 450)).is_ok());
}

#[test]
fn a_request_that_one_rate_refuses_takes_nothing_of_the_others() {
    let limits = [rate("all", Unit::Tokens, 1_000), rate("out", Unit::OutputTokens, 100)];
    let throttle = Throttle::new(&limits, &Throttle::default());
    for _ in 0..10 {
        assert_eq!(&*throttle.take_tokens(&key("a"), tokens(0, 101), NOW).unwrap_err().limit.name, "out");
    }
    assert!(throttle.take_tokens(&key("a"), tokens(900, 100), NOW).is_ok());
}

#[test]
fn what_can_never_pass_is_known_beforehand_and_refused_without_a_time() {
    let shadow = Limit { mode: Mode::Shadow, ..(*rate("shadow", Unit::Tokens, 1)).clone() };
    let of_others = Only { keys: vec!["b".to_owned()], ..Only::default() };
    let others = Limit { only: of_others, ..(*rate("others", Unit::OutputTokens, 2)).clone() };
    let limits =
        [rate("wide", Unit::Tokens, 900), rate("tight", Unit::Tokens, 700), shadow.into(), others.into()];
    let throttle = Throttle::new(&limits, &Throttle::default());
    assert_eq!(throttle.largest(&key("a")), Largest { tokens: Some(700), ..Largest::default() });
    assert_eq!(throttle.largest(&key("b")).output_tokens, Some(2));
    assert!(throttle.take_tokens(&key("a"), tokens(700, 0), NOW).is_ok());
    let refused = throttle.take_tokens(&key("c"), tokens(701, 0), NOW).unwrap_err();
    assert_eq!((&*refused.limit.name, refused.requested, refused.retry_after), ("tight", 701, None));
}

#[test]
fn another_cap_forgets_nothing_that_was_taken() {
    let before = Throttle::new(&[rate("tpm", Unit::Tokens, 1_000)], &Throttle::default());
    let mut rate_check = before.take_tokens(&key("a"), tokens(900, 0), NOW).unwrap();
    let after = Throttle::new(&[rate("renamed", Unit::Tokens, 1_200)], &before);
    assert_eq!(after.take_tokens(&key("a"), tokens(301, 0), NOW).unwrap_err().left.remaining, 300);
    let _ = rate_check.receipt.end(tokens(100, 0), NOW);
    assert!(after.take_tokens(&key("a"), tokens(1_100, 0), NOW).is_ok());
}

#[test]
fn buckets_of_keys_that_are_gone_are_swept_out() {
    let throttle = Throttle::new(&[rate("tpm", Unit::Tokens, 1_000)], &Throttle::default());
    let Buckets::Tokens(buckets) = &throttle.rates[0].buckets else { panic!("a rate of tokens") };
    let mut open = throttle.take_tokens(&key("open"), tokens(500, 0), NOW).unwrap();
    for number in 1..BUCKETS_SWEPT_AT {
        drop(throttle.take_tokens(&key(&number.to_string()), tokens(1, 0), NOW));
    }
    let later = NOW + Duration::from_secs(60);
    drop(throttle.take_tokens(&key("next"), tokens(1, 0), later));
    assert_eq!(buckets.by_subject.len(), 2, "one is still to give back to, one has just been made");
    let _ = open.receipt.end(tokens(0, 0), later);
    drop(throttle.take_tokens(&key("free"), RateCost::default(), later));
    assert_eq!(buckets.by_subject.len(), 2, "what takes nothing needs no bucket");
}
