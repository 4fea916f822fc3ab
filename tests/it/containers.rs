//! Containers that a client makes: held by periods, charged by the minute, ended once.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::usage::ContainerMemory;
use spendguard::domain::{Money, ObjectKind};
use spendguard::proxy::accrual::{Accrual, Seen};

use crate::accrual::{
    LIMIT, SESSION_1G, ask, at_fake, booked, booked_soon, counted, followed, held, knows, rules_before, runs,
    stranger,
};
use crate::harness::{House, call, run};
use crate::process::{Place, Process};
use crate::scripted::{Reply, guard_before, upstream};

const PATH: &str = "/v1/containers";
/// 23 minutes at 0.0015 dollars.
const HOLD_NANO: i64 = 34_500_000;

async fn made(house: &House, body: Value) -> String {
    let answer = house.post(PATH, &[], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Terms of a container with 1 GiB that lives twenty minutes after its last use; times are in
/// seconds from now on.
fn terms(house: &House, from: i64, until: i64, active: i64) -> Value {
    let now_s = house.guard.clock().now_s();
    json!({
        "is_own": true, "from_s": now_s + from, "until_s": now_s + until, "rate": SESSION_1G,
        "of": { "container": { "memory": "1g", "idle_s": 1_200, "active_s": now_s + active, "is_new": true } },
    })
}

#[test]
fn a_container_is_held_while_it_lives_and_its_deletion_charges_its_minutes_five_at_the_least() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = made(&house, json!({ "name": "a" })).await;
        assert_eq!(held(&house).await, "0.0345", "its idle life of 20 minutes, and three to see its end");
        assert!(runs(&house, "container", &id).await);
        let deleted = ask(&house, Method::DELETE, &format!("{PATH}/{id}")).await;
        assert_eq!(deleted.json()["deleted"], true, "{deleted:?}");
        assert_eq!(booked(&house, PATH).await, [counted("0.0075")]);
        assert_eq!(held(&house).await, "0");
        assert!(!runs(&house, "container", &id).await);
    });
}

#[test]
fn a_container_is_held_at_the_memory_and_life_that_are_asked_for_before_it_is_sent() {
    run(async {
        let house = House::with(LIMIT).await;
        let expires = json!({ "anchor": "last_active_at", "minutes": 5 });
        made(&house, json!({ "name": "a", "memory_limit": "16g", "expires_after": expires })).await;
        assert_eq!(held(&house).await, "0.192", "eight minutes at 0.024");
        // 23 minutes at 0.096.
        let refused = house.post(PATH, &[], &json!({ "name": "b", "memory_limit": "64g" })).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::BAD_REQUEST, "request_cost_exceeds_limit")
        );
        let capped = [("x-spendguard-max-cost-usd", "0.03")];
        let refused = house.post(PATH, &capped, &json!({ "name": "b" })).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
        assert_eq!(house.fake.containers_running(), 1, "nothing was sent");
    });
}

#[test]
fn what_could_be_read_in_two_ways_or_has_no_price_makes_no_container() {
    run(async {
        let house = House::with(LIMIT).await;
        for body in [
            r#"{"name":"a","memory_limit":"1g","memory_limit":"64g"}"#,
            r#"{"name":"a","memory_limit":"2g"}"#,
            r#"{"name":"a","expires_after":{"minutes":-5}}"#,
            "[]",
            "",
            "{",
        ] {
            let answer = house.post_raw(PATH, &[], body.to_owned().into()).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
        }
        let unknown = house.post(PATH, &[], &json!({ "name": "a", "file_ids": ["file-of-another"] })).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        assert_eq!((house.fake.containers_running(), held(&house).await.as_str()), (0, "0"));
    });
}

