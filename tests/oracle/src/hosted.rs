//! What OpenAI charges for containers, vector stores and searches in these: by time, so each charge is as of an instant.
//!
//! A container costs its begun minutes, five at the least, at a twentieth of the price of a session. It ends when it
//! was not used for as long as `expires_after` says. A vector store costs what its files take, by the gibibyte and day,
//! for exactly as long as they are there; the gibibyte that is free counts as taken by other stores. A file counts in
//! full from the request that adds it on. All times are in Unix seconds.

pub mod upstream;

use std::collections::BTreeMap;

use crate::prices::Memory;

/// Minutes of a session of a container.
const SESSION_MINUTES: u128 = 20;
/// Minutes of a container that are billed at the least.
const MINUTES_MIN: u128 = 5;
/// Minutes without use after which a container ends, unless the request names others.
pub const IDLE_MINUTES: i64 = 20;
/// Picodollars of a GiB and day of storage: 0.10 USD.
const GIB_DAY_PICO: u128 = 100_000_000_000;
const GIB: u128 = 1 << 30;
/// Seconds of a day.
pub const DAY_S: i64 = 86_400;
/// What the guard takes for the largest size of a file in a store, as it documents: 64 MiB, and 160 MiB where the
/// request names how the file is cut into chunks.
pub const FILE_BYTES_MAX: [u64; 2] = [64 << 20, 160 << 20];
/// How old what upstream says of a store may be, as the guard documents.
pub const LAG_MAX_S: i64 = 60;
/// Seconds of an hour.
const HOUR_S: i64 = 3_600;

/// Price of storage, in picodollars rounded up; a byte-second is a byte that is kept for a second.
pub fn storage_pico(byte_seconds: u128) -> u128 {
    (byte_seconds * GIB_DAY_PICO).div_ceil(GIB * u128::try_from(DAY_S).expect("a positive count"))
}

fn seconds(from_s: i64, until_s: i64) -> u128 {
    u128::try_from(until_s - from_s).unwrap_or(0)
}

/// A container that a request made.
#[derive(Clone, Debug)]
pub struct Container {
    /// Memory that it was made with.
    pub memory: Memory,
    /// Seconds without use after which it ends.
    pub idle_s: i64,
    /// When it was made.
    pub made_s: i64,
    /// When it was used last.
    pub active_s: i64,
    /// When a request last named it while it lived, whatever became of that.
    pub touched_s: i64,
    /// When requests named it.
    pub named_s: Vec<i64>,
    /// When a request deleted it.
    pub deleted_s: Option<i64>,
}

impl Container {
    /// One that is made now.
    pub fn made(memory: Memory, idle_minutes: Option<i64>, at_s: i64) -> Self {
        let idle_s = idle_minutes.unwrap_or(IDLE_MINUTES) * 60;
        Self {
            memory,
            idle_s,
            made_s: at_s,
            active_s: at_s,
            touched_s: at_s,
            named_s: Vec::new(),
            deleted_s: None,
        }
    }

    /// When it ends, by what has happened so far.
    pub fn end_s(&self) -> i64 {
        let expires_s = self.active_s + self.idle_s;
        self.deleted_s.map_or(expires_s, |deleted_s| deleted_s.min(expires_s))
    }

    /// Whether it is there still.
    pub fn lives(&self, at_s: i64) -> bool {
        at_s < self.end_s()
    }

    /// Notes that a request names it.
    pub fn touch(&mut self, at_s: i64) {
        self.named_s.push(at_s);
        if self.lives(at_s) {
            self.touched_s = at_s;
        }
    }

    /// Uses it, if it lives.
    pub fn use_at(&mut self, at_s: i64) -> bool {
        let lives = self.lives(at_s);
        if lives {
            self.active_s = at_s;
        }
        lives
    }

    /// Deletes it, if it lives.
    pub fn delete(&mut self, at_s: i64) -> bool {
        let lives = self.lives(at_s);
        if lives {
            self.deleted_s = Some(at_s);
        }
        lives
    }

    /// Minutes that are billed by then.
    pub fn minutes(&self, at_s: i64) -> u128 {
        seconds(self.made_s, at_s.min(self.end_s())).div_ceil(60).max(MINUTES_MIN)
    }

