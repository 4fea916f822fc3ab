//! The tables of a database and their columns, as it says itself, and which of them are copied.

use std::collections::BTreeMap;

use crate::store::sql::{Db, Result, migration};

/// What only a ledger in SQLite has: open holds of requests.
const OF_SQLITE: [&str; 1] = ["hold_batch"];
/// What only a ledger in PostgreSQL has: guards and their open holds, and what follows from limits,
/// entries and holds.
const OF_POSTGRES: [&str; 8] =
    ["active_limit", "credit", "file_limit", "hold", "lane", "meter", "node", "rate"];
/// Those that have a row from the beginning.
const MARKS: [&str; 3] = ["rules", "schema_version", migration::TABLE];
/// Columns of tables that are copied which only PostgreSQL has; the first guard reads all keys,
/// whenever they were changed, no turn is open, and every job is due to be polled.
const COLUMNS_OF_POSTGRES: [(&str, &str); 5] = [
    ("api_key", "changed"),
    ("object", "changes"),
    ("object", "open_turns"),
    ("job", "poll_ms"),
    ("job", "polls"),
];
/// What numbers the rows of some tables in PostgreSQL, as SQLite's rowid does.
const PLACE: &str = "place";

/// A table, its columns, the place of each in the primary key or 0, and whether it numbers rows.
const TABLES_OF_SQLITE: &str = "SELECT tables.name, columns.name, columns.pk, 0 FROM sqlite_schema AS tables \
     JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite!_%' \
     ESCAPE '!' ORDER BY tables.name, columns.cid";
/// The same, without partitions; the primary key is read in SQLite.
const TABLES_OF_POSTGRES: &str = "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(0 AS BIGINT), \
     CAST(CASE is_identity WHEN 'YES' THEN 1 ELSE 0 END AS BIGINT) FROM information_schema.columns \
     WHERE table_schema = current_schema() AND CAST(table_name AS TEXT) NOT IN (SELECT CAST(relname AS TEXT) FROM pg_class \
     WHERE relispartition AND CAST(CAST(relnamespace AS regnamespace) AS TEXT) = CAST(current_schema() AS TEXT)) \
     ORDER BY table_name, ordinal_position";

/// The tables of a database.
pub(super) struct Catalog {
    tables: BTreeMap<String, Vec<Column>>,
    is_postgres: bool,
}

struct Column {
    name: String,
    /// Its place in the primary key, from 1 on; 0 if it is not in it.
    key: i64,
    /// Whether it numbers new rows.
    is_identity: bool,
}

/// A table that both engines have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// Its columns, by their names in PostgreSQL.
    columns: Vec<String>,
    /// Which of them are its key, in their order.
    pub(super) key: Vec<usize>,
}

impl Catalog {
    /// Reads it.
    pub(super) fn read(db: Db<'_>) -> Result<Self> {
        let is_postgres = !matches!(db, Db::Sqlite(_));
        let sql = if is_postgres { TABLES_OF_POSTGRES } else { TABLES_OF_SQLITE };
        let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
        db.each(sql, &[], |row| {
            let column = Column { name: row.get(1)?, key: row.get(2)?, is_identity: row.get(3)? };
            tables.entry(row.get(0)?).or_default().push(column);
            Ok(true)
        })?;
        Ok(Self { tables, is_postgres })
    }

    /// The tables that both have, in the order of their names. An error says what should be in
    /// both and is not.
    pub(super) fn shared(one: &Self, other: &Self) -> std::result::Result<Vec<Table>, String> {
        let (sqlite, postgres) = if one.is_postgres { (other, one) } else { (one, other) };
        let strange = |of: &Self, than: &Self, own: &[&str]| {
            let mut names = of.tables.keys().filter(|name| !than.tables.contains_key(*name));
            names.find(|name| !own.contains(&name.as_str()) && !MARKS.contains(&name.as_str())).cloned()
        };
        let strange =
            strange(sqlite, postgres, &OF_SQLITE).or_else(|| strange(postgres, sqlite, &OF_POSTGRES));
        if let Some(table) = strange {
            return Err(format!("only one of them has {table}"));
        }
        let both = sqlite
            .tables
            .iter()
            .filter_map(|(name, columns)| Some((name, columns, postgres.tables.get(name)?)));
        both.map(|(name, sqlite, postgres)| Table::of(name, sqlite, postgres)).collect()
    }

