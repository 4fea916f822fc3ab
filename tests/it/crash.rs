//! kill -9 of the real binary under load: nothing admitted is forgotten.

mod jobs;
mod realtime;
mod sockets;

use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use spendguard::domain::Money;
use spendguard::upstream::Upstream;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::{chat, client, run};
use crate::process::{Place, Process, Serving, served};

const ROUNDS: u64 = 50;

/// Random numbers that come again with their seed (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    /// Seeded by `SPENDGUARD_CRASH_SEED`, else by a random number; prints the seed.
    pub(crate) fn of_the_day() -> Self {
        let given = std::env::var("SPENDGUARD_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("again with SPENDGUARD_CRASH_SEED={seed}");
        Self(seed)
    }

    /// A number from `from` up to `until`, exclusive.
    pub(crate) fn within(&mut self, from: u64, until: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        from + (mixed ^ (mixed >> 31)) % (until - from)
    }

    async fn pause(&mut self, from_ms: u64, until_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.within(from_ms, until_ms))).await;
    }
}

/// What a client of a mixed load asks for: headers, and fields of the body.
fn order(kind: u64) -> (&'static [(&'static str, &'static str)], serde_json::Value) {
    let stream = json!({ "max_completion_tokens": 30, "stream": true });
    match kind % 8 {
        0 | 1 => (&[], json!({ "max_completion_tokens": 20 })),
        2 => (&[("x-fake-chunk-delay-ms", "2")], stream),
        3 => (&[("x-fake-latency-ms", "60")], json!({ "max_completion_tokens": 20 })),
        4 => (&[("x-fake-cut-after", "9"), ("x-fake-chunks", "20")], stream),
        5 => {
            (&[("x-fake-status", "500"), ("x-fake-latency-ms", "15")], json!({ "max_completion_tokens": 20 }))
        }
        6 => (&[], json!({ "model": "no-such-model" })),
        // Leaves before the end; see `load`.
        _ => (&[("x-fake-chunk-delay-ms", "10"), ("x-fake-latency-ms", "5")], stream),
    }
}

