//! Recording what a metered answer makes at upstream, before its client learns of it.

use std::pin::Pin;
use std::sync::Arc;

use crate::domain::demand::{ContainerDemand, ToolDemand};
use crate::domain::object::KnownObject;
use crate::domain::tokens::ContainerMemory;
use crate::domain::{Demand, KeptContext, ObjectKind, ObjectReference};
use crate::guard::objects::{HeldFor, Turn, TurnEnd, put};
use crate::guard::{Guard, Reservation};
use crate::keys::Key;
use crate::openai::endpoint::Metered;
use crate::openai::usage::{Answer, MadeItem};
use crate::proxy::reading::Reading;
use crate::proxy::refuse::Refusal;
use crate::store::objects::{ObjectChange, ObjectKey};

/// How long a container lives after its last use unless asked otherwise, in
/// seconds (OpenAI's documentation of code interpreter).
pub(super) const CONTAINER_IDLE_S: i64 = 20 * 60;

/// Resolves when what was learned is in the database.
pub type Recorded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is to be recorded of one answer.
#[derive(Debug)]
pub struct Recording {
    guard: Arc<Guard>,
    owner: Arc<Key>,
    kind: ObjectKind,
    /// Whether upstream keeps the answer.
    is_stored: bool,
    /// The memory of containers that the answer starts.
    container_memory: Option<ContainerMemory>,
    /// The largest memory of the containers that the context names.
    context_container: Option<ContainerMemory>,
    conversation: Option<Turn>,
    reading: Reading,
    admitted_s: i64,
    is_named: bool,
    is_over: bool,
}

/// What was asked for, as far as it decides what is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The endpoint.
    pub endpoint: Metered,
    /// The request.
    pub demand: &'a Demand,
    /// The most pictures that hosted tools draw.
    pub drawn_max: u64,
}

impl Recording {
    /// What an admitted request may make, if it may make anything. A turn on a
    /// conversation begins.
    pub async fn begin(
        guard: &Arc<Guard>,
        owner: &Arc<Key>,
        asked: Asked<'_>,
        reading: (Reading, HeldFor),
        reservation: &Reservation,
    ) -> Result<Option<Box<Self>>, Refusal> {
        let Demand { stored, tools, .. } = asked.demand;
        if !stored && tools.containers.is_empty() && conversation_of(asked.demand).is_none() {
            return Ok(None);
        }
        // Boxed, so that requests that make nothing don't have its size.
        Box::pin(Self::begun(guard, owner, asked, reading, reservation)).await.map(Some)
    }

    async fn begun(
        guard: &Arc<Guard>,
        owner: &Arc<Key>,
        Asked { endpoint, demand, drawn_max }: Asked<'_>,
        (reading, held_for): (Reading, HeldFor),
        reservation: &Reservation,
    ) -> Result<Box<Self>, Refusal> {
        let hold = reservation.hold();
        let admitted_s = hold.admitted_ms.div_euclid(1_000);
        let mut turn = None;
        if let Some(of) = conversation_of(demand) {
            let tokens = hold.bound.input_tokens.saturating_add(hold.bound.output_tokens);
            let drawn_max = if demand.tools.image.is_some() { drawn_max } else { 0 };
            let added_max = reading.added_max(tokens, drawn_max, containers_of(&demand.tools));
            let maker = || made_by(owner, admitted_s);
            let begun = guard.begin_turn(&of.id, held_for, added_max, maker).await;
            turn = Some(begun.map_err(|_| Refusal::ConversationChanged)?);
        }
        let kind = if endpoint == Metered::Chat { ObjectKind::ChatCompletion } else { ObjectKind::Response };
        Ok(Box::new(Self {
            guard: Arc::clone(guard),
            owner: Arc::clone(owner),
            kind,
            is_stored: demand.stored,
            container_memory: memory_of_all(&demand.tools.containers),
            context_container: demand.tools.context_container,
            conversation: turn,
            reading,
            admitted_s,
            is_named: false,
            is_over: false,
        }))
    }

    /// Upstream refused the request: nothing was made.
    pub fn refused(mut self) {
        if let Some(turn) = self.conversation.take() {
            turn.end(TurnEnd::Nothing);
        }
    }

    /// The memory of each container that the answer names and that was known before.
    pub fn reused(&self, answer: &Answer) -> Vec<ContainerMemory> {
        let lookup = |id: &String| self.guard.objects().lookup(ObjectKind::Container, id);
        answer.made.containers.iter().filter_map(lookup).map(|known| known.memory_max()).collect()
    }

    /// Takes up what a stream has said so far. Where that is news, what it said may
    /// go to the client when the result resolves.
    pub fn heard(&mut self, is_done: bool, answer: impl FnOnce() -> Answer) -> Option<Recorded> {
        let is_news = if is_done { !self.is_over } else { self.is_stored && !self.is_named };
        if !is_news {
            return None;
        }
        let answer = answer();
        let changes = if is_done {
            self.whole(&answer)
        } else {
            // Until its end, nothing is known of what it holds.
            self.named(&answer, KeptContext::default())
        };
        if changes.is_empty() {
            return None;
        }
        let guard = Arc::clone(&self.guard);
        let written = guard.learn_objects(changes);
        Some(Box::pin(async move { guard.objects_written(written).await }))
    }

