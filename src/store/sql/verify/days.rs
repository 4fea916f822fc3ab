//! Sums of days against the rollups they sum up.

use std::collections::BTreeMap;

use crate::ledger::calendar::utc;
use crate::store::sql::days::{self, Day};
use crate::store::sql::rollup::{COLUMNS, RollupKey, RollupSums, Table, row_from};
use crate::store::sql::verify::{Difference, Report, sums};
use crate::store::sql::{Db, Result};

type Sums = BTreeMap<RollupKey, RollupSums>;

const TABLES: [Table; 2] = [Table::Days, Table::DaysByUser];

/// What the sums of days have to say, added up from rollups.
pub(super) struct Expected {
    days: Vec<Day>,
    sums: [Sums; 2],
}

impl Expected {
    pub(super) fn new(db: Db<'_>) -> Result<Self> {
        Ok(Self { days: days::days(db)?, sums: Default::default() })
    }

    /// Adds a rollup, if it is summed up.
    pub(super) fn add(&mut self, key: &RollupKey, rollup: &RollupSums) {
        let at = self.days.partition_point(|day| day.span.end_s <= key.start_s);
        let Some(day) = self.days.get(at).filter(|day| day.holds(key)) else { return };
        for (table, sums) in TABLES.into_iter().zip(&mut self.sums) {
            sums.entry(key.within(day.span.start_s, table)).or_default().merge(rollup);
        }
    }

    pub(super) fn compare(self, db: Db<'_>, report: &mut Report) -> Result<()> {
        for (table, mut expected) in TABLES.into_iter().zip(self.sums) {
            let mut unlike = Vec::new();
            db.each(&format!("SELECT {COLUMNS} FROM {}", table.name()), &[], |row| {
                let (key, stored) = row_from(row)?;
                let sums = expected.remove(&key).unwrap_or_default();
                if stored != sums {
                    unlike.push((key, stored, sums));
                }
                Ok(true)
            })?;
            unlike.extend(expected.into_iter().map(|(key, sums)| (key, RollupSums::default(), sums)));
            unlike.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, stored, sums) in &unlike {
                report.note(|| difference(table, key, stored, sums));
            }
        }
        Ok(())
    }
}

fn difference(table: Table, key: &RollupKey, stored: &RollupSums, expected: &RollupSums) -> Difference {
    let [project, api_key, user, _, endpoint, model, ..] = &key.names;
    let said =
        |of: &RollupSums| sums(of.requests, of.cost_nano, of.quantities.tokens_total(), &of.quantities);
    let user = if user.is_empty() { String::new() } else { format!(", end user {user}") };
    let of = format!("key {api_key}, project {project}, {endpoint}, model {model}{user}");
    Difference {
        kind: "day",
        about: format!("{} {} {of}", table.name(), utc(key.start_s)),
        what: format!(
            "the day from {} of {of} says {} in {}; its rollups add up to {}",
            utc(key.start_s),
            said(stored),
            table.name(),
            said(expected)
        ),
        meaning: "the dashboard, forecasts and usage lists show it; limits that are made or changed for this time, and all \
                  limits after a restart, would start with it"
            .to_owned(),
        remedy: "rollups are the truth: stop the guard, run `sqlite3 spendguard.db 'DELETE FROM rollup_day_span; DELETE FROM \
               rollup_day; DELETE FROM rollup_day_user'` and start it, which sums them up again"
            .to_owned(),
    }
}
