//! The index of objects: which project each belongs to, and what it holds.
//!
//! A lookup for a request is in memory. Memory is bounded; an object that was
//! dropped from it is read from the database when a request names it again, before
//! the request continues. New objects are written before a client learns of them.

mod containers;
mod turns;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::object::{KnownObject, OBJECT_ID_BYTES_MAX};
use crate::domain::{ObjectKind, ObjectReference};
use crate::guard::Guard;
use crate::store::objects::{
    CONTAINER_GRACE_S, KnownItem, ObjectChange, ObjectKey, RESPONSE_LIFE_S, StoredObject,
};
use crate::store::{StoreError, WriteAck};
use crate::sync::unpoisoned;

use self::turns::Turns;
pub use self::turns::{HeldFor, NotBegun, Turn, TurnEnd};

/// Objects in memory, and as many items: some 80 MB when both are full.
const IN_MEMORY_MAX: usize = 200_000;

/// The index of objects.
#[derive(Debug, Default)]
pub struct Objects {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    objects: Recent<ObjectKey, KnownObject>,
    items: Recent<ObjectKey, KnownItem>,
    /// Conversations that open requests add to.
    turns: HashMap<ObjectKey, Turns>,
    /// The number of the last turn that began or ended on a conversation.
    changes: Recent<ObjectKey, u64>,
    /// Turns that ever began or ended.
    changed: u64,
}

/// The projects whose objects a request may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of this project.
    Project(Arc<str>),
    /// All: projects share objects, or upstream checks their owners.
    All,
}

impl Objects {
    /// Looks up an object in memory.
    ///
    /// All that a request names is there once [`Guard::check_objects`] has let it
    /// through. The context of a conversation includes what requests that are open
    /// may still add to it.
    pub fn lookup(&self, kind: ObjectKind, id: &str) -> Option<KnownObject> {
        self.memory().find(kind, ObjectKey::of(kind, id))
    }

    /// The number of the last change of a conversation; one that is compared with it
    /// later tells whether there was another one since.
    pub fn change_of(&self, conversation: &str) -> u64 {
        self.memory().change_of(ObjectKey::of(ObjectKind::Conversation, conversation))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        unpoisoned(self.memory.lock())
    }
}

impl Memory {
    fn find(&mut self, kind: ObjectKind, key: ObjectKey) -> Option<KnownObject> {
        if kind == ObjectKind::Item {
            return self.items.get(key).map(|item| KnownObject {
                project: Arc::clone(&item.project),
                key: "".into(),
                context: item.context.clone(),
                container_memory: None,
                has_job: false,
                idle_s: 0,
                created_s: 0,
                used_s: 0,
                changes: 0,
            });
        }
        // A conversation with open turns is always known, even if it was dropped from the recent ones.
        self.turns.get(&key).map(Turns::known).or_else(|| self.objects.get(key).cloned())
    }

    fn change_of(&mut self, conversation: ObjectKey) -> u64 {
        self.changes.get(conversation).copied().unwrap_or(0)
    }

    /// Notes that a turn on a conversation begins or ends.
    fn change(&mut self, conversation: ObjectKey) {
        self.changed = self.changed.saturating_add(1);
        self.changes.put(conversation, self.changed);
    }

    /// Replaces what is known of an object by what all guards know.
    fn refresh(&mut self, key: ObjectKey, known: KnownObject) {
        // A turn of another guard may have begun or ended.
        if self.objects.get(key).is_none_or(|before| before.changes != known.changes) {
            self.change(key);
        }
        self.objects.put(key, known);
    }

    fn learn(&mut self, change: &ObjectChange) {
        match change {
            ObjectChange::Put { of, known, .. } => {
                self.objects.put(ObjectKey::of(of.kind, &of.id), known.clone());
            }
            ObjectChange::Item { key, project, context, .. } => {
                let (project, context) = (Arc::clone(project), context.clone());
                self.items.put(*key, KnownItem { project, context });
            }
            // It is read from the database where a batch is made.
            ObjectChange::BatchInput { .. } => {}
            ObjectChange::Remove(of) => self.objects.remove(ObjectKey::of(of.kind, &of.id)),
            // Among guards, the row is read before the conversation is named again.
            ObjectChange::EndTurn { of, alone, .. } => {
                let key = ObjectKey::of(of.kind, &of.id);
                if let Some(known) = self.objects.get(key).cloned() {
                    let context = alone.as_ref().map(|alone| alone.context.clone()).unwrap_or_default();
                    self.objects.put(key, KnownObject { context, ..known });
                }
            }
        }
    }
}

/// When upstream forgets an object that is in this state.
fn expires_s(kind: ObjectKind, known: &KnownObject) -> Option<i64> {
    match kind {
        ObjectKind::Response => Some(known.created_s.saturating_add(RESPONSE_LIFE_S)),
        ObjectKind::Container => {
            Some(known.used_s.saturating_add(known.idle_s).saturating_add(CONTAINER_GRACE_S))
        }
        ObjectKind::Conversation
        | ObjectKind::ChatCompletion
        | ObjectKind::File
        | ObjectKind::VectorStore
        | ObjectKind::Batch
        | ObjectKind::Skill
        | ObjectKind::Upload
        | ObjectKind::Eval
        | ObjectKind::FineTuningJob
        | ObjectKind::Video
        | ObjectKind::Item => None,
    }
}

/// The change that writes what is known of an object.
pub fn put(of: ObjectReference, known: KnownObject) -> ObjectChange {
    let expires_s = expires_s(of.kind, &known);
    ObjectChange::Put { of, known, expires_s }
}

