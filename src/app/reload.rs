//! Signals and changes of the configuration while the guard runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::alerts::Channels;
use crate::app::{App, StartError, log, rules};
use crate::config::reload::{Watch, needs_restart};
use crate::config::{self, Settings};

/// How often files are checked and the log is flushed.
const LOOK_EVERY: Duration = Duration::from_millis(300);

impl App {
    /// Handles reloads until SIGTERM or SIGINT, or until a thread has died that the
    /// guard can't work without.
    pub(super) async fn until_stopped(&mut self) -> Result<(), StartError> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut watch = Watch::new(self.watched());
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hang_up.recv() => {
                    self.reload().await;
                    watch.follow(self.watched());
                }
                _ = look.tick() => {
                    log::flush();
                    if self.engine.has_ended() || self.shards.iter().any(std::thread::JoinHandle::is_finished) {
                        return Err("a thread of the guard has died; it can't go on".into());
                    }
                    if watch.changed() {
                        self.reload().await;
                        watch.follow(self.watched());
                    }
                }
            }
        }
    }

    fn watched(&self) -> Vec<PathBuf> {
        let tls = [&self.settings.server.tls, &self.settings.admin.tls];
        let files = tls.into_iter().flatten().flat_map(|files| [files.cert.clone(), files.key.clone()]);
        self.config_file.iter().cloned().chain(files).chain(self.settings.files.iter().cloned()).collect()
    }

    /// Reads the configuration again; a bad one changes nothing.
    async fn reload(&mut self) {
        for tls in &self.tls {
            if let Err(error) = tls.reload() {
                tracing::error!(
                    event = "certificate_reload_failed", %error,
                    "a renewed certificate can't be used; the old one stays in use"
                );
            }
        }
        let loaded = config::load(self.config_file.as_deref(), std::env::vars());
        let applied = match loaded {
            Ok(settings) => self.apply(settings).await,
            Err(error) => Err(error.into()),
        };
        match applied {
            Ok(()) => {
                tracing::info!(event = "config_reloaded", "the configuration was read again and is in force");
            }
            Err(error) => {
                self.opened.guard.metrics().reload_failed();
                tracing::error!(
                    event = "config_reload_failed", %error,
                    "the changed configuration is refused; the old one stays in force"
                );
            }
        }
    }

    async fn apply(&mut self, settings: Settings) -> Result<(), StartError> {
        let known = Arc::clone(&self.rules.load().upstreams);
        let upstreams = rules::upstreams(&settings, Some((&self.settings, &known)), known.len(), &self.roots);
        let (mut new_rules, mut in_force) = rules::of(&settings, upstreams)?;
        let channels = Channels::of(&settings.alerts, &self.roots)?;
        for key in needs_restart(&self.settings, &settings) {
            tracing::warn!(event = "config_restart_needed", key, "this change takes effect after a restart");
        }
        let waiting = needs_restart(&self.started, &settings);
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            in_force.text = format!("# In force after a restart only: {keys}\n{}", in_force.text);
        }
        self.opened.rulebook.check_file_limits(&settings.limits).await?;
        self.opened.directory.install_file_organization(settings.organization.as_deref());
        self.opened.directory.install_file_projects(settings.projects.iter().cloned());
        self.opened.rulebook.install_file_limits(settings.limits.clone(), Arc::clone(&settings.zone)).await?;
        self.opened.rulebook.set_credit_terms(settings.credit).await?;
        self.opened.stops.set_fuses(settings.fuses.clone());
        self.outbox.change(channels);
        new_rules.tracer = self.telemetry.configure(settings.otlp.as_ref(), &settings.upstream.base_url);
        self.rules.store(Arc::new(new_rules));
        self.in_force.store(Arc::new(in_force));
        self.settings = settings;
        Ok(())
    }
}
