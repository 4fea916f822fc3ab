//! Sessions that translate: billed by the sound that they are sent, by the minute.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{connected_at, until, usd};
use crate::accrual::{LIMIT, held};
use crate::harness::{House, run};
use crate::sockets::{Socket, next, say, settled};

/// Nano-dollars a second: 0.034 dollars a minute, in whole picodollars a second rounded up; and of the
/// transcription beside it, 0.017.
const SECOND: i64 = 566_667;
const WRITTEN_SECOND: i64 = 283_334;

async fn opened(house: &House) -> Socket {
    let path = "/v1/realtime/translations?model=gpt-realtime-translate";
    let mut socket = connected_at(house, path, &house.key, &[]).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "session.created");
    socket
}

fn sound(seconds: usize) -> Value {
    let audio = BASE64_STANDARD.encode(vec![1; seconds * 48_000]);
    json!({ "type": "session.input_audio_buffer.append", "audio": audio })
}

async fn booked(house: &House) -> Vec<(String, i64, String)> {
    house.settled().await;
    let entries = settled(house).await;
    let of = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        (text("endpoint"), usd(&entry["cost_usd"]), text("basis"))
    };
    let mut booked: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "settle").map(of).collect();
    booked.sort();
    booked
}

#[test]
fn what_is_translated_is_held_by_the_minute_and_booked_by_its_length() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house).await;
        assert_eq!(held(&house).await, "0");
        for _ in 0..5 {
            say(&mut socket, &sound(15)).await;
            until(&mut socket, "session.output_audio.delta").await;
            assert_ne!(held(&house).await, "0");
        }
        say(&mut socket, &json!({ "type": "session.close" })).await;
        until(&mut socket, "session.closed").await;
        let path = "/v1/realtime/translations".to_owned();
        let expected = [15 * SECOND, 60 * SECOND];
        let expected = expected.map(|nano| (path.clone(), nano, "counted".to_owned()));
        let booked = booked(&house).await;
        let within = |(a, b): (&(String, i64, String), &(String, i64, String))| {
            // The price of a minute is cut into whole picodollars a second.
            a.0 == b.0 && a.2 == b.2 && (a.1 - b.1).abs() <= 60
        };
        assert!(booked.len() == 2 && booked.iter().zip(&expected).all(within), "{booked:?} {expected:?}");
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn what_is_written_down_beside_it_is_booked_at_its_own_price() {
    run(async {
        let house = House::with(LIMIT).await;
        let mut socket = opened(&house).await;
        say(&mut socket, &sound(10)).await;
        until(&mut socket, "session.output_audio.delta").await;
        let input = json!({ "input": { "transcription": { "model": "gpt-realtime-whisper" } } });
        say(&mut socket, &json!({ "type": "session.update", "session": { "audio": input } })).await;
        until(&mut socket, "session.updated").await;
        say(&mut socket, &sound(20)).await;
        until(&mut socket, "session.output_audio.delta").await;
        drop(socket);
        let booked = booked(&house).await;
        let costs: Vec<i64> = booked.iter().map(|(_, nano, _)| *nano).collect();
        let [written, translated] = costs[..] else { panic!("{booked:?}") };
        assert!((written - 20 * WRITTEN_SECOND).abs() <= 60, "{booked:?}");
        assert!((translated - 30 * SECOND).abs() <= 60, "{booked:?}");
    });
}

#[test]
fn a_session_without_room_for_more_sound_is_ended_and_none_of_it_is_passed_on() {
    run(async {
        let house = House::with(&LIMIT.replace("hard = 1", "hard = 0.05")).await;
        let mut socket = opened(&house).await;
        say(&mut socket, &sound(60)).await;
        until(&mut socket, "session.output_audio.delta").await;
        say(&mut socket, &sound(1)).await;
        let error = next(&mut socket).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(429)), "{error}");
        let closed = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
        let Message::Close(Some(frame)) = closed else { panic!("{closed:?}") };
        assert_eq!(u16::from(frame.code), 1008);
        assert_eq!(booked(&house).await.len(), 1);
        for message in [json!({ "type": "response.create" }), json!([]), json!({ "type": 5 })] {
            let mut socket = opened(&house).await;
            say(&mut socket, &message).await;
            assert_eq!(next(&mut socket).await["error"]["type"], "invalid_request_error", "{message}");
        }
        let refused = connected_at(&house, "/v1/realtime/translations", &house.key, &[]).await;
        let Err(Error::Http(answer)) = refused else { panic!("it is open") };
        assert_eq!(answer.status(), 400);
    });
}
