//! The periods of jobs: what is done about each when its time comes.

use std::time::Duration;

use crate::ledger::denial::Denial;
use crate::ledger::entry::OpenJob;
use crate::protocol::openai::hosted::{Container, VectorStore};
use crate::proxy::Rules;
use crate::proxy::accrual::terms::{GRACE_S, MARGIN_S, Object};
use crate::proxy::accrual::{Accrual, Asker, CONTAINER, Renewal, Terms};
use crate::proxy::asking::{Asked, PAUSE_MAX, pause_after};
use crate::proxy::job;

/// How long a job is left alone that could not be renewed.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// The least time between two holds of a store that get smaller while no files are added: each is
/// an entry.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_S: i64 = 3_600;
/// How long a store's counts of files may lag, in seconds: so long after files were added, or a new
/// hold was taken, upstream is not asked what the store keeps.
pub(super) const BELIEVED_AFTER_S: i64 = 60;
/// How long before the end of a hold the next one is taken for a container of which upstream says
/// nothing, or the container is deleted even if others' holds alone are in the way, in seconds.
const LAST_S: i64 = 30;
/// Why a container was deleted, as its last entry says it.
const NO_ROOM: &str = "a limit left no room, so the guard deleted it";
const SPENDING_STOPPED: &str = "spending is stopped, so the guard deleted it";

/// A container's next period may not be spent.
struct SpendingStopped;

/// What was found of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has ended, or has a new period: there is nothing to put off.
    Done,
    /// Upstream does not know its object.
    Gone,
    /// Upstream shows its object. It is to be looked at again after this time.
    There(Duration),
    /// It is to be looked at again after this time.
    Later(Duration),
}

impl Seen {
    /// The same of an object that upstream has shown, or has not.
    pub(super) fn of_shown(self, is_shown: bool) -> Self {
        match self {
            Self::Later(lasts) if is_shown => Self::There(lasts),
            Self::Done | Self::Gone | Self::There(_) | Self::Later(_) => self,
        }
    }
}

impl Accrual {
    /// Does what is to be done about a job now.
    pub async fn look(&self, rules: &Rules, open: &OpenJob, polls: u32) -> Seen {
        let terms = match Terms::read(&open.job.terms) {
            Ok(terms) => terms,
            Err(error) => {
                job::log_unusable(open, &error);
                self.end(&open.job.kind, &open.job.object, self.now_s(), "its terms can't be read").await;
                return Seen::Done;
            }
        };
        let own = rules.own_asker().filter(|_| terms.is_own);
        let asker = own.map(|(upstream, authorization)| Asker { upstream, authorization });
        match &terms.of {
            Object::Container { idle_s, active_s, .. } => {
                let life = (*active_s, *idle_s);
                self.look_at_container(asker, (open, &terms), life, polls).await
            }
            Object::VectorStore { beside: Some(store), .. } => {
                self.look_at_files(asker, (open, &terms), store, polls).await
            }
            Object::VectorStore { changed_s, is_held, .. } => {
                self.look_at_store(asker, (open, &terms), (*changed_s, *is_held), polls).await
            }
        }
    }

