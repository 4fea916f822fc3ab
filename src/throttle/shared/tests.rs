//! What several requests take from shared buckets, one after another.

use super::*;
use crate::throttle::tests::{NOW, key, rate, tokens};

fn throttle(limits: &[Arc<Limit>]) -> Throttle {
    Throttle::new(limits, &Throttle::default())
}

#[test]
fn as_many_requests_pass_as_a_bucket_has_and_then_one_for_each_part_of_the_minute() {
    let throttle = throttle(&[rate("rpm", Unit::Requests, 60)]);
    let mut buckets = Buckets::new();
    let mut ask =
        |of, now| take(&throttle.request_takes(&key(of)), &mut buckets, now).map(|check| check.left);
    for remaining in (0..60).rev() {
        let left = ask("a", NOW).unwrap();
        assert_eq!((left[0].remaining, left[0].limit, left[0].of_requests), (remaining, 60, true));
    }
    let throttled = ask("a", NOW).unwrap_err();
    assert_eq!(throttled.retry_after, Some(Duration::from_secs(1)));
    assert!(ask("b", NOW).is_ok(), "another key has a bucket of its own");
    assert!(ask("a", NOW + Duration::from_secs(1)).is_ok());
    assert!(ask("a", NOW + Duration::from_secs(1)).is_err());
}

#[test]
fn what_was_not_used_goes_back_to_the_bucket_that_it_was_taken_from() {
    let limits = [rate("all", Unit::Tokens, 1_000), rate("out", Unit::OutputTokens, 800)];
    let throttle = throttle(&limits);
    let mut buckets = Buckets::new();
    let mut first = take(&throttle.token_takes(&key("a"), tokens(300, 600)), &mut buckets, NOW).unwrap();
    let refused = take(&throttle.token_takes(&key("a"), tokens(0, 150)), &mut buckets, NOW).unwrap_err();
    assert_eq!((&*refused.limit.name, refused.requested, refused.left.remaining), ("all", 150, 100));
    let unused = first.receipt.end(tokens(100, 50), NOW);
    for back in &unused {
        back.to(&mut buckets, NOW);
    }
    let refused = take(&throttle.token_takes(&key("a"), tokens(0, 800)), &mut buckets, NOW).unwrap_err();
    assert_eq!((&*refused.limit.name, refused.left.remaining), ("out", 750));
    assert!(take(&throttle.token_takes(&key("a"), tokens(100, 750)), &mut buckets, NOW).is_ok());
}

#[test]
fn a_request_that_one_rate_refuses_takes_nothing_and_one_in_shadow_mode_refuses_nothing() {
    let limits = [
        Arc::new(Limit { mode: Mode::Shadow, ..(*rate("shadow", Unit::Tokens, 10)).clone() }),
        rate("all", Unit::Tokens, 1_000),
        rate("out", Unit::OutputTokens, 100),
    ];
    let throttle = throttle(&limits);
    let mut buckets = Buckets::new();
    for _ in 0..20 {
        let refused = take(&throttle.token_takes(&key("a"), tokens(0, 101)), &mut buckets, NOW).unwrap_err();
        assert_eq!((&*refused.limit.name, refused.retry_after), ("out", None), "more than a minute has");
    }
    let passed = take(&throttle.token_takes(&key("a"), tokens(900, 100)), &mut buckets, NOW).unwrap();
    assert_eq!(passed.would_reject.iter().map(|limit| &*limit.name).collect::<Vec<_>>(), ["shadow"]);
}
