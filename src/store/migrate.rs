//! Copies the ledger of a stopped guard to the other engine: whole, verified, and by the same
//! call on from where it was interrupted.
//!
//! What both engines have a table for is copied row by row, in batches that each note how far
//! they came; the tables and their columns are read from the databases. What only one engine
//! has is derived in the end, in the transaction after which the copy is a ledger. Until then no
//! guard starts on it.

mod catalog;
mod checksum;
mod copy;
mod holds;
mod side;

use std::path::PathBuf;

use crate::domain::{Money, Secret};
use crate::store::migrate::catalog::{Catalog, Table};
use crate::store::migrate::checksum::Checksum;
use crate::store::migrate::side::{Source, Target};
use crate::store::reports::{Difference, Report};
use crate::store::sql::migration::{self, Progress};
use crate::store::sql::months::{self, Month};
use crate::store::sql::verify;
use crate::store::{StoreError, sql};

/// Where a ledger is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a data folder, by SQLite.
    Folder(PathBuf),
    /// In a database of PostgreSQL.
    Database {
        /// Its address.
        url: Secret,
        /// The schema.
        schema: String,
    },
}

/// A table that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Those of them that an earlier, interrupted copy had copied.
    pub rows_before: u64,
    /// What its rows cost in sum, if they cost anything.
    pub cost: Option<Money>,
    /// The checksum of its rows, in both ledgers.
    pub checksum: String,
}

/// What has been done of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The source was read, so that it is known what the copy has to be.
    Read,
    /// A table was copied.
    Copied(CopiedTable),
    /// The copy was compared with the source, row by row.
    Compared,
}

/// What became of a copy that is whole.
#[derive(Debug)]
pub struct Migrated {
    /// The open holds of requests, which the next guard charges.
    pub holds: usize,
    /// What the verification of the copy says. Its differences are in the source, too.
    pub report: Report,
}

/// Why a ledger was not copied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The source can't be read.
    #[error("--from: {0}")]
    Source(StoreError),
    /// The target can't be written.
    #[error("--to: {0}")]
    Target(StoreError),
    /// Both are of one kind.
    #[error(
        "a ledger is copied from a folder to a database or back; of --from and --to, one must be a postgres:// URL"
    )]
    OneEngine,
    /// The target has something.
    #[error(
        "--to: {ledger} has rows in its table {table}, and nothing is copied over them; name one that is empty, or that is \
         not there yet"
    )]
    NotEmpty {
        /// The folder or the schema.
        ledger: String,
        /// A table with rows.
        table: String,
    },
    /// The target is half a copy of another ledger.
    #[error(
        "--to: {ledger} is half a copy of another ledger than --from is now: its table {table} differs. Name the one that \
         it is a copy of, or {undo} to begin from the start"
    )]
    OtherSource {
        /// The folder or the schema.
        ledger: String,
        /// The table.
        table: String,
        /// How it is removed.
        undo: String,
    },
    /// Another copy writes to the target.
    #[error("--to: another `spendguard storage migrate` writes to it; let one of them end")]
    OtherCopy,
    /// The engines' tables do not fit each other.
    #[error("the tables of both engines differ: {0}; this is a fault of the program, and nothing was copied")]
    Tables(String),
    /// A table of the copy is not what it should be.
    #[error(
        "--to: the copy is not like --from: the table {table} has {found} rows with checksum {found_sum}, and should have \
         {wanted} with {wanted_sum}. No guard starts on it; {undo} and copy again"
    )]
    Unlike {
        /// Its name.
        table: String,
        /// Its rows.
        found: u64,
        /// Their checksum.
        found_sum: String,
        /// The source's rows.
        wanted: u64,
        /// Their checksum.
        wanted_sum: String,
        /// How the copy is removed.
        undo: String,
    },
    /// The copy does not agree with itself, and the source does.
    #[error("--to: the copy does not agree with itself, unlike --from: {}. No guard starts on it", first(.0))]
    Disagrees(Vec<Difference>),
}

