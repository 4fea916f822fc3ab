//! Verification: the state in memory is compared with the database.
//!
//! Under the ledger's lock the meters are copied and a job takes its place in the
//! writer's queue, which opens a snapshot: at that place the database has exactly
//! the facts that the meters have. So they can be compared while requests go on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::books::Books;
use crate::domain::{Limit, Money, Window};
use crate::ledger::account::Account;
use crate::ledger::calendar::{self, Windows};
use crate::ledger::entry::{Hold, entry_id, reserved};
use crate::ledger::meter::{Meter, Reading, Subject, subjects};
use crate::ledger::walk::{Copied, LoadedMeters};
use crate::store::records::Names;
use crate::store::reports::{Difference, ROLLUP_S, Report};
use crate::store::{Journal, Lanes, Snapshot, SnapshotNeed, StoreError};

/// How often a difference is checked again: a hold that could not be written is in
/// memory until its request is refused.
const LOOKS: usize = 3;

/// Memory and database at one instant.
struct Instant {
    db: Snapshot,
    limits: Vec<Copied>,
    account: Option<Account>,
    /// The ids of open holds.
    holds: HashSet<u64>,
    /// Holds from this id on were admitted later.
    next_id: u64,
    at_ms: i64,
}

impl Books {
    /// Compares all that is stored twice, in the database and in memory; one verification at a time.
    pub async fn verify(&self) -> Result<Report, StoreError> {
        // Kept by the work itself, which goes on if its client disconnects.
        let alone = Arc::new(Arc::clone(&self.verifying).lock_owned().await);
        let mut report = Report::default();
        let mut live: Vec<Difference> = Vec::new();
        for look in 0..LOOKS {
            let snapshot = self.snapshot().await?;
            let names = Arc::clone(&self.ring);
            let limits = snapshot.limits.len();
            let alone = Arc::clone(&alone);
            let compared = self.core.blocking(move || {
                let _alone = alone;
                snapshot.compare(look == 0, &*names)
            });
            let (whole, found) = compared.await??;
            if let Some(whole) = whole {
                report = Report { limits, ..whole };
                live = found;
            } else {
                live.retain(|known| found.iter().any(|f| (f.kind, &f.about) == (known.kind, &known.about)));
            }
            if live.is_empty() {
                break;
            }
        }
        for difference in live {
            report.note(|| difference);
        }
        Ok(report)
    }

    async fn snapshot(&self) -> Result<Instant, StoreError> {
        let journal = match self.core.journal() {
            Journal::Embedded(journal) => journal,
            Journal::Shared(lanes) => return self.shared_snapshot(lanes).await,
        };
        let slot = self.core.operators_slot().await?;
        let (instant, snapshot) = self.core.with_snapshot(journal, slot, |ledger, at_ms| {
            let limits = ledger.copied();
            let holds = ledger.holds().map(|hold| hold.id).collect();
            let next_id = ledger.next_id().unwrap_or(u64::MAX);
            let account = ledger.account().cloned();
            (move |db| Instant { db, limits, account, holds, next_id, at_ms }, SnapshotNeed::Taken)
        });
        snapshot.done().await?.map(instant).ok_or(StoreError::Unavailable)
    }
}

impl Books {
    /// The same of a shared ledger, whose meters and holds are rows of the database.
    async fn shared_snapshot(&self, lanes: &Lanes) -> Result<Instant, StoreError> {
        self.core.flush().await?;
        let (core, names) = (Arc::clone(&self.core), Arc::clone(&self.ring));
        let (db, seen) = lanes.snapshot().await?;
        let work = move || {
            let holds = db.open_holds(&*names)?.into_iter().map(|hold| hold.id).collect();
            let limits = LoadedMeters::of(core.in_force(), seen.meters).copied();
            let at_ms = core.clock().now_ms();
            Ok(Instant { db, limits, account: seen.account, holds, next_id: u64::MAX, at_ms })
        };
        self.core.blocking(work).await?
    }
}

