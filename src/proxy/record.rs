//! Records the objects that a metered answer creates at upstream, before its client learns of them.

mod containers;

use std::pin::Pin;
use std::sync::Arc;

use crate::domain::demand::ToolDemand;
use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, KeptContainers, KeptContext, ObjectKind, ObjectReference};
use crate::guard::objects::{HeldFor, NotBegun, Turn, TurnEnd, put};
use crate::guard::{Guard, Reservation};
use crate::keys::Key;
use crate::ledger::entry::Hold;
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::usage::{Answer, MadeItem};
use crate::proxy::reading::Reading;
use crate::proxy::refuse::Refusal;
use crate::store::objects::{ObjectChange, ObjectKey};

pub(super) use self::containers::CONTAINER_IDLE_S;
use self::containers::Containers;

/// Resolves when the recorded objects are in the database.
pub type Recorded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The recording of one answer.
#[derive(Debug)]
pub struct Recording {
    guard: Arc<Guard>,
    owner: Arc<Key>,
    /// The kind of object that upstream keeps the answer as; `None` if it keeps none.
    kept_as: Option<ObjectKind>,
    containers: Containers,
    conversation: Option<Turn>,
    reading: Reading,
    /// The most that the answer stands for, until its end tells more.
    most: KeptContext,
    admitted_s: i64,
    is_named: bool,
    is_over: bool,
}

/// The parts of an admitted request that decide what is recorded.
#[derive(Clone, Copy, Debug)]
pub struct RequestSummary<'a> {
    /// Its operation.
    pub operation: &'static Operation,
    /// The request.
    pub demand: &'a Demand,
    /// The most pictures that hosted tools draw.
    pub drawn_max: u64,
}

impl Recording {
    /// Begins the recording of an admitted request, if it may create anything.
    /// Begins its turn on a conversation.
    pub async fn begin(
        guard: &Arc<Guard>,
        owner: &Arc<Key>,
        summary: RequestSummary<'_>,
        reading: (Reading, HeldFor),
        reservation: &Reservation,
    ) -> Result<Option<Box<Self>>, Refusal> {
        let Demand { stored, tools, .. } = summary.demand;
        if !stored && tools.containers.is_empty() && conversation_of(summary.demand).is_none() {
            return Ok(None);
        }
        // Boxed, so that requests that make nothing don't have its size.
        Box::pin(Self::begun(guard, owner, summary, reading, reservation)).await.map(Some)
    }

    async fn begun(
        guard: &Arc<Guard>,
        owner: &Arc<Key>,
        RequestSummary { operation, demand, drawn_max }: RequestSummary<'_>,
        (reading, held_for): (Reading, HeldFor),
        reservation: &Reservation,
    ) -> Result<Box<Self>, Refusal> {
        let hold = reservation.hold();
        let admitted_s = hold.admitted_ms.div_euclid(1_000);
        let containers = Containers::of(&demand.tools, reading.size().containers);
        let tokens = hold.bound.input_tokens.saturating_add(hold.bound.output_tokens);
        let drawn_max = if demand.tools.image.is_some() { drawn_max } else { 0 };
        let added_max = reading.added_max(tokens, drawn_max, containers.left_max());
        let most = reading.most_of_all(added_max.clone(), drawn_max);
        let mut turn = None;
        if let Some(of) = conversation_of(demand) {
            let maker = || made_by(owner, admitted_s);
            let begun = guard.begin_turn(&of.id, (held_for, containers.held_max()), added_max, maker).await;
            turn = Some(begun.map_err(Refusal::from)?);
        }
        Ok(Box::new(Self {
            guard: Arc::clone(guard),
            owner: Arc::clone(owner),
            kept_as: operation.kept_as.filter(|_| demand.stored),
            containers,
            conversation: turn,
            reading,
            most,
            admitted_s,
            is_named: false,
            is_over: false,
        }))
    }

    /// Upstream refused the request: nothing was made. The result resolves when that is written.
    pub fn refused(mut self) -> Option<Recorded> {
        let turn = self.conversation.take()?;
        Some(Box::pin(turn.end(TurnEnd::Nothing)))
    }

    /// The memory of each container that the answer ran in and that may have been there
    /// before; `None` is one whose time a job charges.
    pub fn reused(&self, answer: &Answer) -> Vec<Option<ContainerMemory>> {
        self.containers.reused(answer, self.guard.objects())
    }

    /// Records the objects of a stream so far. If there are new ones, the stream
    /// may be passed on when the result resolves.
    pub fn heard(&mut self, is_done: bool, answer: impl FnOnce() -> Answer) -> Option<Recorded> {
        let is_news = if is_done { !self.is_over } else { self.kept_as.is_some() && !self.is_named };
        if !is_news {
            return None;
        }
        let answer = answer();
        let changes = if is_done { self.whole(&answer) } else { self.named(&answer, self.most.clone()) };
        if changes.is_empty() {
            return None;
        }
        let guard = Arc::clone(&self.guard);
        let written = guard.learn_objects(changes);
        Some(Box::pin(async move { guard.objects_written(written).await }))
    }

