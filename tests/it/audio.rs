//! Speech, transcriptions and translations: what they hold, and what they cost by each way of knowing it.
//!
//! Prices are OpenAI's: 0.006 dollars a minute of whisper-1, 0.0045 of gpt-transcribe; 15 dollars a million
//! characters of tts-1; of gpt-4o-transcribe 2.5 a million tokens that are read and 10 that are written; of
//! gpt-4o-mini-tts 0.6 and 12, of which a minute of sound has 1,250.

mod billed;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::harness::{Answer, House, UPSTREAM_KEY, call, client, run};
use crate::scripted::{Reply, guard_before, request};

const LIMIT: &str = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n";
const SPEECH: &str = "/v1/audio/speech";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TRANSLATIONS: &str = "/v1/audio/translations";

/// Recordings of 2.9 seconds and a little more.
const RECORDINGS: [&str; 6] =
    ["spoken.wav", "spoken.mp3", "spoken.flac", "opus.ogg", "spoken.m4a", "spoken.webm"];

fn recording(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/audio/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A form of texts, and of files whose names begin with `@`.
fn form(parts: &[(&str, &[u8])]) -> Bytes {
    let mut body = Vec::new();
    for (name, data) in parts {
        let file = name.strip_prefix('@');
        let name = file.unwrap_or(name);
        let file = if file.is_some() { "; filename=\"x.wav\"\r\nContent-Type: audio/wav" } else { "" };
        let head = format!("--b7\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b7--\r\n");
    Bytes::from(body)
}

async fn send(house: &House, path: &str, more: &[(&str, &str)], body: Bytes) -> Answer {
    let bearer = format!("Bearer {}", house.key);
    let mut headers =
        vec![("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=b7")];
    headers.extend_from_slice(more);
    call(&house.proxy, Method::POST, path, &headers, body).await
}

/// Sends a recording of 2.9 seconds to be written down.
async fn write_down(house: &House, more: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
    let wav = recording("spoken.wav");
    let mut parts: Vec<(&str, &[u8])> = fields.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    parts.push(("@file", &wav));
    send(house, TRANSCRIPTIONS, more, form(&parts)).await
}

async fn last(house: &House) -> Value {
    house.settled().await;
    house.entries().await[0].clone()
}

fn usd(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

fn spoken(model: &str, more: Value) -> Value {
    let mut body =
        json!({ "model": model, "voice": "alloy", "input": "To be, or not to be, that is the question." });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

#[test]
fn a_recording_of_any_format_is_billed_by_the_seconds_that_upstream_reports() {
    run(async {
        let house = House::with(LIMIT).await;
        for name in RECORDINGS {
            let file = recording(name);
            let body = form(&[("model", b"whisper-1"), ("@file", &file)]);
            // OpenAI's own measure, one second less than the guard's.
            let answer = send(&house, TRANSCRIPTIONS, &[("x-fake-seconds", "2")], body.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{name} {answer:?}");
            assert_eq!(answer.header("x-spendguard-cost-usd"), "0.0002", "{name}");
            let entry = last(&house).await;
            let of = (&entry["basis"], &entry["usage"]["audio_seconds"], &entry["endpoint"]);
            assert_eq!(of, (&json!("reported"), &json!(2), &json!(TRANSCRIPTIONS)), "{name} {entry}");
            // Three seconds are held, and what the encoders of MP3 and AAC add at the beginning.
            let held = if matches!(name, "spoken.mp3" | "spoken.m4a") { "0.0004" } else { "0.0003" };
            assert_eq!(entry["held_usd"], held, "{name}");
            let seen = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
            assert_eq!(seen["headers"]["content-length"], body.len().to_string(), "{name}");
        }
    });
}

#[test]
fn a_transcript_costs_its_tokens_in_every_form_that_has_usage() {
    run(async {
        let house = House::with(LIMIT).await;
        for fields in [
            &[("response_format", "json")][..],
            &[("response_format", "diarized_json"), ("chunking_strategy", "auto")],
            &[("stream", "true")],
        ] {
            let prompt = [("model", "gpt-4o-transcribe"), ("prompt", "Hamlet, the prince.")];
            let answer = write_down(&house, &[], &[&prompt[..], fields].concat()).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let entry = last(&house).await;
            // 5 tokens of text, 30 of sound, 12 written.
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("reported"), &json!("0.0002075")),
                "{entry}"
            );
            let of = (&entry["usage"]["audio_input_tokens"], &entry["usage"]["audio_seconds"]);
            assert_eq!(of, (&json!(30), &json!(3)), "{entry}");
            // 2,000 tokens of output are the model's maximum, and at most 200 bytes of text are read.
            let held = usd(&entry["held_usd"]);
            assert!((0.020_087..0.0207).contains(&held), "{held}");
        }
        assert_eq!(house.meter("m").await["held"], "0");
    });
}

#[test]
fn a_stream_of_a_transcript_passes_byte_for_byte() {
    run(async {
        let house = House::with(LIMIT).await;
        let wav = recording("spoken.wav");
        let body = form(&[("model", b"gpt-4o-mini-transcribe"), ("stream", b"true"), ("@file", &wav)]);
        let kind = [("content-type", "multipart/form-data; boundary=b7")];
        let direct = call(&house.fake_direct, Method::POST, TRANSCRIPTIONS, &kind, body.clone()).await;
        let through = send(&house, TRANSCRIPTIONS, &[], body).await;
        assert!(!direct.body.is_empty());
        assert_eq!(through.body, direct.body);
    });
}

#[test]
fn without_usage_a_transcript_costs_its_length_and_its_text() {
    run(async {
        let house = House::with(LIMIT).await;
        for format in ["text", "srt", "vtt", "json"] {
            let none = [("x-fake-no-usage", "1")];
            let by_minute =
                write_down(&house, &none, &[("model", "whisper-1"), ("response_format", format)]).await;
            assert_eq!(by_minute.status, StatusCode::OK, "{by_minute:?}");
            let entry = last(&house).await;
            let of = (&entry["basis"], &entry["cost_usd"], &entry["usage"]["audio_seconds"]);
            assert_eq!(of, (&json!("counted"), &json!("0.0003"), &json!(3)), "{format} {entry}");
            let by_token =
                write_down(&house, &none, &[("model", "gpt-4o-transcribe"), ("response_format", format)])
                    .await;
            assert_eq!(by_token.status, StatusCode::OK, "{by_token:?}");
            let entry = last(&house).await;
            assert_eq!(
                (&entry["basis"], &entry["usage"]["audio_input_tokens"]),
                (&json!("counted"), &json!(29))
            );
            // The text has 13 tokens by the published vocabulary; times of subtitles are more.
            let written = entry["usage"]["output_tokens"].as_u64().unwrap();
            assert!((13..60).contains(&written), "{format} {entry}");
            assert!(usd(&entry["cost_usd"]) < usd(&entry["held_usd"]), "{format} {entry}");
        }
    });
}

#[test]
fn a_recording_that_could_not_be_measured_costs_its_hold_without_usage() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut file = recording("spoken.m4a");
        let at = file.windows(4).position(|part| part == b"mp4a").unwrap();
        file[at..at + 4].copy_from_slice(b"samr");
        for (model, basis) in [("whisper-1", "counted"), ("gpt-4o-transcribe", "assumed")] {
            let body = form(&[("model", model.as_bytes()), ("response_format", b"text"), ("@file", &file)]);
            let answer = send(&house, TRANSCRIPTIONS, &[], body).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let entry = last(&house).await;
            let of = (&entry["basis"], &entry["cost_usd"]);
            assert_eq!(of, (&json!(basis), &entry["held_usd"]), "{entry}");
            // 9,764 bytes of AMR at 4,750 bits a second.
            assert_eq!(entry["usage"]["audio_seconds"], 17, "{entry}");
        }
    });
}

