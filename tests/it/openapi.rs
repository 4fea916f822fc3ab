//! The OpenAPI document of the admin API.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::harness::{House, call, run};

/// Where the document is kept.
const KEPT: &str = "tests/it/openapi.json";
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

async fn document(house: &House) -> String {
    let answer = call(&house.admin, Method::GET, "/openapi.json", &[], Bytes::new()).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[test]
fn the_document_is_the_one_that_is_kept() {
    run(async {
        let house = House::with("").await;
        let now = document(&house).await + "\n";
        let kept = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(KEPT)).unwrap_or_default();
        if now != kept {
            let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
            fs::write(&place, &now).unwrap();
            let place = place.display();
            panic!("the API has changed. Look at it: diff {KEPT} {place}; if it is meant: cp {place} {KEPT}");
        }
    });
}

#[test]
fn what_is_documented_is_what_is_served() {
    run(async {
        let house = House::with("").await;
        let document: Value = serde_json::from_str(&document(&house).await).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            let words = path.split('/').map(|word| if word.starts_with('{') { "x" } else { word });
            let path = words.collect::<Vec<_>>().join("/");
            for method in METHODS {
                let name = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let status = house.admin(name, &path, None).await.status;
                let is_served = status != StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(is_served, item.get(method).is_some(), "{method} {path}: {status}");
            }
        }
    });
}

#[test]
fn all_of_the_document_says_what_it_is() {
    run(async {
        let house = House::with("").await;
        let document: Value = serde_json::from_str(&document(&house).await).unwrap();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
                assert!(
                    operation["summary"].as_str().is_some_and(|text| text.ends_with('.')),
                    "{method} {path}"
                );
                assert_eq!(operation["security"].is_array(), method != "get", "{method} {path}: who may");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let is_path = parameter["in"] == "path";
                    assert!(!is_path || parameter["description"].is_string(), "{path}: {parameter}");
                }
            }
        }
    });
}