    /// What is charged for it by then, in picodollars.
    pub fn charge_pico(&self, at_s: i64) -> u128 {
        self.minutes(at_s) * self.memory.session_pico() / SESSION_MINUTES
    }
}

/// A file of a vector store.
#[derive(Clone, Debug)]
struct Stored {
    name: String,
    bytes: u64,
    added_s: i64,
    /// When it has been taken up, or has failed to be.
    ready_s: i64,
    has_failed: bool,
    /// When a request removed it, or cancelled that it is taken up.
    gone_s: Option<i64>,
}

impl Stored {
    /// When it takes no room any more.
    fn until_s(&self) -> i64 {
        let failed_s = if self.has_failed { self.ready_s } else { i64::MAX };
        self.gone_s.unwrap_or(i64::MAX).min(failed_s)
    }
}

/// What upstream says of a store's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the fields")]
pub struct Shown {
    pub usage_bytes: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
}

/// A vector store that a request made.
#[derive(Clone, Debug)]
pub struct Store {
    /// Days without use after which it expires, if it does.
    pub idle_days: Option<i64>,
    /// When it was made.
    pub made_s: i64,
    /// When it was used last.
    pub active_s: i64,
    /// When a request deleted it.
    pub deleted_s: Option<i64>,
    /// By how many seconds what upstream says of it is behind.
    pub lag_s: i64,
    files: Vec<Stored>,
    /// Bytes by the guard's rules, each from an instant on: those that have to be held, those that are booked, and those
    /// that would be if no smaller hold ever took the place of a larger one, each file at the most of all.
    needed: BTreeMap<i64, u64>,
    booked: BTreeMap<i64, u64>,
    booked_most: BTreeMap<i64, u64>,
    last_added_s: i64,
    added: u64,
    file_bytes_max: u64,
}

/// How a file is taken up.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Taking {
    pub bytes: u64,
    pub lasts_s: i64,
    pub has_failed: bool,
}

impl Store {
    /// One that is made now, without files.
    pub fn made(idle_days: Option<i64>, lag_s: i64, at_s: i64) -> Self {
        let file_bytes_max = FILE_BYTES_MAX[0];
        Self {
            idle_days,
            made_s: at_s,
            active_s: at_s,
            deleted_s: None,
            lag_s,
            files: Vec::new(),
            needed: BTreeMap::new(),
            booked: BTreeMap::new(),
            booked_most: BTreeMap::new(),
            last_added_s: at_s,
            added: 0,
            file_bytes_max,
        }
    }

    /// When it ends, by what has happened so far.
    pub fn end_s(&self) -> i64 {
        let expires_s = self.idle_days.map_or(i64::MAX, |days| self.active_s + days * DAY_S);
        self.deleted_s.map_or(expires_s, |deleted_s| deleted_s.min(expires_s))
    }

    /// Whether it is there still.
    pub fn lives(&self, at_s: i64) -> bool {
        at_s < self.end_s()
    }

    /// Adds a file, `is_cut` as the request says. One that is there already is there once.
    pub fn add(&mut self, name: &str, file: Taking, is_cut: bool, at_s: i64) {
        self.active_s = at_s;
        self.file_bytes_max = self.file_bytes_max.max(FILE_BYTES_MAX[usize::from(is_cut)]);
        for kept in [&mut self.needed, &mut self.booked] {
            let more = FILE_BYTES_MAX[usize::from(is_cut)];
            kept.insert(at_s, kept.last_key_value().map_or(0, |(_, bytes)| *bytes) + more);
        }
        self.added += 1;
        self.booked_most.insert(at_s, self.added * self.file_bytes_max);
        self.last_added_s = at_s;
        if self.files.iter().any(|stored| stored.name == name && at_s < stored.until_s()) {
            return;
        }
        let ready_s = at_s + file.lasts_s;
        let (bytes, has_failed, name) = (file.bytes, file.has_failed, name.to_owned());
        self.files.push(Stored { name, bytes, added_s: at_s, ready_s, has_failed, gone_s: None });
    }

    /// Removes a file, if it is there.
    pub fn remove(&mut self, name: &str, at_s: i64) -> bool {
        let mut of_name =
            self.files.iter_mut().filter(|stored| stored.name == name && at_s < stored.until_s());
        let Some(stored) = of_name.next() else { return false };
        stored.gone_s = Some(at_s);
        true
    }

