//! Files that are added to a vector store.
//!
//! The most that they may take is held before they are added. Then the hold of the store is
//! replaced by one for the whole store, and theirs is released. For a moment both are held, and
//! where a limit leaves no room for that, the files have a job of their own beside that of the
//! store, until the hold of the store is for them as well.

use crate::guard::{Denied, Ending, Reservation, UnderWay};
use crate::ledger::entry::OpenJob;
use crate::ledger::waiting::Turn;
use crate::protocol::openai::hosted::VectorStore;
use crate::proxy::accrual::periods::{
    BELIEVED_AFTER_S, HOUR, RETRY, Seen, log_over_limit, mebibytes, seconds,
};
use crate::proxy::accrual::terms::{MARGIN_S, Object};
use crate::proxy::accrual::{Accrual, Asker, PAUSE, Renewal, Terms, VECTOR_STORE, charge_unfollowed};
use crate::proxy::asking::{Asked, PAUSE_MAX, pause_after};

/// How often it is tried to replace the hold of a store that others replace at the same time.
const GROW_ATTEMPTS: u32 = 40;
/// The name under which that is noted.
const GROWING: &str = "growing";
/// The name under which files are noted that are sent to be added.
const ADDING: &str = "adding";
/// Jobs of files that are held beside one store.
const BESIDE_MAX: usize = 8;

/// The object of a job of files that are held beside a store.
fn object_beside(store: &str, place: usize) -> String {
    format!("{store}/{place}")
}

/// What is followed beside a store.
pub(super) struct Beside {
    /// The most bytes that it is.
    pub(super) bytes: u64,
    /// Whether another job can be there.
    pub(super) has_room: bool,
}

impl Accrual {
    /// Notes that files are added to a store, until they are followed: upstream may count them before
    /// it answers, and their hold is there already.
    pub(in crate::proxy) fn adding(&self, store: &str) -> UnderWay {
        self.guard.begin_work(ADDING, store)
    }

    /// Whether this guard adds files to a store.
    pub(super) fn is_adding(&self, store: &str) -> bool {
        self.guard.is_under_way(ADDING, store)
    }

