//! The true account of upstream: the bills of all requests, and what it keeps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use oracle::prices::Rates;
use tokio::time::Instant;

use crate::background::{BackgroundBill, Responses};
use crate::batches::{BatchBill, Batches};
use crate::containers::{ContainerBill, Containers, UnixTime};
use crate::files::Files;
use crate::realtime::SessionBill;
use crate::stops::Stopped;
use crate::stores::{StoreBill, Stores};
use crate::wire::now;

/// How long after an outage the guard asks again at the latest, and is answered.
const ASKED_WITHIN: Duration = Duration::from_secs(180);

/// What one request really cost.
#[derive(Clone, Debug)]
pub(crate) enum Bill {
    /// Of a plain request.
    Plain(PlainBill),
    /// Of any kind of request.
    Drawn(DrawnBill),
    /// Of a response that is made in the background.
    Background(BackgroundBill),
    /// Of a container.
    Container(ContainerBill),
    /// Of a batch.
    Batch(BatchBill),
    /// Of a vector store.
    Store(StoreBill),
    /// Of a realtime session.
    Session(SessionBill),
}

/// What a request of any kind costs by the oracle: the stage that its answer has come to,
/// and each word that was delivered.
#[derive(Clone, Debug)]
pub(crate) struct DrawnBill {
    pub(crate) is_stream: bool,
    /// Whether upstream itself breaks it off.
    pub(crate) is_cut: bool,
    /// Whether a turn is so large that the rates of long contexts count.
    pub(crate) is_long: bool,
    pub(crate) stages_pico: Vec<u128>,
    pub(crate) stage: Arc<AtomicU64>,
    pub(crate) word_pico: u128,
    pub(crate) words: Arc<AtomicU64>,
}

impl DrawnBill {
    /// Whether it is a stream that the guard did not let come to its end.
    pub(crate) fn was_left(&self) -> bool {
        let stage = usize::try_from(self.stage.load(Ordering::Relaxed)).unwrap();
        self.is_stream && !self.is_cut && stage + 1 < self.stages_pico.len()
    }

    fn pico(&self) -> u128 {
        let stage = usize::try_from(self.stage.load(Ordering::Relaxed)).unwrap();
        self.stages_pico[stage] + self.word_pico * u128::from(self.words.load(Ordering::Relaxed))
    }
}

impl Bill {
    pub(crate) fn pico(&self) -> u128 {
        match self {
            Self::Plain(bill) => bill.pico(),
            Self::Drawn(bill) => bill.pico(),
            Self::Background(bill) => bill.pico(),
            Self::Container(bill) => bill.pico(),
            Self::Batch(bill) => bill.pico(),
            Self::Store(bill) => bill.pico(),
            Self::Session(bill) => bill.pico(),
        }
    }

    /// Whether it is that of a job.
    pub(crate) const fn is_of_job(&self) -> bool {
        !matches!(self, Self::Plain(_) | Self::Drawn(_) | Self::Session(_))
    }

    /// The bill of a request that is no plain one.
    pub(crate) const fn drawn(&self) -> Option<&DrawnBill> {
        match self {
            Self::Drawn(bill) => Some(bill),
            Self::Plain(_)
            | Self::Background(_)
            | Self::Container(_)
            | Self::Batch(_)
            | Self::Store(_)
            | Self::Session(_) => None,
        }
    }

    /// Whether it is that of a response in the background that ran in containers.
    pub(crate) const fn has_sessions(&self) -> bool {
        matches!(self, Self::Background(BackgroundBill { has_sessions: true, .. }))
    }

    /// Whether a cost that was reported must be this one to the nano-dollar.
    pub(crate) fn is_exact(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Background(bill) => bill.is_exact,
            Self::Batch(bill) => bill.is_exact(),
            Self::Drawn(_) | Self::Container(_) | Self::Store(_) | Self::Session(_) => false,
        }
    }
}

/// What a plain request really cost.
#[derive(Clone, Debug)]
pub(crate) struct PlainBill {
    pub(crate) model: &'static str,
    /// By the oracle's prices.
    pub(crate) rates: Rates,
    /// Input and cached input, once it is certain that they are billed.
    pub(crate) input: Option<(u64, u64)>,
    /// Output that no client sees.
    pub(crate) reasoning: u64,
    /// Words, each a token: all of an answer, or those of a stream delivered.
    pub(crate) words: Arc<AtomicU64>,
}