    async fn look_at_container(
        &self,
        asker: Option<Asker<'_>>,
        (open, terms): (&OpenJob, &Terms),
        (active_s, idle_s): (i64, i64),
        polls: u32,
    ) -> Seen {
        let (id, now_s) = (&open.job.object, self.now_s());
        let mut active_s = self.used_s(id).await.unwrap_or(active_s).max(active_s);
        let presumed_s = active_s.saturating_add(idle_s);
        let next_s = terms.until_s.saturating_sub(MARGIN_S);
        let last_s = terms.until_s.saturating_sub(LAST_S);
        if now_s < next_s {
            return Seen::Later(seconds(next_s.saturating_sub(now_s)));
        }
        let asked_s = presumed_s.saturating_add(GRACE_S);
        let mut is_shown = false;
        if (presumed_s..asked_s).contains(&now_s) && asked_s.saturating_add(LAST_S) <= terms.until_s {
            // Another minute is booked only if it lives.
            return Seen::Later(seconds(asked_s.saturating_sub(now_s)));
        }
        if asked_s <= now_s {
            let Some(asker) = asker else {
                // Only its client's own key can ask for it. If it was used meanwhile, it may live.
                self.charge_uses(id).await;
                self.end(CONTAINER, id, presumed_s, "it was not used for as long as it lives then").await;
                return Seen::Done;
            };
            let shown = asker.show("/containers", id, &open.hold.attribution).await;
            match shown.map(|shown| Container::read(&shown).filter(|container| container.id == *id)) {
                Ok(Some(container)) if container.is_over => {
                    self.saw_over(&Container { idle_s: container.idle_s.or(Some(idle_s)), ..container })
                        .await;
                    return Seen::Done;
                }
                Ok(Some(container)) => {
                    is_shown = true;
                    active_s = container.active_s.unwrap_or(now_s).max(active_s);
                }
                Err(Asked::Gone) => return Seen::Gone,
                Ok(None) | Err(_) if now_s < last_s => {
                    return Seen::Later(pause_after(polls).min(seconds(last_s.saturating_sub(now_s))));
                }
                Ok(None) | Err(_) if presumed_s.saturating_add(HOUR_S) <= now_s => {
                    self.charge_uses(id).await;
                    let note = "for an hour upstream did not say whether it lives";
                    self.end_at(CONTAINER, id, now_s, note).await;
                    return Seen::Done;
                }
                // It may live, and what it is billed from now on has to be held.
                Ok(None) | Err(_) => {}
            }
        }
        let next = terms.next_of_container(self.fees(), active_s, now_s);
        let why = match self.renew_container(open, now_s, &next).await {
            Ok(Renewal::Done) => return Seen::Done,
            Ok(Renewal::Later) => return Seen::Later(RETRY).of_shown(is_shown),
            // They may end in time.
            Ok(Renewal::Refused(Denial::Held(_) | Denial::CreditHeld(_))) if now_s < last_s => {
                return Seen::Later(RETRY).of_shown(is_shown);
            }
            Ok(Renewal::Refused(denial)) => {
                self.guard.core().note_denial(&denial);
                NO_ROOM
            }
            Err(SpendingStopped) => SPENDING_STOPPED,
        };
        self.delete(asker, (open, active_s), why, polls).await
    }

    /// Has the next period of a container held, unless who pays for it is stopped.
    async fn renew_container(
        &self,
        open: &OpenJob,
        now_s: i64,
        next: &Terms,
    ) -> Result<Renewal, SpendingStopped> {
        let of = &open.hold.attribution;
        if self.guard.stop_on(&of.project, &of.key).await.is_some() {
            return Err(SpendingStopped);
        }
        Ok(self.renew(open, now_s, next).await)
    }

    /// Deletes a container whose next minutes may not be spent, and which was last used at a time, in
    /// Unix seconds.
    async fn delete(
        &self,
        asker: Option<Asker<'_>>,
        (open, active_s): (&OpenJob, i64),
        why: &'static str,
        polls: u32,
    ) -> Seen {
        let id = &open.job.object;
        // That of a client's own key goes on; its minutes are charged once it ends.
        let Some(asker) = asker else { return Seen::Later(PAUSE_MAX) };
        match asker.delete("/containers", id, &open.hold.attribution).await {
            Ok(()) => {}
            Err(Asked::Gone) => return Seen::Gone,
            Err(_) => {
                tracing::error!(
                    event = "container_not_deleted",
                    object = id,
                    "a container whose next minutes may not be spent can't be deleted; they are charged"
                );
                return Seen::Later(pause_after(polls));
            }
        }
        tracing::warn!(
            event = "container_deleted",
            object = id,
            entry = open.hold.id,
            why,
            "a container was deleted, since its next minutes may not be spent"
        );
        self.end_job((CONTAINER, id), self.now_s(), Some(active_s), why).await;
        Seen::Done
    }