    /// Records all objects of a complete answer. The result resolves when they are
    /// written, and may be dropped if no client waits for it.
    pub fn over(mut self, answer: &Answer) -> Option<Recorded> {
        self.heard(true, || answer.clone())
    }

    /// The answer by its id, as far as it is kept.
    fn named(&mut self, answer: &Answer, context: KeptContext) -> Vec<ObjectChange> {
        let (Some(id), Some(kind)) = (&answer.object_id, self.kept_as) else { return Vec::new() };
        self.is_named = true;
        let known = KnownObject { context, ..made_by(&self.owner, self.admitted_s) };
        vec![put(ObjectReference { kind, id: id.clone() }, known)]
    }

    fn whole(&mut self, answer: &Answer) -> Vec<ObjectChange> {
        self.is_over = true;
        let used = answer.usage.map(|tokens| (tokens.tokens_total(), tokens.output_tokens_total()));
        let (total, output) = used.unzip();
        let reading = &self.reading;
        let containers = self.containers.after(answer, self.guard.objects());
        let whole = KeptContext { containers, ..reading.measured(answer, total) };
        let written = KeptContext { containers, ..reading.measured(answer, output) };
        let of_answer = KeptContext { pictures: reading.pictures_of_all(answer), ..whole.clone() };
        let added = KeptContext { pictures: reading.pictures_added(answer), ..whole };
        let mut changes = self.named(answer, of_answer.clone());
        let in_conversation = self.conversation.is_some();
        if self.kept_as.is_some() || in_conversation {
            let item = |MadeItem { id, is_output }: &MadeItem| ObjectChange::Item {
                key: ObjectKey::of(ObjectKind::Item, id),
                project: Arc::clone(&self.owner.project),
                context: if *is_output { written.clone() } else { of_answer.clone() },
                made_s: (!in_conversation).then_some(self.admitted_s),
            };
            changes.extend(answer.made.items.iter().map(item));
        }
        let container = |id: &String| {
            self.containers.used(self.guard.objects(), id, made_by(&self.owner, self.admitted_s))
        };
        changes.extend(answer.made.containers.iter().map(container));
        if let Some(turn) = self.conversation.take() {
            changes.extend(turn.ended(if used.is_some() {
                TurnEnd::Measured(added)
            } else {
                TurnEnd::Unknown
            }));
        }
        changes
    }
}

/// What a response that was made in the background has made.
#[derive(Debug)]
pub struct MadeInBackground {
    /// The memory of each container that it ran in and that may have been there before; `None` is
    /// one whose time a job charges.
    pub reused: Vec<Option<ContainerMemory>>,
    /// Its items and containers. The size of their context is not known: what was known of it
    /// ended with the request.
    pub changes: Vec<ObjectChange>,
}

/// Finds what the answer of a job has made, for the owner of its hold; `kept` are the containers
/// that its context names.
pub fn made_in_background(
    guard: &Guard,
    hold: &Hold,
    (tools, kept): (&ToolDemand, KeptContainers),
    answer: &Answer,
) -> MadeInBackground {
    let containers = Containers::of(tools, kept);
    let (of, made_s) = (&hold.attribution, hold.admitted_ms.div_euclid(1_000));
    let made = || made_of(&of.project, &of.key, made_s);
    let reused = containers.reused(answer, guard.objects());
    let item = |MadeItem { id, .. }: &MadeItem| ObjectChange::Item {
        key: ObjectKey::of(ObjectKind::Item, id),
        project: Arc::clone(&of.project),
        context: KeptContext::default(),
        made_s: Some(made_s),
    };
    let used = answer.made.containers.iter().map(|id| containers.used(guard.objects(), id, made()));
    let changes = answer.made.items.iter().map(item).chain(used).collect();
    MadeInBackground { reused, changes }
}

impl From<NotBegun> for Refusal {
    fn from(refused: NotBegun) -> Self {
        match refused {
            NotBegun::Changed => Self::ConversationChanged,
            NotBegun::Unavailable => Self::LedgerUnavailable,
        }
    }
}

/// The conversation that a request adds to.
fn conversation_of(demand: &Demand) -> Option<&ObjectReference> {
    demand.references.iter().find(|of| of.kind == ObjectKind::Conversation)
}

/// An object that a key has made, of which nothing else is known.
pub(super) fn made_by(owner: &Key, created_s: i64) -> KnownObject {
    made_of(&owner.project, &owner.id, created_s)
}

/// The same, of a key by its id, and its project.
pub(crate) fn made_of(project: &Arc<str>, key: &Arc<str>, created_s: i64) -> KnownObject {
    KnownObject {
        project: Arc::clone(project),
        key: Arc::clone(key),
        context: KeptContext::default(),
        container_memory: None,
        has_job: false,
        idle_s: 0,
        created_s,
        used_s: 0,
        changes: 0,
    }
}
