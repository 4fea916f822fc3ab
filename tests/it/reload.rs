//! Configuration that changes under a running guard, and signals.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use spendguard::ledger::meter::Subject;
use spendguard::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::edge::Scripted;
use crate::harness::{Answer, House, call, chat, client, run};
use crate::process::{Place, Process};

pub(crate) struct Running {
    process: Process,
    proxy: Upstream,
    admin: Upstream,
}

/// The real binary with a configuration file, in front of a house's fake; its
/// clients send keys of their own.
pub(crate) fn serve(file: &Path, upstream: &str) -> Running {
    let data = file.with_extension("data").display().to_string();
    let environment = [
        ("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0"),
        ("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SPENDGUARD_STORAGE__PATH", data.as_str()),
        ("SPENDGUARD_UPSTREAM__BASE_URL", upstream),
        ("SPENDGUARD_UPSTREAM__FORWARD_HEADERS", "x-fake-*"),
        ("SPENDGUARD_KEYS__UNKNOWN", "pass-through"),
    ];
    let process =
        Process::start(&["serve", "--config", file.to_str().unwrap()], &environment, "OPENAI_BASE_URL");
    let (proxy, admin) =
        (client(process.address("proxy listening")), client(process.address("admin listening")));
    Running { process, proxy, admin }
}

impl Running {
    pub(crate) async fn chat(&self, more: serde_json::Value, ordered: &[(&str, &str)]) -> Answer {
        let mut headers = vec![("authorization", "Bearer sk-own")];
        headers.extend(ordered);
        let body = Bytes::from(chat(more).to_string());
        call(&self.proxy, Method::POST, "/v1/chat/completions", &headers, body).await
    }

    /// Waits until a request is answered with that status, within ten seconds.
    async fn becomes(&self, status: StatusCode) {
        self.becomes_for(&[], status).await;
    }

