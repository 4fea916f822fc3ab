//! Wiring: which part owns which, and the order in which they start and stop.
//!
//! The proxy runs in shards: a thread for each core, with a runtime, a listener
//! and a pool of upstream connections of its own. Admin, reload and signals run
//! on the main runtime. The writer's thread ends last.

mod background;
pub mod demo;
mod engine;
pub mod log;
pub mod program;
mod reload;
pub mod rules;
mod runtime;
mod token;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::admin::metrics::Series;
use crate::admin::{Admin, InForce};
use crate::alerts::{Channels, Outbox};
use crate::books::forecast::Forecaster;
use crate::cli::say;
use crate::clock::Clock;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::net::{Serving, Tls};
use crate::proxy::in_flight::RequestIds;
use crate::proxy::{Proxy, Rules};
use crate::startup::Opened;
use crate::telemetry::{self, Telemetry};
use crate::upstream;

pub use self::runtime::runtime;

/// The admin listener's connections: people and scrapers, not clients.
const ADMIN_CONNECTIONS_MAX: usize = 1_000;

/// The wait between attempts to write the last entries at shutdown.
const FLUSH_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long the writer's thread may take to end.
const WRITER_END_MAX: Duration = Duration::from_secs(1);
/// The time at shutdown for what follows the last request, however long that took.
const REST_MIN: Duration = Duration::from_secs(2);
/// Below the shortest time limit of a request.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A guard that is serving.
pub struct App {
    /// The parts that work on the ledger.
    pub opened: Opened,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// Where the admin listener listens.
    pub admin: SocketAddr,
    /// The admin token, or where it is.
    pub token: token::Token,
    settings: Settings,
    /// The settings at the start; some keys stay in force until a restart.
    started: Settings,
    config_file: Option<PathBuf>,
    in_force: Arc<ArcSwap<InForce>>,
    rules: Arc<ArcSwap<Rules>>,
    outbox: Arc<Outbox>,
    forecaster: Arc<Forecaster>,
    telemetry: Telemetry,
    roots: Arc<rustls::ClientConfig>,
    tls: Vec<Arc<Tls>>,
    stop: watch::Sender<bool>,
    shards: Vec<JoinHandle<()>>,
    admin_task: TaskTracker,
    engine: engine::Running,
}

/// Why the guard could not start.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

impl App {
    /// Opens the database, puts the limits in force, and starts to serve.
    pub async fn start(settings: Settings, config_file: Option<PathBuf>) -> Result<Self, StartError> {
        let (clock, metrics) = (Arc::new(Clock::default()), Arc::new(Metrics::default()));
        let (opened, engine) = engine::open(&settings, clock, metrics)?;
        let Opened { directory, rulebook, .. } = &opened;
        directory.install_file_organization(settings.organization.as_deref());
        directory.install_file_projects(settings.projects.iter().cloned());
        rulebook.install_file_limits(settings.limits.clone(), Arc::clone(&settings.zone)).await?;
        rulebook.set_credit_terms(settings.credit).await?;
        opened.stops.set_fuses(settings.fuses.clone());
        let token = token::Token::of(&settings)?;
        directory.know_admin_token(token.hash());
        let roots = upstream::roots();
        let outbox = Outbox::new(opened.clone(), Channels::of(&settings.alerts, &roots)?);
        let (stop, stopping) = watch::channel(false);
        let shards = std::thread::available_parallelism().map_or(1, usize::from);
        let pools = rules::upstreams(&settings, None, shards + 1, &roots);
        let (mut rules, in_force) = rules::of(&settings, pools)?;
        let in_force = Arc::new(ArcSwap::from_pointee(in_force));
        let forecaster = Arc::new(Forecaster::new(Arc::clone(&opened.books)));
        let mut telemetry = exporting(&opened, &forecaster, &in_force, &roots)?;
        let listeners = bound(settings.server.listen, shards, "server.listen")?;
        let admin_listener = bound(settings.admin.listen, 1, "admin.listen")?;
        let admin_listener = admin_listener.into_iter().next().ok_or("no admin listener")?;
        rules.tracer = telemetry.configure(settings.otlp.as_ref(), &settings.upstream.base_url);
        let mut app = Self {
            proxy: listeners[0].local_addr()?,
            admin: admin_listener.local_addr()?,
            in_force,
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            outbox: Arc::new(outbox),
            forecaster,
            telemetry,
            roots,
            tls: Vec::new(),
            shards: Vec::new(),
            admin_task: TaskTracker::new(),
            opened,
            token,
            started: settings.clone(),
            settings,
            config_file,
            stop,
            engine,
        };
        app.start_background(&stopping);
        app.serve_admin(admin_listener, stopping.clone())?;
        app.serve_proxy(listeners, &stopping)?;
        Ok(app)
    }

