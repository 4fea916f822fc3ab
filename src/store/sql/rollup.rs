//! Rollups: sums of entries for each quarter of an hour.
//!
//! They are derived, written with the entries they sum up, and can be rebuilt.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::domain::limit::Unit;
use crate::domain::{Balance, Class};
use crate::ledger::entry::{Entry, Kind};
use crate::store::records::Names;
use crate::store::reports::ROLLUP_S;
use crate::store::sql::codec::{ENTRY_COLUMNS, entry_from, priced_text, tags_text};
use crate::store::sql::quantities::{
    self, IN_COLUMNS, others, others_from, others_text, quantities_from, quantity_columns,
};
use crate::store::sql::value::places;
use crate::store::sql::{Db, Result, Row, params};

/// The columns of a row, in the order in which it is read and written.
pub(crate) const COLUMNS: &str = concat!(
    "start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model, requests, cost_nano, ",
    quantity_columns!(),
    ", last_ms"
);

/// The first of the columns of quantities.
const QUANTITIES_AT: usize = 11;
/// The last column.
const LAST_MS_AT: usize = QUANTITIES_AT + quantities::COLUMNS;

/// The tables of sums, all of the same columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Of quarters of an hour.
    Quarters,
    /// Of days, all end users and tags in one.
    Days,
    /// Of days, each end user and set of tags apart.
    DaysByUser,
}

impl Table {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Quarters => "rollup",
            Self::Days => "rollup_day",
            Self::DaysByUser => "rollup_day_user",
        }
    }
}

/// What one row is about. Its order is that of the tables' keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RollupKey {
    pub(crate) start_s: i64,
    /// Project, key, end user, tags, endpoint, model, priced as, served model.
    pub(crate) names: [String; 8],
}

impl RollupKey {
    pub(crate) fn of(entry: &Entry, tags: String) -> Self {
        let of = &entry.attribution;
        let start_s = entry.admitted_ms.div_euclid(1_000 * ROLLUP_S) * ROLLUP_S;
        let names = [
            of.project.to_string(),
            of.key.to_string(),
            of.end_user.as_deref().unwrap_or("").to_owned(),
            tags,
            of.endpoint.to_string(),
            of.model.to_string(),
            priced_text(of).into_owned(),
            entry.served_model.as_deref().unwrap_or("").to_owned(),
        ];
        Self { start_s, names }
    }

    /// The same of a time that starts elsewhere, in another table.
    pub(crate) fn within(&self, start_s: i64, table: Table) -> Self {
        let mut key = Self { start_s, names: self.names.clone() };
        if table == Table::Days {
            let [_, _, user, tags, ..] = &mut key.names;
            user.clear();
            tags.clear();
        }
        key
    }
}

/// What one rollup row sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RollupSums {
    pub(crate) requests: i64,
    pub(crate) cost_nano: i64,
    pub(crate) quantities: Balance,
    pub(crate) last_ms: i64,
}

impl RollupSums {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.requests = self.requests.saturating_add(entry.amount(Unit::Requests));
        self.cost_nano = self.cost_nano.saturating_add(entry.cost.nano());
        if entry.takes_back() {
            self.quantities.take_back(&entry.quantities);
        } else {
            self.quantities.add(&entry.quantities);
        }
        self.last_ms = self.last_ms.max(entry.admitted_ms);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.cost_nano = self.cost_nano.saturating_add(other.cost_nano);
        self.quantities += other.quantities;
        self.last_ms = self.last_ms.max(other.last_ms);
    }
}

/// A row from [`COLUMNS`].
pub(crate) fn row_from(row: &Row<'_>) -> Result<(RollupKey, RollupSums)> {
    let mut key = RollupKey { start_s: row.get(0)?, ..RollupKey::default() };
    for (at, name) in key.names.iter_mut().enumerate() {
        *name = row.get(at + 1)?;
    }
    let sums = RollupSums {
        requests: row.get(9)?,
        cost_nano: row.get(10)?,
        quantities: quantities_from(row, QUANTITIES_AT)?.into(),
        last_ms: row.get(LAST_MS_AT)?,
    };
    Ok((key, sums))
}

