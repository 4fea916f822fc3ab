//! The containers that an answer ran in: those that were created for it, and those of its context.

use crate::domain::demand::{ContainerDemand, ToolDemand};
use crate::domain::kept::KeptContainers;
use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::objects::{Objects, put};
use crate::protocol::openai::usage::{Answer, Outcome};
use crate::store::objects::ObjectChange;

/// How long a container lives after its last use unless requested otherwise, in
/// seconds (OpenAI's documentation of code interpreter).
pub(in crate::proxy) const CONTAINER_IDLE_S: i64 = 20 * 60;

/// The containers that a request may run in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Containers {
    /// The largest memory of those that its tools offer; `None` without such tools.
    offered: Option<ContainerMemory>,
    /// Those that its context names.
    context: KeptContainers,
}

impl Containers {
    /// Those of a request with these tools, and this kept context.
    pub(super) fn of(tools: &ToolDemand, kept: KeptContainers) -> Self {
        let context = KeptContainers { largest: tools.context_container.max(kept.largest), ..kept };
        Self { offered: tools.containers.iter().map(ContainerDemand::memory_max).max(), context }
    }

    /// The largest of the context that is held for: any, where no tool may run in one.
    pub(super) fn held_max(self) -> Option<ContainerMemory> {
        if self.offered.is_none() { Some(ContainerMemory::G64) } else { self.context.largest }
    }

    /// All that the context may name once the answer is there, as long as nothing is known
    /// of the answer.
    pub(super) fn left_max(self) -> KeptContainers {
        let largest = self.offered.max(self.context.largest);
        KeptContainers { largest, are_indexed: self.offered.is_none() && self.context.are_indexed }
    }

    /// The memory of a container that an answer names and that the index does not know: it
    /// was made for it, or the index does not know those of the context.
    pub(super) fn of_unknown(self) -> ContainerMemory {
        let context = self.context.largest.filter(|_| !self.context.are_indexed);
        self.offered.max(context).unwrap_or(ContainerMemory::G64)
    }

    /// A container that an answer ran in, as `new` if it is not known: its life is paid for from
    /// the admission on, which is when `new` was created.
    pub(super) fn used(self, objects: &Objects, id: &str, new: KnownObject) -> ObjectChange {
        let used_s = new.created_s;
        let made = KnownObject { container_memory: Some(self.of_unknown()), idle_s: CONTAINER_IDLE_S, ..new };
        let mut known = objects.lookup(ObjectKind::Container, id).unwrap_or(made);
        known.used_s = known.used_s.max(used_s);
        put(ObjectReference { kind: ObjectKind::Container, id: id.to_owned() }, known)
    }

    /// The memory of each container that an answer ran in and that may have been there
    /// before: those that the index knows, and those that are not named or not known, where
    /// the context has a larger one than the tools offer. `None` is one whose time a job charges.
    pub(super) fn reused(self, answer: &Answer, objects: &Objects) -> Vec<Option<ContainerMemory>> {
        let named = &answer.made.containers;
        let known = named.iter().map(|id| objects.lookup(ObjectKind::Container, id));
        let found = |known: Option<KnownObject>| match known {
            Some(known) if known.has_job => Some(None),
            Some(known) => Some(Some(known.memory_max())),
            None => Some(self.of_unknown()).filter(|memory| self.offered < Some(*memory)).map(Some),
        };
        let mut memories: Vec<Option<ContainerMemory>> = known.filter_map(found).collect();
        if self.has_unnamed(answer) {
            memories.extend(self.context.largest.filter(|memory| self.offered < Some(*memory)).map(Some));
        }
        memories
    }

    /// Those that the context names after an answer.
    pub(super) fn after(self, answer: &Answer, objects: &Objects) -> KeptContainers {
        let is_lost = answer.outcome != Outcome::Completed || self.has_unnamed(answer);
        if is_lost && self.offered.is_some() {
            return self.left_max();
        }
        let memory = |id: &String| {
            let known = objects.lookup(ObjectKind::Container, id);
            known.map_or_else(|| self.of_unknown(), |known| known.memory_max())
        };
        let largest = answer.made.containers.iter().map(memory).max().max(self.context.largest);
        KeptContainers { largest, ..self.context }
    }

    /// Whether an answer ran in a container that it does not name.
    fn has_unnamed(self, answer: &Answer) -> bool {
        let has_run = answer.has_unplaced_shell || answer.tools_seen.containers > 0;
        self.offered.is_some() && answer.made.containers.is_empty() && has_run
    }
}