    /// The tables that only its engine has and that are empty in a new ledger.
    pub(super) fn own_tables(&self) -> Vec<&'static str> {
        let own: &[&str] = if self.is_postgres { &OF_POSTGRES } else { &OF_SQLITE };
        own.iter().copied().filter(|name| self.tables.contains_key(*name)).collect()
    }

    /// The columns that number new rows of tables, each with its table.
    pub(super) fn identities<'t>(&'t self, tables: &'t [Table]) -> Vec<(&'t str, &'t str)> {
        let columns = tables.iter().filter_map(|table| Some((&*table.name, self.tables.get(&table.name)?)));
        let numbering = columns.flat_map(|(table, columns)| {
            columns.iter().filter(|column| column.is_identity).map(move |column| (table, &*column.name))
        });
        numbering.collect()
    }
}

impl Table {
    fn of(name: &str, sqlite: &[Column], postgres: &[Column]) -> std::result::Result<Self, String> {
        let is_copied = |column: &&Column| !COLUMNS_OF_POSTGRES.contains(&(name, &*column.name));
        let mut missing: Vec<&str> = postgres.iter().filter(is_copied).map(|column| &*column.name).collect();
        let has_place = missing.contains(&PLACE);
        let place = Column { name: PLACE.to_owned(), key: 1, is_identity: false };
        let columns: Vec<&Column> = has_place.then_some(&place).into_iter().chain(sqlite).collect();
        for column in &columns {
            let Some(at) = missing.iter().position(|missing| *missing == column.name) else {
                return Err(format!("only SQLite has {name}.{}", column.name));
            };
            missing.swap_remove(at);
        }
        if let Some(column) = missing.first() {
            return Err(format!("only PostgreSQL has {name}.{column}"));
        }
        let mut key: Vec<(i64, usize)> = if has_place {
            vec![(1, 0)]
        } else {
            let parts = columns.iter().enumerate().filter(|(_, column)| column.key > 0);
            parts.map(|(at, column)| (column.key, at)).collect()
        };
        key.sort_unstable();
        if key.is_empty() {
            return Err(format!("{name} has no primary key"));
        }
        let columns = columns.into_iter().map(|column| column.name.clone()).collect();
        Ok(Self { name: name.to_owned(), columns, key: key.into_iter().map(|(_, at)| at).collect() })
    }

    /// Its columns, as a database names them.
    pub(super) fn columns(&self, db: Db<'_>) -> Vec<String> {
        let named =
            |name: &String| if name == PLACE { db.insertion_order().to_owned() } else { name.clone() };
        self.columns.iter().map(named).collect()
    }

    /// The column of that name.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }
}

/// The first of some tables that has a row.
pub(super) fn first_occupied<'t>(
    db: Db<'_>,
    mut tables: impl Iterator<Item = &'t str>,
) -> Result<Option<String>> {
    tables.try_fold(None, |found: Option<String>, table| {
        let is_occupied = found.is_none() && db.exists(&format!("SELECT 1 FROM {table} LIMIT 1"), &[])?;
        Ok(if is_occupied { Some(table.to_owned()) } else { found })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, key: i64) -> Column {
        Column { name: name.to_owned(), key, is_identity: false }
    }

    #[test]
    fn a_table_is_copied_by_its_key_or_the_order_of_its_rows() {
        let sqlite = [column("b", 2), column("x", 0), column("a", 1)];
        let table = Table::of("t", &sqlite, &[column("a", 0), column("b", 0), column("x", 0)]).unwrap();
        assert_eq!((table.columns, table.key), (["b", "x", "a"].map(str::to_owned).to_vec(), vec![2, 0]));
        let placed = Table::of("t", &[column("id", 1)], &[column("place", 0), column("id", 0)]).unwrap();
        assert_eq!((placed.columns, placed.key), (["place", "id"].map(str::to_owned).to_vec(), vec![0]));
    }

    #[test]
    fn a_column_or_a_table_that_only_one_engine_has_is_named() {
        let of = |sqlite: &str, postgres: &str| {
            let error = Table::of(
                "t",
                &[column("id", 1), column(sqlite, 0)],
                &[column("id", 0), column(postgres, 0)],
            );
            error.unwrap_err()
        };
        assert_eq!(of("new", "id"), "only SQLite has t.new");
        assert_eq!(
            Table::of("t", &[column("id", 1)], &[column("id", 0), column("new", 0)]),
            Err("only PostgreSQL has t.new".to_owned())
        );
        let with = |names: &[&str], is_postgres| Catalog {
            tables: names.iter().map(|name| ((*name).to_owned(), vec![column("id", 1)])).collect(),
            is_postgres,
        };
        let postgres = with(&["entry", "lane", "rules"], true);
        assert_eq!(Catalog::shared(&with(&["entry", "hold_batch"], false), &postgres).unwrap().len(), 1);
        let error = Catalog::shared(&postgres, &with(&["entry", "new"], false)).unwrap_err();
        assert_eq!(error, "only one of them has new");
    }
}
