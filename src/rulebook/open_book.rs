//! The rules that a change works on, until it is committed.

use std::ops::{Deref, DerefMut};

use tokio::sync::MutexGuard;

use crate::rulebook::Rulebook;
use crate::rulebook::limits::Book;

/// The book that an open change writes its rules in. On the embedded engine, which commits each
/// write, it is the one in memory. On a shared one it is a copy: the one in memory is read of the
/// database, once the change is committed.
pub(super) enum OpenBook<'a> {
    InMemory(MutexGuard<'a, Book>),
    Copy(Box<Book>),
}

impl Deref for OpenBook<'_> {
    type Target = Book;

    fn deref(&self) -> &Book {
        match self {
            Self::InMemory(book) => book,
            Self::Copy(book) => book,
        }
    }
}

impl DerefMut for OpenBook<'_> {
    fn deref_mut(&mut self) -> &mut Book {
        match self {
            Self::InMemory(book) => book,
            Self::Copy(book) => book,
        }
    }
}

impl Rulebook {
    /// The book for an open change.
    pub(super) async fn open_book(&self) -> OpenBook<'_> {
        let book = self.book.lock().await;
        if self.core.is_shared() { OpenBook::Copy(Box::new(book.clone())) } else { OpenBook::InMemory(book) }
    }
}
