//! What a guard shows of a ledger that others share, and what asking it costs the database.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::books::forecast::Forecaster;
use spendguard::clock::Clock;
use spendguard::domain::Money;
use spendguard::upstream::Upstream;
use tokio::sync::watch;

use crate::cluster::{Cluster, ONE_DOLLAR};
use crate::harness::{ADMIN_TOKEN, Answer, House, call, run};
use crate::otlp::collector::Collector;
use crate::otlp::series::series_of;
use crate::postgres::Postgres;
use crate::process::{Place, Serving};

/// What a look at the whole ledger begins with.
const WHOLE: &str = "FROM meter WHERE end_s >";
/// What looks for new rules.
const RULES: &str = "SELECT version FROM rules WHERE id = 1";

async fn asked(client: &Upstream, method: Method, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    call(client, method, path, &headers, Bytes::new()).await
}

/// The seconds that have begun since a clock was made.
fn begun_seconds(clock: &Clock) -> usize {
    usize::try_from(clock.running().as_secs()).unwrap() + 1
}

#[test]
fn who_has_no_key_costs_the_database_a_few_small_questions_a_second() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let guard = cluster.serve();
        cluster.postgres.log_statements();
        let clock = Clock::default();
        let (whole, rules) = (cluster.postgres.logged(WHOLE), cluster.postgres.logged(RULES));
        for path in ["/guard/v1/limits", "/v1/organization/projects", "/", "/keys", "/login", "/openapi.json"]
        {
            for _ in 0..10 {
                call(&guard.admin, Method::GET, path, &[], Bytes::new()).await;
                asked(&guard.admin, Method::GET, path, "no-token-of-any-kind").await;
            }
        }
        let unknown = |number: usize| {
            let proxy = &guard.proxy;
            async move { asked(proxy, Method::GET, "/v1/models", &format!("sk-guard-unknown-{number}")).await }
        };
        for answer in join_all((0..90).map(unknown)).await {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
        let seconds = begun_seconds(&clock);
        assert_eq!(cluster.postgres.logged(WHOLE) - whole, 0, "looks at the whole ledger");
        // The guard itself looks once a second.
        let looks = cluster.postgres.logged(RULES) - rules;
        assert!(looks <= 5 * seconds + 2, "{looks} looks for rules in {seconds} seconds");

        // Open to anybody by the configuration.
        let clock = Clock::default();
        for _ in 0..10 {
            let scrape = |_| call(&guard.admin, Method::GET, "/metrics", &[], Bytes::new());
            assert!(join_all((0..4).map(scrape)).await.iter().all(|answer| answer.status == StatusCode::OK));
        }
        let seconds = begun_seconds(&clock);
        let looks = cluster.postgres.logged(WHOLE) - whole;
        assert!((1..=seconds).contains(&looks), "{looks} looks at the whole ledger in {seconds} seconds");

        let mistyped = format!("sk-guard-{}", "a".repeat(46));
        let (clock, rules) = (Clock::default(), cluster.postgres.logged(RULES));
        for wrong in [mistyped.as_str(), "short", &"x".repeat(600)] {
            for _ in 0..20 {
                asked(&guard.proxy, Method::GET, "/v1/models", wrong).await;
            }
        }
        let seconds = begun_seconds(&clock);
        let looks = cluster.postgres.logged(RULES) - rules;
        assert!(looks <= seconds + 1, "{looks} looks for what can be no key in {seconds} seconds");
    });
}

#[test]
fn questions_of_a_moment_share_a_look_that_shows_all_that_was_answered_before() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        let key = a.make_key().await;
        let mut before = Money::ZERO;
        for guard in [&a, &b, &a, &b, &a] {
            let answer = guard.chat(&key, &[], json!({ "model": "gpt-4o-mini" })).await;
            assert_eq!(answer.status, StatusCode::OK);
            let settled = guard.meter("all").await.0;
            assert!(settled > before, "{settled} is shown after another answer, {before} before it");
            before = settled;
        }
        cluster.postgres.log_statements();
        let whole = cluster.postgres.logged(WHOLE);
        join_all((0..60).map(|_| a.meter("all"))).await;
        let bearer = format!("Bearer {key}");
        let own = [("authorization", bearer.as_str())];
        let own = (0..60).map(|_| call(&a.proxy, Method::GET, "/v1/spendguard/me", &own, Bytes::new()));
        assert!(join_all(own).await.iter().all(|answer| answer.status == StatusCode::OK));
        let looks = cluster.postgres.logged(WHOLE) - whole;
        assert!((1..=30).contains(&looks), "{looks} looks for 120 questions");
    });
}

