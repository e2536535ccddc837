//! A progress bar over bytes, and Ctrl-C that stops between buffers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cart_store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::context::Context;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C and SIGTERM ask running work to stop, instead of ending the process half-way.
/// A second one ends it.
pub(crate) fn stop_on_interrupt() {
    // The handler is set once in a process; a second attempt changes nothing.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) || AT_ONCE.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// Makes Ctrl-C end the process from now on, also where something before asked for a stop half-way.
pub(crate) fn end_on_interrupt() {
    AT_ONCE.store(true, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Whether Ctrl-C was pressed since this was asked last, for work of which one part can be stopped.
pub(crate) fn take_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// A bar on stderr, drawn only on a terminal and only once the work has taken 250 ms.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar with a verb: `packing`, `verifying`.
    pub(crate) fn new(context: &Context, verb: &'static str) -> Self {
        stop_on_interrupt();
        let bar = ProgressBar::no_length();
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let style = "{msg} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(verb);
        if context.shows_progress() {
            let late = bar.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(250));
                if !late.is_finished() {
                    late.set_draw_target(ProgressDrawTarget::stderr());
                }
            });
        }
        Self { bar }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn cancelled(&self) -> bool {
        interrupted()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