/// Requests of all kinds from many clients, until none reaches the guard.
async fn load(proxy: &Upstream, key: &str) {
    let clients = (0..24).map(|n| {
        let (proxy, bearer) = (proxy.clone(), format!("Bearer {key}"));
        tokio::task::spawn_local(async move {
            for round in 0..2_000 {
                let (ordered, more) = order(n + round);
                let mut headers = http::HeaderMap::new();
                headers.insert("authorization", bearer.parse().unwrap());
                for (name, value) in ordered {
                    headers.insert(*name, value.parse().unwrap());
                }
                let body = chat(more).to_string().into();
                let asked = async {
                    let answer = proxy.send(Method::POST, "/v1/chat/completions", headers, body).await?;
                    let status = answer.status();
                    let _ = answer.into_body().collect().await;
                    Ok::<_, spendguard::upstream::SendError>(status)
                };
                let patience = if (n + round) % 8 == 7 { 25 } else { 20_000 };
                match tokio::time::timeout(Duration::from_millis(patience), asked).await {
                    Ok(Err(_)) => return,
                    Ok(Ok(StatusCode::TOO_MANY_REQUESTS)) => {
                        tokio::time::sleep(Duration::from_millis(4)).await;
                    }
                    Ok(Ok(_)) | Err(_) => {}
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

fn config(durability: &str, hard: Money) -> String {
    format!(
        "[storage]\ndurability = \"{durability}\"\n[guard]\nwhen_tight = \"reject\"\nhold_wait = \"30ms\"\n\
         [[limit]]\nname = \"small\"\nwindow = \"total\"\nhard = {hard}\nsoft = [\"50%\"]\n"
    )
}

/// Ends a guard under load: at once, or while it drains.
async fn end(process: Process, chance: &mut Chance) {
    chance.pause(60, 350).await;
    if chance.within(0, 4) == 0 {
        process.signal("TERM");
        chance.pause(0, 120).await;
    }
    process.kill();
}

/// The database that a dead guard has left. The next one is to find its log as it was.
fn left(place: &Place) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(place.database()).unwrap();
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    db
}

/// A socket of a key at a path of a guard, whose upstream pauses between events; `None` if the guard is gone.
async fn opened(address: &str, path: &str, key: &str, pause_ms: u64) -> Option<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request.headers_mut().insert("x-fake-chunk-delay-ms", pause_ms.into());
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
    Some(socket)
}

/// The ids of holds that a dead guard left without an entry.
fn open_holds(place: &Place) -> Vec<u64> {
    let db = left(place);
    let mut statement = db.prepare(
        "SELECT json_extract(line.value, '$.id') FROM hold_batch, \
         json_each('[' || replace(rtrim(holds, char(10)), char(10), ',') || ']') line \
         WHERE json_extract(line.value, '$.id') NOT IN (SELECT id FROM entry)",
    );
    let statement = statement.as_mut().unwrap();
    let ids = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    ids.map(|id| u64::try_from(id.unwrap()).unwrap()).collect()
}

/// How many requests have an entry, and how many of these ids.
fn entries(place: &Place, ids: &[u64]) -> (u64, usize) {
    let db = rusqlite::Connection::open(place.database()).unwrap();
    let mut statement = db.prepare("SELECT id FROM entry WHERE kind IN ('settle', 'release')").unwrap();
    let found = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    let found: std::collections::HashSet<u64> = found.map(|id| u64::try_from(id.unwrap()).unwrap()).collect();
    (u64::try_from(found.len()).unwrap(), ids.iter().filter(|id| found.contains(id)).count())
}

/// What was charged for holds that deaths left open, in nano-dollars.
fn recovered(place: &Place) -> i64 {
    let db = rusqlite::Connection::open(place.database()).unwrap();
    let sql =
        "SELECT COALESCE(SUM(cost_nano), 0) FROM entry WHERE note = 'the guard ended before the request did'";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A request for more than is left is refused, and by this limit.
async fn is_in_force(guard: &Serving, key: &str, left: Money) {
    let tokens = left.nano().max(0) / 600 + 1;
    let answer = guard.chat(key, &[], json!({ "max_completion_tokens": tokens })).await;
    // More than all of a limit of which nothing was used is refused as too large.
    let is_refused = matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_REQUEST);
    assert!(is_refused, "{left} left, {tokens} asked for: {answer:?}");
    assert_eq!(answer.header("x-spendguard-limit"), "small");
}

/// What is settled after a death that left these holds open: each has an entry, as every request that
/// reached upstream, nothing is held, and what was spent is settled and within the limit.
async fn all_booked(
    guard: &Serving,
    (place, open): (&Place, &[u64]),
    (forwarded, spent): (u64, i64),
    hard: Money,
    round: u64,
) -> Money {
    let (settled, held) = guard.meter("small").await;
    let (count, of_open) = entries(place, open);
    assert_eq!(of_open, open.len(), "round {round}: of {open:?} some were forgotten");
    assert!(count >= forwarded, "round {round}: {count} entries of {forwarded} requests");
    assert!(settled.nano() >= spent, "round {round}: {settled} settled, {spent} nano-dollars spent");
    assert!(spent <= hard.nano(), "round {round}: {spent} nano-dollars spent of {hard}");
    assert_eq!(held, Money::ZERO, "round {round}");
    guard.verify().await;
    settled
}

fn kill_9(durability: &str) {
    run(async {
        let mut chance = Chance::of_the_day();
        let (fake, fake_address) = Process::fake();
        let upstream = client(&fake_address);
        let mut hard = Money::from_nano(2_000_000);
        let place = Place::new(&fake_address, &config(durability, hard));
        let mut guard = place.serve();
        let key = guard.make_key().await;
        let (mut reached, mut startups, mut charged) = (0, 0, 0);
        let (mut left, mut books) = (Money::ZERO, Money::ZERO);
        for round in 0..ROUNDS {
            tokio::join!(load(&guard.proxy, &key), end(guard.process, &mut chance));
            let open = open_holds(&place);
            // Some deaths hit a start, with what the last one left to recover.
            for _ in 0..chance.within(0, 8).saturating_sub(5) {
                let starting = Process::launch(place.command());
                chance.pause(0, 90).await;
                starting.kill();
                startups += 1;
            }
            let before = hard;
            let (forwarded, spent) = served(&upstream).await;
            // Raised by what the next round may or may not use up.
            let more = if left.nano() < 2_000_000 { chance.within(100, 4_000) } else { 0 };
            hard = hard + Money::from_nano(i64::try_from(more).unwrap() * 1_000);
            place.configure(&config(durability, hard));
            guard = place.serve();
            let settled = all_booked(&guard, (&place, &open), (forwarded, spent), before, round).await;
            // Endings that the death caught waiting are charged at their holds,
            // in whose place others may have been admitted already; see
            // `the_books_after_a_death_are_not_past_the_limit`.
            let alive = settled - Money::from_nano(recovered(&place) - charged);
            assert!(alive <= before.max(books), "round {round}: {settled} is past the limit of {before}");
            books = settled;
            charged = recovered(&place);
            reached += u64::from((before - settled).nano() < 30_000);
            left = hard - settled;
            is_in_force(&guard, &key, left).await;
        }
        guard.stop();
        let db = rusqlite::Connection::open(place.database()).unwrap();
        let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let entries = count("SELECT COUNT(*) FROM entry");
        println!(
            "{durability}: {entries} entries, {charged} nano-dollars charged for holds, {startups} starts killed, limit reached in \
             {reached} of {ROUNDS} rounds"
        );
        assert!(charged > 0 && startups > 0 && reached > 0 && reached < ROUNDS);
        drop(fake);
    });
}

#[test]
fn kill_9_under_load_forgets_nothing_and_the_limit_stays_in_force() {
    kill_9("process");
}

#[test]
fn kill_9_where_each_commit_waits_for_the_disk_forgets_nothing_either() {
    kill_9("power");
}

/// A hold may take the room that an ending has freed. Written ahead of that
/// ending, it would stay if a death undid the ending, and both be charged.
#[test]
fn the_books_after_a_death_are_not_past_the_limit() {
    run(async {
        let (_fake, fake) = Process::fake();
        for _ in 0..20 {
            // Room for one hold beside one request that has ended, not for two holds.
            let hard = Money::from_nano(45_000);
            let place = Place::new(&fake, &config("process", hard));
            let guard = place.serve();
            let key = guard.make_key().await;
            let asked = json!({ "max_completion_tokens": 20 });
            assert_eq!(guard.chat(&key, &[], asked.clone()).await.status, StatusCode::OK);
            let slow = [("x-fake-latency-ms", "1000")];
            let second = tokio::time::timeout(Duration::from_millis(8), guard.chat(&key, &slow, asked));
            assert!(second.await.is_err(), "it is on its way");
            guard.process.kill();
            let guard = place.serve();
            let (settled, _) = guard.meter("small").await;
            assert!(settled <= hard, "{settled} is past the limit of {hard}");
        }
    });
}

#[test]
fn a_second_guard_is_kept_out_until_the_first_is_dead() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let first = place.serve();
        let said = place.refused();
        assert!(said.contains("another spendguard is using") && said.contains("data"), "{said}");
        first.process.kill();
        let second = place.serve();
        second.verify().await;
    });
}

#[test]
fn of_two_guards_that_start_at_once_exactly_one_serves() {
    let (_fake, fake) = Process::fake();
    let place = Place::new(&fake, "");
    for round in 0..15 {
        // Every third round also races for who makes the database.
        if round % 3 == 0 {
            let _ = std::fs::remove_dir_all(&place.data);
        }
        let racers = [place.command(), place.command()].map(|mut command| {
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()
        });
        let [mut one, mut other] = racers.map(Result::unwrap);
        let (mut ended, mut left) = (None, 0);
        for _ in 0..1_000 {
            let states = [one.try_wait().unwrap(), other.try_wait().unwrap()];
            left = states.iter().filter(|state| state.is_none()).count();
            ended = states.into_iter().flatten().next();
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((ended.and_then(|state| state.code()), left), (Some(1), 1), "round {round}");
        let (loser, mut winner) = if one.try_wait().unwrap().is_some() { (one, other) } else { (other, one) };
        let said = String::from_utf8_lossy(&loser.wait_with_output().unwrap().stderr).into_owned();
        assert!(said.contains("another spendguard is using"), "{said}");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(winner.stdout.take().unwrap()));
        assert!(
            lines.any(|line| line.unwrap().contains("OPENAI_BASE_URL")),
            "round {round}: the winner serves"
        );
        winner.kill().unwrap();
        winner.wait().unwrap();
    }
}