impl Instant {
    /// The differences within the database, if requested, and those between database and memory.
    fn compare(
        &self,
        whole: bool,
        names: &dyn Names,
    ) -> Result<(Option<Report>, Vec<Difference>), StoreError> {
        let report = if whole { Some(self.db.verify()?) } else { None };
        match self.differences(names) {
            // With an entry that can't be read, which the report names, no meter can be compared.
            Err(StoreError::Unreadable(_)) => Ok((report, Vec::new())),
            found => Ok((report, found?)),
        }
    }

    fn differences(&self, names: &dyn Names) -> Result<Vec<Difference>, StoreError> {
        let mut open = self.db.open_holds(names)?;
        open.retain(|hold| hold.id < self.next_id);
        let mut found = self.hold_differences(&open)?;
        // A cap of single requests has no meter.
        for copied in self.limits.iter().filter(|copied| copied.limit.window != Window::Request) {
            let (limit, readings) = (&copied.limit, copied.readings(self.at_ms));
            self.meter_differences(limit, &readings, &open, names, &mut found)?;
            self.missed_thresholds(limit, &readings, &mut found)?;
        }
        found.extend(self.credit_differences(&open)?);
        Ok(found)
    }

    /// Holds that only the database or only memory knows.
    fn hold_differences(&self, open: &[Hold]) -> Result<Vec<Difference>, StoreError> {
        let mut found = Vec::new();
        for hold in open.iter().filter(|hold| !self.holds.contains(&hold.id)) {
            let (id, cost) = (entry_id(hold.id), hold.bound.cost);
            found.push(Difference {
                kind: "hold",
                about: id.clone(),
                what: format!(
                    "hold {id} of {cost} USD for key {}, admitted {}, is open, and no request that is running owns it",
                    hold.attribution.key,
                    calendar::utc(hold.admitted_ms.div_euclid(1_000))
                ),
                meaning: format!("limits don't count it now; the next start would charge {cost} USD for it"),
                remedy: "if nothing was spent on it, correct its entry after the next start with `spendguard ledger adjust`"
                    .to_owned(),
            });
        }
        let stored: HashSet<u64> = open.iter().map(|hold| hold.id).collect();
        let unstored: BTreeSet<u64> = self.holds.difference(&stored).copied().collect();
        for hold in unstored {
            let kind = self.db.entry_kind(hold)?;
            let id = entry_id(hold);
            found.push(match kind {
                Some(kind) => Difference {
                    kind: "hold",
                    about: id.clone(),
                    what: format!(
                        "hold {id} belongs to a running request, and has an entry ({kind}) already"
                    ),
                    meaning: "its real ending can't be written, and nothing that comes after it".to_owned(),
                    remedy: format!("remove the entry {id}, which no request has made"),
                },
                None => Difference {
                    kind: "hold",
                    about: id.clone(),
                    what: format!("hold {id} belongs to a running request, and is not in the database"),
                    meaning: "limits count it, but if the guard died now it would be forgotten".to_owned(),
                    remedy: "nothing, once its request has ended; find out which other program changes the database".to_owned(),
                },
            });
        }
        Ok(found)
    }