#[test]
fn a_container_that_upstream_does_not_make_costs_nothing_and_one_that_may_be_there_its_hold() {
    run(async {
        let house = House::with(LIMIT).await;
        let refused = house.post(PATH, &[("x-fake-status", "400")], &json!({ "name": "a" })).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!((held(&house).await.as_str(), booked(&house, PATH).await), ("0", Vec::new()));
        let (house, _) = guard_before(LIMIT, |_, _| Reply::Json(json!({ "object": "container" }))).await;
        house.post(PATH, &[], &json!({ "name": "a" })).await;
        assert_eq!(booked(&house, PATH).await, [("0.0345".to_owned(), json!("assumed"))]);
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn uses_of_a_container_with_a_job_cost_nothing_by_themselves_and_are_its_projects() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = made(&house, json!({ "name": "a" })).await;
        let files = format!("{PATH}/{id}/files");
        let foreign = house.post(&files, &[], &json!({ "file_id": "file-of-another" })).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{foreign:?}");
        let form =
            "--b\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\nfile-of-another\r\n--b--\r\n";
        let bearer = format!("Bearer {}", house.key);
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b")];
        let foreign = call(&house.proxy, Method::POST, &files, &headers, form.to_owned().into()).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{foreign:?}");
        let added = house.post(&files, &[], &json!({ "name": "empty" })).await;
        assert_eq!(added.json()["object"], "container.file", "{added:?}");
        for path in [format!("{PATH}/{id}"), files.clone()] {
            assert_eq!(ask(&house, Method::GET, &path).await.status, StatusCode::OK);
        }
        assert_eq!(booked(&house, &format!("{PATH}/{{}}")).await, []);
        assert_eq!(held(&house).await, "0.0345");
        let other = format!("Bearer {}", stranger(&house).await);
        let headers = [("authorization", other.as_str()), ("content-type", "application/json")];
        for (method, path, body) in
            [(Method::POST, files, "{}"), (Method::DELETE, format!("{PATH}/{id}"), "")]
        {
            let answer = call(&house.proxy, method, &path, &headers, body.into()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
        }
        assert_eq!(house.fake.containers_running(), 1);
    });
}

#[test]
fn an_idle_container_ends_by_itself_and_costs_the_life_that_it_had() {
    run(async {
        let house = House::with(LIMIT).await;
        let idle = [("x-fake-idle-s", "1300")];
        let id = at_fake(&house, PATH, &idle, &json!({ "name": "a" })).await;
        followed(&house, "container", &id, HOLD_NANO, &terms(&house, -1_300, 80, -1_300)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.03")], "20 minutes");
        assert_eq!(held(&house).await, "0");
        assert!(!runs(&house, "container", &id).await);
    });
}

#[test]
fn a_container_that_was_used_goes_on_with_the_next_minutes_held_before_the_last_are_over() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = at_fake(&house, PATH, &[], &json!({ "name": "a" })).await;
        followed(&house, "container", &id, HOLD_NANO, &terms(&house, -1_300, 80, -600)).await;
        // 22 minutes have begun; it was used ten minutes ago, so it lives for ten from the next on.
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.033")]);
        assert_eq!(held(&house).await, "0.0195", "13 minutes");
        assert!(runs(&house, "container", &id).await);
        let entry = house.entries().await.into_iter().find(|entry| entry["cost_usd"] == "0.033").unwrap();
        assert_eq!(entry["object_id"], id.as_str());
        assert_eq!(entry["usage"]["container_minutes"], 22, "{entry}");
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(booked(&house, PATH).await.len(), 1, "once");
    });
}

#[test]
fn a_container_that_lives_longer_than_presumed_goes_on_as_upstream_says() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = at_fake(&house, PATH, &[], &json!({ "name": "a" })).await;
        // By what the job knows it has ended; upstream has seen it used just now.
        followed(&house, "container", &id, HOLD_NANO, &terms(&house, -1_300, 80, -1_300)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.033")]);
        assert_eq!(held(&house).await, "0.0345");
        assert_eq!(house.fake.containers_running(), 1);
    });
}

#[test]
fn a_container_whose_next_minutes_no_limit_leaves_room_for_is_deleted_and_charged_until_then() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.04")).await;
        let id = at_fake(&house, PATH, &[], &json!({ "name": "a" })).await;
        followed(&house, "container", &id, HOLD_NANO, &terms(&house, -1_300, 20, -600)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.033")]);
        assert_eq!((house.fake.containers_running(), held(&house).await.as_str()), (0, "0"));
        assert!(!runs(&house, "container", &id).await);
        let entry = house.entries().await.into_iter().find(|entry| entry["cost_usd"] == "0.033").unwrap();
        assert!(entry["note"].as_str().unwrap().contains("deleted"), "{entry}");
    });
}

#[test]
fn the_next_minutes_of_a_container_are_not_spent_by_who_is_stopped_and_a_store_accrues() {
    run(async {
        let house = House::with(LIMIT).await;
        let store = house.post("/v1/vector_stores", &[], &json!({ "name": "a" })).await.json();
        let id = at_fake(&house, PATH, &[], &json!({ "name": "a" })).await;
        let stopped = house.admin(Method::PUT, "/guard/v1/kill-switches/organization", None).await;
        assert_eq!(stopped.status, StatusCode::OK, "{stopped:?}");
        followed(&house, "container", &id, HOLD_NANO, &terms(&house, -1_300, 20, -600)).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.033")]);
        assert_eq!(house.fake.containers_running(), 0);
        let entry = house.entries().await.into_iter().find(|entry| entry["cost_usd"] == "0.033").unwrap();
        assert!(entry["note"].as_str().unwrap().contains("spending is stopped"), "{entry}");
        assert!(runs(&house, "vector_store", store["id"].as_str().unwrap()).await);
    });
}

