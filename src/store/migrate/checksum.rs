//! What a table holds, as a number that does not depend on the order of its rows.

use sha2::{Digest as _, Sha256};

use crate::domain::Money;
use crate::store::migrate::catalog::Table;
use crate::store::sql::migration::Progress;
use crate::store::sql::postgres::storable;
use crate::store::sql::{Db, Result, Value};

/// The columns of which a table has one at most, and which say what its rows cost, in nano-dollars.
const COSTS: [&str; 2] = ["cost_nano", "amount_nano"];

/// The rows of a table: their number, and the sum of what each hashes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) rows: u64,
    sum: u128,
    /// What they cost in nano-dollars, where they do.
    cost_nano: Option<i64>,
}

/// The checksums of tables, in their order.
pub(super) fn of_all(db: Db<'_>, tables: &[Table]) -> Result<Vec<Checksum>> {
    tables.iter().map(|table| of(db, table)).collect()
}

fn of(db: Db<'_>, table: &Table) -> Result<Checksum> {
    let columns = table.columns(db);
    let cost_at = COSTS.into_iter().find_map(|name| table.column(name));
    let mut sum = Checksum { cost_nano: cost_at.map(|_| 0), ..Checksum::default() };
    let sql = format!("SELECT {} FROM {}", columns.join(", "), table.name);
    let mut bytes = Vec::new();
    db.each(&sql, &[], |row| {
        bytes.clear();
        for at in 0..columns.len() {
            push(&mut bytes, row.value(at)?);
        }
        sum.add(&bytes);
        if let (Some(at), Some(cost)) = (cost_at, &mut sum.cost_nano) {
            *cost = cost.saturating_add(row.get(at)?);
        }
        Ok(true)
    })?;
    Ok(sum)
}

/// Adds a value so that no other row has the same bytes. A text is as PostgreSQL stores it.
fn push(bytes: &mut Vec<u8>, value: Value<'_>) {
    let mut sized = |kind: u8, value: &[u8]| {
        bytes.push(kind);
        bytes.extend_from_slice(&value.len().to_le_bytes());
        bytes.extend_from_slice(value);
    };
    match value {
        Value::Null => sized(0, &[]),
        Value::Int(number) => sized(1, &number.to_le_bytes()),
        Value::Text(text) => sized(2, storable(text).as_bytes()),
        Value::Blob(value) => sized(3, value),
    }
}

impl Checksum {
    fn add(&mut self, row: &[u8]) {
        let hash: [u8; 32] = Sha256::digest(row).into();
        let mut low = [0; 16];
        low.copy_from_slice(&hash[..16]);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(low));
    }

    /// Its text.
    pub(super) fn text(&self) -> String {
        format!("{:032x}", self.sum)
    }

    /// What the rows cost, where they do.
    pub(super) fn cost(&self) -> Option<Money> {
        self.cost_nano.map(Money::from_nano)
    }

    /// The beginning of a copy of such rows.
    pub(super) fn progress(&self, table: &str) -> Progress {
        let row_count = i64::try_from(self.rows).unwrap_or(i64::MAX);
        Progress { name: table.to_owned(), row_count, checksum: self.text(), copied: 0, last: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[&[Value<'_>]]) -> Checksum {
        let mut sum = Checksum::default();
        for row in rows {
            let mut bytes = Vec::new();
            row.iter().for_each(|value| push(&mut bytes, *value));
            sum.add(&bytes);
        }
        sum
    }

    #[test]
    fn rows_count_in_any_order_and_values_only_in_theirs() {
        let (one, other): ([Value<'_>; 2], [Value<'_>; 2]) =
            ([Value::Int(1), Value::Text("ab")], [Value::Int(2), Value::Null]);
        assert_eq!(sum(&[&one, &other]), sum(&[&other, &one]));
        assert_ne!(sum(&[&one, &other]), sum(&[&one, &one]));
        let [a, ab, c, bc] = ["a", "ab", "c", "bc"].map(Value::Text);
        assert_ne!(sum(&[&[ab, c]]), sum(&[&[a, bc]]));
        assert_ne!(sum(&[&[Value::Null]]), sum(&[&[Value::Text("")]]));
        assert_eq!(
            sum(&[&[Value::Text("a\0")]]),
            sum(&[&[Value::Text("a\u{2400}")]]),
            "as it is stored there"
        );
    }
}
