//! Several guards on one PostgreSQL: the real binary, a real server, and their ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::domain::Money;
use spendguard::upstream::Upstream;

use crate::harness::{client, run};
use crate::postgres::Postgres;
use crate::process::{Place, Process, Serving, refused, served};

/// A database, an upstream, and a place for guards.
pub(crate) struct Cluster {
    pub(crate) postgres: Postgres,
    _fake: Process,
    pub(crate) fake: Upstream,
    pub(crate) place: Place,
}

/// One limit for everybody, and guards that are soon missed.
pub(crate) const ONE_DOLLAR: &str = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 1\n\
                          [cluster]\nnode_timeout = \"5s\"\n[guard]\nhold_wait = \"0s\"\nwhen_tight = \"reject\"\n";

impl Cluster {
    pub(crate) fn new(config: &str) -> Self {
        Self::on(Postgres::start(), config)
    }

    /// The same on a database of one's own.
    pub(crate) fn on(postgres: Postgres, config: &str) -> Self {
        let (process, address) = Process::fake();
        Self { postgres, fake: client(&address), place: Place::new(&address, config), _fake: process }
    }

    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = self.place.command();
        command.env("DATABASE_URL", self.postgres.url()).env("SPENDGUARD_STORAGE__URL__ENV", "DATABASE_URL");
        command
    }

    pub(crate) fn serve(&self) -> Serving {
        Place::serve_by(self.command())
    }

    /// A guard, and a key that has spent.
    pub(crate) async fn spending(&self) -> (Serving, String) {
        let guard = self.serve();
        let key = guard.make_key().await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        self.at_rest(&guard).await;
        (guard, key)
    }

    /// What upstream has charged, what is settled and what is held, in nano-dollars.
    pub(crate) async fn truth(&self, guard: &Serving) -> (i64, i64, i64) {
        let (settled, held) = guard.meter("all").await;
        // Asked for last: what is served later is held before.
        let (_, truth) = served(&self.fake).await;
        let (settled, held) = (settled.nano(), held.nano());
        (truth, settled, held)
    }

    /// The claim: upstream's truth is covered by what is settled and held, and that by the cap.
    pub(crate) async fn holds(&self, guard: &Serving) {
        // The truth may grow between the two questions, up to what is held; so it is asked first.
        let (_, truth) = served(&self.fake).await;
        let (settled, held) = guard.meter("all").await;
        assert!(truth <= (settled + held).nano(), "{truth} was spent, {settled} settled, {held} held");
        assert!((settled + held).nano() <= 1_000_000_000, "{settled} settled, {held} held");
    }

    /// Waits until nothing is held.
    pub(crate) async fn at_rest(&self, guard: &Serving) {
        for _ in 0..1_500 {
            if guard.meter("all").await.1 == Money::ZERO {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} is held for ever", guard.meter("all").await.1);
    }
}

/// How many rounds are run: those that are asked for, or a few.
fn rounds(few: u64) -> u64 {
    std::env::var("SPENDGUARD_TEST_ROUNDS").map_or(few, |rounds| rounds.parse().unwrap())
}

/// Sends requests one after another until one is refused by the limit, or it is stopped.
/// Returns how many were answered.
async fn spend(guard: &Serving, key: &str, stop: &AtomicBool) -> u64 {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let more = json!({ "model": "gpt-4o-mini", "max_completion_tokens": 1_000 });
        let answer = guard.chat(key, &[("x-fake-completion-tokens", "1000")], more).await;
        match answer.status {
            StatusCode::OK => answered += 1,
            // Others' holds may be in the way.
            StatusCode::TOO_MANY_REQUESTS if answer.code() == "spend_limit_held" => {}
            StatusCode::TOO_MANY_REQUESTS => break,
            status => panic!("{status}: {answer:?}"),
        }
    }
    answered
}

