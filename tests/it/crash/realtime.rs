//! kill -9 while realtime sessions talk: responses that their clients ask for, and those that begin by themselves.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::upstream::Upstream;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Chance, all_booked, config, end, open_holds, opened};
use crate::harness::{call, client, run};
use crate::process::{Place, Process};

const ROUNDS: u64 = 6;
const SESSIONS: usize = 8;

/// Nano-dollars a token of gpt-realtime, of text and of sound: in, cached, out (OpenAI's page of the model).
const RATES: [(&str, [u64; 3]); 2] =
    [("gpt-realtime", [4_000, 400, 16_000]), ("gpt-realtime sound", [32_000, 400, 64_000])];

/// How a client has its responses begin.
#[derive(Clone, Copy, PartialEq)]
enum Turns {
    /// It asks for each.
    Asked,
    /// Upstream begins them when a speaker pauses.
    Detected,
}

type Socket = WebSocketStream<TcpStream>;

/// Begins a session; `None` if the guard is gone.
async fn begin(address: &str, key: &str, turns: Turns) -> Option<Socket> {
    let mut socket = opened(address, "/v1/realtime?model=gpt-realtime", key, 10).await?;
    let mut session = json!({ "type": "realtime", "max_output_tokens": 60 });
    if turns == Turns::Asked {
        session["audio"] = json!({ "input": { "turn_detection": null } });
    }
    let update = json!({ "type": "session.update", "session": session });
    socket.send(Message::text(update.to_string())).await.ok()?;
    Some(socket)
}

/// Says something that is to be answered.
async fn say(socket: &mut Socket, turns: Turns) -> Option<()> {
    let sound = |level: u8| json!({ "type": "input_audio_buffer.append", "audio": BASE64_STANDARD.encode(vec![level; 600 * 48]) });
    let content = json!([{ "type": "input_text", "text": "hello" }]);
    let item = json!({ "type": "message", "role": "user", "content": content });
    let messages = match turns {
        Turns::Asked => [
            json!({ "type": "conversation.item.create", "item": item }),
            json!({ "type": "response.create" }),
        ],
        Turns::Detected => [sound(1), sound(0)],
    };
    for message in messages {
        socket.send(Message::text(message.to_string())).await.ok()?;
    }
    Some(())
}

/// Talks until the guard is gone, in a new session where one was closed; some clients leave before. How many responses
/// have begun, and how many the guard has refused.
async fn talk(address: &str, key: &str, number: usize) -> (u64, u64) {
    let turns = if number.is_multiple_of(2) { Turns::Asked } else { Turns::Detected };
    let (mut begun, mut refused) = (0, 0);
    for session in 0.. {
        let Some(mut socket) = begin(address, key, turns).await else { break };
        let leaves_after = if (number + session).is_multiple_of(3) { 12 } else { 4_000 };
        if say(&mut socket, turns).await.is_none() {
            continue;
        }
        for _ in 0..leaves_after {
            let Some(Ok(Message::Text(text))) = socket.next().await else { break };
            let event: Value = serde_json::from_str(&text).unwrap();
            let kind = event["type"].as_str().unwrap_or_default();
            begun += u64::from(kind == "response.created");
            if kind == "error" {
                refused += u64::from(event["status"] == 429);
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            if matches!(kind, "response.done" | "error") && say(&mut socket, turns).await.is_none() {
                break;
            }
        }
    }
    (begun, refused)
}

/// What the fake has billed: responses that it began, and their cost in nano-dollars.
async fn billed(fake: &Upstream) -> (u64, i64) {
    let stats = call(fake, Method::GET, "/__stats", &[], bytes::Bytes::new()).await.json();
    let costs = RATES.map(|(model, [input, cached, output])| {
        let of = |field: &str| stats["models"][model][field].as_u64().unwrap_or(0);
        let (old, read) = (of("cached_tokens"), of("prompt_tokens"));
        (read - old) * input + old * cached + of("completion_tokens") * output
    });
    (stats["requests"].as_u64().unwrap(), i64::try_from(costs.iter().sum::<u64>()).unwrap())
}

#[test]
fn responses_of_realtime_sessions_are_booked_however_the_guard_dies() {
    run(async {
        let mut chance = Chance::of_the_day();
        let (fake, fake_address) = Process::fake();
        let upstream = client(&fake_address);
        // Less than half of what is held where all sessions talk at once.
        let mut hard = Money::from_nano(40_000_000);
        let place = Place::new(&fake_address, &config("process", hard));
        let mut guard = place.serve();
        let key = guard.make_key().await;
        let (mut asked, mut detected, mut refused, mut open_at_a_death) = (0, 0, 0, 0);
        for round in 0..ROUNDS {
            let address = guard.process.address("proxy listening on http://");
            let talking = join_all((0..SESSIONS).map(|number| talk(&address, &key, number)));
            let (counts, ()) = tokio::join!(talking, end(guard.process, &mut chance));
            asked += counts.iter().step_by(2).map(|(begun, _)| begun).sum::<u64>();
            detected += counts.iter().skip(1).step_by(2).map(|(begun, _)| begun).sum::<u64>();
            refused += counts.iter().map(|(_, refused)| refused).sum::<u64>();
            let open = open_holds(&place);
            open_at_a_death += open.len();
            let before = hard;
            let (begun, spent) = billed(&upstream).await;
            hard = hard + Money::from_nano(i64::try_from(chance.within(15, 60)).unwrap() * 1_000_000);
            place.configure(&config("process", hard));
            guard = place.serve();
            all_booked(&guard, (&place, &open), (begun, spent), before, round).await;
        }
        guard.stop();
        println!(
            "{asked} responses were asked for, {detected} began by themselves, {refused} were refused, \
             {open_at_a_death} were open at a death"
        );
        assert!(asked > 0 && detected > 0 && refused > 0 && open_at_a_death > 0);
        drop(fake);
    });
}
