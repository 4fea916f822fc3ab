//! kill -9 of the real binary under load: nothing admitted is forgotten.

use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::upstream::Upstream;

use crate::harness::{ADMIN_TOKEN, call, chat, client, run};
use crate::process::{Process, SPENDGUARD};

struct Run {
    process: Process,
    proxy: Upstream,
    admin: Upstream,
}

fn serve(folder: &std::path::Path, fake: &str) -> Run {
    let config = folder.join("spendguard.toml");
    std::fs::write(
        &config,
        "[[limit]]\nname = \"small\"\nwindow = \"month\"\nhard = 0.02\n[guard]\nwhen_tight = \"reject\"\n",
    )
    .unwrap();
    let (data, base) = (folder.join("data").display().to_string(), format!("http://{fake}/v1"));
    let environment = [
        ("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0"),
        ("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SPENDGUARD_STORAGE__PATH", data.as_str()),
        ("SPENDGUARD_UPSTREAM__BASE_URL", base.as_str()),
        ("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN),
        ("OPENAI_API_KEY", "sk-upstream"),
    ];
    let process =
        Process::start(&["serve", "--config", config.to_str().unwrap()], &environment, "OPENAI_BASE_URL");
    let (proxy, admin) =
        (client(process.address("proxy listening")), client(process.address("admin listening")));
    Run { process, proxy, admin }
}

async fn ask(admin: &Upstream, method: Method, path: &str, body: Option<Value>) -> Value {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = body.map_or_else(bytes::Bytes::new, |body| bytes::Bytes::from(body.to_string()));
    call(admin, method, path, &headers, body).await.json()
}

/// Requests from many clients until one can't reach the guard any more.
async fn load(proxy: &Upstream, key: &str) {
    let clients = (0..24).map(|n| {
        let (proxy, bearer) = (proxy.clone(), format!("Bearer {key}"));
        tokio::task::spawn_local(async move {
            for _ in 0..200 {
                let latency = if n % 2 == 0 { "20" } else { "1" };
                let mut headers = http::HeaderMap::new();
                headers.insert("authorization", bearer.parse().unwrap());
                headers.insert("x-fake-latency-ms", latency.parse().unwrap());
                let body = chat(json!({ "max_completion_tokens": 20, "stream": n % 3 == 0 })).to_string();
                if proxy.send(Method::POST, "/v1/chat/completions", headers, body.into()).await.is_err() {
                    return;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[test]
fn kill_9_under_load_forgets_nothing_and_the_limit_stays_in_force() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let fake = Process::start(&["demo", "--upstream-only"], &[], "listening");
        let fake_address = fake.address("fake OpenAI listening");
        let mut key = String::new();
        for round in 0..3 {
            let Run { process, proxy, admin } = serve(folder.path(), &fake_address);
            if round == 0 {
                let made = ask(&admin, Method::POST, "/guard/v1/keys", Some(json!({ "name": "load" }))).await;
                key = made["value"].as_str().unwrap().to_owned();
            }
            let killed = async {
                tokio::time::sleep(Duration::from_millis(250 + 130 * round)).await;
                process.kill();
            };
            tokio::join!(load(&proxy, &key), killed);
        }
        let Run { process, proxy, admin } = serve(folder.path(), &fake_address);
        let stats =
            call(&client(&fake_address), Method::GET, "/__stats", &[], bytes::Bytes::new()).await.json();
        let served = &stats["models"]["gpt-4o-mini"];
        let of = |field: &str| served[field].as_u64().unwrap();
        assert!(of("requests") > 20, "{stats}");
        let pico = (of("prompt_tokens") - of("cached_tokens")) * 150_000
            + of("cached_tokens") * 75_000
            + of("completion_tokens") * 600_000;
        let limit = ask(&admin, Method::GET, "/guard/v1/limits/small", None).await;
        let meter = &limit["meters"][0];
        let settled: spendguard::domain::Money = meter["settled"].as_str().unwrap().parse().unwrap();
        assert!(u64::try_from(settled.nano()).unwrap() >= pico / 1_000, "{settled} < {pico} picodollars");
        assert!(settled.nano() <= 20_000_000, "{settled} is past the limit");
        assert_eq!(meter["held"], "0");
        let verified = ask(&admin, Method::GET, "/guard/v1/ledger/verify", None).await;
        assert_eq!(verified["ok"], true, "{verified}");
        // The limit is still in force: it goes on from where it was, to its end.
        load(&proxy, &key).await;
        let bearer = format!("Bearer {key}");
        let body = chat(json!({ "max_completion_tokens": 16000 })).to_string();
        let refused = call(
            &proxy,
            Method::POST,
            "/v1/chat/completions",
            &[("authorization", bearer.as_str())],
            body.into(),
        )
        .await;
        assert!(refused.status == StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
        let second = Command::new(SPENDGUARD)
            .args(["serve"])
            .env("SPENDGUARD_STORAGE__PATH", folder.path().join("data"))
            .env("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0")
            .env("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0")
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&second.stderr).contains("another spendguard is using"));
        process.kill();
        drop(fake);
    });
}
