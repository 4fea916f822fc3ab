//! Objects have owners: what came back to a key is its project's alone.

mod containers;
pub(crate) mod context;
mod crash;
mod lists;
pub(crate) mod upstream;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, House, UPSTREAM_KEY, call, run};
use crate::objects::upstream::Kept;

/// Two projects before one upstream.
const PROJECTS: &str = "[[project]]\nid = \"a\"\nname = \"A\"\n[[project]]\nid = \"b\"\nname = \"B\"\n";
/// A file with the lines of a batch that costs nothing, in a form.
const FILE: &str = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n\
    Content-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n\
    {\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/moderations\",\"body\":{\"input\":\"x\"}}\r\n--b--\r\n";

/// A guard with two keys, each of a project of its own.
struct Two {
    house: House,
    kept: Arc<Kept>,
    a: String,
    b: String,
}

impl Two {
    async fn with(config: &str) -> Self {
        let kept = Arc::new(Kept::default());
        let base_url = format!("http://{}/v1", upstream::serve(&kept).await);
        let house =
            House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), &format!("{PROJECTS}{config}")).await;
        let key = async |project: &str| {
            let made = house.make_key(json!({ "name": project, "project_id": project })).await;
            made["value"].as_str().unwrap().to_owned()
        };
        let (a, b) = (key("a").await, key("b").await);
        kept.asked();
        Self { house, kept, a, b }
    }

    async fn new() -> Self {
        Self::with("").await
    }

    async fn ask(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        call(&self.house.proxy, method, path, &headers, body).await
    }

    async fn get(&self, key: &str, path: &str) -> Answer {
        self.ask(key, Method::GET, path, None).await
    }

    async fn post(&self, key: &str, path: &str, body: Value) -> Answer {
        if path == "/v1/files" {
            let bearer = format!("Bearer {key}");
            let form = "multipart/form-data; boundary=b";
            let headers = [("authorization", bearer.as_str()), ("content-type", form)];
            return call(
                &self.house.proxy,
                Method::POST,
                path,
                &headers,
                Bytes::from_static(FILE.as_bytes()),
            )
            .await;
        }
        self.ask(key, Method::POST, path, Some(&body)).await
    }

    /// Makes an object with a key; returns its id.
    async fn make(&self, key: &str, path: &str, body: Value) -> String {
        let made = if path == "/v1/batches" {
            let file = self.post(key, "/v1/files", json!({})).await.json();
            let mut batch = json!({ "input_file_id": file["id"], "endpoint": "/v1/moderations" });
            batch.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            self.post(key, path, batch).await
        } else {
            self.post(key, path, body).await
        };
        assert_eq!(made.status, StatusCode::OK, "{path}: {made:?}");
        made.json()["id"].as_str().unwrap().to_owned()
    }

    async fn respond(&self, key: &str, more: Value) -> Answer {
        self.post(key, "/v1/responses", response(more)).await
    }
}

