//! Puts the ports on an engine.

use std::sync::Arc;

use crate::ledger::locked::LockedLedger;
use crate::store::ports::{Access, Reader, Records, Reports};
use crate::store::records::Names;
use crate::store::sqlite::Journal as EmbeddedJournal;
use crate::store::{
    BackgroundWriter, Engine, Journal, Observer, SharedEngine, SharedStore, Store, StoreError,
};

impl Store {
    /// The ports, and their background writer, which is to be started. At most
    /// `requests_max` requests are open at once.
    pub fn start<O: Observer>(
        self,
        requests_max: usize,
        observer: O,
        names: Arc<dyn Names>,
    ) -> Result<(Engine, BackgroundWriter), StoreError> {
        let (handle, writer) = self.begin(requests_max, observer)?;
        let access = Access::Sqlite(Arc::clone(&handle));
        let reports = Reports::new(access.clone(), names, |_| Ok(Reader::Sqlite(handle.reader()?)))?;
        let journal = Journal::Embedded(EmbeddedJournal::new(handle));
        Ok((Engine { journal, records: Records::new(access), reports }, writer))
    }
}

impl SharedStore {
    /// The ports of this guard, and its part in the database, on a ledger with rules of a
    /// version. At most `requests_max` requests are open at once.
    pub fn start<O: Observer>(
        self,
        requests_max: usize,
        observer: O,
        names: Arc<dyn Names>,
        ledger: Arc<LockedLedger>,
        rules_version: i64,
    ) -> Result<(Engine, SharedEngine), StoreError> {
        let started = self.begin(requests_max, observer, Arc::clone(&names), ledger, rules_version)?;
        let access = Access::Postgres(Arc::new(started.writer));
        let readers = started.readers;
        let reports = Reports::new(access.clone(), names, |work| Ok(Reader::Postgres(readers.taking(work))))?;
        let journal = Journal::Shared(Box::new(started.lanes));
        Ok((Engine { journal, records: Records::new(access), reports }, started.running))
    }
}