    async fn look_at_store(
        &self,
        asker: Option<Asker<'_>>,
        (open, terms): (&OpenJob, &Terms),
        (changed_s, is_held): (i64, bool),
        polls: u32,
    ) -> Seen {
        let now_s = self.now_s();
        // What was not held is tried again at once, now that what has passed is booked.
        let is_tried_again = !is_held && polls == 0;
        let since_s = if is_tried_again { changed_s } else { terms.from_s.max(changed_s) };
        let believed_s = since_s.saturating_add(BELIEVED_AFTER_S);
        if now_s < believed_s {
            return Seen::Later(seconds(believed_s.saturating_sub(now_s)));
        }
        let shown = match asker {
            Some(asker) => asker.show("/vector_stores", &open.job.object, &open.hold.attribution).await,
            None => Err(Asked::Failed),
        };
        let store = match shown {
            Ok(shown) => VectorStore::read(&shown).filter(|store| store.id == open.job.object),
            Err(Asked::Gone) => return Seen::Gone,
            Err(_) => None,
        };
        if store.as_ref().is_some_and(|store| store.is_over) {
            self.end(&open.job.kind, &open.job.object, now_s, "it has expired").await;
            return Seen::Done;
        }
        // Before what is beside it is read: files that are added then are in one of the two.
        let is_adding = self.is_adding(&open.job.object);
        let Ok(beside) = self.beside(&open.job.object, "").await else { return Seen::Later(RETRY) };
        let (bytes, file_bytes) = terms.stored();
        let known =
            store.as_ref().map_or(bytes, |store| store.bytes_max(file_bytes).saturating_sub(beside.bytes));
        // What it has grown by may be files that are held by the request that adds them.
        let known = if is_adding { known.min(bytes) } else { known };
        let has_grown = mebibytes(known) > mebibytes(bytes);
        let has_shrunk = mebibytes(known) < mebibytes(bytes);
        let pending = store.as_ref().map(|store| store.pending);
        let next_s = terms.until_s.saturating_sub(MARGIN_S);
        let shrinks_s = match pending {
            // Once after files were added.
            Some(0) if terms.from_s <= changed_s => now_s,
            Some(_) | None => terms.from_s.saturating_add(HOUR_S),
        };
        if now_s >= next_s || has_grown || has_shrunk && now_s >= shrinks_s || is_tried_again {
            let next = terms.next_of_store(known, self.fees(), now_s);
            // Where the store has not grown, the period may go on as it is.
            let left_s = if has_grown { 0 } else { next_s.saturating_sub(now_s) };
            let seen = if has_grown && is_held && beside.has_room {
                self.enlarge(open, next, (known - bytes, terms)).await
            } else {
                self.renew_store(open, next, (is_held, left_s)).await
            };
            return seen.of_shown(store.is_some());
        }
        match pending {
            Some(_) if is_adding => Seen::There(RETRY),
            Some(0) if has_shrunk => Seen::There(seconds(next_s.min(shrinks_s).saturating_sub(now_s))),
            Some(0) => Seen::There(seconds(next_s.saturating_sub(now_s))),
            Some(_) => Seen::There(pause_after(polls)),
            None if asker.is_none() => Seen::Later(seconds(next_s.saturating_sub(now_s))),
            None => Seen::Later(pause_after(polls)),
        }
    }

    /// Replaces the hold of a store by a larger one or, where no limit leaves room for that, leaves it
    /// as it is and follows what the store keeps above it beside it.
    async fn enlarge(&self, open: &OpenJob, next: Terms, (excess, terms): (u64, &Terms)) -> Seen {
        match self.renew(open, self.now_s(), &next).await {
            Renewal::Done => Seen::Done,
            Renewal::Later => Seen::Later(RETRY),
            Renewal::Refused(_) => self.follow_excess(open, excess, terms).await,
        }
    }

    /// Has the next period of a vector store held or, where no limit leaves room for it, booked
    /// when it is over: it is never deleted.
    pub(super) async fn renew_store(
        &self,
        open: &OpenJob,
        next: Terms,
        (was_held, left_s): (bool, i64),
    ) -> Seen {
        let now_s = self.now_s();
        let denial = match self.renew(open, now_s, &next).await {
            Renewal::Done => return Seen::Done,
            Renewal::Later => return Seen::Later(RETRY),
            Renewal::Refused(denial) => denial,
        };
        self.guard.core().note_denial(&denial);
        if left_s > 0 {
            return Seen::Later(seconds(left_s).min(HOUR));
        }
        if was_held {
            log_over_limit(&open.job.object);
        }
        match self.renew(open, now_s, &next.unheld()).await {
            Renewal::Done => Seen::Done,
            // A limit of zero refuses even that: it is booked once one does not.
            Renewal::Refused(_) => Seen::Later(HOUR),
            Renewal::Later => Seen::Later(RETRY),
        }
    }
}

/// Says that storage of a store is booked over its limit from now on.
pub(super) fn log_over_limit(store: &str) {
    tracing::error!(
        event = "storage_over_limit",
        object = store,
        "a limit leaves no room for the storage of a vector store; it is booked as it accrues, over the limit"
    );
}

/// The units that storage is held by.
pub(super) const fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

pub(super) fn seconds(of: i64) -> Duration {
    Duration::from_secs(u64::try_from(of).unwrap_or(0).max(1))
}
