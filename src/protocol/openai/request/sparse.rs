//! Values that are rarely present, and take no space when absent.

/// A value that is added up from the parts of a body, most of which add nothing to it.
///
/// It is moved once for each level of the body: so it is no larger than a pointer.
#[derive(Debug)]
pub(in crate::protocol::openai) struct Sparse<T>(Option<Box<T>>);

/// A value that can be added up.
pub(in crate::protocol::openai) trait Merge {
    /// Adds another part of the same body.
    fn merge(&mut self, other: Self);
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default + Merge> Sparse<T> {
    /// A value with something in it.
    pub(super) fn new(value: T) -> Self {
        Self(Some(Box::new(value)))
    }

    /// The value, to be added to.
    pub(super) fn get(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }

    /// The value so far, if there is anything in it.
    pub(super) fn peek(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Adds another part of the same body.
    pub(in crate::protocol::openai) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (_, None) => {}
            (Some(sum), Some(part)) => sum.merge(*part),
            (none, part) => *none = part,
        }
    }

    /// The sum.
    pub(in crate::protocol::openai) fn into_inner(self) -> T {
        self.0.map_or_else(T::default, |sum| *sum)
    }
}