/// Copies a ledger. Each step is handed out once it is done.
pub fn migrate(from: &Place, to: &Place, mut each: impl FnMut(Step)) -> Result<Migrated, MigrateError> {
    if matches!(from, Place::Folder(_)) == matches!(to, Place::Folder(_)) {
        return Err(MigrateError::OneEngine);
    }
    let source = Source::open(from).map_err(MigrateError::Source)?;
    let target = Target::open(to).map_err(MigrateError::Target)?;
    let read = |error: sql::Error| MigrateError::Source(error.into());
    let (of_source, of_target) =
        (Catalog::read(source.db()).map_err(read)?, Catalog::read(target.db()).map_err(write)?);
    let tables = Catalog::shared(&of_source, &of_target).map_err(MigrateError::Tables)?;
    let own = of_target.own_tables();
    let all: Vec<&str> = tables.iter().map(|table| table.name.as_str()).chain(own.iter().copied()).collect();
    if !target.is_begun {
        // Before the source is read, which takes long. A guard may start on it until it is begun.
        let occupied = catalog::first_occupied(target.db(), all.iter().copied()).map_err(write)?;
        none_occupied(&target, occupied)?;
    }
    let wanted = checksum::of_all(source.db(), &tables).map_err(read)?;
    each(Step::Read);
    let months = months::of_entries(source.db()).map_err(read)?;
    let begun = begun(&target, &all, &tables, &wanted, &months)?;
    for ((table, sum), before) in tables.iter().zip(&wanted).zip(&begun) {
        copy::table(source.db(), target.db(), table, before).map_err(|failed| match failed {
            copy::Failed::Reading(error) => read(error),
            copy::Failed::Writing(error) => write(error),
        })?;
        let rows_before = u64::try_from(before.copied).unwrap_or(0);
        let (name, checksum) = (table.name.clone(), sum.text());
        each(Step::Copied(CopiedTable { name, rows: sum.rows, rows_before, cost: sum.cost(), checksum }));
    }
    target.settle(&tables).map_err(write)?;
    compare(&target, &tables, &wanted)?;
    each(Step::Compared);
    let report = verified(&source, &target)?;
    let holds = holds::open(source.db()).map_err(read)?;
    let occupied = target.finish(&holds, &own, &of_target.identities(&tables)).map_err(write)?;
    none_occupied(&target, occupied)?;
    Ok(Migrated { holds: holds.len(), report })
}

fn write(error: sql::Error) -> MigrateError {
    if matches!(error, sql::Error::Changed { .. }) {
        return MigrateError::OtherCopy;
    }
    MigrateError::Target(error.into())
}

fn none_occupied(target: &Target, occupied: Option<String>) -> Result<(), MigrateError> {
    occupied.map_or(Ok(()), |table| Err(MigrateError::NotEmpty { ledger: target.shown.clone(), table }))
}

/// Begins a copy, or finds how far it is. An error if it is one of another ledger.
fn begun(
    target: &Target,
    all: &[&str],
    tables: &[Table],
    wanted: &[Checksum],
    months: &[Month],
) -> Result<Vec<Progress>, MigrateError> {
    let begun: Vec<Progress> =
        tables.iter().zip(wanted).map(|(table, sum)| sum.progress(&table.name)).collect();
    if !target.is_begun {
        none_occupied(target, target.begin(all, &begun, months).map_err(write)?)?;
        return Ok(begun);
    }
    let mut known = migration::progress(target.db()).map_err(write)?;
    let other = |table: &str| MigrateError::OtherSource {
        ledger: target.shown.clone(),
        table: table.to_owned(),
        undo: target.undo.clone(),
    };
    let mut found = Vec::new();
    for of in begun {
        let at = known.iter().position(|known| known.name == of.name).ok_or_else(|| other(&of.name))?;
        let known = known.swap_remove(at);
        if (known.row_count, &known.checksum) != (of.row_count, &of.checksum) {
            return Err(other(&of.name));
        }
        found.push(known);
    }
    known.first().map_or(Ok(found), |strange| Err(other(&strange.name)))
}

/// Compares what was copied with the source, row by row.
fn compare(target: &Target, tables: &[Table], wanted: &[Checksum]) -> Result<(), MigrateError> {
    let found = checksum::of_all(target.db(), tables).map_err(write)?;
    for ((table, found), wanted) in tables.iter().zip(found).zip(wanted) {
        if found != *wanted {
            return Err(MigrateError::Unlike {
                table: table.name.clone(),
                found: found.rows,
                found_sum: found.text(),
                wanted: wanted.rows,
                wanted_sum: wanted.text(),
                undo: target.undo.clone(),
            });
        }
    }
    Ok(())
}

/// Verifies the copy as `spendguard ledger verify` does. What the source disagrees in, too, is
/// no reason against the copy.
fn verified(source: &Source, target: &Target) -> Result<Report, MigrateError> {
    let report = target.damage().and_then(|damage| verify::verify(target.db(), damage)).map_err(write)?;
    if report.differences.is_empty() {
        return Ok(report);
    }
    let of_source = source.damage().and_then(|damage| verify::verify(source.db(), damage));
    let of_source = of_source.map_err(|error| MigrateError::Source(error.into()))?;
    let is_known = |found: &Difference| {
        of_source.differences.iter().any(|known| (known.kind, &known.about) == (found.kind, &found.about))
    };
    let new: Vec<Difference> = report.differences.iter().filter(|found| !is_known(found)).cloned().collect();
    if new.is_empty() { Ok(report) } else { Err(MigrateError::Disagrees(new)) }
}

/// The first of some differences, in words.
fn first(differences: &[Difference]) -> String {
    let said = differences.first().map_or("", |difference| &*difference.what);
    format!("{said} (of {} differences)", differences.len())
}
