//! The sockets of clients on this guard: how many each key has, and which are open.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::Money;
use crate::guard::Guard;
use crate::ledger::entry::Tags;
use crate::metrics::Metrics;
use crate::sync::unpoisoned;

/// How many sockets a key may have.
const OF_KEY_MAX: usize = 5_000;
/// Sockets that were closed lately, behind which a list may go on.
const CLOSED_MAX: usize = 10_000;

/// The sockets of a guard.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many each key has, those that are being opened included.
    of_keys: HashMap<Arc<str>, usize>,
    /// Those that are open, in the order in which they were opened.
    open: BTreeMap<u64, Arc<OpenSocket>>,
    last: u64,
    /// The ids and numbers of those that were closed last.
    closed: VecDeque<(String, u64)>,
}

impl Sockets {
    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.lock())
    }
}

/// A socket that is open.
#[derive(Debug)]
pub struct OpenSocket {
    /// The id of the request that opened it, which the log has.
    pub id: String,
    /// Its number in the order in which this guard has opened them; 0 before it is open.
    pub number: u64,
    /// Id of its key.
    pub key: Arc<str>,
    /// Id of the project the key is in.
    pub project: Arc<str>,
    /// The endpoint's label.
    pub endpoint: &'static str,
    /// When it was opened, in Unix milliseconds.
    pub since_ms: i64,
    activity: Mutex<Activity>,
}

/// What was done on a socket.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// The tags of the latest request that was admitted, before it those of the request for the socket.
    pub tags: Arc<Tags>,
    /// Requests that have ended, refused ones included.
    pub requests: u64,
    /// What they were charged.
    pub spent: Money,
}

impl OpenSocket {
    /// A socket that is opened now, by a request with these tags.
    pub fn new(
        id: String,
        (project, key): (&Arc<str>, &Arc<str>),
        endpoint: &'static str,
        since_ms: i64,
        tags: Tags,
    ) -> Self {
        let activity = Mutex::new(Activity { tags: Arc::new(tags), ..Activity::default() });
        let (key, project) = (Arc::clone(key), Arc::clone(project));
        Self { id, number: 0, key, project, endpoint, since_ms, activity }
    }

    /// What was done on it so far.
    pub fn activity(&self) -> Activity {
        self.state().clone()
    }

    /// A request on it was admitted.
    pub fn admitted(&self, tags: &Arc<Tags>) {
        self.state().tags = Arc::clone(tags);
    }

    /// A request on it has ended.
    pub fn ended(&self, cost: Money) {
        let mut state = self.state();
        state.requests = state.requests.saturating_add(1);
        state.spent = state.spent + cost;
    }

    fn state(&self) -> MutexGuard<'_, Activity> {
        unpoisoned(self.activity.lock())
    }
}

/// A place for a socket of a key, until it is dropped.
#[derive(Debug)]
pub struct SocketPlace {
    sockets: Arc<Sockets>,
    metrics: Arc<Metrics>,
    key: Arc<str>,
}

impl SocketPlace {
    /// The socket is open.
    pub fn open(self, socket: OpenSocket) -> Listed {
        let socket = {
            let mut state = self.sockets.state();
            state.last += 1;
            let number = state.last;
            let socket = Arc::new(OpenSocket { number, ..socket });
            state.open.insert(number, Arc::clone(&socket));
            socket
        };
        self.metrics.sockets_open().inc();
        Listed { place: self, socket }
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        let mut state = self.sockets.state();
        if let Some(count) = state.of_keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.of_keys.remove(&self.key);
            }
        }
    }
}

/// An open socket, which is in the list until this is dropped.
#[derive(Debug)]
pub struct Listed {
    place: SocketPlace,
    /// The socket.
    pub socket: Arc<OpenSocket>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let OpenSocket { id, number, .. } = &*self.socket;
        let mut state = self.place.sockets.state();
        state.open.remove(number);
        if state.closed.len() >= CLOSED_MAX {
            state.closed.pop_front();
        }
        state.closed.push_back((id.clone(), *number));
        drop(state);
        self.place.metrics.sockets_open().dec();
    }
}

impl Guard {
    /// Takes a place for another socket of a key; `None` if the key has as many as it may.
    pub fn socket_place(&self, key: Arc<str>) -> Option<SocketPlace> {
        let mut state = self.sockets.state();
        let count = state.of_keys.get(&key).copied().unwrap_or(0);
        if count >= OF_KEY_MAX {
            return None;
        }
        state.of_keys.insert(Arc::clone(&key), count + 1);
        drop(state);
        Some(SocketPlace { sockets: Arc::clone(&self.sockets), metrics: Arc::clone(self.metrics()), key })
    }

    /// The sockets that are open, in the order in which they were opened.
    pub fn open_sockets(&self) -> Vec<Arc<OpenSocket>> {
        self.sockets.state().open.values().cloned().collect()
    }

    /// The number of a socket that is open, or was closed lately.
    pub fn socket_number(&self, id: &str) -> Option<u64> {
        let state = self.sockets.state();
        let open = state.open.values().find(|socket| socket.id == id).map(|socket| socket.number);
        open.or_else(|| state.closed.iter().find(|(closed, _)| closed == id).map(|(_, number)| *number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::opened;

    fn socket(key: &Arc<str>, id: &str) -> OpenSocket {
        OpenSocket::new(id.to_owned(), (&"proj".into(), key), "/v1/realtime", 0, Tags::new())
    }

    #[test]
    fn a_key_with_all_its_sockets_leaves_places_for_others_and_gets_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let (guard, _writer) = opened(folder.path());
        let (full, other): (Arc<str>, Arc<str>) = ("full".into(), "other".into());
        let mut places: Vec<_> = (0..5_000).map(|_| guard.socket_place(Arc::clone(&full)).unwrap()).collect();
        assert!(guard.socket_place(Arc::clone(&full)).is_none());
        let listed = guard.socket_place(Arc::clone(&other)).unwrap().open(socket(&other, "a"));
        let last = places.pop().unwrap().open(socket(&full, "b"));
        let ids = || guard.open_sockets().iter().map(|socket| socket.id.clone()).collect::<Vec<_>>();
        assert_eq!((ids(), guard.metrics().sockets_open().get()), (vec!["a".to_owned(), "b".to_owned()], 2));
        assert!(guard.socket_place(Arc::clone(&full)).is_none(), "it is open now");
        drop((listed, last));
        assert_eq!((ids(), guard.metrics().sockets_open().get()), (Vec::new(), 0));
        assert!(guard.socket_place(full).is_some());
    }
}
