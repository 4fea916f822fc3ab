//! A guard in front of the fake OpenAI, over real sockets, for one test.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use spendguard::app::App;
use spendguard::books::Books;
use spendguard::directory::Directory;
use spendguard::fake_openai::{self, Fake};
use spendguard::guard::Guard;
use spendguard::rulebook::Rulebook;
use spendguard::stops::Stops;
use spendguard::upstream::{Config, Upstream, roots};
use tokio::sync::watch;

use crate::postgres::Postgres;

pub(crate) const ADMIN_TOKEN: &str = "test-admin-token-0123456789";
pub(crate) const UPSTREAM_KEY: &str = "sk-upstream-secret-of-the-test";

/// A running guard with its fake upstream and a key.
pub(crate) struct House {
    pub(crate) guard: Arc<Guard>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) rulebook: Arc<Rulebook>,
    pub(crate) books: Arc<Books>,
    pub(crate) stops: Arc<Stops>,
    pub(crate) fake: Arc<Fake>,
    fake_address: std::net::SocketAddr,
    pub(crate) proxy: Upstream,
    pub(crate) proxy_address: std::net::SocketAddr,
    pub(crate) fake_direct: Upstream,
    pub(crate) admin: Upstream,
    pub(crate) admin_address: std::net::SocketAddr,
    pub(crate) key: String,
    pub(crate) folder: tempfile::TempDir,
    app: App,
    stop_fake: watch::Sender<bool>,
}

/// An answer read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("").to_owned()
    }
}

pub(crate) fn client(address: impl std::fmt::Display) -> Upstream {
    let wait = Duration::from_secs(20);
    let base_url = format!("http://{address}").parse().unwrap();
    Upstream::new(&Config { base_url, connect_timeout: wait, response_timeout: wait }, &roots())
}

pub(crate) async fn call(
    client: &Upstream,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let answer = client.send(method, path, map, body).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Answer { status: head.status, headers: head.headers, body }
}

/// The settings of a guard on PostgreSQL: on a database of the test's own or, if the tests are
/// run on one (`SPENDGUARD_TEST_DATABASE` is its address), with a schema for each folder.
fn shared_database(postgres: Option<&Postgres>, folder: &tempfile::TempDir) -> Vec<(String, String)> {
    if let Some(postgres) = postgres {
        let url = ("SPENDGUARD_STORAGE__URL__ENV".to_owned(), "DATABASE_URL".to_owned());
        return vec![("DATABASE_URL".to_owned(), postgres.url()), url];
    }
    let Ok(url) = std::env::var("SPENDGUARD_TEST_DATABASE") else { return Vec::new() };
    let name = folder.path().file_name().unwrap().to_string_lossy().to_lowercase();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let set = |key: &str, value: String| (format!("SPENDGUARD_{key}"), value);
    vec![
        ("DATABASE_URL".to_owned(), url),
        set("STORAGE__URL__ENV", "DATABASE_URL".to_owned()),
        set("STORAGE__SCHEMA", format!("it_{name}")),
    ]
}

impl House {
    /// A guard with the given limits and other configuration.
    pub(crate) async fn with(config: &str) -> Self {
        Self::in_front_of(None, Some(UPSTREAM_KEY), config).await
    }

    /// A guard before another upstream than the fake, or without its own key.
    pub(crate) async fn in_front_of(
        base_url: Option<&str>,
        upstream_key: Option<&str>,
        config: &str,
    ) -> Self {
        let place = (tempfile::tempdir().unwrap(), None);
        Self::started(place, base_url, upstream_key, config).await.with_key().await
    }

    /// A guard on a database that it shares with others.
    pub(crate) async fn sharing(postgres: &Postgres, base_url: Option<&str>, config: &str) -> Self {
        let place = (tempfile::tempdir().unwrap(), Some(postgres));
        Self::started(place, base_url, Some(UPSTREAM_KEY), config).await.with_key().await
    }

    async fn with_key(mut self) -> Self {
        let made = self.make_key(json!({ "name": "test" })).await;
        made["value"].as_str().unwrap().clone_into(&mut self.key);
        self
    }

    /// A guard on the database of one that was closed; it has no key.
    pub(crate) async fn reopened(folder: tempfile::TempDir, config: &str) -> Self {
        Self::started((folder, None), None, Some(UPSTREAM_KEY), config).await
    }

