//! Files and uploads: they pass as they come, cost nothing, and belong to the project that sent them.

mod streamed;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::batches::{CHAT, Client, LIMIT, SOL, chats, form, id, meter};
use crate::harness::{House, call, run};

const PROJECTS: &str = "[[project]]\nid = \"other\"\nname = \"Other\"\n";

/// The files that upstream has, oldest first, each with its digest.
async fn arrived(house: &House) -> Vec<Value> {
    let files = call(&house.fake_direct, Method::GET, "/__files", &[], Bytes::new()).await.json();
    files.as_array().unwrap().clone()
}

/// SHA-256 of a content, as the fake computes it of what it is sent without a guard.
async fn digest(house: &House, content: &[u8]) -> Value {
    let headers = [("content-type", "multipart/form-data; boundary=b7")];
    let form = form(&[("purpose", b"user_data"), ("@file", content)]);
    let file = id(&call(&house.fake_direct, Method::POST, "/v1/files", &headers, form).await);
    let digest = arrived(house).await.pop().unwrap()["sha256"].clone();
    let path = format!("/v1/files/{file}");
    call(&house.fake_direct, Method::DELETE, &path, &[], Bytes::new()).await;
    digest
}

/// Bytes that look like line ends, like boundaries, and like nothing.
fn content(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let mut content: Vec<u8> = random.take(length).collect();
    for (at, text) in b"\r\n\r\n--\r\n-b7\r\n--b\r\n--".iter().enumerate() {
        content[at] = *text;
        content[length / 2 + at] = *text;
    }
    content
}

#[test]
fn a_file_passes_byte_for_byte_in_either_order_of_parts_though_it_is_larger_than_a_request_may_be() {
    run(async {
        let house = House::with(&format!("[server]\nrequest_body_max = \"64KiB\"\n{LIMIT}")).await;
        let client = Client::of(&house);
        let content = content(3 << 20);
        let expected = digest(&house, &content).await;
        let lines = chats(3_000, SOL).concat();
        assert!(lines.len() > 300_000);
        let lines_expected = digest(&house, lines.as_bytes()).await;
        let expiry: [(&str, &[u8]); 2] =
            [("expires_after[anchor]", b"created_at"), ("expires_after[seconds]", b"7200")];
        for (purpose, content, expected) in
            [("user_data", &*content, &expected), ("batch", lines.as_bytes(), &lines_expected)]
        {
            let (purpose_part, file_part) = (("purpose", purpose.as_bytes()), ("@file", content));
            for parts in [
                vec![purpose_part, file_part],
                vec![file_part, purpose_part],
                vec![expiry[0], file_part, expiry[1], purpose_part],
            ] {
                let answer = client.post_form("/v1/files", form(&parts)).await;
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                let file = arrived(&house).await.pop().unwrap();
                assert_eq!((&file["sha256"], &file["purpose"]), (expected, &json!(purpose)));
                let made = answer.json();
                assert_eq!((&made["id"], &made["filename"]), (&file["id"], &json!("in.jsonl")));
                let lasting =
                    made["expires_at"].as_i64().map(|end| end - made["created_at"].as_i64().unwrap());
                assert_eq!(lasting == Some(7_200), parts.len() == 4, "{made}");
                let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
                assert_eq!(client.get(&path).await.body, content, "and back");
            }
        }
    });
}

#[test]
fn files_and_uploads_are_free_and_count_as_requests() {
    run(async {
        let requests = "[[limit]]\nname = \"requests\"\nunit = \"requests\"\nwindow = \"day\"\nhard = 8\n";
        let house = House::with(&format!("{LIMIT}{requests}")).await;
        let client = Client::of(&house);
        let note: [(&str, &[u8]); 2] = [("purpose", b"user_data"), ("@file", b"a note")];
        let file = id(&client.post_form("/v1/files", form(&note)).await);
        let upload =
            json!({ "filename": "a.txt", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain" });
        let upload = id(&client.post("/v1/uploads", &[], &upload).await);
        let part = client.post_form(&format!("/v1/uploads/{upload}/parts"), form(&[("@data", b"abc")])).await;
        let complete = json!({ "part_ids": [id(&part)], "md5": "900150983cd24fb0d6963f7d28e17f72" });
        let complete = client.post(&format!("/v1/uploads/{upload}/complete"), &[], &complete).await;
        assert_eq!(complete.json()["status"], "completed", "{complete:?}");
        let batch = client.upload(&chats(2, SOL).concat()).await;
        for path in [format!("/v1/files/{file}"), "/v1/files".to_owned()] {
            assert_eq!(client.get(&path).await.status, StatusCode::OK);
        }
        assert_eq!(client.delete(&format!("/v1/files/{file}")).await.json()["deleted"], true);
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO));
        assert_eq!(house.meter("requests").await["settled"], "8");
        let files = arrived(&house).await.len();
        for answer in [
            client.post_form("/v1/files", form(&note)).await,
            client.get("/v1/files").await,
            client.create(&batch, CHAT, &[]).await,
        ] {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
        }
        assert_eq!(arrived(&house).await.len(), files, "nothing was sent");
    });
}