/// What the rollups have to say, added up again from every entry. Each is shown to
/// `look`, also one that can't be read, which is left out unless `look` fails by it.
pub(crate) fn rebuilt(
    db: Db<'_>,
    mut look: impl FnMut(Result<&Entry>) -> Result<()>,
) -> Result<HashMap<RollupKey, RollupSums>> {
    let mut rebuilt: HashMap<RollupKey, RollupSums> = HashMap::new();
    db.each(&format!("SELECT {ENTRY_COLUMNS} FROM entry"), &[], |row| {
        let entry = match entry_from(row, &Ids) {
            Ok(entry) => entry,
            Err(error) => {
                look(Err(error))?;
                return Ok(true);
            }
        };
        look(Ok(&entry))?;
        if matches!(entry.kind, Kind::Settle | Kind::Adjust) {
            let tags = tags_text(&entry.attribution.tags)?;
            rebuilt.entry(RollupKey::of(&entry, tags)).or_default().add(&entry);
        }
        Ok(true)
    })?;
    Ok(rebuilt)
}

/// Rollups know projects and keys by their ids alone.
pub(crate) struct Ids;

impl Names for Ids {
    fn project(&self, id: &str) -> Arc<str> {
        id.into()
    }
    fn key(&self, id: &str) -> Arc<str> {
        id.into()
    }
}

/// Adds to a row, whose `other_quantities` were added to before. A sum stops at an end of its
/// range: whatever an entry says, it can be written, and nothing behind it is kept waiting.
static UPSERT: LazyLock<[String; 3]> =
    LazyLock::new(|| [Table::Quarters, Table::Days, Table::DaysByUser].map(|table| upsert(table, false)));

/// The same for rows whose `other_quantities` are added to by the statement itself.
static UPSERT_MERGING: LazyLock<[String; 3]> =
    LazyLock::new(|| [Table::Quarters, Table::Days, Table::DaysByUser].map(|table| upsert(table, true)));

/// The sum of two columns of JSON objects of counts, in the words of PostgreSQL.
fn merged(old: &str, new: &str) -> String {
    format!(
        "CASE WHEN {new} IS NULL THEN {old} WHEN {old} IS NULL THEN {new} ELSE (SELECT CAST(jsonb_object_agg(k, n) AS TEXT) \
         FROM (SELECT k, LEAST(SUM(CAST(v AS BIGINT)), {SUM_MAX}) AS n FROM (SELECT * FROM \
         jsonb_each_text(CAST({old} AS JSONB)) UNION ALL SELECT * FROM jsonb_each_text(CAST({new} AS JSONB))) \
         AS both_of (k, v) GROUP BY k) AS sums) END"
    )
}

fn upsert(table: Table, merges: bool) -> String {
    let (name, values) = (table.name(), places(LAST_MS_AT + 1));
    format!("INSERT INTO {name} ({COLUMNS}) VALUES ({values}) {}", addition(table, merges))
}

/// How a row is added to one that is there. `merges` says whether its `other_quantities` are, too:
/// by what only PostgreSQL can.
pub(crate) fn addition(table: Table, merges: bool) -> String {
    let table = table.name();
    let sum = |name: &str| format!("{table}.{name} + excluded.{name}");
    let count = |name: &str| {
        let sum = sum(name);
        format!("{name} = CASE WHEN {sum} > {SUM_MAX} THEN {SUM_MAX} ELSE {sum} END, ")
    };
    let counts: String = ["requests"].into_iter().chain(IN_COLUMNS.map(Class::name)).map(count).collect();
    let cost = sum("cost_nano");
    let (old, new) = (format!("{table}.other_quantities"), "excluded.other_quantities");
    let others = if merges { merged(&old, new) } else { format!("COALESCE({new}, {old})") };
    format!(
        "ON CONFLICT (start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model) \
         DO UPDATE SET {counts}other_quantities = {others}, \
         cost_nano = CASE WHEN {cost} > {SUM_MAX} THEN {SUM_MAX} WHEN {cost} < -{SUM_MAX} THEN -{SUM_MAX} \
         ELSE {cost} END, last_ms = {}",
        later_of(table, "last_ms"),
    )
}

/// In a conflict, the greater of what a column of a table says and what it was to say.
pub(crate) fn later_of(table: &str, column: &str) -> String {
    let (old, new) = (format!("{table}.{column}"), format!("excluded.{column}"));
    format!("CASE WHEN {old} > {new} THEN {old} ELSE {new} END")
}

/// The end of the range of sums: two of them can be added without overflow.
const SUM_MAX: i64 = i64::MAX / 2;

