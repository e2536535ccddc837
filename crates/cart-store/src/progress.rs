//! How long work says how far it is, and how it is asked to stop.

/// Hears about bytes that were worked through. Called from several threads at once.
pub trait Progress: Sync {
    /// So many bytes more will be worked through.
    fn total(&self, _bytes: u64) {}

    /// So many bytes were worked through.
    fn add(&self, _bytes: u64) {}

    /// Whether to stop. Asked between buffers; the operation then returns its `Cancelled` error and
    /// leaves nothing half-done.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Hears nothing and never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
