//! Questions about the past.
//!
//! Each question is asked after all that was queued for the database before it, so that
//! an answer contains all that its caller knows of. On the embedded engine, questions that may
//! take long have a connection of their own, and so have those that keys ask about themselves; on a
//! shared one all share a few connections, of which long questions leave one to the others.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Limit, Money, ObjectReference, Span};
use crate::ledger::Past;
use crate::ledger::entry::Entry;
use crate::ledger::meter::Subject;
use crate::store::objects::StoredObject;
use crate::store::outbox::{Alert, Delivery, Due};
use crate::store::ports::{Access, Reader};
use crate::store::postgres::{Locks, Work};
use crate::store::records::{AuditFilter, AuditRow, Names};
use crate::store::reports::{
    AdmittedAfter, DailyUsage, EntryFilter, GroupBy, Groups, PruneError, PruneStep, Pruned, RecentSpend,
    Sizes, SpendSince, Storage, UsageFilter, UsageRow, UsageSum,
};
use crate::store::sql::{
    self, Db, audit, entries, history, key_usage, objects, outbox, pruned, retention, spend, storage, usage,
    usage_rows,
};
use crate::store::{Node, StoreError, postgres};

/// How long deliveries are left to the guard that has claimed them, in milliseconds: if it
/// dies meanwhile, another sends them then.
const CLAIM_MS: i64 = 5 * 60 * 1_000;

/// Answers questions about the past.
#[derive(Clone)]
pub struct Reports {
    access: Access,
    names: Arc<dyn Names>,
    quick: Reader,
    /// For what may take seconds: only questions of this kind wait for each other.
    long: Reader,
    /// For what keys ask about themselves: operators don't wait for them.
    keys: Reader,
    /// For objects that requests name.
    objects: Reader,
}

impl Reports {
    /// Reports by a reader for each kind of question.
    pub(in crate::store) fn new(
        access: Access,
        names: Arc<dyn Names>,
        reader: impl Fn(Work) -> Result<Reader, StoreError>,
    ) -> Result<Self, StoreError> {
        let short = || reader(Work::Short);
        let (quick, long, keys, objects) = (short()?, reader(Work::Long)?, short()?, short()?);
        Ok(Self { access, names, quick, long, keys, objects })
    }