    /// Takes up all that an answer has said, in the end. The result resolves when
    /// it is written, and may be dropped if nobody is told.
    pub fn over(mut self, answer: &Answer) -> Option<Recorded> {
        self.heard(true, || answer.clone())
    }

    /// The answer by its id, as far as it is kept.
    fn named(&mut self, answer: &Answer, context: KeptContext) -> Vec<ObjectChange> {
        let id = answer.object_id.as_ref().filter(|_| self.is_stored);
        let Some(id) = id else { return Vec::new() };
        self.is_named = true;
        let known = KnownObject { context, ..made_by(&self.owner, self.admitted_s) };
        vec![put(ObjectReference { kind: self.kind, id: id.clone() }, known)]
    }

    fn whole(&mut self, answer: &Answer) -> Vec<ObjectChange> {
        self.is_over = true;
        let used = answer.usage.as_ref().map(|usage| (usage.tokens.total(), usage.tokens.output_total()));
        let (total, output) = used.unzip();
        let reading = &self.reading;
        let container = self.container_of(answer);
        let whole = KeptContext { container, ..reading.measured(answer, total) };
        let written = KeptContext { container, ..reading.measured(answer, output) };
        let of_answer = KeptContext { pictures: reading.pictures_of_all(answer), ..whole.clone() };
        let added = KeptContext { pictures: reading.pictures_added(answer), ..whole };
        let mut changes = self.named(answer, of_answer.clone());
        let in_conversation = self.conversation.is_some();
        if self.is_stored || in_conversation {
            let item = |MadeItem { id, is_output }: &MadeItem| ObjectChange::Item {
                key: ObjectKey::of(ObjectKind::Item, id),
                project: Arc::clone(&self.owner.project),
                context: if *is_output { written.clone() } else { of_answer.clone() },
                made_s: (!in_conversation).then_some(self.admitted_s),
            };
            changes.extend(answer.made.items.iter().map(item));
        }
        changes.extend(answer.made.containers.iter().map(|id| self.container(id)));
        if let Some(turn) = self.conversation.take() {
            turn.end(if used.is_some() { TurnEnd::Measured(added) } else { TurnEnd::Unknown });
        }
        changes
    }

    /// The largest memory of the containers that the answer and its context name.
    fn container_of(&self, answer: &Answer) -> Option<ContainerMemory> {
        let made = (!answer.made.containers.is_empty())
            .then(|| self.container_memory.unwrap_or(ContainerMemory::G64));
        made.into_iter().chain(self.reused(answer)).chain(self.context_container).max()
    }

    /// A container that the answer used: its life is paid for from admission on.
    fn container(&self, id: &str) -> ObjectChange {
        let before = self.guard.objects().lookup(ObjectKind::Container, id);
        let new = || KnownObject {
            container_memory: self.container_memory,
            idle_s: CONTAINER_IDLE_S,
            ..made_by(&self.owner, self.admitted_s)
        };
        let mut known = before.unwrap_or_else(new);
        known.used_s = known.used_s.max(self.admitted_s);
        put(ObjectReference { kind: ObjectKind::Container, id: id.to_owned() }, known)
    }
}

/// The conversation that a request adds to.
fn conversation_of(demand: &Demand) -> Option<&ObjectReference> {
    demand.references.iter().find(|of| of.kind == ObjectKind::Conversation)
}

/// The largest memory of the containers that a request with these tools may leave in its
/// conversation.
fn containers_of(tools: &ToolDemand) -> Option<ContainerMemory> {
    let own = (!tools.containers.is_empty())
        .then(|| memory_of_all(&tools.containers).unwrap_or(ContainerMemory::G64));
    own.max(tools.context_container)
}

/// The largest memory of a request's containers; `None` where one of them may have
/// any, since an answer does not say which of them it names.
fn memory_of_all(containers: &[ContainerDemand]) -> Option<ContainerMemory> {
    let memories: Option<Vec<ContainerMemory>> = containers.iter().map(made).collect();
    memories?.into_iter().max()
}

/// The memory of a container that a request has upstream make.
fn made(container: &ContainerDemand) -> Option<ContainerMemory> {
    match container {
        ContainerDemand::Made(memory) => Some(*memory),
        ContainerDemand::Existing(_) => None,
    }
}

/// An object that a key has made, of which nothing else is known.
pub(super) fn made_by(owner: &Key, created_s: i64) -> KnownObject {
    KnownObject {
        project: Arc::clone(&owner.project),
        key: Arc::clone(&owner.id),
        context: KeptContext::default(),
        container_memory: None,
        idle_s: 0,
        created_s,
        used_s: 0,
    }
}