    async fn started(
        (folder, postgres): (tempfile::TempDir, Option<&Postgres>),
        base_url: Option<&str>,
        upstream_key: Option<&str>,
        config: &str,
    ) -> Self {
        let listener = spendguard::net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let fake_address = listener.local_addr().unwrap();
        let (stop_fake, stop) = watch::channel(false);
        let fake = Arc::new(Fake::default());
        // The test's own task; it ends with the test's runtime.
        tokio::task::spawn_local(fake_openai::serve(listener, Arc::clone(&fake), stop));
        let file = folder.path().join("spendguard.toml");
        std::fs::write(&file, config).unwrap();
        let set = |key: &str, value: String| (format!("SPENDGUARD_{key}"), value);
        let base_url = base_url.map_or_else(|| format!("http://{fake_address}/v1"), str::to_owned);
        let mut environment = vec![
            set("SERVER__LISTEN", "127.0.0.1:0".into()),
            set("ADMIN__LISTEN", "127.0.0.1:0".into()),
            set("STORAGE__PATH", folder.path().join("data").display().to_string()),
            set("UPSTREAM__BASE_URL", base_url),
            set("UPSTREAM__FORWARD_HEADERS", "x-fake-*".into()),
            set("ADMIN_TOKEN", ADMIN_TOKEN.into()),
        ];
        environment.extend(shared_database(postgres, &folder));
        environment.extend(upstream_key.map(|key| ("OPENAI_API_KEY".to_owned(), key.to_owned())));
        let settings = spendguard::config::load(Some(&file), environment).unwrap();
        let mut app = Box::pin(App::start(settings.clone(), None)).await;
        // The lock of one that was closed is free a moment later.
        for _ in 0..100 {
            let is_locked =
                app.as_ref().is_err_and(|error| error.to_string().contains("another spendguard is using"));
            if !is_locked {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            app = Box::pin(App::start(settings.clone(), None)).await;
        }
        let app = app.unwrap();
        Self {
            guard: Arc::clone(&app.opened.guard),
            directory: Arc::clone(&app.opened.directory),
            rulebook: Arc::clone(&app.opened.rulebook),
            books: Arc::clone(&app.opened.books),
            stops: Arc::clone(&app.opened.stops),
            fake,
            fake_address,
            proxy: client(app.proxy),
            proxy_address: app.proxy,
            fake_direct: client(fake_address),
            admin: client(app.admin),
            admin_address: app.admin,
            key: String::new(),
            folder,
            app,
            stop_fake,
        }
    }

    /// Where the fake is, as a base URL.
    pub(crate) fn fake_url(&self) -> String {
        format!("http://{}/v1", self.fake_address)
    }

    pub(crate) async fn make_key(&self, body: Value) -> Value {
        let answer = self.admin(Method::POST, "/guard/v1/keys", Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        call(&self.admin, method, path, &headers, body).await
    }

    /// A request with this house's key.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_raw(path, headers, Bytes::from(body.to_string())).await
    }

    pub(crate) async fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        call(&self.proxy, Method::POST, path, &all, body).await
    }

    pub(crate) async fn chat(&self, headers: &[(&str, &str)], more: Value) -> Answer {
        self.post("/v1/chat/completions", headers, &chat(more)).await
    }

    /// The newest entries of the ledger, newest first.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        let answer = self.admin(Method::GET, "/guard/v1/ledger?limit=1000", None).await;
        answer.json()["data"].as_array().unwrap().clone()
    }

    pub(crate) async fn meter(&self, limit: &str) -> Value {
        let answer = self.admin(Method::GET, &format!("/guard/v1/limits/{limit}"), None).await;
        answer.json()["meters"][0].clone()
    }

    /// Waits until nothing is held any more, within ten seconds.
    pub(crate) async fn settled(&self) {
        for _ in 0..500 {
            self.guard.core().see_whole().await;
            if self.guard.in_doubt().1 == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("holds are still open: {:?}", self.guard.in_doubt());
    }

    /// Shuts down, and lets the folder live on.
    pub(crate) async fn close(self) -> tempfile::TempDir {
        let Self { app, folder, stop_fake, guard, directory, rulebook, books, stops, .. } = self;
        // The database's thread ends once nothing uses it, and is waited for.
        drop((guard, directory, rulebook, books, stops));
        Box::pin(app.shut_down()).await;
        let _ = stop_fake.send(true);
        folder
    }
}

/// A chat request with some fields more.
pub(crate) fn chat(more: Value) -> Value {
    let mut body = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "hello" }] });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

/// Runs a test on a runtime whose spawned tasks end with it.
pub(crate) fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// What the fake served, priced by the sheet's rates of gpt-4o-mini.
pub(crate) fn true_cost_nano(fake: &Fake) -> u64 {
    let served = fake.served();
    let Some(mini) = served.get("gpt-4o-mini") else { return 0 };
    let pico = (mini.prompt_tokens - mini.cached_tokens) * 150_000
        + mini.cached_tokens * 75_000
        + mini.completion_tokens * 600_000;
    pico / 1_000
}