    fn serve_admin(
        &mut self,
        listener: std::net::TcpListener,
        stop: watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let admin = Admin {
            guard: Arc::clone(&self.opened.guard),
            directory: Arc::clone(&self.opened.directory),
            rulebook: Arc::clone(&self.opened.rulebook),
            books: Arc::clone(&self.opened.books),
            stops: Arc::clone(&self.opened.stops),
            token: self.token.hash(),
            attempts: Arc::default(),
            metrics_open: self.admin.ip().is_loopback(),
            address: self.admin.ip(),
            proxy_url: self.proxy_url().into(),
            tls: self.settings.admin.tls.is_some(),
            in_force: Arc::clone(&self.in_force),
            outbox: Arc::clone(&self.outbox),
            forecaster: Arc::clone(&self.forecaster),
            tracker: self.admin_task.clone(),
        };
        let router = crate::admin::router(admin);
        let service = service_fn(move |request: Request<Incoming>| router.clone().call(request));
        let serving = Serving {
            timeouts: rules::timeouts(&self.settings),
            connections: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
            tls: self.load_tls(self.settings.admin.tls.clone())?,
            stop,
        };
        self.admin_task.spawn(async move {
            if let Err(error) = crate::net::serve(listener, serving, service).await {
                tracing::error!(event = "admin_listener_failed", %error, "the admin listener failed");
            }
        });
        Ok(())
    }

    fn serve_proxy(
        &mut self,
        listeners: Vec<std::net::TcpListener>,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let serving = Serving {
            timeouts: rules::timeouts(&self.settings),
            connections: Arc::new(Semaphore::new(self.settings.server.connections_max)),
            tls: self.load_tls(self.settings.server.tls.clone())?,
            stop: stop.clone(),
        };
        let ids = Arc::new(RequestIds::new()?);
        for (number, listener) in listeners.into_iter().enumerate() {
            let proxy = Arc::new(Proxy {
                guard: Arc::clone(&self.opened.guard),
                opened: self.opened.clone(),
                rules: Arc::clone(&self.rules),
                shard: number,
                ids: Arc::clone(&ids),
                tracker: TaskTracker::new(),
                stop: stop.clone(),
            });
            let (serving, drain) = (serving.clone(), self.settings.server.drain);
            let name = format!("proxy-{number}");
            let body = move || run_shard(proxy, listener, serving, drain);
            self.shards.push(std::thread::Builder::new().name(name).spawn(body)?);
        }
        Ok(())
    }

    fn load_tls(
        &mut self,
        files: Option<crate::config::settings::TlsFiles>,
    ) -> Result<Option<Arc<Tls>>, StartError> {
        let Some(files) = files else { return Ok(None) };
        let tls = Arc::new(Tls::load(&files.cert, &files.key)?);
        self.tls.push(Arc::clone(&tls));
        Ok(Some(tls))
    }

    /// Prints the addresses to standard output.
    pub fn announce(&self) {
        let scheme = if self.settings.admin.tls.is_some() { "https" } else { "http" };
        let admin = format!("{scheme}://{}", self.admin);
        let proxy_url = self.proxy_url();
        say(&format!("proxy listening on {}", proxy_url.trim_end_matches("/v1")));
        say(&format!("admin listening on {admin}"));
        say(&format!("dashboard: {admin}/ (sign in with the admin token)"));
        say(&format!("admin token: {}", self.token.whereabouts()));
        if self.settings.pass_through {
            say("no upstream key: clients send their own OpenAI keys, which are metered and limited");
        }
        say("point your programs at it:");
        say(&format!("  export OPENAI_BASE_URL={proxy_url}"));
    }

    /// The base URL that clients use in place of OpenAI's.
    fn proxy_url(&self) -> String {
        let scheme = if self.settings.server.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/v1", self.proxy)
    }

    /// Runs until a signal, reloading on changes; then drains.
    pub async fn run(mut self) -> Result<(), StartError> {
        self.until_stopped().await?;
        tracing::info!(event = "shutdown_started", "draining: no new requests are accepted");
        self.shut_down().await;
        Ok(())
    }