#[test]
fn a_text_that_looks_like_figures_is_a_text() {
    run(async {
        for text in [json!({ "error": "x" }), json!({ "duration": 1 }), json!({ "usage": { "seconds": 1 } })]
        {
            let spoken = text.clone();
            let (house, _) = guard_before(LIMIT, move |_, _| Reply::Json(spoken.clone())).await;
            write_down(&house, &[], &[("model", "whisper-1"), ("response_format", "text")]).await;
            let entry = last(&house).await;
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("counted"), &json!("0.0003")),
                "{text}"
            );
        }
    });
}

#[test]
fn a_translation_costs_its_duration() {
    run(async {
        let house = House::with(LIMIT).await;
        let file = recording("opus.ogg");
        for (format, seconds, basis, cost) in
            [("verbose_json", "2", "reported", "0.0002"), ("json", "2", "counted", "0.0003")]
        {
            let body =
                form(&[("model", b"whisper-1"), ("response_format", format.as_bytes()), ("@file", &file)]);
            let answer = send(&house, TRANSLATIONS, &[("x-fake-seconds", seconds)], body).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let entry = last(&house).await;
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!(basis), &json!(cost)),
                "{format} {entry}"
            );
        }
    });
}

#[test]
fn seconds_say_nothing_of_a_model_that_is_billed_by_tokens() {
    run(async {
        let answer = json!({ "text": "To be", "usage": { "type": "duration", "seconds": 1 } });
        let (house, _) = guard_before(LIMIT, move |_, _| Reply::Json(answer.clone())).await;
        write_down(&house, &[], &[("model", "gpt-4o-transcribe")]).await;
        let entry = last(&house).await;
        assert_eq!(entry["basis"], "counted", "{entry}");
        assert!(usd(&entry["cost_usd"]) > 0.00007, "{entry}");
    });
}

