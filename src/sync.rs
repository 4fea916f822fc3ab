//! What threads share: the standard library's locks, under one name.
//!
//! `tests/order` puts others in their place, which try every order of steps.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
pub(crate) use std::thread::sleep;
