//! Connections of guards to the simulated database.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::store::postgres::simulation::database::{Database, Ended};
use crate::store::postgres::simulation::log::now;
use crate::store::postgres::simulation::plan::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use crate::sync::unpoisoned;

/// The network between a guard and the database, which may be cut for a while.
#[derive(Debug, Default)]
pub(super) struct Link(Mutex<Option<Instant>>);

impl Link {
    /// Lets nothing pass for so long.
    pub(super) fn cut(&self, time: Duration) {
        *unpoisoned(self.0.lock()) = Some(now() + time);
    }

    pub(super) fn join(&self) {
        *unpoisoned(self.0.lock()) = None;
    }

    pub(super) fn is_cut(&self) -> bool {
        unpoisoned(self.0.lock()).is_some_and(|until| until > now())
    }

    /// Passes it: what is on the way while it is cut arrives afterwards.
    async fn pass(self: Arc<Self>) {
        while self.is_cut() {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One connection. Dropped, it is abandoned with its transaction.
pub(super) struct Connection {
    database: Arc<Database>,
    link: Arc<Link>,
    pub(super) id: u64,
    is_lost: bool,
}

impl Connection {
    pub(super) async fn open(database: &Arc<Database>, link: &Arc<Link>) -> Result<Self, Ended> {
        let connecting = async {
            sleep(database.delay(database.plan.slow_ms)).await;
            Arc::clone(link).pass().await;
            let id = database.accept().ok_or(Ended::Lost)?;
            let (database, link) = (Arc::clone(database), Arc::clone(link));
            Ok(Self { database, link, id, is_lost: false })
        };
        timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(Ended::Lost))
    }

    /// Has work done by the database, and waits for its answer.
    pub(super) async fn call<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = Result<T, Ended>> + Send + 'static,
    ) -> Result<T, Ended> {
        if self.is_lost {
            return Err(Ended::Lost);
        }
        let link = Arc::clone(&self.link);
        let answer = self.database.send(self.id, move || Arc::clone(&link).pass(), work);
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Err(Ended::Lost)) | Err(_)) | Err(_) => {
                self.is_lost = true;
                self.database.abandon(self.id);
                Err(Ended::Lost)
            }
            Ok(Ok(answer)) => answer,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_lost {
            self.database.abandon(self.id);
        }
    }
}