    async fn ask<T, F>(&self, reader: &Reader, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Db<'_>, &dyn Names) -> sql::Result<T> + Send + 'static,
    {
        // A database that can't be written can still be read.
        let _ = self.access.flush().await;
        let (reader, names) = (reader.clone(), Arc::clone(&self.names));
        self.access.blocking(move || reader.query(|db| question(db, &*names))).await?
    }

    /// The entries that fit a filter, in its order. A filter that fits few may read all.
    pub async fn entries(&self, filter: EntryFilter) -> Result<Vec<Entry>, StoreError> {
        self.ask(&self.long, move |db, names| entries::entries(db, &filter, names)).await
    }

    /// The entries that fit a filter among the newest `looked_at_max`, and the id of the
    /// first one looked at.
    pub async fn newest_entries(
        &self,
        filter: EntryFilter,
        looked_at_max: u64,
    ) -> Result<(Vec<Entry>, u64), StoreError> {
        self.ask(&self.quick, move |db, names| {
            let newest = EntryFilter { after: filter.after, count_max: 1, ..EntryFilter::default() };
            let newest = entries::entries(db, &newest, names)?.first().map_or(0, |entry| entry.id);
            let from = newest.saturating_sub(looked_at_max);
            let entries = entries::entries(db, &EntryFilter { from: Some(from), ..filter }, names)?;
            Ok((entries, from))
        })
        .await
    }

    /// An entry, and what corrections have added to its cost.
    pub async fn entry(&self, id: u64) -> Result<Option<(Entry, Money)>, StoreError> {
        self.ask(&self.quick, move |db, names| {
            let Some(entry) = entries::entry(db, id, names)? else { return Ok(None) };
            Ok(Some((entry, entries::corrected_by(db, id)?)))
        })
        .await
    }

    /// Sums of usage by group for each question, of one instant; the costliest first, days
    /// in their order. Spans are widened to whole quarters of an hour.
    pub async fn usage<const N: usize>(
        &self,
        questions: [(GroupBy, Span); N],
        filter: UsageFilter,
    ) -> Result<[Groups; N], StoreError> {
        self.ask(&self.quick, move |db, _| {
            let questions = questions.each_ref().map(|(by, span)| (by, *span));
            usage::usages(db, questions, |project, key| filter.selects(project, key))
        })
        .await
    }

    /// Usage in a span by group, and each day's share in the first `series_max` groups;
    /// without a grouping, of the days alone.
    pub async fn daily_usage(
        &self,
        by: Option<GroupBy>,
        span: Span,
        days: Vec<Span>,
        series_max: usize,
        filter: UsageFilter,
    ) -> Result<DailyUsage, StoreError> {
        self.ask(&self.long, move |db, _| {
            usage::daily_usage(db, by.as_ref(), span, &days, series_max, &filter)
        })
        .await
    }

    /// Folds the rows of usage that was admitted in a span into `sums`, until `fold`
    /// returns `false`. A bucket of `width_s` seconds that is made of whole quarters of an
    /// hour is read from sums, a shorter one from entries.
    pub async fn fold_usage<T, F>(
        &self,
        width_s: i64,
        span: Span,
        mut sums: T,
        mut fold: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut T, UsageRow<'_>) -> bool + Send + 'static,
    {
        self.ask(&self.quick, move |db, _| {
            usage_rows::each_row(db, width_s, span.start_s, span.end_s, |row| fold(&mut sums, row))?;
            Ok(sums)
        })
        .await
    }

    /// What a key has used in each of some spans, by model, the dearest first; each is
    /// widened to whole quarters of an hour.
    pub async fn usage_of_key(
        &self,
        key: String,
        spans: Vec<Span>,
    ) -> Result<Vec<Vec<(String, UsageSum)>>, StoreError> {
        self.ask(&self.keys, move |db, _| key_usage::by_model(db, &key, &spans)).await
    }

    /// What each subject of a limit has settled in one window, added up from the entries.
    pub async fn settled_by_entries(
        &self,
        limit: Arc<Limit>,
        span: Span,
    ) -> Result<HashMap<Subject, i64>, StoreError> {
        self.ask(&self.long, move |db, names| entries::settled_by_entries(db, &limit, span, names)).await
    }

    /// The newest entries that a limit counts in one window, newest first, and how many
    /// there are in all.
    pub async fn counted(
        &self,
        limit: Arc<Limit>,
        span: Span,
        count_max: usize,
    ) -> Result<(Vec<(Subject, Entry)>, usize), StoreError> {
        self.ask(&self.long, move |db, names| entries::counted(db, &limit, span, count_max, names)).await
    }

    /// The part of a window's sums whose entries were pruned, by subject, and before which
    /// time; `None` if none were.
    pub async fn pruned_of(
        &self,
        limit: Arc<Limit>,
        span: Span,
    ) -> Result<Option<(i64, Vec<(Subject, i64)>)>, StoreError> {
        self.ask(&self.long, move |db, names| retention::pruned_of(db, &limit, span, names)).await
    }

    /// What each of the limits has settled in its windows from a time on, in Unix seconds,
    /// where one of them starts; in their order.
    pub async fn history(&self, limits: Vec<(Limit, i64)>) -> Result<Vec<Past>, StoreError> {
        self.ask(&self.long, move |db, names| {
            let of: Vec<(&Limit, i64)> = limits.iter().map(|(limit, since_s)| (limit, *since_s)).collect();
            history::settled(db, &of, names)
        })
        .await
    }

    /// What each of the limits has settled before a time that ends a quarter of an hour, in the
    /// window that it is in; in their order.
    pub async fn settled_before(
        &self,
        limits: Vec<Arc<Limit>>,
        until_s: i64,
    ) -> Result<Vec<Past>, StoreError> {
        self.ask(&self.long, move |db, names| history::before(db, &limits, until_s, names)).await
    }

    /// The next entries of requests and of their corrections, in the order in which the requests
    /// were admitted, up to a time in Unix seconds.
    pub async fn admitted(
        &self,
        after: AdmittedAfter,
        until_s: i64,
        count_max: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.ask(&self.long, move |db, names| entries::admitted(db, after, until_s, count_max, names)).await
    }

    /// The rows of the audit log that fit a filter, newest first.
    pub async fn audit_log(&self, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.ask(&self.quick, move |db, _| audit::rows(db, &filter)).await
    }

    /// What was pruned, if anything was.
    pub async fn pruned(&self) -> Result<Option<Pruned>, StoreError> {
        self.ask(&self.quick, |db, _| pruned::pruned(db)).await
    }

    /// How many entries could be pruned that were admitted before a time, in Unix seconds.
    pub async fn prunable(&self, before_s: i64) -> Result<u64, StoreError> {
        self.ask(&self.long, move |db, _| retention::prunable(db, before_s)).await
    }

    /// The next rows to prune, of entries that were admitted from one instant on and before
    /// another; then of crossings whose window was over before.
    pub async fn next_prunable(&self, from_ms: i64, before_s: i64) -> Result<Option<PruneStep>, PruneError> {
        let step =
            self.ask(&self.long, move |db, _| retention::next_entries(db, from_ms, before_s)).await??;
        if step.is_some() {
            return Ok(step);
        }
        Ok(self.ask(&self.long, move |db, _| retention::next_crossings(db, before_s)).await?)
    }

    /// The guards of a shared database: those that are alive first, then the latest others; none
    /// where this guard has a database of its own.
    pub async fn nodes(&self, count_max: u32) -> Result<Vec<Node>, StoreError> {
        if !self.access.is_shared() {
            return Ok(Vec::new());
        }
        self.ask(&self.quick, move |db, _| postgres::nodes(db, count_max)).await
    }

    /// What the database is and takes.
    pub async fn storage(&self) -> Result<Storage, StoreError> {
        let (sizes, reader) = (self.sizes().await, self.long.clone());
        let reusable_bytes = self.access.blocking(move || reader.reusable_bytes()).await??;
        self.ask(&self.long, move |db, _| storage::of(db, sizes, reusable_bytes)).await
    }

    /// What the database and its log take, and what is left of their disk; of a server's, what the
    /// tables took a few seconds ago.
    pub async fn sizes(&self) -> Sizes {
        self.access.sizes().await
    }

    /// The newest alerts before an id, newest first, with the deliveries of their messages.
    pub async fn alerts(
        &self,
        before: Option<u64>,
        count_max: usize,
    ) -> Result<Vec<(Alert, Vec<Delivery>)>, StoreError> {
        self.ask(&self.quick, move |db, _| outbox::alerts(db, before, count_max)).await
    }

    /// Each channel's last delivery, and how many wait for it.
    pub async fn channel_states(
        &self,
        channels: Vec<String>,
    ) -> Result<Vec<(Option<Delivery>, u64)>, StoreError> {
        self.ask(&self.quick, move |db, _| {
            channels.iter().map(|channel| outbox::channel_state(db, channel)).collect()
        })
        .await
    }

    /// What a channel has to deliver by now, the oldest first, and when it has something
    /// to deliver next, in Unix milliseconds. A delivery that is to wait for longer than
    /// `wait_max_ms` was noted by a clock that was ahead: it is due.
    pub async fn due_alerts(
        &self,
        channel: String,
        now_ms: i64,
        wait_max_ms: i64,
        count_max: usize,
    ) -> Result<(Vec<Due>, Option<i64>), StoreError> {
        let work = move |db: Db<'_>, count_max| -> sql::Result<(Vec<Due>, Option<i64>)> {
            let due = outbox::due(db, &channel, now_ms, wait_max_ms, count_max)?;
            Ok((due, outbox::next_ms(db, &channel)?))
        };
        if self.access.is_shared() {
            let look = work.clone();
            let rest = move |db: Db<'_>| Ok(Some(look(db, 1)?).filter(|(due, _)| due.is_empty()));
            // Claimed for a while, so that no other guard sends it, too; one, since the claims of
            // others would pass while that one is sent.
            let claim = move |db: Db<'_>| {
                let (mut due, next_ms) = work(db, 1)?;
                due.iter_mut().try_for_each(|due| outbox::claim(db, due, now_ms + CLAIM_MS))?;
                Ok((due, next_ms))
            };
            return self.access.run_unless(rest, Locks::Rules, claim).await;
        }
        self.ask(&self.quick, move |db, _| work(db, count_max)).await
    }