    /// Meters against the sums of entries and of open holds.
    fn meter_differences(
        &self,
        limit: &Arc<Limit>,
        readings: &[Reading],
        open: &[Hold],
        names: &dyn Names,
        found: &mut Vec<Difference>,
    ) -> Result<(), StoreError> {
        let span = Windows::of(limit).span(self.at_ms.div_euclid(1_000));
        // The clock was set back into a time that is pruned: there are no sums for so short a window.
        if span.end_s.saturating_sub(span.start_s) < ROLLUP_S && span.start_s < self.db.whole_since_s()? {
            return Ok(());
        }
        let settled = self.db.settled_by_entries(limit, span, names)?;
        let mut held: HashMap<Subject, i64> = HashMap::new();
        for hold in open.iter().filter(|hold| span.contains(hold.admitted_ms.div_euclid(1_000))) {
            for subject in subjects(limit, &hold.attribution) {
                let sum = held.entry(subject).or_default();
                *sum = sum.saturating_add(reserved(&hold.bound, limit.unit));
            }
        }
        let metered = readings.iter().map(|reading| &reading.subject);
        let subjects: BTreeSet<&Subject> = metered.chain(settled.keys()).chain(held.keys()).collect();
        let meters: HashMap<&Subject, Meter> = readings.iter().map(|r| (&r.subject, r.meter)).collect();
        for of in subjects {
            let meter = meters.get(of).copied().unwrap_or_default();
            let of_facts = |sums: &HashMap<Subject, i64>| sums.get(of).copied().unwrap_or(0);
            let settled = (meter.settled, of_facts(&settled), "settled", "its entries");
            let held = (meter.held, of_facts(&held), "held", "its open holds");
            for (says, facts, which, of_what) in [settled, held] {
                if says != facts {
                    found.push(unlike(
                        limit,
                        of,
                        which,
                        (says, facts),
                        of_what,
                        &calendar::utc(span.start_s),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Soft thresholds that a meter is past without a crossing.
    fn missed_thresholds(
        &self,
        limit: &Arc<Limit>,
        readings: &[Reading],
        found: &mut Vec<Difference>,
    ) -> Result<(), StoreError> {
        for reading in readings {
            for threshold in limit.thresholds().into_iter().filter(|t| *t <= reading.meter.settled) {
                let (of, start_s) = (reading.subject.label(), reading.span.start_s);
                if self.db.has_crossing(&limit.name, of, threshold, start_s)? {
                    continue;
                }
                let (soft, settled) =
                    (limit.unit.phrase(threshold), limit.unit.phrase(reading.meter.settled));
                found.push(Difference {
                    kind: "crossing",
                    about: format!("{} {of} {threshold} {start_s}", limit.name),
                    what: format!(
                        "limit {:?}, {of}: {settled} are settled, past {soft}, and no crossing is recorded",
                        limit.name
                    ),
                    meaning: "the limit holds, but no alert was sent for the threshold".to_owned(),
                    remedy: "reload the configuration or restart the guard, which sends the alert".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Prepaid credit in memory against its grants, entries and open holds.
    fn credit_differences(&self, open: &[Hold]) -> Result<Vec<Difference>, StoreError> {
        let mut stored = self.db.account()?;
        if let Some(account) = &mut stored {
            for hold in open {
                account.hold(hold);
            }
        }
        let figures = |account: &Option<Account>| {
            account.as_ref().map(|account| account.balance(self.at_ms)).unwrap_or_default()
        };
        let (says, facts) = (figures(&self.account), figures(&stored));
        let parts = [
            ("granted", says.granted, facts.granted),
            ("used", says.used, facts.used),
            ("expired", says.expired, facts.expired),
            ("held", says.held, facts.held),
        ];
        let unlike = parts.into_iter().filter(|(_, says, facts)| says != facts);
        let difference = |(which, says, facts): (&str, Money, Money)| Difference {
            kind: "credit",
            about: which.to_owned(),
            what: format!(
                "prepaid credit: the account says {says} USD {which}, grants, entries and open holds add up to {facts}"
            ),
            meaning: "requests are refused too early, or let through without credit".to_owned(),
            remedy: "restart the guard, which rebuilds the account from the ledger".to_owned(),
        };
        Ok(unlike.map(difference).collect())
    }
}

fn unlike(
    limit: &Limit,
    of: &Subject,
    which: &str,
    (says, facts): (i64, i64),
    of_what: &str,
    from: &str,
) -> Difference {
    let (name, by) = (&limit.name, limit.unit.phrase(says.saturating_sub(facts).saturating_abs()));
    let does = if says > facts { "refuses so much too early" } else { "lets so much too much through" };
    Difference {
        kind: "meter",
        about: format!("{name} {} {which}", of.label()),
        what: format!(
            "limit {name:?}, {}, window from {from}: the meter says {} {which}, {of_what} add up to {}",
            of.label(),
            limit.unit.phrase(says),
            limit.unit.phrase(facts),
        ),
        meaning: format!("the limit is off by {by} in this window, and {does}"),
        remedy: "restart the guard, which rebuilds the meters from the ledger; if a key or project that the limit names was \
               renamed, that is the reason"
            .to_owned(),
    }
}