impl Guard {
    /// The index of objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Finds the first object that a request names and may not reach: another
    /// project's, or one that is not known. Afterwards all that it may reach and
    /// that is known is in memory.
    pub async fn check_objects(
        &self,
        named: &[ObjectReference],
        reach: &Reach,
    ) -> Result<Option<usize>, StoreError> {
        let mut missing = Vec::new();
        // Another guard may have used them since.
        let is_stale =
            |kind| self.core.is_shared() && matches!(kind, ObjectKind::Conversation | ObjectKind::Container);
        {
            let mut memory = self.objects.memory();
            for (at, of) in named.iter().enumerate().filter(|(_, of)| !of.is_upstreams_own()) {
                match (memory.find(of.kind, ObjectKey::of(of.kind, &of.id)), reach) {
                    (Some(known), Reach::Project(project)) if known.project != *project => {
                        return Ok(Some(at));
                    }
                    (Some(_), _) if is_stale(of.kind) => missing.push((at, of.clone())),
                    (Some(_), _) => {}
                    // Too long to have been remembered.
                    (None, Reach::Project(_)) if of.id.len() > OBJECT_ID_BYTES_MAX => return Ok(Some(at)),
                    (None, _) => missing.push((at, of.clone())),
                }
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let named = missing.iter().map(|(_, of)| of.clone()).collect();
        let may_reach = {
            let reach = reach.clone();
            move |found: Option<&StoredObject>| match &reach {
                Reach::All => true,
                Reach::Project(project) => found.is_some_and(|found| found.project() == project),
            }
        };
        let reaches = may_reach.clone();
        let found = self.reports.objects(named, self.clock().now_s(), move |found| !reaches(found)).await?;
        let mut memory = self.objects.memory();
        for ((at, of), found) in missing.into_iter().zip(found) {
            if !may_reach(found.as_ref()) {
                return Ok(Some(at));
            }
            let key = ObjectKey::of(of.kind, &of.id);
            match found {
                Some(StoredObject::Object(known)) if is_stale(of.kind) => memory.refresh(key, known),
                Some(StoredObject::Object(known)) => memory.objects.put_missing(key, known),
                Some(StoredObject::Item(item)) => memory.items.put_missing(key, item),
                None => {}
            }
        }
        Ok(None)
    }

    /// The projects that objects of a kind belong to, in the order of their ids.
    pub async fn owners(
        &self,
        kind: ObjectKind,
        ids: Vec<String>,
    ) -> Result<Vec<Option<Arc<str>>>, StoreError> {
        let owner = |id: &String| self.objects.lookup(kind, id).map(|known| known.project);
        let mut owners: Vec<_> = ids.iter().map(owner).collect();
        let unknown: Vec<usize> = (0..ids.len()).filter(|at| owners[*at].is_none()).collect();
        if unknown.is_empty() {
            return Ok(owners);
        }
        let named = unknown.iter().map(|at| ObjectReference { kind, id: ids[*at].clone() }).collect();
        let found = self.reports.objects(named, self.clock().now_s(), |_| false).await?;
        for (at, found) in unknown.into_iter().zip(found) {
            owners[at] = found.map(|found| Arc::clone(found.project()));
        }
        Ok(owners)
    }

    /// Records changes of objects: in memory immediately, and queued for the
    /// database. After waiting for that with [`Guard::objects_written`], a client
    /// may learn of them.
    pub fn learn_objects(&self, changes: Vec<ObjectChange>) -> WriteAck {
        {
            let mut memory = self.objects.memory();
            for change in &changes {
                memory.learn(change);
            }
        }
        self.core.push_objects(changes)
    }

    /// What a scan has found in a file whose lines can make a batch; `None` if it was not scanned.
    pub async fn batch_input(&self, of: ObjectReference) -> Result<Option<String>, StoreError> {
        self.reports.batch_input(of).await
    }

    /// Records changes of objects, and waits until they are in the database.
    pub async fn record_objects(&self, changes: Vec<ObjectChange>) {
        let written = self.learn_objects(changes);
        self.objects_written(written).await;
    }

    /// Waits until objects are in the database. If that can't be written now, they
    /// are known in memory, and written as soon as it can be.
    pub async fn objects_written(&self, written: WriteAck) {
        let _ = self.core.written(written).await;
    }
}

/// A map that keeps recently used values: when the newer half is full, the older
/// half is dropped.
#[derive(Debug)]
struct Recent<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { newer: HashMap::new(), older: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn get(&mut self, key: K) -> Option<&V> {
        if let Some(value) = self.older.remove(&key) {
            self.put(key, value);
        }
        self.newer.get(&key)
    }

    fn put(&mut self, key: K, value: V) {
        if self.newer.len() >= IN_MEMORY_MAX / 2 && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.older.remove(&key);
        self.newer.insert(key, value);
    }

    /// A value that was recorded while the database was read is newer than the database's.
    fn put_missing(&mut self, key: K, value: V) {
        if self.get(key).is_none() {
            self.put(key, value);
        }
    }

    fn remove(&mut self, key: K) {
        self.newer.remove(&key);
        self.older.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recently_used_values_stay_within_the_bound() {
        let mut map: Recent<usize, usize> = Recent::default();
        for n in 0..IN_MEMORY_MAX * 2 {
            map.put(n, n);
            assert_eq!(map.get(0), Some(&0), "it is used all the time");
            assert!(map.newer.len() + map.older.len() <= IN_MEMORY_MAX);
        }
        assert_eq!(map.get(1), None);
        map.remove(0);
        assert_eq!(map.get(0), None);
    }
}
