//! Containers in the index of objects: how long each lives by its uses, and whether a job or those
//! pay for that.

use crate::domain::ObjectReference;
use crate::domain::object::KnownObject;
use crate::guard::Guard;
use crate::guard::objects::put;
use crate::store::objects::ObjectKey;
use crate::store::{Journal, WriteAck};

impl Guard {
    /// Records a use of a container at `now_s`. Returns the seconds that it adds to the
    /// container's life, in whole minutes, what is known of the container then, and an
    /// acknowledgement unless it is in the database; `new` is what is known of one that is not
    /// known yet.
    ///
    /// Each minute is added once, by the first of the uses that want it: of several guards, by the
    /// first that has the row of their database.
    pub async fn use_container(
        &self,
        of: &ObjectReference,
        now_s: i64,
        new: KnownObject,
    ) -> (i64, KnownObject, Option<WriteAck>) {
        self.change_container(of, new, move |known| extend(known, now_s)).await
    }

    /// Notes that no job charges the time of a container from now on, so that its uses do; `known`
    /// is what is known of it.
    pub async fn leave_container(&self, of: &ObjectReference, known: KnownObject) {
        let change = |known: &mut KnownObject| known.has_job = false;
        let ((), _, written) = self.change_container(of, known, change).await;
        if let Some(written) = written {
            self.objects_written(written).await;
        }
    }

    /// Changes what is known of a container, while no other guard does. Returns the result of the
    /// change, what is known then, and an acknowledgement unless it is in the database.
    async fn change_container<T: Send + 'static>(
        &self,
        of: &ObjectReference,
        new: KnownObject,
        change: impl Fn(&mut KnownObject) -> T + Copy + Send + 'static,
    ) -> (T, KnownObject, Option<WriteAck>) {
        if let Journal::Shared(lanes) = self.core.journal() {
            let of_change = of.clone();
            let changing = lanes.change_object(of.clone(), new.clone(), move |mut known| {
                let result = change(&mut known);
                ((result, known.clone()), put(of_change, known))
            });
            match changing.await {
                Ok((result, known)) => {
                    self.objects.memory().learn(&put(of.clone(), known.clone()));
                    return (result, known, None);
                }
                // It is charged by what is in memory, and written once that is possible.
                Err(error) => tracing::warn!(
                    event = "container_use_not_claimed", %error,
                    "a minute of a container may be charged twice, if another guard has used it too"
                ),
            }
        }
        let mut memory = self.objects.memory();
        let mut known = memory.find(of.kind, ObjectKey::of(of.kind, &of.id)).unwrap_or(new);
        let result = change(&mut known);
        let written = put(of.clone(), known.clone());
        memory.learn(&written);
        // Before another use can be taken up, so that the last one is written last.
        let written = self.core.push_objects(vec![written]);
        (result, known, Some(written))
    }
}

/// Extends the life of a container that is used at an instant, in Unix seconds. Returns the seconds
/// that this adds, in whole minutes.
fn extend(known: &mut KnownObject, now_s: i64) -> i64 {
    let since_s = now_s.saturating_sub(known.used_s).clamp(0, known.idle_s);
    let added_s = since_s.saturating_add(59) / 60 * 60;
    if added_s > 0 {
        known.used_s = now_s.saturating_sub(since_s).saturating_add(added_s);
    }
    added_s
}
