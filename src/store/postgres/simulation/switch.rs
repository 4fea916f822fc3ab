//! Stops all tasks of a guard at once, as SIGSTOP does, and lets them go on.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::sync::unpoisoned;

/// Whether a guard is stopped, and who is to be woken once it goes on.
#[derive(Debug, Default)]
pub(super) struct Switch(Mutex<(bool, Vec<Waker>)>);

/// A task that stands still while its guard is stopped.
pub(super) struct Stoppable<F> {
    task: Pin<Box<F>>,
    switch: Arc<Switch>,
}

impl Switch {
    pub(super) fn stop(&self) {
        unpoisoned(self.0.lock()).0 = true;
    }

    pub(super) fn go_on(&self) {
        let woken = {
            let mut state = unpoisoned(self.0.lock());
            state.0 = false;
            std::mem::take(&mut state.1)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl<F: Future> Stoppable<F> {
    pub(super) fn new(task: F, switch: &Arc<Switch>) -> Self {
        Self { task: Box::pin(task), switch: Arc::clone(switch) }
    }
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = unpoisoned(self.switch.0.lock());
            if state.0 {
                state.1.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}