#[test]
fn a_form_that_two_readers_may_take_apart_differently_is_refused_and_leaves_no_file() {
    let file: (&str, &[u8]) = ("@file", b"a note");
    let purpose = |text: &'static str| ("purpose", text.as_bytes());
    let forms = [
        form(&[file]),
        form(&[purpose("user_data")]),
        form(&[purpose("user_data"), file, purpose("batch")]),
        form(&[purpose("batch"), purpose("user_data"), file]),
        form(&[purpose("user_data"), file, file]),
        form(&[
            purpose("user_data"),
            ("@file", b"{}\n--b7\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch"),
        ]),
        form(&[purpose("user_data"), file]).slice(..100),
        Bytes::from([&form(&[purpose("user_data"), file])[..], b"--b7\r\n"].concat()),
        Bytes::from_static(b"{\"purpose\": \"batch\"}"),
        Bytes::new(),
    ];
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        for form in forms {
            let shown = String::from_utf8_lossy(&form).into_owned();
            let refused = client.post_form("/v1/files", form).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{shown}: {refused:?}");
            assert_eq!(refused.json()["error"]["type"], "invalid_request_error", "{shown}: {refused:?}");
        }
        let json = client.post("/v1/files", &[], &json!({ "purpose": "batch" })).await;
        assert_eq!(json.status, StatusCode::BAD_REQUEST, "{json:?}");
        assert_eq!(arrived(&house).await.len(), 0);
    });
}

#[test]
fn files_and_uploads_of_another_project_are_not_there() {
    run(async {
        let house = House::with(PROJECTS).await;
        let client = Client::of(&house);
        let made = house.make_key(json!({ "name": "stranger", "project_id": "other" })).await;
        let stranger = Client::with_key(&house.proxy, made["value"].as_str().unwrap());
        let file = client.upload(&chats(1, SOL).concat()).await;
        let upload =
            json!({ "filename": "a.txt", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain" });
        let upload = id(&client.post("/v1/uploads", &[], &upload).await);
        let parts = format!("/v1/uploads/{upload}/parts");
        let part = id(&client.post_form(&parts, form(&[("@data", b"abc")])).await);
        let complete = json!({ "part_ids": [part] });
        for answer in [
            stranger.get(&format!("/v1/files/{file}")).await,
            stranger.get(&format!("/v1/files/{file}/content")).await,
            stranger.delete(&format!("/v1/files/{file}")).await,
            stranger.post_form(&parts, form(&[("@data", b"abc")])).await,
            stranger.post(&format!("/v1/uploads/{upload}/complete"), &[], &complete).await,
            stranger.post(&format!("/v1/uploads/{upload}/cancel"), &[], &json!({})).await,
        ] {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
        }
        assert_eq!(stranger.get("/v1/files").await.json()["data"], json!([]));
        let done = client.post(&format!("/v1/uploads/{upload}/complete"), &[], &complete).await.json();
        let own = client.get("/v1/files").await.json();
        let ids: Vec<&Value> = own["data"].as_array().unwrap().iter().map(|file| &file["id"]).collect();
        assert_eq!(ids, [&done["file"]["id"], &json!(file)]);
        let path = format!("/v1/files/{}", done["file"]["id"].as_str().unwrap());
        assert_eq!(stranger.get(&path).await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn an_upload_that_is_cancelled_makes_no_file() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let upload =
            json!({ "filename": "a.txt", "purpose": "user_data", "bytes": 3, "mime_type": "text/plain" });
        let upload = id(&client.post("/v1/uploads", &[], &upload).await);
        let parts = format!("/v1/uploads/{upload}/parts");
        let part = id(&client.post_form(&parts, form(&[("@data", b"abc")])).await);
        let cancelled = client.post(&format!("/v1/uploads/{upload}/cancel"), &[], &json!({})).await;
        assert_eq!(cancelled.json()["status"], "cancelled", "{cancelled:?}");
        let complete = json!({ "part_ids": [part] });
        let complete = client.post(&format!("/v1/uploads/{upload}/complete"), &[], &complete).await;
        assert_eq!(complete.status, StatusCode::BAD_REQUEST, "{complete:?}");
        assert_eq!(arrived(&house).await.len(), 0);
    });
}
