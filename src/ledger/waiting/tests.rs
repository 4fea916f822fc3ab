//! Waiting requests are served in turn, whatever the others do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

/// Remembers that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn meter(name: &str) -> Place {
    Place::Meter { limit: name.into(), subject: Subject::Organization }
}

fn key(name: usize) -> Arc<str> {
    name.to_string().into()
}

fn join(queues: &mut Queues, of: usize, waker: Waker) -> Option<u64> {
    let ticket = queues.ticket();
    queues.join(ticket, meter("a"), &key(of), waker).then_some(ticket)
}

/// Room at some places, and requests that want some of it at all of their own.
#[derive(Default)]
struct World {
    queues: Queues,
    room: BTreeMap<usize, i64>,
    waiting: BTreeMap<u64, Request>,
    /// By place, the tickets in the order in which they got room there.
    served: Vec<(u64, Request)>,
}

#[derive(Clone)]
struct Request {
    places: Vec<usize>,
    needed: i64,
    bell: Arc<Bell>,
}

fn place(number: usize) -> Place {
    meter(&number.to_string())
}

impl World {
    /// The place that stands in the way of a request, or none.
    fn obstacle(&self, request: &Request, turn: Turn) -> Option<usize> {
        let blocks = |at: &&usize| {
            self.room.get(at).copied().unwrap_or(0) < request.needed
                || self.queues.is_behind(turn, &place(**at))
        };
        request.places.iter().find(blocks).copied()
    }

    fn take(&mut self, request: &Request) {
        for at in &request.places {
            *self.room.entry(*at).or_default() -= request.needed;
        }
    }

    fn arrive(&mut self, request: Request) {
        let Some(at) = self.obstacle(&request, Turn::Newcomer) else { return self.take(&request) };
        let (ticket, waker) = (self.queues.ticket(), Waker::from(Arc::clone(&request.bell)));
        assert!(self.queues.join(ticket, place(at), &key(0), waker));
        request.bell.0.store(true, Ordering::Relaxed);
        self.waiting.insert(ticket, request);
    }

    /// Every request that was called tries again, until all is quiet.
    fn run(&mut self) {
        loop {
            self.queues.take_called().into_iter().for_each(Waker::wake);
            let called =
                self.waiting.iter().find(|(_, request)| request.bell.0.swap(false, Ordering::Relaxed));
            let Some((ticket, request)) = called.map(|(ticket, request)| (*ticket, request.clone())) else {
                return;
            };
            match self.obstacle(&request, Turn::Ticket(ticket)) {
                None => {
                    self.take(&request);
                    self.queues.leave(ticket);
                    self.waiting.remove(&ticket);
                    self.served.push((ticket, request));
                }
                Some(at) if self.queues.waiting[&ticket].place != place(at) => {
                    self.queues.move_to(ticket, place(at));
                    request.bell.0.store(true, Ordering::Relaxed);
                }
                Some(_) => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { places: Vec<usize>, needed: i64 },
    Free { place: usize, amount: i64 },
    Leave { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let places = prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 2]), Just(vec![1, 2]), Just(vec![2])];
    prop::collection::vec(
        prop_oneof![
            4 => (places, 1_i64..50).prop_map(|(places, needed)| Step::Arrive { places, needed }),
            4 => (0_usize..3, 1_i64..80).prop_map(|(place, amount)| Step::Free { place, amount }),
            1 => any::<usize>().prop_map(|which| Step::Leave { which }),
        ],
        1..150,
    )
}

proptest! {
    #[test]
    fn no_call_is_lost_and_none_overtakes_where_both_wait(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Arrive { places, needed } => {
                    world.arrive(Request { places, needed, bell: Arc::default() });
                }
                Step::Free { place: at, amount } => {
                    *world.room.entry(at).or_default() += amount;
                    world.queues.call(&place(at));
                }
                Step::Leave { which } if !world.waiting.is_empty() => {
                    let ticket = *world.waiting.keys().nth(which % world.waiting.len()).unwrap();
                    world.waiting.remove(&ticket);
                    world.queues.leave(ticket);
                }
                Step::Leave { .. } => {}
            }
            world.run();
            // Each that still waits has a reason to.
            for (ticket, request) in &world.waiting {
                prop_assert!(world.obstacle(request, Turn::Ticket(*ticket)).is_some(), "{ticket} sleeps beside room");
            }
            prop_assert_eq!(world.queues.len(), world.waiting.len());
            prop_assert_eq!(world.queues.places.values().map(BTreeSet::len).sum::<usize>(), world.waiting.len());
        }
        // Of those with the same places, none was served before an earlier one.
        for (at, (ticket, request)) in world.served.iter().enumerate() {
            let later = &world.served[at..];
            let overtaken = later.iter().find(|(other, of)| other < ticket && of.places == request.places);
            prop_assert!(overtaken.is_none(), "{} was served after {ticket}", overtaken.unwrap().0);
        }
    }
}

