//! Lists show what is the caller's.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Two, makers};
use crate::harness::run;

fn ids(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().unwrap();
    data.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_list_shows_the_callers_project_alone() {
    run(async {
        let two = Two::new().await;
        for (collection, body) in makers() {
            let own = two.make(&two.a, collection, body.clone()).await;
            two.make(&two.b, collection, body).await;
            if ["/v1/responses", "/v1/conversations"].contains(&collection) {
                continue; // They have no list.
            }
            two.kept.make(collection.trim_start_matches("/v1/"), json!({}));
            let page = two.get(&two.a, collection).await.json();
            assert_eq!(ids(&page), std::slice::from_ref(&own), "{collection}");
            assert_eq!(
                (&page["first_id"], &page["last_id"], &page["has_more"]),
                (&json!(own), &json!(own), &json!(false))
            );
        }
    });
}

#[test]
fn paging_goes_through_all_of_ones_own_and_nothing_else() {
    run(async {
        let two = Two::new().await;
        let mut own = Vec::new();
        for n in 0..5 {
            for _ in 0..90 {
                two.kept.make("files", json!({}));
            }
            own.push(two.make(&two.a, "/v1/files", json!({ "n": n })).await);
        }
        let (mut seen, mut query) = (Vec::new(), "limit=2&order=asc".to_owned());
        loop {
            let page = two.get(&two.a, &format!("/v1/files?{query}")).await.json();
            let found = ids(&page);
            assert!(found.len() <= 2 && !found.is_empty(), "{page}");
            assert_eq!(page["last_id"], *found.last().unwrap());
            seen.extend(found);
            if page["has_more"] == false {
                break;
            }
            query = format!("limit=2&order=asc&after={}", seen.last().unwrap());
        }
        assert_eq!(seen, own);
        assert!(ids(&two.get(&two.b, "/v1/files").await.json()).is_empty());
    });
}

#[test]
fn ones_own_behind_thousands_of_others_are_not_an_end_of_the_list() {
    run(async {
        let two = Two::new().await;
        for _ in 0..5_100 {
            two.kept.make("vector_stores", json!({}));
            two.kept.make("files", json!({}));
        }
        two.make(&two.a, "/v1/vector_stores", json!({})).await;
        let file = two.make(&two.a, "/v1/files", json!({})).await;
        let page = two.get(&two.a, "/v1/vector_stores").await;
        assert_eq!(
            (page.status, page.code().as_str()),
            (StatusCode::BAD_GATEWAY, "list_too_long"),
            "{page:?}"
        );
        assert_eq!(page.header("x-should-retry"), "false");
        // Of files, upstream gives more on a page.
        assert_eq!(ids(&two.get(&two.a, "/v1/files").await.json()), [file]);
    });
}

#[test]
fn models_are_those_that_the_key_may_use() {
    run(async {
        let two = Two::new().await;
        let made = two
            .house
            .make_key(json!({ "name": "few", "project_id": "a", "models": ["gpt-5*", "gpt-6.1-sol"] }))
            .await;
        let key = made["value"].as_str().unwrap();
        assert_eq!(ids(&two.get(key, "/v1/models").await.json()), ["gpt-5", "gpt-6.1-sol"]);
        assert_eq!(ids(&two.get(&two.a, "/v1/models").await.json()).len(), 3);
        let hidden = two.get(key, "/v1/models/gpt-4o-mini").await;
        assert_eq!((hidden.status, hidden.code()), (StatusCode::NOT_FOUND, "model_not_found".to_owned()));
    });
}
