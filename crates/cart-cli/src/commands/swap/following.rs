//! `cart swap --watch`: deploy by tag.

use std::time::{Duration, Instant};

use cart_format::CommitId;
use cart_store::Store;

use super::{Server, SwapArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::{interrupted, stop_on_interrupt};

/// How long an interrupt is not heard at most.
const NAP: Duration = Duration::from_millis(50);

/// A name that is followed.
struct Following<'a> {
    context: &'a Context,
    args: &'a SwapArgs,
    server: &'a Server<'a>,
    store: Store,
    reference: &'a str,
    /// What the name meant when that was last dealt with.
    seen: Option<CommitId>,
    /// The last failure that was told, so that one that lasts is told once.
    told: Option<String>,
}

/// Swaps whenever the name moves, until an interrupt. What fails is told, and the next move is tried again.
pub(super) fn run(
    context: &Context,
    args: &SwapArgs,
    server: &Server<'_>,
    reference: &str,
) -> Result<(), Failure> {
    let every = Duration::try_from_secs_f64(args.every).ok().filter(|every| !every.is_zero());
    let every = every.ok_or_else(|| {
        Failure::arguments(format!("--every is {}; allowed: more than 0 seconds", args.every))
    })?;
    let store = context.store()?;
    // A name that is not there at all is an error of whoever wrote it.
    commit_of(&store, reference)?;
    stop_on_interrupt();
    let mut following =
        Following { context, args, server, store, reference, seen: None, told: None };
    if following.runs_already()? {
        following.seen = commit_of(&following.store, reference)?;
        context.remark(&format!("{reference} runs; it is followed until Ctrl-C"));
    }
    while !interrupted() {
        following.look()?;
        nap(every);
    }
    Ok(())
}

impl Following<'_> {
    /// Whether the server runs what the name means.
    fn runs_already(&self) -> Result<bool, Failure> {
        let state = self.server.state(self.args.model.as_deref())?;
        let found = self.store.resolve(self.reference).map_err(Failure::refused)?;
        let manifest = self.store.open_cartridge(&found).map_err(Failure::refused)?.manifest_id();
        Ok(state["active"]["manifest"].as_str() == Some(manifest.hex().as_str()))
    }

    /// Swaps if the name has moved. Only a stdout that nobody reads ends it.
    fn look(&mut self) -> Result<(), Failure> {
        let now = match commit_of(&self.store, self.reference) {
            Ok(now) => now,
            Err(failure) => {
                self.tell(&failure);
                return Ok(());
            }
        };
        if now == self.seen {
            return Ok(());
        }
        let body = super::body(self.reference, self.args, super::Memory::Replace);
        match self.server.ask("/cart/swap", Some(&body)) {
            Ok(answer) => {
                (self.seen, self.told) = (now, None);
                match super::render(self.context, Some(self.reference), &answer) {
                    Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
                    Err(failure) => self.tell(&failure),
                    Ok(()) => {}
                }
            }
            Err(refused) => {
                if !refused.passes {
                    self.seen = now;
                }
                self.tell(&refused.failure);
            }
        }
        Ok(())
    }

    /// Tells a failure, once as long as it lasts.
    fn tell(&mut self, failure: &Failure) {
        let message = failure.message();
        if message.is_empty() || self.told.as_ref() == Some(&message) {
            return;
        }
        failure.report(self.context.json);
        self.told = Some(message);
    }
}

/// The commit that a reference means; none for one that is no name.
fn commit_of(store: &Store, reference: &str) -> Result<Option<CommitId>, Failure> {
    let found = store.resolve(reference).map_err(Failure::refused)?;
    let cartridge = store.open_cartridge(&found).map_err(Failure::refused)?;
    Ok(cartridge.commit().map(|(id, _)| id))
}

fn nap(most: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < most && !interrupted() {
        std::thread::sleep(NAP.min(most));
    }
}