#[test]
fn a_key_that_no_guard_can_look_for_is_not_called_wrong() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        let (key, admin_key) = (a.make_key().await, admin_key(&a).await.1);
        cluster.postgres.crash();
        let answer = b.chat(&key, &[], json!({})).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable")
        );
        let answer = asked(&b.admin, Method::GET, "/guard/v1/keys", &admin_key).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    });
}

/// A guard that may have so many connections.
fn with_connections(cluster: &Cluster, max: usize) -> Serving {
    let mut command = cluster.command();
    command.env("SPENDGUARD_STORAGE__CONNECTIONS_MAX", max.to_string());
    Place::serve_by(command)
}

/// Asks a guard all at once for what takes a connection, and expects each answer.
async fn busy(guard: &Serving, key: &str, round: usize) {
    let bearer = format!("Bearer {key}");
    let own = [("authorization", bearer.as_str())];
    let questions = [
        "/guard/v1/usage?group_by=model",
        "/guard/v1/ledger",
        "/guard/v1/ledger/verify",
        "/guard/v1/alerts",
        "/guard/v1/storage",
        "/guard/v1/nodes",
        "/v1/organization/audit_logs",
    ];
    let questions = join_all(questions.map(|path| asked(&guard.admin, Method::GET, path, ADMIN_TOKEN)));
    let chats = join_all((0..4).map(|_| guard.chat(key, &[], json!({}))));
    let ask = |path: &'static str| call(&guard.proxy, Method::GET, path, &own, Bytes::new());
    let costs = "/v1/dashboard/billing/usage?start_date=2026-11-01&end_date=2026-11-02";
    let costs = join_all((0..6).map(|_| ask(costs)));
    let objects = join_all((0..6).map(|_| ask("/v1/responses/resp_unknown")));
    let prune = json!({ "before": "2026-01-01" });
    let prune = guard.ask(Method::POST, "/guard/v1/storage/prune", Some(prune));
    let rule = json!({ "per": "organization", "unit": "usd", "window": "day", "hard": "9" });
    let path = format!("/guard/v1/limits/more-{}", round % 3);
    let change = guard.ask(Method::PUT, &path, Some(rule));
    let (questions, chats, costs, objects, prune, change) =
        tokio::join!(questions, chats, costs, objects, prune, change);
    for answer in questions.iter().chain(&chats).chain(&costs) {
        assert!(answer.status.is_success(), "{answer:?} {}", guard.process.log());
    }
    assert!(objects.iter().all(|answer| answer.status == StatusCode::NOT_FOUND), "{objects:?}");
    assert!(prune["error"].is_null() && change["error"].is_null(), "{prune} {change}");
}

#[test]
fn a_guard_has_no_more_connections_than_it_may_whatever_is_asked_of_it() {
    run(async {
        for max in [8, 6] {
            let cluster = Cluster::new(ONE_DOLLAR);
            let guard = with_connections(&cluster, max);
            let key = guard.make_key().await;
            let open = || {
                let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                             AND pid <> pg_backend_pid()";
                cluster.postgres.ask(count).parse::<usize>().unwrap()
            };
            let load = async {
                for round in 0..15 {
                    busy(&guard, &key, round).await;
                }
            };
            let counting = async {
                let mut most = 0;
                for _ in 0..15 {
                    most = most.max(open());
                    tokio::time::sleep(Duration::from_millis(60)).await;
                }
                most
            };
            let ((), most) = tokio::join!(load, counting);
            let most = most.max(open());
            assert!(most <= max, "{most} connections of {max}");
        }
    });
}

/// An admin key: its id and its secret.
async fn admin_key(guard: &Serving) -> (String, String) {
    let made =
        guard.ask(Method::POST, "/v1/organization/admin_api_keys", Some(json!({ "name": "test" }))).await;
    (made["id"].as_str().unwrap().to_owned(), made["value"].as_str().unwrap().to_owned())
}

#[test]
fn an_admin_key_acts_on_every_guard_at_once_and_once_deleted_on_none() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        for round in 0..10 {
            let (id, secret) = admin_key(&a).await;
            let path = "/guard/v1/keys";
            let answer = asked(&b.admin, Method::GET, path, &secret).await;
            assert_eq!(answer.status, StatusCode::OK, "{round}: {answer:?}");
            a.make_key().await;
            let listed = asked(&b.admin, Method::GET, path, &secret).await.json();
            let count = listed["data"].as_array().unwrap().len();
            assert_eq!(count, round + 1, "a key that was made on another guard is listed at once");
            a.ask(Method::DELETE, &format!("/v1/organization/admin_api_keys/{id}"), None).await;
            let method = if round % 2 == 0 { Method::GET } else { Method::POST };
            let answer = asked(&b.admin, method, path, &secret).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{round}: {answer:?}");
        }
    });
}

