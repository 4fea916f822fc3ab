//! Statements that are gathered, to be sent to a server at once.

use std::cell::RefCell;

use crate::store::sql::Value;

/// A value that outlives the record that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// No value.
    Null,
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// Statements with their parameters, in their order.
#[derive(Debug, Default)]
pub(crate) struct Batch(RefCell<Vec<(String, Vec<Kept>)>>);

impl Batch {
    /// Adds a statement.
    pub(super) fn push(&self, sql: &str, params: &[Value<'_>]) {
        self.0.borrow_mut().push((sql.to_owned(), params.iter().copied().map(Kept::from).collect()));
    }

    /// All of them.
    pub(crate) fn into_statements(self) -> Vec<(String, Vec<Kept>)> {
        self.0.into_inner()
    }

    /// The parameters of each, as rows.
    pub(crate) fn into_rows(self) -> Vec<Vec<Kept>> {
        self.into_statements().into_iter().map(|(_, row)| row).collect()
    }
}

impl From<Value<'_>> for Kept {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Int(number) => Self::Int(number),
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl Kept {
    /// The value.
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Int(number) => Value::Int(*number),
            Self::Text(text) => Value::Text(text),
            Self::Blob(bytes) => Value::Blob(bytes),
        }
    }
}
