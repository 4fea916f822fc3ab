//! What a guard does every second: it says that it is alive, notices new rules, gives up dead
//! guards, charges what they held, and joins again. The steps are those of the real upkeep.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::DatabaseError;
use crate::store::postgres::calls::Call;
use crate::store::postgres::simulation::clients;
use crate::store::postgres::simulation::connection::Connection;
use crate::store::postgres::simulation::database::Ended;
use crate::store::postgres::simulation::guard::Guard;
use crate::store::postgres::simulation::members::{Known, Rejoined};
use crate::store::postgres::simulation::oracle::{STORE, name_of};
use crate::store::postgres::simulation::periods;
use crate::store::postgres::simulation::plan::NODE_TIMEOUT_MS;

const EVERY: Duration = Duration::from_secs(1);

/// A time without a gap in which the guard has said that it is alive: since when, and until.
type Run = Option<(i64, i64)>;

/// Looks every second.
pub(super) async fn run(guard: Arc<Guard>) {
    let (mut connection, mut run) = (None, None);
    loop {
        sleep(EVERY).await;
        match look(&guard, &mut connection, &mut run).await {
            Ok(()) => guard.shared.note_success(),
            Err(ended) => {
                let error: DatabaseError = format!("{ended:?}").into();
                guard.shared.note_failure(&*error);
                (connection, run) = (None, None);
            }
        }
    }
}

async fn look(guard: &Guard, kept: &mut Option<Connection>, run: &mut Run) -> Result<(), Ended> {
    let Guard { database, link, shared, .. } = guard;
    let own = match kept {
        Some(own) => own,
        None => kept.insert(Connection::open(database, link).await?),
    };
    let (epoch, id) = (shared.epoch(), own.id);
    match own.call(Arc::clone(database).say_alive(id, epoch)).await? {
        Known::Alive(now_ms) => {
            let is_going_on = |(_, last_ms): &(i64, i64)| now_ms - last_ms < NODE_TIMEOUT_MS / 2;
            let since_ms = run.filter(is_going_on).map_or(now_ms, |(since_ms, _)| since_ms);
            *run = Some((since_ms, now_ms));
            if now_ms - since_ms >= NODE_TIMEOUT_MS {
                own.call(Arc::clone(database).give_up_dead(id, epoch)).await?;
            }
        }
        Known::Ended => {
            *run = None;
            rejoin(guard, epoch).await?;
        }
    }
    let known = shared.rules_version();
    let of = Arc::clone(database);
    let version = own.call(async move { Ok(of.rules_version()) }).await?;
    if version > known {
        shared.refresh(version);
    } else if version < known {
        shared.note_gone_back();
    }
    shared.call_waiting();
    let of = Arc::clone(database);
    let orphaned = own.call(async move { Ok(of.orphaned()) }).await?;
    for hold in orphaned {
        shared.queue.push(Call::Charge(Arc::new(hold)));
    }
    let of = Arc::clone(database);
    for open in own.call(async move { Ok(of.jobs()) }).await? {
        if open.job.kind == STORE {
            periods::look(guard, &open);
        } else if let Ok(slot) = Arc::clone(&guard.slots).try_acquire_owned() {
            clients::end_job(guard, &open.hold, name_of(&open.hold.attribution), slot);
        }
    }
    let of = Arc::clone(database);
    own.call(async move {
        of.remove_old_meters();
        Ok(())
    })
    .await
}

/// Joins again, unless a lane has.
async fn rejoin(guard: &Guard, lost: i64) -> Result<(), Ended> {
    let Guard { name, database, link, shared, .. } = guard;
    let mut next = shared.rejoining.lock().await;
    if shared.epoch() != lost {
        return Ok(());
    }
    let epoch = next.epoch().map_err(|_| Ended::Lost)?;
    let mut own = Connection::open(database, link).await?;
    match own.call(Arc::clone(database).rejoin(own.id, *name, lost, epoch)).await? {
        Rejoined::With(kept) => shared.note_rejoined(&mut next, kept),
        Rejoined::Unknown => shared.note_gone_back(),
        Rejoined::Taken => return Err(Ended::RolledBack("its name is another's")),
    }
    Ok(())
}
