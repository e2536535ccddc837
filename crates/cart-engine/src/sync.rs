//! What the threads of the runtime share and wait for.
//!
//! That of the standard library; or with the feature `shuttle`, for `tests/flip.rs`, that of a scheduler which draws at each
//! of these places who goes on. [`std::sync::Arc`] is the same in both.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic, mpsc},
    thread,
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Mutex, MutexGuard, atomic, mpsc},
    thread,
};