#[test]
fn a_form_without_one_clear_recording_never_goes_upstream() {
    run(async {
        let house = House::with(LIMIT).await;
        let wav = recording("spoken.wav");
        let (model, file) = (("model", &b"whisper-1"[..]), ("@file", &wav[..]));
        let nested =
            b"--c\r\nContent-Disposition: form-data; name=\"file\"; filename=\"y\"\r\n\r\nx\r\n--c--";
        for parts in [
            &[model][..],
            &[file],
            &[model, file, file],
            &[model, ("@recording", &wav)],
            &[model, ("file", &wav[..4])],
            &[model, file, ("file", b"other")],
            &[model, file, ("stream", b"yes")],
            &[model, ("model", b"gpt-4o-transcribe"), file],
            &[model, file, ("prompt", b"a\r\n--b7\nContent-Disposition: form-data; name=\"model\"\n\nx")],
        ] {
            let answer = send(&house, TRANSCRIPTIONS, &[], form(parts)).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        }
        let head = "--b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\
                    Content-Type: multipart/mixed; boundary=c\r\n\r\n";
        let body = [head.as_bytes(), nested, b"\r\n--b7--"].concat();
        let answer = send(&house, TRANSCRIPTIONS, &[], Bytes::from(body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let as_json = house.post(TRANSCRIPTIONS, &[], &json!({ "model": "whisper-1", "file": "x" })).await;
        assert_eq!(as_json.status, StatusCode::BAD_REQUEST, "{as_json:?}");
        assert!(as_json.json()["error"]["message"].as_str().unwrap().contains("multipart/form-data"));
        for name in ["spoken.aac", "spoken.mpeg"] {
            let file = recording(name);
            let answer = send(&house, TRANSCRIPTIONS, &[], form(&[model, ("@file", &file)])).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name} {answer:?}");
        }
        assert_eq!(house.fake.served().len(), 0, "nothing has gone upstream");
        assert_eq!(house.meter("m").await["settled"], "0");
    });
}

#[test]
fn a_recording_whose_length_is_beyond_the_limit_is_refused() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 0.01\n").await;
        // A minute and 41 seconds are left; a byte a second is hours.
        let mut wav = recording("spoken.wav");
        wav[28..32].copy_from_slice(&1_u32.to_le_bytes());
        let answer =
            send(&house, TRANSCRIPTIONS, &[], form(&[("model", b"whisper-1"), ("@file", &wav)])).await;
        assert_eq!(answer.code(), "request_cost_exceeds_limit", "{answer:?}");
        let honest = write_down(&house, &[], &[("model", "whisper-1")]).await;
        assert_eq!(honest.status, StatusCode::OK, "{honest:?}");
    });
}