#[test]
fn a_newcomer_is_behind_those_who_wait_and_only_there() {
    let mut queues = Queues::default();
    let ticket = join(&mut queues, 1, Waker::noop().clone()).unwrap();
    let later = join(&mut queues, 1, Waker::noop().clone()).unwrap();
    assert!(queues.is_behind(Turn::Newcomer, &meter("a")) && !queues.is_behind(Turn::Newcomer, &meter("b")));
    assert!(
        !queues.is_behind(Turn::Ticket(ticket), &meter("a"))
            && queues.is_behind(Turn::Ticket(later), &meter("a"))
    );
    assert!(!queues.is_behind(Turn::Last, &meter("a")), "after its longest wait it takes what there is");
    queues.move_to(ticket, meter("b"));
    assert!(
        !queues.is_behind(Turn::Ticket(later), &meter("a")) && queues.is_behind(Turn::Newcomer, &meter("b"))
    );
    queues.move_to(later, meter("b"));
    assert!(queues.is_behind(Turn::Ticket(later), &meter("b")), "it keeps its place in the order of arrival");
}

#[test]
fn an_ending_wakes_one_and_one_that_leaves_wakes_the_next() {
    let bells: Vec<Arc<Bell>> = (0..3).map(|_| Arc::default()).collect();
    let mut queues = Queues::default();
    let joined = |bell: &Arc<Bell>| join(&mut queues, 1, Waker::from(Arc::clone(bell))).unwrap();
    let tickets: Vec<u64> = bells.iter().map(joined).collect();
    let woken = |queues: &mut Queues| {
        queues.take_called().into_iter().for_each(Waker::wake);
        bells.iter().map(|bell| bell.0.swap(false, Ordering::Relaxed)).collect::<Vec<_>>()
    };
    queues.call(&meter("b"));
    assert_eq!(woken(&mut queues), [false, false, false]);
    queues.call(&meter("a"));
    assert_eq!(woken(&mut queues), [true, false, false]);
    queues.leave(tickets[0]);
    assert_eq!(woken(&mut queues), [false, true, false]);
    queues.move_to(tickets[1], meter("b"));
    assert_eq!(woken(&mut queues), [false, false, true]);
    queues.call_all();
    assert_eq!(woken(&mut queues), [false, true, true]);
}

#[test]
fn so_many_of_a_key_may_wait_and_so_many_in_all() {
    let mut queues = Queues::default();
    let join = |queues: &mut Queues, of: usize| join(queues, of, Waker::noop().clone());
    let tickets: Vec<_> = (0..WAITING_PER_KEY_MAX).map(|_| join(&mut queues, 0).unwrap()).collect();
    assert_eq!(join(&mut queues, 0), None);
    for of in 1..WAITING_MAX / WAITING_PER_KEY_MAX {
        assert!((0..WAITING_PER_KEY_MAX).all(|_| join(&mut queues, of).is_some()));
    }
    assert_eq!((join(&mut queues, 99), queues.len()), (None, WAITING_MAX));
    queues.leave(tickets[7]);
    queues.leave(tickets[7]);
    assert_eq!(queues.len(), WAITING_MAX - 1, "it leaves once");
    assert!(join(&mut queues, 99).is_some());
    for ticket in tickets {
        queues.leave(ticket);
    }
    assert!(join(&mut queues, 0).is_some() && queues.of_key[&key(0)] == 1);
}
