//! Faults on purpose: tests count the effects of an operation, then replay it with the fault at
//! effect 0, 1, 2, … and audit what is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What is about to happen to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A folder is made.
    MakeFolder(PathBuf),
    /// A temporary file is made.
    Create(PathBuf),
    /// A file's bytes are written.
    Write(PathBuf),
    /// A file's bytes are made durable.
    Sync(PathBuf),
    /// A file gets its lasting name.
    Rename(PathBuf, PathBuf),
    /// A folder's entries are made durable.
    SyncFolder(PathBuf),
    /// A file is removed.
    Remove(PathBuf),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk is full at that effect, and fine afterwards.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests inject faults"))]
    Full,
    /// The process dies at that effect: nothing happens any more.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests inject faults"))]
    Crash,
}

/// Counts effects, and fails one of them.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    plan: Option<(usize, Fault)>,
    seen: Mutex<Vec<Effect>>,
}

impl Faults {
    /// Only counts.
    #[cfg(test)]
    pub(crate) fn count() -> Self {
        Self::default()
    }

    /// Fails at this effect.
    #[cfg(test)]
    pub(crate) fn at(effect: usize, fault: Fault) -> Self {
        Self { plan: Some((effect, fault)), seen: Mutex::default() }
    }

    /// Every effect so far, in order.
    #[cfg(test)]
    pub(crate) fn seen(&self) -> Vec<Effect> {
        self.seen.lock().expect("no test panics while holding it").clone()
    }

    /// Called before each effect. An error means that the effect must not happen.
    pub(crate) fn before(&self, effect: Effect) -> io::Result<()> {
        let Ok(mut seen) = self.seen.lock() else { return Ok(()) };
        let now = seen.len();
        let torn = tear(&effect);
        seen.push(effect);
        match self.plan {
            Some((at, Fault::Full)) if at == now => Err(rustix::io::Errno::NOSPC.into()),
            Some((at, Fault::Crash)) if at <= now => {
                if at == now {
                    torn();
                }
                Err(rustix::io::Errno::IO.into())
            }
            _ => Ok(()),
        }
    }
}

/// A crash in the middle of a write leaves some bytes of it.
fn tear(effect: &Effect) -> impl FnOnce() + use<> {
    let path = match effect {
        Effect::Write(path) => Some(path.clone()),
        _ => None,
    };
    move || {
        if let Some(path) = path {
            append_garbage(&path);
        }
    }
}

fn append_garbage(path: &Path) {
    use io::Write as _;
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(path) {
        drop(file.write_all(b"{torn"));
    }
}
