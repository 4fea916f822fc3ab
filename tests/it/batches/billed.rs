//! Batches of lines from the whole space of requests, each held and billed as the oracle says.

use http::StatusCode;
use oracle::batch::{charges, most};
use oracle::draw::{self, Sizes};
use oracle::world::{TextCount, World};
use oracle::{Chance, Endpoint};
use serde_json::Value;
use spendguard::domain::Money;

use super::{Client, SHORT, id, meter, verify};
use crate::harness::{House, run};

/// Batches that are drawn; `BILLED_SEEDS=5000+20000` draws others.
const BATCHES: u64 = 150;
/// Where a batch may be made for.
const ENDPOINTS: [Endpoint; 4] =
    [Endpoint::Chat, Endpoint::Responses, Endpoint::Completions, Endpoint::Embeddings];
const CONFIG: &str = r#"
[guard]
stored_prompts = "allow"
hold_wait = "1ms"
[endpoints]
shared_objects = true
[[limit]]
name = "all"
window = "month"
hard = 100000
"#;

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("BILLED_SEEDS").ok();
    let asked = asked.as_deref().map(|text| text.split_once('+').unwrap());
    let (from, count) =
        asked.map_or((0, BATCHES), |(from, count)| (from.parse().unwrap(), count.parse().unwrap()));
    from..from + count
}

/// The lines of a batch, which ask for no streams: it is not documented what a batch makes of them.
fn drawn(chance: &mut Chance, endpoint: Endpoint) -> String {
    let line = |at: usize, chance: &mut Chance| {
        let mut body = draw::request(chance, endpoint, Sizes::SMALL);
        let fields = body.as_object_mut().unwrap();
        for field in ["stream", "stream_options", "background"] {
            fields.remove(field);
        }
        // The fake answers with it whether the model has it or not.
        if fields.get("service_tier").is_some_and(|tier| tier == "ultrafast") {
            fields.remove("service_tier");
        }
        let body = draw::spell(chance, &body).replace(['\r', '\n'], " ");
        let url = endpoint.path();
        format!("{{\"custom_id\":\"{at}\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}\n")
    };
    (0..=chance.index(2)).map(|at| line(at, chance)).collect()
}

/// Whether a line may cost the fee of a search beside its tokens, which the oracle does not charge.
fn may_search(lines: &str) -> bool {
    lines.lines().any(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let body = &line["body"];
        !body["web_search_options"].is_null()
            || body["model"].as_str().is_some_and(|model| model.contains("-search-"))
    })
}

fn nano(amount: Money) -> u128 {
    u128::try_from(amount.nano()).unwrap()
}

#[test]
fn every_batch_is_held_at_the_most_and_settled_at_what_its_output_says() {
    run(async {
        let house = House::with(CONFIG).await;
        let client = Client::of(&house);
        let mut world = World::furnished();
        // Where the guard counts a text exactly, upstream makes the fewest tokens of it.
        world.assumed.text = TextCount::Pieces;
        let (mut settled, mut made) = (Money::ZERO, 0);
        for seed in seeds() {
            let mut chance = Chance::of_seed(seed);
            let endpoint = chance.one(&ENDPOINTS);
            let lines = drawn(&mut chance, endpoint);
            let file = client.upload(&lines).await;
            let answer = client.create(&file, endpoint.path(), &[SHORT]).await;
            if answer.status != StatusCode::OK {
                assert!(answer.status.is_client_error(), "{seed}: {answer:?}");
                assert_eq!(meter(&house, "all").await, (settled, Money::ZERO), "{seed}");
                continue;
            }
            made += 1;
            let (_, held) = meter(&house, "all").await;
            // One that names no model makes upstream do nothing.
            let most = most(&world, &lines).unwrap_or(0);
            assert!(nano(held) * 1_000 >= most, "{seed}: {held} is held, and it could cost {most}: {lines}");
            let batch = client.read(&id(&answer)).await;
            assert_eq!(batch["status"], "completed", "{seed}: {batch}");
            let output = match batch["output_file_id"].as_str() {
                Some(file) => client.get(&format!("/v1/files/{file}/content")).await.body,
                None => bytes::Bytes::new(),
            };
            let charges = charges(&world, std::str::from_utf8(&output).unwrap()).unwrap();
            let (now, held) = meter(&house, "all").await;
            let booked = nano(now) - nano(settled);
            // Rounded up, for the whole or for each line.
            let least = charges.iter().map(|(_, pico)| pico).sum::<u128>().div_ceil(1_000);
            let greatest = charges.iter().map(|(_, pico)| pico.div_ceil(1_000)).sum::<u128>();
            let is_charged = least <= booked && (booked <= greatest || may_search(&lines));
            assert!(is_charged, "{seed}: {booked} was booked for {least}: {lines}\n{charges:?}");
            assert_eq!(held, Money::ZERO, "{seed}");
            settled = now;
        }
        assert!(made > 20, "{made} batches were made");
        verify(&house).await;
    });
}
