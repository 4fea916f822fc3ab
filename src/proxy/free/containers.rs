//! The containers that free requests name, and the fee for keeping one alive.

use http::{Method, Response};

use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{KeptContainers, Money, ObjectKind, ObjectReference};
use crate::pricing::cost;
use crate::pricing::rates::Rates;
use crate::protocol::openai::hosted::Container;
use crate::proxy::accrual::Accrual;
use crate::proxy::answer::Answer;
use crate::proxy::asking;
use crate::proxy::auth::Caller;
use crate::proxy::lists::whole;
use crate::proxy::record::{CONTAINER_IDLE_S, made_by};
use crate::proxy::refuse::Refusal;
use crate::proxy::{Proxy, Rules};
use crate::store::WriteAck;
use crate::store::objects::ObjectChange;
use crate::upstream::AnswerBody;

/// A use of a container, which extends its life.
#[derive(Debug)]
pub(super) struct ContainerUse {
    pub(super) of: ObjectReference,
    /// When it is served, in Unix seconds; `None` if that may take minutes, since a file is put into it.
    pub(super) at_s: Option<i64>,
    /// The most that it costs.
    pub(super) fee_max: Money,
    /// Resolves when it is in the database.
    pub(super) written: Option<WriteAck>,
}

impl Proxy {
    /// The containers of objects that a request names.
    pub(super) fn containers_of(&self, named: &[ObjectReference]) -> KeptContainers {
        let of = |of: &ObjectReference| {
            let known = || self.guard.objects().lookup(of.kind, &of.id);
            if of.kind == ObjectKind::Container {
                let known = known();
                let largest = known.as_ref().map_or(ContainerMemory::G64, KnownObject::memory_max);
                KeptContainers { largest: Some(largest), are_indexed: known.is_some() }
            } else if of.kind.is_context() {
                known().map(|known| known.context.containers).unwrap_or_default()
            } else {
                KeptContainers::NONE
            }
        };
        named.iter().map(of).fold(KeptContainers::NONE, KeptContainers::plus)
    }

    /// A container lives on from each use for as long as it may be idle, and upstream
    /// bills that by the minute. Its life up to then was charged before; the hold is for
    /// the time that this use adds if no other use is charged first, and of one that may take
    /// minutes for the most that a use adds.
    pub(super) fn use_container(
        &self,
        of: ObjectReference,
        method: &Method,
        caller: &Caller,
        fees: &Rates,
    ) -> ContainerUse {
        let now_s = self.guard.clock().now_s();
        let known = self.guard.objects().lookup(of.kind, &of.id);
        let known = known.unwrap_or_else(|| Self::unknown_container(caller, now_s));
        let at_s = Some(now_s).filter(|_| *method != Method::POST);
        let added = |at_s: i64| at_s.saturating_sub(known.used_s).clamp(0, known.idle_s);
        let added_s = at_s.map_or(known.idle_s, added);
        ContainerUse { of, at_s, fee_max: use_fee(fees, &known, added_s), written: None }
    }

    /// Records a use that upstream has served; returns its fee. Of concurrent uses,
    /// which each have a hold, the first pays for the time that they add.
    pub(super) async fn charge_use(&self, used: &mut ContainerUse, caller: &Caller, fees: &Rates) -> Money {
        // Upstream has served it some time before now; of a job, that makes the end no earlier.
        let at_s = used.at_s.filter(|_| !self.has_job(&used.of));
        let at_s = at_s.unwrap_or_else(|| self.guard.clock().now_s());
        let new = Self::unknown_container(caller, at_s);
        let (added_s, known, written) = self.guard.use_container(&used.of, at_s, new).await;
        used.written = written;
        use_fee(fees, &known, added_s).min(used.fee_max)
    }

    /// Records a use that upstream may have served, though no answer says so: a container with a
    /// job is then presumed to have been used. Any other pays for its use with the hold.
    pub(super) async fn presume_use(&self, used: &mut ContainerUse, caller: &Caller, fees: &Rates) {
        if self.has_job(&used.of) {
            self.charge_use(used, caller, fees).await;
        }
    }

    /// Whether a job charges the time of a container, as far as the index of objects knows.
    fn has_job(&self, of: &ObjectReference) -> bool {
        self.guard.objects().lookup(of.kind, &of.id).is_some_and(|known| known.has_job)
    }

    /// Passes on a container that upstream shows. If it lives no more, its job ends.
    pub(super) async fn show_container(
        &self,
        rules: &Rules,
        id: &str,
        answer: Response<AnswerBody>,
    ) -> Result<Response<Answer>, Refusal> {
        let (head, bytes) = whole(answer).await?;
        if let Some(shown) = Container::read(&bytes).filter(|shown| shown.id == id && shown.is_over) {
            Accrual::new(&self.guard, rules).saw_over(&shown).await;
        }
        Ok(Response::from_parts(head, Answer::whole(bytes)))
    }

    /// Passes on the answer to the deletion of a container or vector store, which ends its job.
    pub(super) async fn see_removed(
        &self,
        rules: &Rules,
        of: ObjectReference,
        answer: Response<AnswerBody>,
    ) -> Result<Response<Answer>, Refusal> {
        let (head, said) = whole(answer).await?;
        let accrual = Accrual::new(&self.guard, rules);
        if asking::says_deleted(&said) {
            accrual.deleted(&of).await;
            self.guard.record_objects(vec![ObjectChange::Remove(of)]).await;
        } else {
            accrual.look_soon(&of.id).await;
        }
        Ok(Response::from_parts(head, Answer::whole(said)))
    }

    fn unknown_container(caller: &Caller, now_s: i64) -> KnownObject {
        KnownObject { idle_s: CONTAINER_IDLE_S, ..made_by(&caller.key, now_s) }
    }
}

/// The fee for some seconds that a use adds to a container's life; none where a job charges them.
fn use_fee(fees: &Rates, known: &KnownObject, seconds: i64) -> Money {
    if known.has_job { Money::ZERO } else { cost::container_life(fees, known.memory_max(), seconds) }
}