#[test]
fn three_guards_race_300_connections_each_for_one_dollar_and_never_pass_it() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guards: Vec<Arc<Serving>> = (0..3).map(|_| Arc::new(cluster.serve())).collect();
        let key: Arc<str> = guards[0].make_key().await.into();
        let stop = Arc::new(AtomicBool::new(false));
        let barrier = Arc::new(tokio::sync::Barrier::new(900));
        let clients: Vec<_> = (0..900)
            .map(|number: usize| {
                let (guard, key) = (Arc::clone(&guards[number % 3]), Arc::clone(&key));
                let (stop, barrier) = (Arc::clone(&stop), Arc::clone(&barrier));
                tokio::task::spawn_local(async move {
                    barrier.wait().await;
                    spend(&guard, &key, &stop).await
                })
            })
            .collect();
        let mut answered = 0;
        for client in clients {
            answered += client.await.unwrap();
        }
        cluster.at_rest(&guards[1]).await;
        let (truth, settled, held) = cluster.truth(&guards[1]).await;
        assert_eq!((truth, held), (settled, 0), "{answered} were answered");
        assert!((950_000_000..=1_000_000_000).contains(&settled), "{settled} of a dollar is used");
        guards[2].verify().await;
    });
}

#[test]
fn what_one_guard_changes_binds_every_guard_at_once() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        let key = a.make_key().await;
        for _ in 0..20 {
            assert_eq!(
                b.chat(&key, &[], json!({})).await.status,
                StatusCode::OK,
                "made on one, used on another"
            );
            let rule = json!({ "per": "organization", "unit": "usd", "window": "day", "hard": "0" });
            a.ask(Method::PUT, "/guard/v1/limits/switch", Some(rule)).await;
            assert_eq!(
                b.chat(&key, &[], json!({})).await.status,
                StatusCode::TOO_MANY_REQUESTS,
                "switched off"
            );
            b.ask(Method::DELETE, "/guard/v1/limits/switch", None).await;
            let answer = a.chat(&key, &[], json!({})).await;
            assert_eq!(answer.status, StatusCode::OK, "switched on again: {answer:?} {}", a.process.log());
        }
        let id =
            a.ask(Method::GET, "/guard/v1/keys", None).await["data"][0]["id"].as_str().unwrap().to_owned();
        a.ask(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
        assert_eq!(b.chat(&key, &[], json!({})).await.status, StatusCode::UNAUTHORIZED);
        b.verify().await;
    });
}

#[test]
fn through_kill_9_of_guards_upstreams_truth_is_covered_and_their_holds_are_charged_once() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let survivor = Arc::new(cluster.serve());
        let key: Arc<str> = survivor.make_key().await.into();
        for round in 0..rounds(4) {
            let victim = cluster.serve();
            let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "40"), ("x-fake-completion-tokens", "10")];
            let work = async {
                let clients = (0..24).map(|number| {
                    let (guard, key) = (if number % 2 == 0 { &victim } else { &*survivor }, Arc::clone(&key));
                    async move {
                        for _ in 0..10 {
                            let more = json!({ "model": "gpt-4o-mini", "max_completion_tokens": 10 });
                            let bearer = format!("Bearer {key}");
                            let mut headers = vec![("authorization", bearer.as_str())];
                            headers.extend_from_slice(slow);
                            let body = crate::harness::chat(more).to_string().into();
                            // One that is killed breaks its answers.
                            let mut map = http::HeaderMap::new();
                            for (name, value) in headers {
                                map.append(http::HeaderName::from_static(name), value.parse().unwrap());
                            }
                            let _ = guard.proxy.send(Method::POST, "/v1/chat/completions", map, body).await;
                        }
                    }
                });
                futures_util::future::join_all(clients).await;
            };
            let killing = async {
                tokio::time::sleep(Duration::from_millis(90 + 35 * round)).await;
                victim.process.signal("KILL");
                cluster.holds(&survivor).await;
            };
            tokio::join!(work, killing);
            cluster.holds(&survivor).await;
        }
        cluster.at_rest(&survivor).await;
        cluster.holds(&survivor).await;
        survivor.verify().await;
        let charged = cluster.postgres.ask("SELECT count(*) FROM entry WHERE basis = 'assumed'");
        let endings = cluster
            .postgres
            .ask("SELECT count(*) - count(DISTINCT id) FROM entry WHERE kind IN ('settle', 'release')");
        assert_eq!(endings, "0", "each hold has one ending");
        assert!(charged.parse::<u64>().unwrap() > 0, "some were open when their guard was killed");
    });
}