#[test]
fn characters_are_charged_whatever_becomes_of_the_sound() {
    run(async {
        let house = House::with(LIMIT).await;
        let answer = house.post(SPEECH, &[], &spoken("tts-1", json!({}))).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "audio/mpeg"));
        let entry = last(&house).await;
        let of = (&entry["basis"], &entry["cost_usd"], &entry["usage"]["characters"]);
        // 42 characters.
        assert_eq!(of, (&json!("counted"), &json!("0.00063"), &json!(42)), "{entry}");
        assert_eq!(
            (&entry["held_usd"], &entry["usage"]["input_tokens"]),
            (&json!("0.00063"), &json!(0)),
            "{entry}"
        );
        let wide = house.post(SPEECH, &[], &spoken("tts-1-hd", json!({ "input": "ありがとう🙂" }))).await;
        assert_eq!(wide.status, StatusCode::OK);
        assert_eq!(last(&house).await["cost_usd"], "0.00018", "6 characters");
    });
}

#[test]
fn raw_speech_passes_byte_for_byte_and_costs_its_length() {
    run(async {
        let house = House::with(LIMIT).await;
        for (format, tokens) in [("mp3", 53), ("wav", 53), ("pcm", 53)] {
            let body = spoken("gpt-4o-mini-tts", json!({ "response_format": format }));
            let direct =
                call(&house.fake_direct, Method::POST, SPEECH, &[], Bytes::from(body.to_string())).await;
            let through = house.post(SPEECH, &[], &body).await;
            assert_eq!(through.status, StatusCode::OK);
            assert!(through.body == direct.body && through.body.len() > 10_000, "{format}");
            assert_eq!(through.header("content-length"), direct.body.len().to_string());
            let entry = last(&house).await;
            let of = (&entry["basis"], &entry["usage"]["audio_output_tokens"], &entry["usage"]["characters"]);
            // 2.52 seconds, at 1,250 tokens a minute.
            assert_eq!(of, (&json!("counted"), &json!(tokens), &json!(42)), "{format} {entry}");
            assert!(usd(&entry["cost_usd"]) < usd(&entry["held_usd"]), "{entry}");
        }
    });
}

#[test]
fn speech_as_events_costs_what_its_usage_says() {
    run(async {
        let house = House::with(LIMIT).await;
        let body = spoken("gpt-4o-mini-tts", json!({ "stream_format": "sse", "response_format": "pcm" }));
        let direct = call(&house.fake_direct, Method::POST, SPEECH, &[], Bytes::from(body.to_string())).await;
        let through = house.post(SPEECH, &[], &body).await;
        assert!(through.body == direct.body && through.body.len() > 100_000);
        let entry = last(&house).await;
        // 11 tokens of text at 0.6 and 53 of sound at 12 dollars a million.
        assert_eq!(
            (&entry["basis"], &entry["cost_usd"]),
            (&json!("reported"), &json!("0.0006426")),
            "{entry}"
        );
        house.post(SPEECH, &[("x-fake-no-usage", "1")], &body).await;
        let entry = last(&house).await;
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
    });
}

#[test]
fn raw_speech_that_outgrows_its_hold_is_cut_there() {
    run(async {
        let house = House::with(LIMIT).await;
        // 42 characters hold 31 seconds; the sound has ten minutes.
        let body = spoken("gpt-4o-mini-tts", json!({ "response_format": "pcm" })).to_string();
        let bearer = format!("Bearer {}", house.key);
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", bearer.parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("x-fake-speech-ms", "600000".parse().unwrap());
        let answer = house.proxy.send(Method::POST, SPEECH, headers, Bytes::from(body)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut body = answer.into_body();
        let mut bytes = 0;
        let error = loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes += frame.into_data().map_or(0, |part| part.len()),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        assert!(error.is_some(), "it can't be taken for a whole speech");
        assert!(bytes <= 32 * 48_000, "{bytes}");
        let entry = last(&house).await;
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]), "{entry}");
        assert_eq!(house.meter("m").await["held"], "0");
    });
}