#[test]
fn a_client_that_sees_a_container_expired_ends_its_job() {
    run(async {
        let house = House::with(LIMIT).await;
        let made = house.post(PATH, &[("x-fake-idle-s", "1200")], &json!({ "name": "a" })).await.json();
        let id = made["id"].as_str().unwrap();
        assert_eq!(ask(&house, Method::GET, &format!("{PATH}/{id}")).await.json()["status"], "expired");
        assert_eq!(booked(&house, PATH).await, [counted("0.0075")], "the least that is billed");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn a_container_that_upstream_does_not_know_at_once_stays_held_and_so_does_one_of_the_last_run() {
    run(async {
        let first = House::with(LIMIT).await;
        made(&first, json!({ "name": "a" })).await;
        let next = House::reopened(first.close().await, LIMIT).await;
        followed(&next, "container", "cntr_unknown", HOLD_NANO, &terms(&next, -1_300, 80, -1_300)).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(held(&next).await, "0.069");
        assert_eq!(booked(&next, PATH).await, []);
    });
}

#[test]
fn a_container_of_which_upstream_says_nothing_is_asked_for_less_and_less_often() {
    run(async {
        let house = House::with(LIMIT).await;
        let (forbidden, asked) = upstream(|_, _| Reply::Error(403)).await;
        let rules = rules_before(&forbidden);
        followed(&house, "container", "cntr_1", HOLD_NANO, &terms(&house, -1_300, 110, -1_300)).await;
        let open = house.guard.find_job("container", "cntr_1").await.unwrap().unwrap();
        let mut pauses = Vec::new();
        for polls in [0, 1, 3, 5, 100] {
            let accrual = Accrual::new(&house.guard, &rules);
            let Seen::Later(pause) = accrual.look(&rules, &open, polls).await else { panic!("it goes on") };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 8, 32, 60]);
        assert_eq!(asked.borrow().len(), 5);
        assert_eq!(held(&house).await, "0.0345");
    });
}

#[test]
fn a_container_that_may_live_longer_than_its_job_is_charged_by_its_uses_from_then_on() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = at_fake(&house, PATH, &[], &json!({ "name": "a" })).await;
        let used_s = house.guard.clock().now_s() - 1_300;
        knows(&house, ObjectKind::Container, &id, |known| {
            known.container_memory = Some(ContainerMemory::G1);
            (known.has_job, known.idle_s, known.used_s) = (true, 1_200, used_s);
        })
        .await;
        // It was made with a client's own key, so the guard can't ask for it.
        let mut terms = terms(&house, -1_300, 80, -1_300);
        terms["is_own"] = json!(false);
        followed(&house, "container", &id, HOLD_NANO, &terms).await;
        assert_eq!(booked_soon(&house, PATH, 1).await, [counted("0.03")], "20 minutes");
        assert!(!runs(&house, "container", &id).await);
        let shown = ask(&house, Method::GET, &format!("{PATH}/{id}")).await;
        assert_eq!(shown.json()["status"], "running", "{shown:?}");
        assert_eq!(booked(&house, &format!("{PATH}/{{}}")).await, [counted("0.03")], "it lives on for 20");
    });
}

#[test]
fn what_a_client_has_sent_and_does_not_wait_for_is_known() {
    run(async {
        let house = House::with(LIMIT).await;
        let slow = [("x-fake-latency-ms", "700"), ("authorization", &*format!("Bearer {}", house.key))];
        let send = async |method: Method, path: String| {
            let sending = call(&house.proxy, method, &path, &slow, Bytes::new());
            let left = tokio::time::timeout(Duration::from_millis(300), sending).await;
            assert!(left.is_err(), "{left:?}");
            tokio::time::sleep(Duration::from_millis(900)).await;
        };
        let id = made(&house, json!({ "name": "a" })).await;
        let used_s = || house.guard.objects().lookup(ObjectKind::Container, &id).map(|known| known.used_s);
        let before = used_s();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        send(Method::GET, format!("{PATH}/{id}/files")).await;
        assert!(used_s() > before, "its use");
        send(Method::DELETE, format!("{PATH}/{id}")).await;
        assert_eq!(house.fake.containers_running(), 0);
        assert_eq!((held(&house).await.as_str(), runs(&house, "container", &id).await), ("0", false));
    });
}

#[test]
fn a_page_in_place_of_an_answer_deletes_nothing() {
    run(async {
        let (house, _) = guard_before(LIMIT, |path, body| {
            if path.ends_with("/containers") && !body.is_null() {
                return Reply::Json(json!({ "id": "cntr_1", "object": "container", "status": "running" }));
            }
            Reply::Events("<html>We are busy.</html>".to_owned())
        })
        .await;
        let id = made(&house, json!({ "name": "a" })).await;
        let path = format!("{PATH}/{id}");
        assert_eq!(ask(&house, Method::DELETE, &path).await.status, StatusCode::OK);
        assert_eq!((held(&house).await.as_str(), runs(&house, "container", &id).await), ("0.0345", true));
        assert_eq!(ask(&house, Method::GET, &path).await.status, StatusCode::OK, "it is known still");
    });
}

