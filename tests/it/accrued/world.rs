//! A guard in simulated time, before the oracle's upstream of containers and vector stores.
//!
//! It runs on a runtime whose time passes only when nothing else is to be done, so that days take seconds. Connections
//! are pipes in memory, and the guard's poller asks as it always does.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oracle::hosted::upstream::{Asked, Upstream as Oracle};
use spendguard::app::rules;
use spendguard::clock::Clock;
use spendguard::config::Settings;
use spendguard::directory::keyring::NewKey;
use spendguard::guard::audit::Actor;
use spendguard::jobs::{OVERDUE_MAX, Poller};
use spendguard::ledger::entry::Entry;
use spendguard::ledger::meter::Meter;
use spendguard::net::converse;
use spendguard::proxy::in_flight::RequestIds;
use spendguard::proxy::{Proxy, Rules};
use spendguard::startup::{self, Opened};
use spendguard::store::reports::EntryFilter;
use spendguard::store::{Durability, Store};
use spendguard::upstream::{self, Upstream};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::harness::{Answer, call};

/// What a pipe holds before its writer waits, in bytes.
const PIPE_BYTES: usize = 64 << 10;
/// 2026-11-28T12:00:00Z.
const BASE_S: u64 = 1_795_867_200;
/// A header that is on every request of a client, and on none of the guard's own.
const OF_CLIENT: &str = "x-fake-client";

/// A guard, its clients' keys, and what upstream has billed.
pub(super) struct World {
    pub(super) keys: Vec<ClientKey>,
    pub(super) clock: Arc<Clock>,
    opened: Opened,
    oracle: Arc<Mutex<Oracle>>,
    proxy: Upstream,
    stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

/// A key of a client.
pub(super) struct ClientKey {
    id: Arc<str>,
    bearer: String,
}

/// How long upstream takes before and after it does what it is asked for, in seconds at the most.
#[derive(Clone, Copy)]
pub(super) struct Delays {
    pub(super) before_s: u64,
    pub(super) after_s: u64,
}

impl World {
    /// A guard with these limits and so many keys.
    pub(super) async fn start(config: &str, keys: usize, delays: Delays, oracle: Oracle) -> Self {
        let folder = memory();
        let settings = settings(&folder, config);
        let ticker = Clock::default();
        let wall = move || UNIX_EPOCH + Duration::from_secs(BASE_S) + ticker.running();
        let clock = Arc::new(Clock::with_wall(wall));
        let oracle = Arc::new(Mutex::new(oracle));
        let store = Store::open(&folder.path().join("data"), Durability::Process).unwrap();
        let config = startup::Config { open_requests_max: 50, zone: Arc::clone(&settings.zone) };
        let (opened, writer) = startup::open(store, &config, Arc::clone(&clock), Arc::default()).unwrap();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                writer.step();
            }
        });
        opened.directory.install_file_projects(settings.projects.iter().cloned());
        let (limits, zone) = (settings.limits.clone(), Arc::clone(&settings.zone));
        opened.rulebook.install_file_limits(limits, zone).await.unwrap();
        let serving = Serving { oracle: Arc::clone(&oracle), clock: Arc::clone(&clock), delays };
        let pool = Arc::new(Upstream::over(ToUpstream(serving), &rules::upstream(&settings)));
        let (rules, _) = rules::of(&settings, Arc::new([pool])).unwrap();
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let (stop, stopping) = watch::channel(false);
        let poller = Poller::new(Arc::clone(&opened.guard), Arc::clone(&rules), OVERDUE_MAX);
        tokio::task::spawn_local(poller.run(stopping));
        let of_guard =
            upstream::Config { base_url: "http://guard.test".parse().unwrap(), ..rules::upstream(&settings) };
        let proxy = Upstream::over(to_guard(&opened, rules, &settings, &stop), &of_guard);
        let mut world = Self { keys: Vec::new(), clock, opened, oracle, proxy, stop, _folder: folder };
        for number in 0..keys {
            let new = NewKey { name: format!("k{number}"), ..NewKey::default() };
            let (key, secret) = world.opened.directory.create_key(new, &Actor::guard()).await.unwrap();
            let bearer = format!("Bearer {}", secret.expose());
            world.keys.push(ClientKey { id: Arc::clone(&key.id), bearer });
        }
        world
    }

    /// What upstream has done and billed.
    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap()
    }

    pub(super) fn now_s(&self) -> i64 {
        self.clock.now_s()
    }

    /// A request with a client's key.
    pub(super) async fn ask(
        &self,
        client: usize,
        (method, path): (Method, &str),
        more: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let mut headers = vec![
            ("authorization", self.keys[client].bearer.as_str()),
            ("content-type", "application/json"),
            (OF_CLIENT, "1"),
        ];
        headers.extend_from_slice(more);
        call(&self.proxy, method, path, &headers, body).await
    }

    /// The meter of a client's key.
    pub(super) fn meter(&self, client: usize) -> Meter {
        let limits = self.opened.books.limits();
        let (_, readings) = limits.iter().find(|(limit, _)| &*limit.name == "each").unwrap();
        let id = &*self.keys[client].id;
        readings
            .iter()
            .find(|reading| reading.subject.label() == id)
            .map_or_else(Meter::default, |reading| reading.meter)
    }

    /// The entries of a client's key, oldest first.
    pub(super) async fn entries(&self, client: usize) -> Vec<Entry> {
        let key = Some(self.keys[client].id.to_string());
        let filter = EntryFilter { key, ascending: true, count_max: 100_000, ..EntryFilter::default() };
        self.opened.reports.entries(filter).await.unwrap()
    }

    /// Checks that ledger and meters agree, and ends the guard.
    pub(super) async fn close(self) {
        let report = self.opened.books.verify().await.unwrap();
        assert!(report.differences.is_empty(), "{:?}", report.differences);
        self.stop.send_replace(true);
    }
}