#[test]
fn sound_passes_without_delay_and_a_client_that_leaves_is_charged_for_all_of_it() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let upstream = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream, &mut Vec::new()).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: audio/pcm\r\ncontent-length: 96000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![1; 48_000]).await.unwrap();
            released.await.unwrap();
            stream.write_all(&vec![2; 48_000]).await.unwrap();
            stream.flush().await.unwrap();
        });
        let house = House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), LIMIT).await;
        let bearer = format!("Bearer {}", house.key);
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", bearer.parse().unwrap());
        let body = spoken("gpt-4o-mini-tts", json!({ "response_format": "pcm" })).to_string();
        // With a connection of its own, which is closed in the middle.
        let leaving = client(house.proxy_address);
        let answer = leaving.send(Method::POST, SPEECH, headers, Bytes::from(body)).await.unwrap();
        let mut body = answer.into_body();
        let mut bytes = 0;
        while bytes < 48_000 {
            bytes += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        assert_eq!(bytes, 48_000, "the first second has come before the second one was made");
        drop((body, leaving));
        release.send(()).unwrap();
        upstream.await.unwrap();
        let entry = last(&house).await;
        // Two seconds, 42 tokens of sound.
        let of = (&entry["basis"], &entry["usage"]["audio_output_tokens"], &entry["disconnected"]);
        assert_eq!(of, (&json!("counted"), &json!(42), &json!(true)), "{entry}");
    });
}

#[test]
fn sound_that_breaks_off_or_can_not_be_read_costs_its_hold() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            let answers: [&[u8]; 2] = [
                b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 900\r\n\r\n\xff\xf3\x84\xc4 and no more",
                b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 60\r\n\r\n\
                  this is no sound, and it is longer than the head of any, .. ",
            ];
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                request(&mut stream, &mut Vec::new()).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        let house = House::in_front_of(Some(&base_url), Some(UPSTREAM_KEY), LIMIT).await;
        for _ in 0..2 {
            let bearer = format!("Bearer {}", house.key);
            let mut headers = http::HeaderMap::new();
            headers.insert("authorization", bearer.parse().unwrap());
            let body = Bytes::from(spoken("gpt-4o-mini-tts", json!({})).to_string());
            if let Ok(answer) = house.proxy.send(Method::POST, SPEECH, headers, body).await {
                let _ = answer.into_body().collect().await;
            }
            let entry = last(&house).await;
            assert_eq!(
                (&entry["basis"], &entry["cost_usd"]),
                (&json!("assumed"), &entry["held_usd"]),
                "{entry}"
            );
            assert_eq!(entry["usage"]["characters"], 42, "{entry}");
        }
    });
}

#[test]
fn usage_of_audio_has_its_seconds_and_its_characters() {
    run(async {
        let house = House::with(LIMIT).await;
        house.post(SPEECH, &[], &spoken("gpt-4o-mini-tts", json!({}))).await;
        house.settled().await;
        write_down(&house, &[], &[("model", "gpt-4o-transcribe")]).await;
        house.settled().await;
        for (kind, field, amount) in
            [("audio_speeches", "characters", 42), ("audio_transcriptions", "seconds", 3)]
        {
            let since = house.guard.clock().now_s() - 86_400;
            let path = format!("/v1/organization/usage/{kind}?start_time={since}");
            let page = house.admin(Method::GET, &path, None).await.json();
            let results = page["data"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|bucket| bucket["results"].as_array().unwrap());
            let all: Vec<&Value> = results.collect();
            assert_eq!(all.len(), 1, "{page}");
            assert_eq!(
                (&all[0][field], &all[0]["num_model_requests"]),
                (&json!(amount), &json!(1)),
                "{page}"
            );
        }
    });
}