#[test]
fn a_database_that_crashes_under_load_admits_nothing_meanwhile_and_loses_no_ending() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        let key = a.make_key().await;
        for round in 0..rounds(3) {
            let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "300")];
            let work = async {
                let clients = (0..16).map(|number| {
                    let guard = if number % 2 == 0 { &a } else { &b };
                    async { guard.chat(&key, slow, json!({})).await.status }
                });
                futures_util::future::join_all(clients).await
            };
            let crash = async {
                tokio::time::sleep(Duration::from_millis(40 + 60 * (round % 5))).await;
                cluster.postgres.crash();
                let refused = a.chat(&key, &[], json!({})).await;
                assert_eq!(
                    (refused.status, refused.code().as_str(), refused.header("x-should-retry")),
                    (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", "true")
                );
                cluster.postgres.again();
            };
            let (statuses, ()) = tokio::join!(work, crash);
            let known = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
            assert!(statuses.iter().all(|status| known.contains(status)), "{statuses:?}");
            for guard in [&a, &b] {
                // A second or two after the database is back.
                let mut status = StatusCode::SERVICE_UNAVAILABLE;
                for _ in 0..200 {
                    status = guard.chat(&key, &[], json!({})).await.status;
                    if status == StatusCode::OK {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert_eq!(status, StatusCode::OK);
            }
        }
        cluster.at_rest(&a).await;
        cluster.holds(&a).await;
        let (truth, settled, _) = cluster.truth(&b).await;
        assert_eq!(truth, settled, "every ending was written with its real cost");
        b.verify().await;
    });
}