fn response(more: Value) -> Value {
    let mut body = json!({ "model": "gpt-5", "input": "hello", "max_output_tokens": 50 });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

/// Where an object of each kind is made, and with what.
fn makers() -> Vec<(&'static str, Value)> {
    vec![
        ("/v1/responses", response(json!({}))),
        (
            "/v1/chat/completions",
            json!({ "model": "gpt-5", "messages": [], "max_completion_tokens": 9, "store": true }),
        ),
        ("/v1/conversations", json!({ "items": [] })),
        ("/v1/files", json!({})),
        ("/v1/vector_stores", json!({ "name": "x" })),
        ("/v1/containers", json!({ "name": "x", "memory_limit": "4g" })),
        ("/v1/batches", json!({})),
        ("/v1/skills", json!({})),
    ]
}

/// What is asked of an object of a kind, below its collection.
fn paths(collection: &str) -> Vec<(Method, &'static str)> {
    let get = |below| (Method::GET, below);
    let post = |below| (Method::POST, below);
    let mut paths = match collection {
        "/v1/responses" => vec![get("/input_items"), post("/cancel")],
        "/v1/chat/completions" => vec![get("/messages"), post("")],
        "/v1/conversations" => vec![get("/items"), get("/items/msg_1"), post(""), post("/items")],
        "/v1/files" => vec![get("/content")],
        "/v1/vector_stores" => vec![get("/files"), get("/files/file-1"), post(""), post("/files")],
        "/v1/containers" => vec![get("/files"), get("/files/cfile_1/content")],
        "/v1/batches" => vec![post("/cancel")],
        "/v1/skills" => vec![get("/content"), get("/versions"), post(""), post("/versions")],
        other => panic!("{other}"),
    };
    paths.insert(0, get(""));
    if collection != "/v1/batches" {
        paths.push((Method::DELETE, ""));
    }
    paths
}

#[test]
fn another_projects_object_is_not_there_on_any_path() {
    run(async {
        let two = Two::new().await;
        for (collection, body) in makers() {
            let id = two.make(&two.a, collection, body).await;
            for (method, below) in paths(collection) {
                two.kept.asked();
                let body = (method == Method::POST).then(|| json!({}));
                let of = |id: &str| format!("{collection}/{id}{below}");
                let foreign = two.ask(&two.b, method.clone(), &of(&id), body.as_ref()).await;
                let unknown = two.ask(&two.b, method.clone(), &of("x_00000000"), body.as_ref()).await;
                assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{method} {}: {foreign:?}", of(&id));
                assert_eq!(foreign.json()["error"]["type"], "invalid_request_error");
                let text = |answer: &Answer| String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(text(&foreign).replace(&id, "x_00000000"), text(&unknown), "its existence leaks");
                assert_eq!(two.kept.asked(), [""; 0], "upstream was asked");
                let own = two.ask(&two.a, method.clone(), &of(&id), body.as_ref()).await;
                assert_eq!(own.status, StatusCode::OK, "{method} {}: {own:?}", of(&id));
            }
        }
    });
}

#[test]
fn a_deleted_object_is_unknown() {
    run(async {
        let two = Two::new().await;
        let id = two.make(&two.a, "/v1/responses", response(json!({}))).await;
        let path = format!("/v1/responses/{id}");
        assert_eq!(two.ask(&two.a, Method::DELETE, &path, None).await.status, StatusCode::OK);
        two.kept.asked();
        assert_eq!(two.get(&two.a, &path).await.status, StatusCode::NOT_FOUND);
        assert_eq!(
            two.respond(&two.a, json!({ "previous_response_id": id })).await.status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(two.kept.asked(), [""; 0], "upstream was asked");
    });
}

#[test]
fn a_body_may_name_only_what_is_its_projects_own() {
    run(async {
        let two = Two::new().await;
        let answer = two.respond(&two.a, json!({})).await.json();
        let (resp, reasoning) = (&answer["id"], &answer["output"][0]["id"]);
        let message = &answer["output"][1]["id"];
        let conv = two.make(&two.a, "/v1/conversations", json!({})).await;
        let file = two.make(&two.a, "/v1/files", json!({})).await;
        let store = two.make(&two.a, "/v1/vector_stores", json!({})).await;
        let cntr = two.make(&two.a, "/v1/containers", json!({})).await;
        let content = |part: Value| json!([{ "role": "user", "content": [part] }]);
        let named = [
            json!({ "previous_response_id": resp }),
            json!({ "conversation": conv }),
            json!({ "conversation": { "id": conv } }),
            json!({ "input": [{ "type": "item_reference", "id": message }] }),
            json!({ "input": [{ "id": message }] }),
            json!({ "input": [{ "type": "reasoning", "id": reasoning, "summary": [] }] }),
            json!({ "input": [{ "type": "image_generation_call", "id": message }] }),
            json!({ "input": [{ "type": "code_interpreter_call", "id": message }] }),
            json!({ "input": content(json!({ "type": "input_file", "file_id": file })) }),
            json!({ "input": content(json!({ "type": "input_image", "file_id": file })) }),
            json!({ "tools": [{ "type": "file_search", "vector_store_ids": [store] }] }),
            json!({ "tools": [{ "type": "code_interpreter", "container": cntr }] }),
            json!({ "prompt": { "id": "pmpt_1", "variables": { "d": { "type": "input_file", "file_id": file } } } }),
            json!({ "input": [{ "type": "code_interpreter_call", "id": "ci_1", "container_id": cntr, "code": "1" }],
                "tools": [{ "type": "code_interpreter", "container": { "type": "auto" } }] }),
            json!({ "input": [{ "type": "shell_call", "call_id": "c",
                "environment": { "type": "container_reference", "container_id": cntr } }] }),
        ];
        for named in named {
            two.kept.asked();
            for path in ["/v1/responses", "/v1/responses/input_tokens"] {
                let names_container = path.ends_with("tokens") && named["tools"][0]["container"].is_string();
                if names_container {
                    continue; // Nothing runs in it.
                }
                let foreign = two.post(&two.b, path, response(named.clone())).await;
                assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{path} {named}: {foreign:?}");
            }
            assert_eq!(two.kept.asked(), [""; 0], "upstream was asked");
            let own = two.respond(&two.a, named.clone()).await;
            assert_eq!(own.status, StatusCode::OK, "{named}: {own:?}");
        }
        let own = two.make(&two.b, "/v1/conversations", json!({})).await;
        let items = json!({ "items": content(json!({ "type": "input_file", "file_id": file })) });
        let path = format!("/v1/conversations/{own}/items");
        assert_eq!(two.post(&two.b, &path, items.clone()).await.status, StatusCode::NOT_FOUND);
        assert_eq!(two.post(&two.b, "/v1/conversations", items).await.status, StatusCode::NOT_FOUND);
        let ran =
            json!({ "items": [{ "type": "code_interpreter_call", "id": "ci_1", "container_id": cntr }] });
        assert_eq!(two.post(&two.b, "/v1/conversations", ran.clone()).await.status, StatusCode::NOT_FOUND);
        assert_eq!(two.post(&two.b, &path, ran).await.status, StatusCode::NOT_FOUND);
        let batch = two.post(&two.b, "/v1/batches", json!({ "input_file_id": file })).await;
        assert_eq!(batch.status, StatusCode::NOT_FOUND);
        for path in [format!("/v1/vector_stores/{store}"), format!("/v1/containers/{cntr}")] {
            assert_eq!(two.ask(&two.a, Method::DELETE, &path, None).await.status, StatusCode::OK);
        }
        two.house.settled().await;
    });
}

#[test]
fn items_of_a_stored_stream_can_be_named_again() {
    run(async {
        let two = Two::new().await;
        let streamed = two.respond(&two.a, json!({ "stream": true })).await;
        let text = String::from_utf8_lossy(&streamed.body).into_owned();
        let from = text.find("msg_resp_").unwrap();
        let item = &text[from..from + "msg_resp_00000000".len()];
        let input = json!({ "input": [{ "type": "item_reference", "id": item }] });
        assert_eq!(two.respond(&two.a, input.clone()).await.status, StatusCode::OK);
        assert_eq!(two.respond(&two.b, input).await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn openais_own_skills_are_there_for_every_project() {
    run(async {
        let two = Two::new().await;
        two.kept.make("skills", json!({ "id": "openai-spreadsheets" }));
        let own = two.make(&two.a, "/v1/skills", json!({})).await;
        let shell = |skill: &str| {
            let skills = json!([{ "type": "skill_reference", "skill_id": skill, "version": "latest" }]);
            json!({ "tools": [{ "type": "shell", "environment": { "type": "container_auto", "skills": skills } }] })
        };
        assert_eq!(two.respond(&two.b, shell("openai-spreadsheets")).await.status, StatusCode::OK);
        assert_eq!(two.respond(&two.b, shell(&own)).await.status, StatusCode::NOT_FOUND);
        assert_eq!(two.get(&two.b, "/v1/skills/openai-spreadsheets").await.status, StatusCode::OK);
        let listed = two.get(&two.b, "/v1/skills").await.json();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed["data"][0]["id"], "openai-spreadsheets");
    });
}

#[test]
fn what_is_known_of_an_object_is_what_its_answer_said() {
    use spendguard::domain::ObjectKind as Kind;
    use spendguard::domain::usage::ContainerMemory;
    run(async {
        let two = Two::new().await;
        let tool = json!({ "tools": [{ "type": "code_interpreter", "container": { "type": "auto", "memory_limit": "4g" } }] });
        let answer = two.respond(&two.a, tool).await.json();
        let known = |kind, id: &Value| two.house.guard.objects().lookup(kind, id.as_str().unwrap());
        let found = known(Kind::Response, &answer["id"]).unwrap();
        assert_eq!((&*found.project, found.context.tokens), ("a", Some(120)));
        let container = known(Kind::Container, &answer["output"][2]["container_id"]).unwrap();
        assert_eq!((&*container.project, container.container_memory), ("a", Some(ContainerMemory::G4)));
        assert_eq!(known(Kind::Item, &answer["output"][1]["id"]).unwrap().context.tokens, Some(20));
        let conv = json!(two.make(&two.a, "/v1/conversations", json!({ "items": [] })).await);
        assert_eq!(known(Kind::Conversation, &conv).unwrap().context.tokens, Some(12));
        let path = format!("/v1/conversations/{}/items", conv.as_str().unwrap());
        two.post(&two.a, &path, json!({ "items": [1] })).await;
        assert_eq!(known(Kind::Conversation, &conv).unwrap().context.tokens, Some(25));
        assert_eq!(two.respond(&two.a, json!({ "conversation": conv })).await.status, StatusCode::OK);
        assert_eq!(known(Kind::Conversation, &conv).unwrap().context.tokens, Some(120));
        let unstored = two.respond(&two.a, json!({ "store": false })).await.json();
        assert_eq!(known(Kind::Response, &unstored["id"]), None);
    });
}

#[test]
fn what_was_made_beside_the_guard_is_reached_only_where_objects_are_shared() {
    run(async {
        for (config, status) in
            [("", StatusCode::NOT_FOUND), ("[endpoints]\nshared_objects = true\n", StatusCode::OK)]
        {
            let two = Two::with(config).await;
            let resp = two.kept.make("responses", json!({}));
            let file = two.kept.make("files", json!({}));
            assert_eq!(two.get(&two.a, &format!("/v1/responses/{resp}")).await.status, status);
            assert_eq!(two.get(&two.a, &format!("/v1/files/{file}/content")).await.status, status);
            let next = json!({ "previous_response_id": resp });
            assert_eq!(two.respond(&two.a, next).await.status, status);
            let listed = two.get(&two.a, "/v1/files").await.json();
            assert_eq!(listed["data"].as_array().unwrap().is_empty(), status == StatusCode::NOT_FOUND);
        }
    });
}

#[test]
fn upstream_knows_whose_objects_a_clients_own_key_may_reach() {
    run(async {
        let kept = Arc::new(Kept::default());
        let base_url = format!("http://{}/v1", upstream::serve(&kept).await);
        let house = House::in_front_of(Some(&base_url), None, "").await;
        let file = kept.make("files", json!({}));
        let headers = [("authorization", "Bearer sk-proj-of-a-client-0123456789")];
        for path in [format!("/v1/files/{file}"), "/v1/files".to_owned()] {
            let answer = call(&house.proxy, Method::GET, &path, &headers, Bytes::new()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert!(String::from_utf8_lossy(&answer.body).contains(&file), "{path}");
        }
    });
}

#[test]
fn ids_of_ten_kilobytes_are_answered_in_openais_shape() {
    run(async {
        let two = Two::new().await;
        let long = "x".repeat(10_000);
        let read = two.get(&two.a, &format!("/v1/responses/{long}")).await;
        assert_eq!(read.status, StatusCode::NOT_FOUND, "{read:?}");
        assert!(read.body.len() < 1_000, "it is repeated");
        for body in [
            json!({ "previous_response_id": long }),
            json!({ "input": [{ "type": "item_reference", "id": long }] }),
        ] {
            let answer = two.respond(&two.a, body).await;
            assert!(
                answer.status.is_client_error() && answer.json()["error"]["message"].is_string(),
                "{answer:?}"
            );
        }
        assert_eq!(two.kept.asked(), [""; 0], "upstream was asked");
    });
}

#[test]
fn a_batchs_output_files_are_its_projects() {
    run(async {
        let two = Two::new().await;
        let output = two.kept.make("files", json!({}));
        let batch = two.make(&two.a, "/v1/batches", json!({ "output_file_id": output })).await;
        let content = format!("/v1/files/{output}/content");
        assert_eq!(two.get(&two.a, &content).await.status, StatusCode::NOT_FOUND, "it has not come back yet");
        assert_eq!(two.get(&two.a, &format!("/v1/batches/{batch}")).await.status, StatusCode::OK);
        assert_eq!(two.get(&two.a, &content).await.status, StatusCode::OK);
        assert_eq!(two.get(&two.b, &content).await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn patterns_open_paths_with_ids_but_no_metered_one() {
    run(async {
        let config = "[endpoints]\nallow = [\"POST /v1/evals/{}/runs\", \"POST /v1/{}/chat/completions\"]\n";
        let two = Two::with(config).await;
        let run = two.post(&two.a, "/v1/evals/eval_1/runs", json!({})).await;
        assert_eq!(run.status, StatusCode::NOT_FOUND, "an eval has an owner, too: {run:?}");
        for path in ["/v1/v1/chat/completions", "/v1/api/chat/completions"] {
            let answer = two.post(&two.a, path, json!({})).await;
            assert!(answer.status.is_client_error(), "{path}: {answer:?}");
        }
        assert_eq!(two.kept.asked(), [""; 0], "upstream was asked");
    });
}

#[test]
fn the_address_itself_says_what_this_is() {
    run(async {
        let two = Two::new().await;
        let answer = call(&two.house.proxy, Method::GET, "/", &[], Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.json()["message"].as_str().unwrap().starts_with("spendguard"), "{answer:?}");
        let head = two.ask(&two.a, Method::HEAD, "/v1/models", None).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    });
}

#[test]
fn a_flood_of_unknown_ids_is_paced_before_anything_is_looked_up() {
    run(async {
        let rate = "[[limit]]\nname = \"rpm\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 5\n\
                    [[limit]]\nname = \"tpm\"\nper = \"key\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 100000\n";
        let two = Two::with(rate).await;
        for number in 0..5 {
            let refused =
                two.respond(&two.a, json!({ "previous_response_id": format!("resp_{number}") })).await;
            assert_eq!(refused.status, StatusCode::NOT_FOUND, "{refused:?}");
            assert!(refused.json()["error"]["message"].as_str().unwrap().contains(&format!("resp_{number}")));
        }
        let refused = two.respond(&two.a, json!({ "previous_response_id": "resp_5" })).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
        );
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("\"rpm\""), "{refused:?}");
        // Neither the other key nor the tokens of this one have paid for it.
        let answer = two.respond(&two.b, json!({})).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), "4");
        assert!(!answer.header("x-ratelimit-remaining-tokens").is_empty(), "{answer:?}");
    });
}