/// A folder in memory, where there is one.
fn memory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

fn settings(folder: &tempfile::TempDir, config: &str) -> Settings {
    let file = folder.path().join("spendguard.toml");
    std::fs::write(&file, config).unwrap();
    let environment = [
        ("SPENDGUARD_UPSTREAM__BASE_URL", "http://upstream.test/v1"),
        ("OPENAI_API_KEY", "sk-upstream"),
        ("SPENDGUARD_UPSTREAM__FORWARD_HEADERS", "x-fake-*"),
    ];
    let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
    spendguard::config::load(Some(&file), environment).unwrap()
}

/// Connects clients to the guard.
fn to_guard(
    opened: &Opened,
    rules: Arc<ArcSwap<Rules>>,
    settings: &Settings,
    stop: &watch::Sender<bool>,
) -> ToGuard {
    let proxy = Proxy {
        guard: Arc::clone(&opened.guard),
        opened: opened.clone(),
        rules,
        shard: 0,
        ids: Arc::new(RequestIds::new().unwrap()),
        tracker: TaskTracker::new(),
        stop: stop.subscribe(),
    };
    ToGuard {
        proxy: Arc::new(proxy),
        timeouts: rules::timeouts(settings),
        stop: stop.subscribe(),
        tasks: TaskTracker::new(),
    }
}

#[derive(Clone)]
struct ToGuard {
    proxy: Arc<Proxy>,
    timeouts: spendguard::net::Timeouts,
    stop: watch::Receiver<bool>,
    tasks: TaskTracker,
}

impl tower_service::Service<Uri> for ToGuard {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let proxy = Arc::clone(&self.proxy);
        let service = service_fn(move |request| {
            let proxy = Arc::clone(&proxy);
            async move { Ok::<_, Infallible>(proxy.handle(request).await) }
        });
        self.tasks.spawn(converse(there, self.timeouts, self.stop.clone(), service));
        ready(Ok(TokioIo::new(here)))
    }
}

/// Connects the guard to upstream.
#[derive(Clone)]
struct ToUpstream(Serving);

#[derive(Clone)]
struct Serving {
    oracle: Arc<Mutex<Oracle>>,
    clock: Arc<Clock>,
    delays: Delays,
}

impl tower_service::Service<Uri> for ToUpstream {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let serving = self.0.clone();
        let service = service_fn(move |request| serving.clone().answer(request));
        // It ends with its connection.
        TaskTracker::new().spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(there), service)
                .await;
        });
        ready(Ok(TokioIo::new(here)))
    }
}

impl Serving {
    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let is_guards = !is_of_client(&head.headers);
        self.pause(self.delays.before_s).await;
        let reply = {
            let asked = Asked { method: head.method.as_str(), path: head.uri.path(), body: &body, is_guards };
            self.oracle.lock().unwrap().answer(asked, self.clock.now_s())
        };
        self.pause(self.delays.after_s).await;
        let (status, value) = reply.ok_or(io::ErrorKind::ConnectionReset)?;
        let answer = Response::builder().status(status).header("content-type", "application/json");
        Ok(answer.body(Full::from(value.to_string())).unwrap())
    }

    async fn pause(&self, most_s: u64) {
        let lasts_s = self.oracle.lock().unwrap().pause_s(most_s);
        tokio::time::sleep(Duration::from_secs(lasts_s)).await;
    }
}

fn is_of_client(headers: &HeaderMap) -> bool {
    headers.contains_key(OF_CLIENT)
}
