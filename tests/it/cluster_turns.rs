//! Turns on one conversation, through guards that share a ledger: each is held at what the
//! conversation may hold by then.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::sync::Notify;

use crate::harness::{Answer, House, run};
use crate::objects::context::slow_upstream;
use crate::postgres::Postgres;

const MONTHLY: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 24.00\n";
/// A window of gpt-6.1-sol costs more.
const WINDOW_NANO: i64 = 1_200_000_000;
/// A thousand tokens cost less.
const LITTLE_NANO: i64 = 20_000_000;

/// Two guards on one ledger, and a conversation that holds a picture of any size.
async fn guards(postgres: &Postgres, go: &Arc<Notify>) -> [Rc<House>; 2] {
    Box::pin(guards_with(postgres, go, MONTHLY)).await
}

async fn guards_with(postgres: &Postgres, go: &Arc<Notify>, config: &str) -> [Rc<House>; 2] {
    let base_url = slow_upstream(json!({}), Arc::default(), Arc::clone(go)).await;
    let a = House::sharing(postgres, Some(&base_url), config).await;
    let b = House::sharing(postgres, Some(&base_url), config).await;
    let part = json!({ "type": "input_image", "image_url": "https://example.com/16000x16000.png" });
    let item = json!({ "type": "message", "role": "user", "content": [part] });
    let made = a.post("/v1/conversations", &[], &json!({ "items": [item] })).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    [Rc::new(a), Rc::new(b)]
}

fn turn(house: &Rc<House>, input: &'static str) -> tokio::task::JoinHandle<Answer> {
    turn_with(house, json!({ "input": input }))
}