    /// Follows files that upstream has taken into a store, by the hold and the terms that were made
    /// for them. If no job follows the store, they are those of the whole store.
    pub(in crate::proxy) async fn grow(&self, store: &str, added: &Terms, mut hold: Reservation) {
        for _ in 0..GROW_ATTEMPTS {
            // One at a time, so that not each of them holds the whole store for a moment.
            let Some(_growing) = self.guard.exclusive(GROWING, store) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(found) = self.find(VECTOR_STORE, store).await else { break };
            let Some(open) = found else {
                match self.detach(hold, VECTOR_STORE, store, added).await {
                    Ok(()) => return,
                    // Another guard may have begun the job of the store.
                    Err(back) => hold = back,
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(terms) = Terms::read(&open.job.terms) else { break };
            // They count from their request on.
            let at_s = added.from_s.max(terms.from_s);
            let grown = terms.grown(added, self.fees(), at_s).made(self.now_s());
            match self.renew(&open, at_s, &grown).await {
                Renewal::Done => {
                    let note = Some("its files are held with their store");
                    hold.release(Ending { status: 200, note, ..Ending::default() });
                    return;
                }
                Renewal::Refused(_) => break,
                Renewal::Later => tokio::time::sleep(PAUSE).await,
            }
        }
        self.begin_beside(hold, store, &added.clone().beside(store)).await;
    }

    /// Leaves a hold to a job beside that of a store. Where no further one can be there, the hold is charged.
    async fn begin_beside(&self, mut hold: Reservation, store: &str, terms: &Terms) {
        for place in 0..BESIDE_MAX {
            match self.detach(hold, VECTOR_STORE, &object_beside(store, place), terms).await {
                Ok(()) => return,
                Err(back) => hold = back,
            }
        }
        charge_unfollowed(hold, store);
    }

    /// What is followed beside a store, but for the job of one object; an error is logged.
    pub(super) async fn beside(&self, store: &str, but: &str) -> Result<Beside, Denied> {
        let (mut bytes, mut jobs) = (0_u64, 0);
        for place in 0..BESIDE_MAX {
            let object = object_beside(store, place);
            let Some(open) = self.find(VECTOR_STORE, &object).await?.filter(|_| object != but) else {
                continue;
            };
            let kept = Terms::read(&open.job.terms).map_or(0, |terms| terms.stored().0);
            (bytes, jobs) = (bytes.saturating_add(kept), jobs + 1);
        }
        Ok(Beside { bytes, has_room: jobs < BESIDE_MAX })
    }

    /// Follows the bytes that a store keeps above its hold in a job beside it, since no limit leaves
    /// room to replace that hold. Without room for them alone, they are booked as they accrue.
    pub(super) async fn follow_excess(&self, open: &OpenJob, excess: u64, of_store: &Terms) -> Seen {
        let store = &open.job.object;
        let bytes = (excess, of_store.stored().1);
        let held = Terms::vector_store(bytes, self.fees(), self.now_s(), of_store.is_own).beside(store);
        let unheld = held.clone().unheld();
        let mut is_logged = false;
        for terms in [held, unheld] {
            let request = self.request(&open.hold.attribution, terms.bound());
            match self.guard.reserve_in_turn(request, Turn::Last).await {
                Ok(mut hold) => {
                    hold.mark_sent();
                    self.begin_beside(hold, store, &terms).await;
                    return Seen::Later(PAUSE_MAX);
                }
                Err(Denied::ByLimit(denial)) => {
                    self.guard.core().note_denial(&denial);
                    if !std::mem::replace(&mut is_logged, true) {
                        log_over_limit(store);
                    }
                }
                Err(Denied::Unpriced(_) | Denied::Unavailable | Denied::Full | Denied::Outdated) => {
                    return Seen::Later(RETRY);
                }
            }
        }
        // A limit of zero refuses even that: it is booked once one does not.
        Seen::Later(HOUR)
    }

    /// Looks at files that are held beside their store: once the hold of the store is for them as
    /// well, their job ends.
    pub(super) async fn look_at_files(
        &self,
        asker: Option<Asker<'_>>,
        (open, terms): (&OpenJob, &Terms),
        store: &str,
        polls: u32,
    ) -> Seen {
        let now_s = self.now_s();
        let Object::VectorStore { changed_s, is_held, .. } = terms.of else { return Seen::Later(PAUSE_MAX) };
        // Of several that are looked at, each counts on the others.
        let Some(_growing) = self.guard.exclusive(GROWING, store) else { return Seen::Later(RETRY) };
        let is_last = now_s >= terms.until_s.saturating_sub(MARGIN_S);
        if self.guard.is_job_claimed(VECTOR_STORE, store) || self.is_adding(store) && !is_last {
            // Its hold may change at this moment.
            return Seen::Later(RETRY);
        }
        let Ok(found) = self.find(VECTOR_STORE, store).await else { return Seen::Later(RETRY) };
        let of_store = found.and_then(|open| Terms::read(&open.job.terms).ok().map(|terms| (open, terms)));
        let Some((of_store, kept)) = of_store else {
            self.end(&open.job.kind, &open.job.object, now_s, "its store has ended").await;
            return Seen::Done;
        };
        let believed_s = changed_s.saturating_add(BELIEVED_AFTER_S);
        if asker.is_some() && now_s < believed_s {
            return Seen::Later(seconds(believed_s.saturating_sub(now_s)));
        }
        match self.hold_with_store(asker, (&of_store, &kept), (open, terms)).await {
            Ok(true) => {
                self.end(&open.job.kind, &open.job.object, now_s, "it is held with its store").await;
                Seen::Done
            }
            Ok(false) if is_last => {
                let next = terms.next_of_store(terms.stored().0, self.fees(), now_s);
                self.renew_store(open, next, (is_held, 0)).await
            }
            Ok(false) => Seen::Later(PAUSE_MAX).of_shown(asker.is_some()),
            Err(Asked::Gone) => Seen::Gone,
            Err(Asked::Ended | Asked::Running | Asked::Failed) => Seen::Later(pause_after(polls)),
        }
    }

    /// Has the hold of a store cover files that are held beside it; returns whether it does. Upstream
    /// says how large the store is with them.
    async fn hold_with_store(
        &self,
        asker: Option<Asker<'_>>,
        (open, kept): (&OpenJob, &Terms),
        (files, added): (&OpenJob, &Terms),
    ) -> Result<bool, Asked> {
        let now_s = self.now_s();
        let mut next = kept.grown(added, self.fees(), now_s);
        if let Some(asker) = asker {
            let shown = asker.show("/vector_stores", &open.job.object, &open.hold.attribution).await?;
            let shown = VectorStore::read(&shown).filter(|shown| shown.id == open.job.object);
            let most = shown.ok_or(Asked::Failed)?.bytes_max(next.stored().1);
            let others = self.beside(&open.job.object, &files.job.object).await.map_err(|_| Asked::Failed)?;
            next = next.next_of_store(most.saturating_sub(others.bytes), self.fees(), now_s);
        }
        let is_held_as_well = kept.is_held() || !added.is_held();
        if is_held_as_well && mebibytes(next.stored().0) <= mebibytes(kept.stored().0) {
            return Ok(true);
        }
        match self.renew(open, now_s, &next).await {
            Renewal::Done => Ok(true),
            Renewal::Refused(_) => Ok(false),
            Renewal::Later => Err(Asked::Failed),
        }
    }
}