    /// The same for a request with these headers.
    pub(crate) async fn becomes_for(&self, ordered: &[(&str, &str)], status: StatusCode) {
        for _ in 0..100 {
            if self.chat(json!({}), ordered).await.status == status {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it never answered {status}");
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = call(&self.admin, Method::GET, "/metrics", &[], Bytes::new()).await;
        String::from_utf8_lossy(&answer.body).into_owned()
    }
}

fn limit(hard: &str) -> String {
    format!("[[limit]]\nname = \"all\"\nwindow = \"day\"\nunit = \"requests\"\nhard = {hard}\n")
}

#[test]
fn a_new_limit_learns_what_was_spent_in_windows_to_come() {
    run(async {
        // As a clock leaves it that was ahead, and has been set back since.
        let house = House::with("").await;
        house.chat(&[], json!({})).await;
        house.guard.core().flush().await.unwrap();
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        db.execute_batch("UPDATE entry SET admitted_ms = admitted_ms + 86400000; UPDATE rollup SET start_s = start_s + 86400")
            .unwrap();
        let cost = db.query_row("SELECT sum(cost_nano) FROM entry", [], |row| row.get::<_, i64>(0)).unwrap();
        // The same again today, so that only the window tells the two apart.
        house.chat(&[], json!({})).await;
        house.guard.core().flush().await.unwrap();
        let rule = json!({ "window": "day", "hard": "1" });
        house.admin(Method::PUT, "/guard/v1/limits/new", Some(rule)).await;
        let (limit, readings) = house.books.limits().remove(0);
        let today = readings[0].span;
        let past =
            house.books.reports().history(vec![(limit.as_ref().clone(), today.start_s)]).await.unwrap();
        let in_window = |start_s: i64| ((Subject::Organization, start_s), cost);
        assert_eq!(past, [[in_window(today.start_s), in_window(today.end_s)].into()]);
    });
}

#[test]
fn limits_that_come_into_force_together_learn_what_each_would_alone() {
    run(async {
        let house = House::with("").await;
        for (number, model) in ["gpt-4o", "gpt-4o-mini", "gpt-4o"].into_iter().enumerate() {
            let tags = format!("team=t{number}");
            house.chat(&[("x-spendguard-tags", &tags)], json!({ "model": model, "user": "ann" })).await;
        }
        house.guard.core().flush().await.unwrap();
        // One rollup is moved to yesterday, so that windows differ.
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        db.execute_batch(
            "UPDATE entry SET admitted_ms = admitted_ms - 86400000 WHERE model = 'gpt-4o-mini';
             UPDATE rollup SET start_s = start_s - 86400 WHERE model = 'gpt-4o-mini'",
        )
        .unwrap();
        let config = "[[limit]]\nname = \"all\"\nwindow = \"total\"\nhard = 9\n\
            [[limit]]\nname = \"days\"\nper = \"model\"\nwindow = \"day\"\nunit = \"tokens\"\nhard = 9000\n\
            [[limit]]\nname = \"minute\"\nwindow = \"minute\"\nhard = 9\n\
            [[limit]]\nname = \"mine\"\nper = \"user\"\nwindow = \"year\"\nunit = \"requests\"\nhard = 9\nonly = { key = [\"test\"] }\n\
            [[limit]]\nname = \"others\"\nwindow = \"year\"\nhard = 9\nonly = { key = [\"other\"] }\n\
            [[limit]]\nname = \"team\"\nwindow = \"year\"\nhard = 9\nonly = { tag = { team = [\"t2\"] } }\n";
        let file = house.folder.path().join("more.toml");
        std::fs::write(&file, config).unwrap();
        let key = ("OPENAI_API_KEY".to_owned(), "sk-x".to_owned());
        let limits = spendguard::config::load(Some(&file), [key]).unwrap().limits;
        house.rulebook.install_file_limits(limits, "UTC".into()).await.unwrap();
        let mut settled = 0;
        for (limit, readings) in house.books.limits() {
            let sums = house.books.sums_from_entries(&limit.name).await.unwrap();
            for reading in &readings {
                let sum = sums.get(&reading.subject).copied().unwrap_or(0);
                assert_eq!(reading.meter.settled, sum, "{}", limit.name);
                settled += i64::from(sum > 0 && &*limit.name != "minute");
            }
            assert!(sums.keys().all(|subject| readings.iter().any(|reading| reading.subject == *subject)));
        }
        // All but the others' limit have something; the minute may just be over.
        assert_eq!(settled, 4);
    });
}

#[test]
fn a_request_takes_its_key_to_the_address_that_the_key_was_configured_for() {
    run(async {
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 });
        let answer = json!({ "id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [], "usage": usage });
        let first = Scripted::says_json("200 OK", &answer).await;
        let second = Scripted::says_json("200 OK", &answer).await;
        let place = Place::new("", "");
        let configure = |upstream: &Scripted, key: &str| {
            let file = place.data.with_file_name(key);
            std::fs::write(&file, key).unwrap();
            let (url, file) = (&upstream.base_url, file.display());
            place
                .configure(&format!("[upstream]\nbase_url = \"{url}\"\napi_key = {{ file = \"{file}\" }}\n"));
        };
        configure(&first, "sk-of-the-first");
        let mut command = place.command();
        command.env_remove("SPENDGUARD_UPSTREAM__BASE_URL").env_remove("OPENAI_API_KEY");
        let guard = Place::serve_by(command);
        let key = guard.make_key().await;
        let body = chat(json!({})).to_string();
        let (begin, end) = body.split_at(body.len() / 2);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut slow = TcpStream::connect(guard.process.address("proxy listening")).await.unwrap();
        slow.write_all((head + begin).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        configure(&second, "sk-of-the-second");
        while second.asked.borrow().is_empty() {
            guard.chat(&key, &[], json!({})).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        slow.write_all(end.as_bytes()).await.unwrap();
        let mut answered = String::new();
        slow.read_to_string(&mut answered).await.unwrap();
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        let keys = |upstream: &Scripted| {
            let asked = upstream.asked.borrow();
            asked.iter().map(|head| head.contains("sk-of-the-first")).collect::<Vec<_>>()
        };
        assert!(keys(&first).into_iter().all(|is_first| is_first));
        assert!(!keys(&second).contains(&true), "the new address got the key of the old one");
    });
}

#[test]
fn a_changed_file_is_in_force_at_once_and_a_bad_one_never() {
    run(async {
        let house = House::with("").await;
        let file = house.folder.path().join("live.toml");
        std::fs::write(&file, limit("100")).unwrap();
        let running = serve(&file, &house.fake_url());
        running.becomes(StatusCode::OK).await;
        std::fs::write(&file, limit("0")).unwrap();
        running.becomes(StatusCode::TOO_MANY_REQUESTS).await;
        std::fs::write(&file, limit("\"plenty\"")).unwrap();
        running.process.signal("HUP");
        let failed = async {
            let mut metrics = running.metrics().await;
            // The poll of the file may find the mistake beside the signal: once or twice.
            let failures =
                ["spendguard_config_reload_failures_total 1", "spendguard_config_reload_failures_total 2"];
            while !failures.iter().any(|line| metrics.contains(line)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                metrics = running.metrics().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
        assert_eq!(
            running.chat(json!({}), &[]).await.status,
            StatusCode::TOO_MANY_REQUESTS,
            "the old one stays"
        );
        std::fs::write(&file, limit("100")).unwrap();
        running.process.signal("HUP");
        running.becomes(StatusCode::OK).await;
    });
}

#[test]
fn a_secret_whose_file_changes_is_in_force_without_a_signal() {
    run(async {
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, "");
        let secret = place.folder.path().join("upstream-key");
        std::fs::write(&secret, "sk-old").unwrap();
        place.configure(&format!("[upstream]\napi_key = {{ file = {:?} }}\n", secret.display().to_string()));
        let guard = place.serve();
        let key = guard.make_key().await;
        let fake = client(&fake);
        let sent = async || {
            assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
            let last = call(&fake, Method::GET, "/__last", &[], Bytes::new()).await.json();
            last["headers"]["authorization"].as_str().unwrap().to_owned()
        };
        assert_eq!(sent().await, "Bearer sk-old");
        std::fs::write(&secret, "sk-new").unwrap();
        for _ in 0..100 {
            if sent().await == "Bearer sk-new" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the old key still goes upstream");
    });
}

#[test]
fn sigterm_lets_a_running_stream_finish_and_ends_with_success() {
    run(async {
        let house = House::with("").await;
        let file = house.folder.path().join("live.toml");
        std::fs::write(&file, "").unwrap();
        let running = serve(&file, &house.fake_url());
        let ordered = [("x-fake-chunks", "20"), ("x-fake-chunk-delay-ms", "50")];
        let asked = running.chat(json!({ "stream": true }), &ordered);
        let stopped = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            running.process.signal("TERM");
        };
        let (answer, ()) = tokio::join!(asked, stopped);
        assert!(String::from_utf8_lossy(&answer.body).ends_with("data: [DONE]\n\n"));
        let code = tokio::task::spawn_blocking(|| running.process.wait()).await.unwrap();
        assert_eq!(code, Some(0));
        let db = rusqlite::Connection::open(file.with_extension("data").join("spendguard.db")).unwrap();
        let basis: String = db.query_row("SELECT basis FROM entry", [], |row| row.get(0)).unwrap();
        assert_eq!(basis, "reported");
    });
}
