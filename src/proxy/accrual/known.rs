//! What the index of objects knows of containers: when each was used last, and whether a job
//! charges its time.

use crate::domain::object::KnownObject;
use crate::domain::usage::ContainerMemory;
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::objects::Reach;
use crate::ledger::entry::OpenJob;
use crate::proxy::accrual::Accrual;
use crate::proxy::accrual::terms::{Object, Terms};

impl Accrual {
    /// When a container was last used through any guard, as far as that can be read.
    pub(super) async fn used_s(&self, id: &str) -> Option<i64> {
        self.known_container(&container(id)).await.map(|known| known.used_s)
    }

    /// Has the uses of a container charged from now on, since its job is about to end and upstream
    /// has not said that it lives no more.
    pub(super) async fn charge_uses(&self, id: &str) {
        let of = container(id);
        if let Some(known) = self.known_container(&of).await {
            self.guard.leave_container(&of, known).await;
        }
    }

    async fn known_container(&self, of: &ObjectReference) -> Option<KnownObject> {
        // Reads it into memory.
        let _ = self.guard.check_objects(std::slice::from_ref(of), &Reach::All).await;
        self.guard.objects().lookup(of.kind, &of.id)
    }
}

/// What the terms of a container's job say of it beside what is known of any object.
pub(crate) fn known_by_terms(open: &OpenJob, known: KnownObject) -> KnownObject {
    let Ok(Terms { of: Object::Container { memory, idle_s, active_s, .. }, .. }) =
        Terms::read(&open.job.terms)
    else {
        return known;
    };
    let container_memory = ContainerMemory::named(&memory);
    KnownObject { container_memory, has_job: true, idle_s, used_s: active_s, ..known }
}

fn container(id: &str) -> ObjectReference {
    ObjectReference { kind: ObjectKind::Container, id: id.to_owned() }
}