fn turn_with(house: &Rc<House>, more: serde_json::Value) -> tokio::task::JoinHandle<Answer> {
    let house = Rc::clone(house);
    let mut body = json!({ "model": "gpt-6.1-sol", "max_output_tokens": 200, "conversation": "conv_1" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    tokio::task::spawn_local(async move { house.post("/v1/responses", &[], &body).await })
}

/// What a turn was held at, in nano-dollars.
async fn held(postgres: &Postgres, house: &Rc<House>) -> i64 {
    let answer = turn(house, "hi").await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    house.settled().await;
    // Not the one of the greatest id: each lane has some ids left.
    let last = "SELECT held_nano FROM entry WHERE kind = 'settle' ORDER BY created_ms DESC LIMIT 1";
    postgres.ask(last).parse().unwrap()
}

/// Waits until so many requests are open.
async fn open(postgres: &Postgres, count: usize) {
    while postgres.ask("SELECT count(*) FROM hold") != count.to_string() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its turn begins after that.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[test]
fn what_a_turn_has_measured_is_what_the_next_one_is_held_at_on_whatever_guard() {
    run(async {
        let postgres = Postgres::start();
        let [a, b] = Box::pin(guards(&postgres, &Arc::default())).await;
        assert!(held(&postgres, &a).await > WINDOW_NANO, "the picture has any size");
        for guard in [&a, &b, &b, &a] {
            let held = held(&postgres, guard).await;
            assert!(held < LITTLE_NANO, "{held}");
        }
    });
}

#[test]
fn turns_at_once_on_two_guards_leave_no_size_and_the_next_that_is_alone_does() {
    run(async {
        let (postgres, go) = (Postgres::start(), Arc::new(Notify::new()));
        let [a, b] = Box::pin(guards(&postgres, &go)).await;
        held(&postgres, &a).await;
        // The first ends last, and the first ends first.
        for ends_last in [true, false] {
            assert!(held(&postgres, &b).await < LITTLE_NANO);
            let slow = turn(&a, "slow");
            open(&postgres, 1).await;
            if ends_last {
                let meanwhile = turn(&b, "hi").await.unwrap();
                assert_eq!(meanwhile.status, StatusCode::OK, "{meanwhile:?}");
                go.notify_one();
                assert_eq!(slow.await.unwrap().status, StatusCode::OK);
            } else {
                let later = turn(&b, "slow");
                open(&postgres, 2).await;
                // The one that has waited for longer is the first.
                go.notify_one();
                assert_eq!(slow.await.unwrap().status, StatusCode::OK);
                go.notify_one();
                assert_eq!(later.await.unwrap().status, StatusCode::OK);
            }
            a.settled().await;
            b.settled().await;
            let next = held(&postgres, if ends_last { &a } else { &b }).await;
            assert!(next > WINDOW_NANO, "each has read less than the conversation holds by now: {next}");
            assert!(held(&postgres, &a).await < LITTLE_NANO, "it is measured again");
        }
    });
}

#[test]
fn a_turn_that_is_open_on_another_guard_makes_the_conversation_one_of_any_size() {
    run(async {
        let (postgres, go) = (Postgres::start(), Arc::new(Notify::new()));
        let [a, b] = Box::pin(guards(&postgres, &go)).await;
        held(&postgres, &a).await;
        let slow = turn(&a, "slow");
        open(&postgres, 1).await;
        let meanwhile = turn(&b, "slow");
        open(&postgres, 2).await;
        let held = postgres.ask("SELECT max(cost_nano) FROM hold").parse::<i64>().unwrap();
        assert!(held > WINDOW_NANO, "{held}");
        go.notify_one();
        go.notify_one();
        for answer in [slow.await.unwrap(), meanwhile.await.unwrap()] {
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
    });
}

#[test]
fn a_turn_of_a_guard_that_died_is_open_for_a_day() {
    run(async {
        let (postgres, go) = (Postgres::start(), Arc::new(Notify::new()));
        let [a, b] = Box::pin(guards(&postgres, &go)).await;
        held(&postgres, &a).await;
        assert!(held(&postgres, &b).await < LITTLE_NANO);
        let day_ms = "(CAST(extract(epoch FROM now()) * 1000 AS BIGINT) - 86400000)";
        let leave = |began_ms: &str| {
            postgres.ask(&format!(
                "UPDATE object SET changes = changes + 1, context_tokens = NULL, rendering = NULL, \
                 open_turns = CAST(jsonb_build_object(CAST(changes + 1 AS TEXT), {began_ms}) AS TEXT) \
                 WHERE id = 'conv_1'"
            ))
        };
        leave(&format!("{day_ms} + 60000"));
        for _ in 0..2 {
            assert!(held(&postgres, &b).await > WINDOW_NANO, "it may still add to the conversation");
        }
        leave(&format!("{day_ms} - 1"));
        assert!(held(&postgres, &b).await > WINDOW_NANO);
        assert!(held(&postgres, &a).await < LITTLE_NANO);
    });
}

#[test]
fn a_turn_whose_client_is_gone_before_it_begins_is_ended() {
    run(async {
        let (postgres, go) = (Postgres::start(), Arc::new(Notify::new()));
        let [a, b] = Box::pin(guards(&postgres, &go)).await;
        held(&postgres, &a).await;
        let changes = "SELECT changes FROM object WHERE id = 'conv_1'";
        let before = postgres.ask(changes);
        let locked = postgres.hold("SELECT 1 FROM object FOR UPDATE", 2);
        let gone = turn(&a, "hi");
        tokio::time::sleep(Duration::from_millis(800)).await;
        gone.abort();
        drop(locked);
        let open = "SELECT open_turns FROM object WHERE id = 'conv_1'";
        for _ in 0..200 {
            if postgres.ask(changes) != before && postgres.ask(open) == "{}" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_ne!(postgres.ask(changes), before, "it has begun");
        assert_eq!(postgres.ask(open), "{}", "and ended");
        assert!(held(&postgres, &b).await < LITTLE_NANO, "nothing was added");
    });
}

/// Has the next commit that begins a turn take 6 s, which the database counts as no statement's time.
const SLOW_BEGIN: &str = "CREATE SEQUENCE begun; \
    CREATE FUNCTION begin_slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF nextval('spendguard.begun') = 1 THEN PERFORM pg_sleep(6); END IF; RETURN NULL; END $$; \
    CREATE CONSTRAINT TRIGGER slowly AFTER UPDATE OF open_turns ON object DEFERRABLE INITIALLY DEFERRED \
    FOR EACH ROW EXECUTE FUNCTION begin_slowly()";

#[test]
fn a_turn_whose_commit_is_silent_is_ended_once_it_is_there() {
    run(async {
        let (postgres, go) = (Postgres::start(), Arc::new(Notify::new()));
        let quick = format!("{MONTHLY}[storage]\nconnect_timeout = \"1s\"\nstatement_timeout = \"1s\"\n");
        let [a, b] = Box::pin(guards_with(&postgres, &go, &quick)).await;
        held(&postgres, &a).await;
        postgres.ask(SLOW_BEGIN);
        let refused = turn(&a, "hi").await.unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
        let open = "SELECT open_turns FROM object WHERE id = 'conv_1'";
        for _ in 0..600 {
            if postgres.ask("SELECT last_value FROM begun") != "1" && postgres.ask(open) == "{}" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(postgres.ask(open), "{}");
        // Whether it had begun was not known, so the size is not.
        assert!(held(&postgres, &b).await > WINDOW_NANO);
        assert!(held(&postgres, &b).await < LITTLE_NANO);
    });
}

/// Has each end of a turn take a while.
const SLOW_END: &str = "CREATE FUNCTION end_slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    PERFORM pg_sleep(0.5); RETURN NEW; END $$; \
    CREATE TRIGGER slowly BEFORE UPDATE ON object FOR EACH ROW WHEN (NEW.open_turns = '{}') \
    EXECUTE FUNCTION end_slowly()";

#[test]
fn a_client_that_has_its_answer_goes_on_at_once_on_whatever_guard() {
    run(async {
        let postgres = Postgres::start();
        let [a, b] = Box::pin(guards(&postgres, &Arc::default())).await;
        held(&postgres, &a).await;
        postgres.ask(SLOW_END);
        for guard in [&a, &b, &a] {
            // Nothing else is written of it that it would wait for.
            let answer = turn_with(guard, json!({ "input": "hi", "store": false })).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
        a.settled().await;
        b.settled().await;
        let dear = format!("SELECT count(*) FROM entry WHERE kind = 'settle' AND held_nano > {LITTLE_NANO}");
        assert_eq!(postgres.ask(&dear), "1", "only the first had to allow for a picture of any size");
    });
}