#[test]
fn a_guard_that_was_given_up_and_returns_corrects_what_was_charged_for_it() {
    run(async {
        let counted = "[[limit]]\nname = \"tokens\"\nunit = \"tokens\"\nwindow = \"month\"\nhard = 100000\n\
                       [[limit]]\nname = \"requests\"\nunit = \"requests\"\nwindow = \"month\"\nhard = 100\n";
        let cluster = Cluster::new(&format!("{counted}{ONE_DOLLAR}"));
        let (a, b) = (cluster.serve(), cluster.serve());
        let key = a.make_key().await;
        let slow: &[(&str, &str)] = &[("x-fake-latency-ms", "1500"), ("x-fake-completion-tokens", "10")];
        let late = a.chat(&key, slow, json!({ "max_completion_tokens": 500 }));
        let stopped = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            a.process.signal("STOP");
            cluster.at_rest(&b).await;
            let (truth, settled, _) = cluster.truth(&b).await;
            assert!(settled > truth, "the hold is charged in full: {settled}, not {truth}");
            // An operator thinks to know better.
            let charged = b.ask(Method::GET, "/guard/v1/ledger", None).await["data"][0]["id"].clone();
            let path = format!("/guard/v1/ledger/{}/adjust", charged.as_str().unwrap());
            let half = Money::from_nano(-settled / 2).to_string();
            b.ask(Method::POST, &path, Some(json!({ "amount_usd": half, "note": "a guess" }))).await;
            a.process.signal("CONT");
        };
        let (answer, ()) = tokio::join!(late, stopped);
        assert_eq!(answer.status, StatusCode::OK);
        for _ in 0..500 {
            let (truth, settled, _) = cluster.truth(&b).await;
            if truth == settled {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (truth, settled, held) = cluster.truth(&b).await;
        assert_eq!((truth, held), (settled, 0));
        let tokens = b.meter("tokens").await.0;
        assert_eq!(b.meter("requests").await.0.to_string(), "1");
        let slow = a.chat(&key, slow, json!({ "max_completion_tokens": 500 })).await;
        assert_eq!(slow.status, StatusCode::OK, "it has joined again");
        cluster.at_rest(&b).await;
        assert_eq!(b.meter("tokens").await.0, tokens + tokens, "as many as of a request that is not late");
        assert_eq!(b.meter("requests").await.0.to_string(), "2");
        // By sums, and by entries, which alone tell minutes apart.
        let usage = b.ask(Method::GET, "/guard/v1/usage?group_by=key&since=2026-01-01", None).await;
        assert_eq!(usage["data"][0]["requests"], 2, "{usage:#}");
        let minutes = "/v1/organization/usage/completions?start_time=1790000000&bucket_width=1m&limit=1440";
        let since_s =
            b.ask(Method::GET, "/guard/v1/ledger", None).await["data"][0]["admitted_at"].as_i64().unwrap();
        let minutes = minutes.replace("1790000000", &(since_s - 3_600).to_string());
        let minutes = b.ask(Method::GET, &minutes, None).await;
        let used = |field: &str| -> i64 {
            let buckets = minutes["data"].as_array().unwrap().iter();
            let results = buckets.flat_map(|bucket| bucket["results"].as_array().unwrap());
            results.map(|result| result[field].as_i64().unwrap()).sum()
        };
        let all = Money::from_nano((used("input_tokens") + used("output_tokens")) * 1_000_000_000);
        assert_eq!((used("num_model_requests"), all), (2, tokens + tokens), "{minutes:#}");
        b.verify().await;
    });
}

#[test]
fn two_guards_of_one_name_and_what_is_no_ledger_are_refused_with_a_remedy() {
    let cluster = Cluster::new(ONE_DOLLAR);
    let command = || {
        let mut command = cluster.command();
        command.env("SPENDGUARD_CLUSTER__NODE", "guard-a");
        command
    };
    let first = Place::serve_by(command());
    let said = refused(command());
    assert!(said.contains("a guard named \"guard-a\" is running on this database"), "{said}");
    drop(first);
    let with_url = |url: &str| {
        let mut command = cluster.command();
        command.env("DATABASE_URL", url);
        refused(command)
    };
    let url = cluster.postgres.url();
    let said = with_url(&url.replace("/spendguard", "/nothing"));
    assert!(said.contains("create the database, or correct its name in storage.url"), "{said}");
    let said = with_url("postgres://guard:secret-of-the-test@127.0.0.1:1/spendguard");
    assert!(said.contains("can't be reached") && !said.contains("secret-of-the-test"), "{said}");
    cluster.postgres.ask("UPDATE schema_version SET version = 9");
    let said = refused(cluster.command());
    assert!(said.contains("the database has version 9, this spendguard reads version 7"), "{said}");
    cluster.postgres.sql("spendguard", "CREATE SCHEMA other; CREATE TABLE other.theirs (id BIGINT)");
    let mut command = cluster.command();
    command.env("SPENDGUARD_STORAGE__SCHEMA", "other");
    let said = refused(command);
    assert!(said.contains("the schema other has 1 tables that are not spendguard's"), "{said}");
}

#[test]
fn what_a_guard_has_ended_is_free_for_its_next_request_whichever_lane_writes_it() {
    run(async {
        // Room for one request at a time, and none waits.
        let cluster = Cluster::new(&ONE_DOLLAR.replace("hard = 1", "hard = 0.01"));
        let guard = cluster.serve();
        let key = guard.make_key().await;
        let chat = async |latency: &str| {
            let more = json!({ "model": "gpt-4o-mini", "max_completion_tokens": 10_000 });
            guard.chat(&key, &[("x-fake-latency-ms", latency), ("x-fake-completion-tokens", "1")], more).await
        };
        let groups =
            || cluster.postgres.ask("SELECT string_agg(CAST(group_id AS TEXT), ' ' ORDER BY lane) FROM lane");
        let before = groups();
        let next_lane_waits = async {
            while cluster.postgres.ask("SELECT count(*) FROM hold") == "0" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let counts = [&before, &groups()].map(|groups| groups.split(' ').next().unwrap().to_owned());
            // The lane that has not admitted this request takes what comes next.
            let next = if counts[0] == counts[1] { 1 } else { 2 };
            cluster.postgres.hold(&format!("SELECT 1 FROM lane WHERE lane = {next} FOR UPDATE"), 3)
        };
        let (first, locked) = tokio::join!(chat("2000"), next_lane_waits);
        assert_eq!(first.status, StatusCode::OK, "{first:?}");
        // An ending waits a moment for company.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let second = chat("0").await;
        assert_eq!(second.status, StatusCode::OK, "{second:?}");
        drop(locked);
        guard.verify().await;
    });
}