/// Returns once so many sessions wait for a lock; panics after four seconds.
async fn waiting(postgres: &Postgres, count: usize) {
    let began = Clock::default();
    let wait = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while postgres.ask(wait).parse::<usize>().unwrap() < count {
        assert!(began.running() < Duration::from_secs(4), "{count} sessions should wait for the rules");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_change_is_refused_if_its_admin_key_was_deleted_while_it_waited_for_its_turn() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (a, b) = (cluster.serve(), cluster.serve());
        let (id, secret) = admin_key(&a).await;
        assert_eq!(asked(&b.admin, Method::GET, "/guard/v1/keys", &secret).await.status, StatusCode::OK);
        // Changes wait for who holds the rules, the first in the queue first.
        let held = cluster.postgres.hold("SELECT 1 FROM rules FOR UPDATE", 5);
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = Bytes::from(json!({ "name": "made by a deleted key" }).to_string());
        let admin_key = format!("/v1/organization/admin_api_keys/{id}");
        let deleted = a.ask(Method::DELETE, &admin_key, None);
        let change = async {
            waiting(&cluster.postgres, 1).await;
            call(&b.admin, Method::POST, "/guard/v1/keys", &headers, body).await
        };
        let (_, answer, ()) = tokio::join!(deleted, change, waiting(&cluster.postgres, 2));
        drop(held);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
        let keys = b.ask(Method::GET, "/guard/v1/keys", None).await;
        assert_eq!(keys["data"].as_array().map(Vec::len), Some(0), "{keys}");
    });
}

#[test]
fn forecasts_exports_and_sizes_are_of_the_whole_ledger() {
    run(async {
        let postgres = Postgres::start();
        let collector = Collector::start().await;
        let limit = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 10\n";
        let a = House::sharing(&postgres, None, limit).await;
        let b = House::sharing(
            &postgres,
            None,
            &collector.config(&format!("metrics_interval = \"1s\"\n{limit}")),
        )
        .await;
        for _ in 0..3 {
            assert_eq!(a.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        a.settled().await;
        let settled: f64 = a.meter("all").await["settled"].as_str().unwrap().parse().unwrap();
        assert!(settled > 0.0);

        let forecaster = Arc::new(Forecaster::new(Arc::clone(&b.books)));
        let (_stop, stopped) = watch::channel(false);
        let running = Arc::clone(&forecaster);
        tokio::task::spawn_local(async move { running.run(|| ("UTC".into(), false), stopped).await });
        let projections = forecaster.latest().await.unwrap();
        let nano = Money::from_nano(projections.limits[0].settled).to_string();
        assert_eq!(nano.parse::<f64>().unwrap().to_string(), settled.to_string(), "the forecast");

        // Nothing else looks meanwhile.
        let before = collector.requests().len();
        for _ in 0..500 {
            if collector.requests().len() > before + 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..3 {
            assert_eq!(a.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        a.settled().await;
        let settled: f64 = a.meter("all").await["settled"].as_str().unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let exported = series_of(&collector.metrics());
        let shown = exported["spendguard_limit_settled{limit=\"all\",subject=\"org\",unit=\"usd\"}"];
        assert!((shown - settled).abs() < 1e-9, "{shown} is exported, {settled} is settled");
        assert!(exported["spendguard_storage_bytes"] > 100_000.0, "{exported:?}");

        let text = b.admin(Method::GET, "/metrics", None).await;
        let text = String::from_utf8_lossy(&text.body).into_owned();
        let line = text.lines().find(|line| line.starts_with("spendguard_storage_bytes ")).unwrap();
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 100_000.0, "{line}");
        let storage: Value = b.admin(Method::GET, "/guard/v1/storage", None).await.json();
        assert!(storage["database_bytes"].as_u64().unwrap() > 100_000, "{storage}");
    });
}

#[test]
fn credit_that_a_guard_grants_counts_nothing_of_what_others_had_admitted_before() {
    run(async {
        let cluster = Cluster::new(ONE_DOLLAR);
        let (guard, key) = cluster.spending().await;
        // It has admitted nothing itself.
        let other = cluster.serve();
        let grant = json!({ "amount_usd": "5" });
        let granted = other.ask(Method::POST, "/guard/v1/credits", Some(grant)).await;
        assert_eq!(granted["amount_usd"], "5", "{granted:#}");
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        cluster.at_rest(&guard).await;
        other.verify().await;
    });
}
