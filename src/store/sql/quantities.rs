//! Quantities in rows: a column for each class of tokens of the first versions, and one
//! sparse column for every other class.
//!
//! `other_quantities` is a JSON object of counts by the names of classes, such as
//! `{"web_search_calls":2}`, and NULL where there is nothing of those classes. So a new class
//! changes no table.

use std::collections::BTreeMap;

use crate::domain::{Balance, Class, Quantities};
use crate::store::sql::columns::{json_from, json_text, uint, unreadable};
use crate::store::sql::{Result, Row};

/// The columns of quantities, in the order in which they are read and written.
macro_rules! quantity_columns {
    () => {
        "input, cached_input, cache_write, cache_write_12h, audio_input, audio_cached_input, image_input, \
         image_cached_input, output, reasoning, audio_output, image_output, other_quantities"
    };
}
pub(crate) use quantity_columns;

/// The classes with columns of their own, in the order of the columns.
pub(crate) const IN_COLUMNS: [Class; 12] = [
    Class::Input,
    Class::CachedInput,
    Class::CacheWrite,
    Class::CacheWrite12h,
    Class::AudioInput,
    Class::AudioCachedInput,
    Class::ImageInput,
    Class::ImageCachedInput,
    Class::Output,
    Class::Reasoning,
    Class::AudioOutput,
    Class::ImageOutput,
];

/// How many columns [`quantity_columns`] names.
pub(crate) const COLUMNS: usize = IN_COLUMNS.len() + 1;

/// What is in the sparse column.
pub(crate) fn others(quantities: &Balance) -> Balance {
    quantities.only(|class| !IN_COLUMNS.contains(&class))
}

/// The text of the sparse column; `None` if nothing is in it.
pub(crate) fn others_text(quantities: &Balance) -> Result<Option<String>> {
    let others = others(quantities);
    if others.is_zero() {
        return Ok(None);
    }
    let by_name: BTreeMap<&str, i64> =
        others.non_zero().map(|(class, count)| (class.name(), count)).collect();
    json_text(&by_name).map(Some)
}

/// What the sparse column says, at a place in a row.
pub(crate) fn others_from(row: &Row<'_>, at: usize) -> Result<Balance> {
    let mut others = Balance::default();
    let Some(text) = row.optional_text(at)? else { return Ok(others) };
    let row_of = || row_with(text);
    let by_name: BTreeMap<String, i64> = json_from(text, "other_quantities", row_of)?;
    for (name, count) in by_name {
        let class = Class::named(&name).filter(|class| !IN_COLUMNS.contains(class));
        let unknown = || unreadable("other_quantities", row_of(), format!("{name:?} is not known"));
        others[class.ok_or_else(unknown)?] = count;
    }
    Ok(others)
}

fn row_with(others: &str) -> String {
    format!("an entry, or the sum of some, with the quantities {others}")
}

/// The quantities from the column `first` on.
pub(crate) fn quantities_from(row: &Row<'_>, first: usize) -> Result<Quantities> {
    let others_at = first + IN_COLUMNS.len();
    let mut quantities = Quantities::default();
    for (class, count) in others_from(row, others_at)?.non_zero() {
        let negative = |_| {
            let text = row.text(others_at).unwrap_or_default();
            unreadable("other_quantities", row_with(text), format!("{count} of {} is no count", class.name()))
        };
        quantities[class] = u64::try_from(count).map_err(negative)?;
    }
    for (offset, class) in IN_COLUMNS.into_iter().enumerate() {
        quantities[class] = uint(row.get(first + offset)?);
    }
    Ok(quantities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::{Db, params};
    use crate::store::sqlite;

    #[test]
    fn each_class_is_in_a_column_of_its_name_or_in_the_sparse_one() {
        let names = IN_COLUMNS.map(Class::name).join(", ");
        assert_eq!(quantity_columns!(), format!("{names}, other_quantities"));
        let mut all = Quantities::default();
        for class in Class::ALL {
            all[class] = 1 + u64::try_from(class.index()).unwrap();
        }
        let connection = sqlite::memory();
        let db = Db::Sqlite(&connection);
        let read = |others: Option<String>| {
            let columns = IN_COLUMNS.map(|class| all[class].to_string()).join(", ");
            let sql = format!("SELECT {columns}, CAST(?1 AS TEXT)");
            db.row(&sql, params![others], |row| quantities_from(row, 0))
        };
        assert_eq!(read(others_text(&all.into()).unwrap()).unwrap(), all);
        let tokens = all.only(|class| IN_COLUMNS.contains(&class));
        assert_eq!(others_text(&tokens.into()).unwrap(), None);
        assert_eq!(read(None).unwrap(), tokens);
        for odd in [r#"{"odd":1}"#, r#"{"input":1}"#, r#"{"file_search_calls":-1}"#, "[]"] {
            let error = read(Some(odd.to_owned())).unwrap_err().to_string();
            assert!(error.contains("other_quantities of an entry") && error.contains(odd), "{error}");
        }
    }
}
