//! A cartridge's memory, read without its model.

use cart_format::ManifestId;
use cart_memory::{StoreKind, UnifiedMemory};

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// What to do where nothing was ever remembered.
const NOTHING: &str = "no memory yet; `cart run REF --memory --save NAME` makes one";

/// The memory of a cartridge whose every digest matched.
pub(super) struct Remembered {
    /// The cartridge.
    pub(super) manifest: ManifestId,
    /// None where nothing was ever saved.
    pub(super) memory: Option<UnifiedMemory>,
}

impl Remembered {
    /// Opens, verifies and reads.
    pub(super) fn open(context: &Context, reference: &str) -> Result<Self, Failure> {
        let verified = history::verified(context, reference)?;
        let memory = history::memory_of(verified.cartridge())?;
        Ok(Self { manifest: verified.manifest_id(), memory })
    }

    /// The memory's id, where there is one.
    pub(super) fn id(&self) -> Option<String> {
        self.memory.as_ref().map(|memory| memory.snapshot().id().hex())
    }
}

/// Says that there is no memory.
pub(super) fn say_nothing() -> Result<(), Failure> {
    report::line(NOTHING)
}

/// A store as reports name it.
pub(crate) fn store_name(store: StoreKind) -> &'static str {
    match store {
        StoreKind::Stm => "stm",
        StoreKind::Ltm => "ltm",
    }
}

/// A text in one line of a table.
pub(crate) fn one_line(text: &str) -> String {
    text.trim().replace('\n', "⏎")
}