    /// Cancels what is being taken up.
    pub fn cancel(&mut self, at_s: i64) {
        for stored in self.files.iter_mut().filter(|stored| at_s < stored.ready_s.min(stored.until_s())) {
            stored.gone_s = Some(at_s);
        }
    }

    /// Deletes it, if it lives.
    pub fn delete(&mut self, at_s: i64) -> bool {
        let lives = self.lives(at_s);
        if lives {
            self.deleted_s = Some(at_s);
        }
        lives
    }

    /// What upstream says of its files: how it was some seconds ago.
    pub fn shown(&self, at_s: i64) -> Shown {
        let as_of_s = at_s - self.lag_s;
        let mut shown = Shown::default();
        let there = self.files.iter().filter(|stored| stored.added_s <= as_of_s);
        for stored in there.filter(|stored| stored.gone_s.is_none_or(|gone_s| as_of_s < gone_s)) {
            match stored {
                _ if as_of_s < stored.ready_s => shown.in_progress += 1,
                Stored { has_failed: true, .. } => shown.failed += 1,
                _ => {
                    shown.completed += 1;
                    shown.usage_bytes += stored.bytes;
                }
            }
        }
        shown
    }

    /// The guard reads the store: from a minute after files were added it believes what upstream says, with each file
    /// that is being taken up at its most. What is larger is held at once; what is smaller, once nothing is being taken
    /// up after files were added, and otherwise after an hour.
    pub fn look(&mut self, at_s: i64) -> Shown {
        let shown = self.shown(at_s);
        if at_s - self.last_added_s < LAG_MAX_S {
            return shown;
        }
        let bytes = shown.usage_bytes + shown.in_progress * self.file_bytes_max;
        // What is known of some files may be less than the most of all.
        self.needed.insert(at_s, shown.usage_bytes + shown.in_progress * FILE_BYTES_MAX[0]);
        let (held_s, held) =
            self.booked.last_key_value().map_or((self.made_s, 0), |(at_s, held)| (*at_s, *held));
        let are_taken_up = shown.in_progress == 0 && held_s <= self.last_added_s;
        if bytes > held || are_taken_up || at_s - held_s >= HOUR_S {
            self.booked.insert(at_s, bytes);
        }
        shown
    }

    /// What the guard says that it holds for it then, for so many seconds, in picodollars.
    pub fn held_pico(&self, at_s: i64, lasts_s: i64) -> u128 {
        if self.lives(at_s) {
            let needed = self.needed.range(..=at_s).next_back().map_or(0, |(_, bytes)| *bytes);
            storage_pico(u128::from(needed) * seconds(0, lasts_s))
        } else {
            0
        }
    }

    /// What is charged for it by then, in picodollars.
    pub fn charge_pico(&self, at_s: i64) -> u128 {
        self.charge_until_pico(i64::MAX, at_s)
    }

    /// The same, but of files that were there at an instant only until then.
    pub fn charge_until_pico(&self, instant_s: i64, at_s: i64) -> u128 {
        let until_s = at_s.min(self.end_s());
        let of = |stored: &Stored| {
            let last_s = if stored.added_s <= instant_s { until_s.min(instant_s) } else { until_s };
            u128::from(stored.bytes) * seconds(stored.added_s, last_s.min(stored.until_s()))
        };
        storage_pico(self.files.iter().map(of).sum())
    }

    /// What the guard says that it books until then, in picodollars, beside the rounding of each entry.
    pub fn booked_pico(&self, at_s: i64) -> u128 {
        kept_pico(&self.booked, at_s)
    }

    /// The same where there was no room for a smaller hold before a larger one ended.
    pub fn booked_most_pico(&self, at_s: i64) -> u128 {
        kept_pico(&self.booked_most, at_s)
    }
}

/// Price of what was kept until then, by how many bytes it was from each instant on.
fn kept_pico(kept: &BTreeMap<i64, u64>, at_s: i64) -> u128 {
    let ends = kept.keys().skip(1).copied().chain([at_s]);
    let spans = kept.iter().zip(ends);
    let of = |((from_s, bytes), until_s): ((&i64, &u64), i64)| {
        u128::from(*bytes) * seconds(*from_s, until_s.min(at_s))
    };
    storage_pico(spans.map(of).sum())
}