impl PlainBill {
    fn pico(&self) -> u128 {
        let Some((input, cached)) = self.input else { return 0 };
        let output = self.reasoning + self.words.load(Ordering::Relaxed);
        u128::from(input - cached) * self.rates.input
            + u128::from(cached) * self.rates.cached
            + u128::from(output) * self.rates.output
    }
}

/// All bills, by the name of the request, and the world in which they are made.
pub(crate) struct Account {
    bills: Mutex<BTreeMap<String, Vec<Bill>>>,
    /// The most that each drawn request can cost, in picodollars, and what became of it.
    most: Mutex<BTreeMap<String, (u128, String)>>,
    world: Mutex<oracle::World>,
    made: Mutex<Vec<String>>,
    /// Responses that are made in the background, containers, batches with their files, and vector stores.
    pub(crate) background: Responses,
    pub(crate) containers: Containers,
    pub(crate) files: Files,
    pub(crate) batches: Batches,
    pub(crate) stores: Stores,
    pub(crate) stopped: Mutex<Stopped>,
    time: OnceLock<UnixTime>,
    /// From when to when no question about a job is answered.
    outage: Option<(Instant, Instant)>,
}

pub(crate) fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    pub(crate) fn new(world: oracle::World, outage: Option<(Instant, Instant)>) -> Self {
        Self {
            bills: Mutex::default(),
            most: Mutex::default(),
            world: Mutex::new(world),
            made: Mutex::default(),
            background: Responses::default(),
            containers: Containers::default(),
            files: Files::default(),
            batches: Batches::default(),
            stores: Stores::default(),
            stopped: Mutex::default(),
            time: OnceLock::new(),
            outage,
        }
    }

    /// A request has arrived.
    pub(crate) fn begins(&self, name: &str) {
        locked(&self.stopped).begins(name);
    }

    pub(crate) fn bills(&self) -> BTreeMap<String, Vec<Bill>> {
        locked(&self.bills).clone()
    }

    pub(crate) fn pico(&self) -> u128 {
        locked(&self.bills).values().flatten().map(Bill::pico).sum()
    }

    /// Shows the bill of each job, with its name.
    pub(crate) fn each_job(&self, mut show: impl FnMut(&str, &Bill)) {
        for (name, bills) in locked(&self.bills).iter() {
            bills.iter().filter(|bill| bill.is_of_job()).for_each(|bill| show(name, bill));
        }
    }

    pub(crate) fn open(&self, name: &str, bill: Bill) {
        locked(&self.bills).entry(name.to_owned()).or_default().push(bill);
    }

    /// Notes the most that a request can cost, and what became of it.
    pub(crate) fn most(&self, name: &str, pico: u128, story: String) {
        locked(&self.most).insert(name.to_owned(), (pico, story));
    }

    /// The most that each request can cost, in picodollars, and what became of it.
    pub(crate) fn all_most(&self) -> BTreeMap<String, (u128, String)> {
        locked(&self.most).clone()
    }

    pub(crate) fn world(&self) -> oracle::World {
        locked(&self.world).clone()
    }

    /// How many jobs were begun.
    pub(crate) fn jobs(&self) -> u64 {
        let begun = [
            locked(&self.background).len(),
            locked(&self.containers).len(),
            locked(&self.batches).len(),
            locked(&self.stores).len(),
        ];
        u64::try_from(begun.into_iter().sum::<usize>()).unwrap()
    }

    /// Sets the time.
    pub(crate) fn set_time(&self, time: UnixTime) {
        let _ = self.time.set(time);
    }

    pub(crate) fn time(&self) -> UnixTime {
        *self.time.get().unwrap()
    }

    /// Whether questions about jobs are not answered now.
    pub(crate) fn is_out(&self) -> bool {
        self.outage.is_some_and(|(from, until)| from <= now() && now() < until)
    }

    /// Whether they are not, or were not until just now: the guard asks again within a minute.
    pub(crate) fn is_late(&self) -> bool {
        self.outage.is_some_and(|(from, until)| from <= now() && now() < until + ASKED_WITHIN)
    }

    /// Whether there is a time in which they are not.
    pub(crate) const fn was_out(&self) -> bool {
        self.outage.is_some()
    }

    /// Sets the day.
    pub(crate) fn set_date(&self, date: String) {
        locked(&self.world).date = date;
    }

    /// Notes a response that upstream keeps, and its tokens.
    pub(crate) fn made(&self, id: String, tokens: u64) {
        locked(&self.world).responses.insert(id.clone(), tokens);
        locked(&self.made).push(id);
    }

    /// Ids of the responses that were made here.
    pub(crate) fn responses(&self) -> Vec<String> {
        locked(&self.made).clone()
    }
}