#[test]
fn a_use_of_a_container_without_a_job_is_charged_where_only_a_gateway_answers() {
    run(async {
        let (house, _) = guard_before(LIMIT, |path, _| {
            if path.ends_with("cntr_page") { Reply::Page(502) } else { Reply::Error(502) }
        })
        .await;
        let used_s = house.guard.clock().now_s() - 590;
        for id in ["cntr_page", "cntr_openai"] {
            knows(&house, ObjectKind::Container, id, |known| {
                known.container_memory = Some(ContainerMemory::G1);
                (known.idle_s, known.used_s) = (1_200, used_s);
            })
            .await;
            let shown = ask(&house, Method::GET, &format!("{PATH}/{id}")).await;
            assert_eq!(shown.status, StatusCode::BAD_GATEWAY);
        }
        let assumed = ("0.015".to_owned(), json!("assumed"));
        assert_eq!(booked(&house, &format!("{PATH}/{{}}")).await, [assumed], "ten minutes, once");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn a_form_that_is_refused_before_its_end_is_no_use() {
    run(async {
        let house = House::with(LIMIT).await;
        let id = made(&house, json!({ "name": "a" })).await;
        let used_s = || house.guard.objects().lookup(ObjectKind::Container, &id).map(|known| known.used_s);
        let before = used_s();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let field = "Content-Disposition: form-data; name=\"file_id\"";
        for (body, status) in [
            (format!("--b\r\n{field}\r\n\r\nfile-of-another\r\n--b--\r\n"), StatusCode::NOT_FOUND),
            (format!("--b\r\n{field}\r\n\r\nfile-of-another"), StatusCode::BAD_REQUEST),
        ] {
            let bearer = format!("Bearer {}", house.key);
            let headers =
                [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b")];
            let path = format!("{PATH}/{id}/files");
            let refused = call(&house.proxy, Method::POST, &path, &headers, body.into()).await;
            assert_eq!(refused.status, status, "{refused:?}");
        }
        assert_eq!(used_s(), before);
    });
}

#[test]
fn a_response_in_a_container_with_a_job_pays_no_session_for_it() {
    run(async {
        let (house, _) = guard_before(LIMIT, |path, _| {
            if path.ends_with("/containers") {
                return Reply::Json(json!({ "id": "cntr_1", "object": "container", "status": "running" }));
            }
            Reply::Json(json!({
                "id": "resp_1", "object": "response", "status": "completed", "model": "gpt-4o-mini",
                "output": [{
                    "type": "code_interpreter_call", "id": "ci_1", "status": "completed", "code": "1",
                    "container_id": "cntr_1", "outputs": [],
                }],
                "usage": {
                    "input_tokens": 1_000, "input_tokens_details": { "cached_tokens": 0 },
                    "output_tokens": 0, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 1_000,
                },
            }))
        })
        .await;
        made(&house, json!({ "name": "a" })).await;
        let tools = json!([{ "type": "code_interpreter", "container": "cntr_1" }]);
        let body = json!({ "model": "gpt-4o-mini", "input": "go", "tools": tools, "max_output_tokens": 100 });
        let answer = house.post("/v1/responses", &[], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        // 1,000 input tokens at 0.15 dollars a million.
        assert_eq!(booked(&house, "/v1/responses").await, [("0.00015".to_owned(), json!("reported"))]);
        assert_eq!(held(&house).await, "0.0345", "the job holds its minutes");
    });
}

#[test]
fn a_container_and_a_store_outlive_kill_9_and_end_once() {
    run(async {
        let (_fake, address) = Process::fake();
        let place = Place::new(&address, LIMIT);
        let guard = place.serve();
        let bearer = format!("Bearer {}", guard.make_key().await);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let mut paths = Vec::new();
        for path in [PATH, "/v1/vector_stores"] {
            let made = call(&guard.proxy, Method::POST, path, &headers, r#"{"name":"a"}"#.into()).await;
            paths.push(format!("{path}/{}", made.json()["id"].as_str().unwrap()));
        }
        guard.process.kill();
        let guard = place.serve();
        assert_eq!(guard.meter("all").await, (Money::ZERO, Money::from_nano(HOLD_NANO)), "it goes on");
        for path in paths {
            let deleted = call(&guard.proxy, Method::DELETE, &path, &headers[..1], Bytes::new()).await;
            assert_eq!(deleted.json()["deleted"], true, "{deleted:?}");
        }
        assert_eq!(guard.meter("all").await, (Money::from_nano(7_500_000), Money::ZERO));
        guard.verify().await;
    });
}
