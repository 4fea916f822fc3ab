//! Values that statements take and rows hold, whatever the engine.

use std::borrow::Cow;
use std::sync::Arc;

/// A value of a parameter or of a column. A condition is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// No value.
    Null,
    /// A whole number.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Value<'_> {
    /// What it is, for messages.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
            Self::Blob(_) => "bytes",
        }
    }
}

/// The parameters of a statement, each a [`ToValue`]: a slice of values on the stack.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::sql::value::ToValue::to_value(&$value)),*]
    };
}
pub(crate) use params;

/// The placeholders of so many parameters, from the first on.
pub(crate) fn places(count: usize) -> String {
    (1..=count).map(|number| format!("?{number}")).collect::<Vec<_>>().join(", ")
}

/// What a parameter can be made of.
pub(crate) trait ToValue {
    /// The parameter.
    fn to_value(&self) -> Value<'_>;
}

/// What a column can be read as.
pub(crate) trait FromValue: Sized {
    /// Its name, for messages.
    const NAME: &'static str;

    /// What a column's value says; `None` if it is of another kind or out of range.
    fn from_value(value: Value<'_>) -> Option<Self>;
}

impl ToValue for Value<'_> {
    fn to_value(&self) -> Value<'_> {
        *self
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

/// Values of types that are numbers of a column.
macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl ToValue for $number {
            fn to_value(&self) -> Value<'_> {
                Value::Int(i64::from(*self))
            }
        })*
    };
}
numbers!(i64, i32, u32, u16, bool);

/// Values of types that are texts of a column.
macro_rules! texts {
    ($($text:ty),*) => {
        $(impl ToValue for $text {
            fn to_value(&self) -> Value<'_> {
                Value::Text(self)
            }
        })*
    };
}
texts!(str, String, Arc<str>, Cow<'_, str>);

impl ToValue for [u8; 32] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const NAME: &'static str = T::NAME;

    fn from_value(value: Value<'_>) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

/// Numbers in columns of whole numbers.
macro_rules! from_numbers {
    ($($number:ty),*) => {
        $(impl FromValue for $number {
            const NAME: &'static str = stringify!($number);

            fn from_value(value: Value<'_>) -> Option<Self> {
                if let Value::Int(number) = value { number.try_into().ok() } else { None }
            }
        })*
    };
}
from_numbers!(i64, u32, u16);

impl FromValue for bool {
    const NAME: &'static str = "condition";

    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Int(number) = value { Some(number != 0) } else { None }
    }
}

/// Texts that own what they hold.
macro_rules! from_texts {
    ($($text:ty),*) => {
        $(impl FromValue for $text {
            const NAME: &'static str = "text";

            fn from_value(value: Value<'_>) -> Option<Self> {
                if let Value::Text(text) = value { Some(text.into()) } else { None }
            }
        })*
    };
}
from_texts!(String, Arc<str>);

impl FromValue for [u8; 32] {
    const NAME: &'static str = "hash of 32 bytes";

    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Blob(bytes) = value { bytes.try_into().ok() } else { None }
    }
}

/// A stored value that this release can't read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the column {column} of {row} can't be read: {why}. Put back a backup of the ledger, or, with the guard stopped, \
     write there by sqlite3 what it should say"
)]
pub(crate) struct Unreadable {
    /// Table and column, as `api_key.models`.
    pub(crate) column: &'static str,
    /// Which row.
    pub(crate) row: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_kind_or_out_of_range_is_not_read() {
        assert_eq!(u16::from_value(Value::Int(200)), Some(200));
        assert_eq!((u16::from_value(Value::Int(70_000)), u32::from_value(Value::Int(-1))), (None, None));
        assert_eq!((i64::from_value(Value::Text("7")), String::from_value(Value::Int(7))), (None, None));
        assert_eq!(<[u8; 32]>::from_value(Value::Blob(&[0; 31])), None);
        assert_eq!(
            (i64::from_value(Value::Null), Option::<i64>::from_value(Value::Null)),
            (None, Some(None))
        );
        assert_eq!(Option::<i64>::from_value(Value::Text("7")), None);
    }

    #[test]
    fn parameters_are_values_in_their_order() {
        let (name, none) = ("a".to_owned(), None::<i64>);
        let params: &[Value<'_>] = params![7_i64, name, none, Some(true), [0_u8; 32]];
        let blob = [0; 32];
        assert_eq!(params, [Value::Int(7), Value::Text("a"), Value::Null, Value::Int(1), Value::Blob(&blob)]);
    }
}
