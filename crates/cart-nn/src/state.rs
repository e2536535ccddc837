//! What a session has read so far.

/// Keys and values of every position so far: a value. Clone it to fork a session, truncate it to
/// go back.
#[derive(Clone, Debug, PartialEq)]
pub struct State {}

impl State {
    /// Positions in the state.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every position from `len` on. Does nothing where there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        let _ = len;
        unimplemented!()
    }

    /// Bytes that keys and values take.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
}