    /// What was spent lately. Not after what is queued for the database: it is asked for again and again.
    pub async fn recent_spend(&self, since: SpendSince) -> Result<RecentSpend, StoreError> {
        let reader = self.quick.clone();
        self.access.blocking(move || reader.query(|db| spend::recent(db, since))).await?
    }

    /// What a scan has found in a file whose lines can make a batch; `None` if it was not scanned.
    pub async fn batch_input(&self, of: ObjectReference) -> Result<Option<String>, StoreError> {
        let reader = self.objects.clone();
        self.access.blocking(move || reader.query(|db| objects::batch_input(db, &of))).await?
    }

    /// What is stored of objects and items, in their order, up to the first that `stop`
    /// says. Not delayed by what is queued: objects in the queue are in memory.
    pub async fn objects<F>(
        &self,
        named: Vec<ObjectReference>,
        now_s: i64,
        mut stop: F,
    ) -> Result<Vec<Option<StoredObject>>, StoreError>
    where
        F: FnMut(Option<&StoredObject>) -> bool + Send + 'static,
    {
        let reader = self.objects.clone();
        let work = move || {
            reader.query(|db| {
                let mut found = Vec::with_capacity(named.len());
                for of in &named {
                    let object = objects::stored(db, of, now_s)?;
                    let is_last = stop(object.as_ref());
                    found.push(object);
                    if is_last {
                        break;
                    }
                }
                Ok(found)
            })
        };
        self.access.blocking(work).await?
    }

    /// Occupies the connection of keys' questions, so that a test can see who waits.
    pub async fn occupy_keys(&self, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        self.ask(&self.keys, move |_, _| {
            work();
            Ok(())
        })
        .await
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").field("access", &self.access).finish_non_exhaustive()
    }
}