pub(crate) fn upsert_rollup(db: Db<'_>, table: Table, key: &RollupKey, sums: &RollupSums) -> Result<()> {
    let merges = db.merges_quantities();
    let [quarters, days, days_by_user] = if merges { &*UPSERT_MERGING } else { &*UPSERT };
    let n = &key.names;
    let quantities = sums.quantities.within(SUM_MAX);
    let q = IN_COLUMNS.map(|class| quantities[class]);
    let others = if merges { others(&sums.quantities) } else { others_with(db, table, key, sums)? };
    let others = others_text(&others)?;
    let sql = match table {
        Table::Quarters => quarters,
        Table::Days => days,
        Table::DaysByUser => days_by_user,
    };
    db.execute(
        sql,
        params![
            key.start_s,
            n[0],
            n[1],
            n[2],
            n[3],
            n[4],
            n[5],
            n[6],
            n[7],
            sums.requests.clamp(-SUM_MAX, SUM_MAX),
            sums.cost_nano.clamp(-SUM_MAX, SUM_MAX),
            q[0],
            q[1],
            q[2],
            q[3],
            q[4],
            q[5],
            q[6],
            q[7],
            q[8],
            q[9],
            q[10],
            q[11],
            others,
            sums.last_ms,
        ],
    )
    .map(drop)
}

/// What the sparse column of a row says once these sums are added to it. Few have any.
fn others_with(db: Db<'_>, table: Table, key: &RollupKey, sums: &RollupSums) -> Result<Balance> {
    let mut others = others(&sums.quantities);
    if others.is_zero() {
        return Ok(others);
    }
    let sql = format!(
        "SELECT other_quantities FROM {} WHERE (start_s, project, api_key, end_user, tags, endpoint, model, priced_as, \
         served_model) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        table.name()
    );
    let n = &key.names;
    let of = params![key.start_s, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]];
    match db.optional(&sql, of, |row| others_from(row, 0)) {
        Ok(stored) => others += stored.unwrap_or_default(),
        // The entry must be written. Its sum is begun again; `ledger verify` tells the difference.
        Err(error) if error.is_unreadable() => {
            tracing::error!(
                event = "rollup_unreadable", %error,
                "a sum can't be read; its quantities are counted from now on"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(others.within(SUM_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Money, Quantities};
    use crate::ledger::entry::Basis;
    use crate::store::sqlite;

    #[test]
    fn whatever_an_entry_says_it_can_be_written() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let key = RollupKey { start_s: 0, names: Default::default() };
        let mut sums = RollupSums { requests: 1, cost_nano: i64::MAX, ..RollupSums::default() };
        sums.quantities =
            Quantities::from([(Class::Output, u64::MAX), (Class::FileSearchCalls, u64::MAX)]).into();
        for _ in 0..3 {
            upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
        }
        sums.cost_nano = -i64::MAX;
        upsert_rollup(db, Table::Quarters, &key, &sums).unwrap();
        let sql = format!("SELECT {COLUMNS} FROM rollup");
        let (_, sums) = db.row(&sql, &[], row_from).unwrap();
        let end = SUM_MAX.unsigned_abs();
        assert_eq!((sums.requests, sums.cost_nano), (4, 0));
        assert_eq!(
            sums.quantities,
            Quantities::from([(Class::Output, end), (Class::FileSearchCalls, end)]).into()
        );
    }

    #[test]
    fn what_is_taken_back_later_leaves_nothing_of_its_charge() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let charged = [(Class::Input, 5), (Class::Output, 2)].into();
        let charge = Entry {
            quantities: charged,
            basis: Some(Basis::Assumed),
            cost: Money::from_nano(7),
            ..Entry::note(1, Kind::Settle, 0, String::new())
        };
        let back = Entry { id: 2, kind: Kind::Adjust, cost: -charge.cost, ..charge.clone() };
        for entry in [charge, back] {
            let mut sums = RollupSums::default();
            sums.add(&entry);
            upsert_rollup(db, Table::Quarters, &RollupKey::of(&entry, String::new()), &sums).unwrap();
        }
        let sql = format!("SELECT {COLUMNS} FROM rollup");
        assert_eq!(db.row(&sql, &[], row_from).unwrap().1, RollupSums::default());
    }

    #[test]
    fn what_has_no_column_of_its_own_is_added_up_beside_the_rest() {
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let key = RollupKey { start_s: 0, names: Default::default() };
        for added in [
            Quantities::from([(Class::Input, 1)]),
            [(Class::WebSearchCalls, 2)].into(),
            [(Class::Input, 3)].into(),
            [(Class::WebSearchCalls, 4), (Class::Container4gSessions, 1)].into(),
        ] {
            let sums = RollupSums { quantities: added.into(), ..RollupSums::default() };
            upsert_rollup(db, Table::Days, &key, &sums).unwrap();
        }
        let sql = format!("SELECT {COLUMNS} FROM rollup_day");
        let (_, sums) = db.row(&sql, &[], row_from).unwrap();
        let all = [(Class::Input, 4), (Class::WebSearchCalls, 6), (Class::Container4gSessions, 1)];
        assert_eq!(sums.quantities, Quantities::from(all).into());
    }
}
