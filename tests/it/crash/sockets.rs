//! kill -9 while responses run on `WebSocket`s.

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use spendguard::domain::Money;
use tokio_tungstenite::tungstenite::Message;

use super::{Chance, all_booked, config, end, is_in_force, open_holds, opened};
use crate::harness::{client, run};
use crate::process::{Place, Process, served};

const ROUNDS: u64 = 6;
const SOCKETS: usize = 8;
const LANES: [&str; 3] = ["a", "b", "c"];

/// Asks for responses in all lanes of a socket until the guard is gone; some clients leave before.
async fn ask(address: &str, key: &str, number: usize) {
    for turn in 0.. {
        let Some(mut socket) = opened(address, "/v1/responses", key, 2).await else { return };
        let create = |lane: &str| {
            let body = json!({
                "type": "response.create", "model": "gpt-4o-mini", "input": "hello", "max_output_tokens": 20,
                "stream_id": lane,
            });
            Message::text(body.to_string())
        };
        for lane in LANES {
            if socket.send(create(lane)).await.is_err() {
                return;
            }
        }
        let leaves_after = if (number + turn).is_multiple_of(3) { 40 } else { 4_000 };
        for _ in 0..leaves_after {
            let Some(Ok(Message::Text(text))) = socket.next().await else { return };
            let event: Value = serde_json::from_str(&text).unwrap();
            if !matches!(event["type"].as_str(), Some("response.completed" | "error")) {
                continue;
            }
            if event["type"] == "error" {
                tokio::time::sleep(std::time::Duration::from_millis(4)).await;
            }
            if socket.send(create(event["stream_id"].as_str().unwrap_or("a"))).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn responses_on_sockets_are_booked_however_the_guard_dies() {
    run(async {
        let mut chance = Chance::of_the_day();
        let (fake, fake_address) = Process::fake();
        let upstream = client(&fake_address);
        let mut hard = Money::from_nano(1_000_000);
        let place = Place::new(&fake_address, &config("process", hard));
        let mut guard = place.serve();
        let key = guard.make_key().await;
        let mut open_at_a_death = 0;
        for round in 0..ROUNDS {
            let address = guard.process.address("proxy listening on http://");
            let asking = join_all((0..SOCKETS).map(|number| ask(&address, &key, number)));
            tokio::join!(asking, end(guard.process, &mut chance));
            let open = open_holds(&place);
            open_at_a_death += open.len();
            let before = hard;
            let (forwarded, spent) = served(&upstream).await;
            hard = hard + Money::from_nano(i64::try_from(chance.within(100, 900)).unwrap() * 1_000);
            place.configure(&config("process", hard));
            guard = place.serve();
            let settled = all_booked(&guard, (&place, &open), (forwarded, spent), before, round).await;
            is_in_force(&guard, &key, hard - settled).await;
        }
        guard.stop();
        println!("{open_at_a_death} responses were open at a death");
        assert!(open_at_a_death > 0);
        drop(fake);
    });
}