    /// Stops taking work, lets what is running finish, and settles everything.
    pub async fn shut_down(self) {
        let _ = self.stop.send(true);
        let Self { opened, shards, admin_task, engine, settings, outbox, forecaster, telemetry, .. } = self;
        let began = opened.guard.clock().running();
        let joined = tokio::task::spawn_blocking(move || {
            for shard in shards {
                if shard.join().is_err() {
                    tracing::error!(event = "shard_panicked", "a shard of the proxy panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!(event = "shards_not_joined", "the shards could not be waited for");
        }
        admin_task.close();
        let (drain, least) = (settings.server.drain, REST_MIN.min(settings.server.drain));
        // The admin listener has no requests that need a long wait.
        let _ = tokio::time::timeout(least, admin_task.wait()).await;
        let flushed = async {
            while let Err(error) = opened.guard.core().flush().await {
                tracing::warn!(
                    event = "shutdown_write_failed", %error,
                    "settled entries can't be written yet; trying again"
                );
                tokio::time::sleep(FLUSH_AGAIN_AFTER).await;
            }
        };
        if tokio::time::timeout(settings.server.drain, flushed).await.is_ok() {
            tracing::info!(event = "shutdown_complete", "everything is settled and written");
        } else {
            tracing::error!(
                event = "shutdown_incomplete",
                "not all entries could be written; the next start charges their holds"
            );
        }
        let drained = opened.guard.clock().running().saturating_sub(began);
        Box::pin(telemetry.finish(drain.saturating_sub(drained).max(least))).await;
        drop((opened, outbox, forecaster));
        // The writer ends once all its senders are gone. Admin tasks that were cut off keep one
        // until the runtime ends, so the wait is bounded.
        let ended = tokio::task::spawn_blocking(move || engine.end());
        if tokio::time::timeout(WRITER_END_MAX, ended).await.is_err() {
            tracing::warn!(
                event = "writer_still_used",
                "the writer's thread is still used by tasks that were cut off"
            );
        }
    }
}

/// The export of what the guard is asked and of the series that `/metrics` shows.
fn exporting(
    opened: &Opened,
    forecaster: &Arc<Forecaster>,
    in_force: &Arc<ArcSwap<InForce>>,
    roots: &Arc<rustls::ClientConfig>,
) -> Result<Telemetry, getrandom::Error> {
    let Opened { guard, rulebook, books, stops, .. } = opened.clone();
    let (clock, metrics) = (Arc::clone(guard.clock()), Arc::clone(guard.metrics()));
    let (forecaster, in_force) = (Arc::clone(forecaster), Arc::clone(in_force));
    let series = Series { guard, rulebook, books, stops, forecaster, in_force };
    let gather: telemetry::Gather = Arc::new(move || {
        let series = series.clone();
        Box::pin(async move { series.gather_whole().await })
    });
    Telemetry::new(telemetry::Parts { clock, metrics, gather, roots: Arc::clone(roots) })
}

fn bound(address: SocketAddr, count: usize, key: &str) -> Result<Vec<std::net::TcpListener>, StartError> {
    crate::net::bind(address, count).map_err(|error| {
        let taken = error.kind() == io::ErrorKind::AddrInUse;
        let reason = if taken { "another program uses this address" } else { "can't listen on this address" };
        format!("{key} = \"{address}\": {reason}: {error}").into()
    })
}

/// One shard: serves until stopped, then waits for its requests, bounded.
fn run_shard(proxy: Arc<Proxy>, listener: std::net::TcpListener, serving: Serving, drain: Duration) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(event = "shard_start_failed", %error, "a shard could not start"),
    };
    let tracker = proxy.tracker.clone();
    let mut stop = serving.stop.clone();
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        // Boxed, so that its memory is freed while its answer streams.
        async move { Ok::<_, Infallible>(Box::pin(proxy.handle(request)).await) }
    });
    runtime.block_on(async move {
        let bounded = async {
            // The sender lives as long as the app.
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(drain).await;
        };
        let served = async {
            if let Err(error) = crate::net::serve(listener, serving, service).await {
                tracing::error!(event = "proxy_listener_failed", %error, "a listener of the proxy failed");
            }
            tracker.close();
            tracker.wait().await;
        };
        // While a timer is pending that is due before those of requests, arming
        // theirs doesn't wake the thread that does it.
        let heartbeat = async {
            let mut beat = tokio::time::interval(HEARTBEAT);
            loop {
                beat.tick().await;
            }
        };
        tokio::select! {
            () = served => {}
            () = heartbeat => {}
            () = bounded => tracing::warn!(
                event = "drain_timeout",
                "requests were still running at the end of the drain; their holds are charged"
            ),
        }
    });
    // Dropping the runtime drops running tasks; their reservations end by themselves.
}
