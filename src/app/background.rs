//! The tasks beside the listeners, which run until they are stopped.

use std::sync::Arc;

use tokio::sync::watch;

use crate::app::App;
use crate::jobs::{OVERDUE_MAX, Poller};

impl App {
    /// Starts them.
    pub(super) fn start_background(&self, stopping: &watch::Receiver<bool>) {
        let (outbox, until) = (Arc::clone(&self.outbox), stopping.clone());
        self.admin_task.spawn(async move { outbox.run(until).await });
        let (forecaster, in_force, until) =
            (Arc::clone(&self.forecaster), Arc::clone(&self.in_force), stopping.clone());
        let settings = move || {
            let in_force = in_force.load();
            (Arc::clone(&in_force.zone), in_force.alerts_forecast)
        };
        self.admin_task.spawn(async move { forecaster.run(settings, until).await });
        let (books, until) = (Arc::clone(&self.opened.books), stopping.clone());
        self.admin_task.spawn(async move { books.sum_up_days(until).await });
        let (rulebook, until) = (Arc::clone(&self.opened.rulebook), stopping.clone());
        self.admin_task.spawn(async move { rulebook.watch_credit(until).await });
        let (rulebook, until) = (Arc::clone(&self.opened.rulebook), stopping.clone());
        self.admin_task.spawn(async move { rulebook.watch_names(until).await });
        let (stops, until) = (Arc::clone(&self.opened.stops), stopping.clone());
        self.admin_task.spawn(async move { stops.watch(until).await });
        let poller = Poller::new(Arc::clone(&self.opened.guard), Arc::clone(&self.rules), OVERDUE_MAX);
        let until = stopping.clone();
        self.admin_task.spawn(async move { poller.run(until).await });
        let (books, in_force, until) =
            (Arc::clone(&self.opened.books), Arc::clone(&self.in_force), stopping.clone());
        self.admin_task.spawn(async move { books.prune_old(|| in_force.load().keep, until).await });
    }
}
