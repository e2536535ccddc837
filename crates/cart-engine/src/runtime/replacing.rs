//! Swaps as callers see them: beside what runs where there is memory for both, in its place where there is not.

use std::sync::Arc;

use cart_store::{Silent, VerifyOptions};

use super::held::{Replacement, Unloaded};
use super::owner::{Command, Incoming};
use super::resident::Resident;
use super::shared::SwapTurn;
use super::{RuntimeHandle, check_kept, prepare};
use crate::swap::account::Taken;
use crate::swap::candidate::Staged;
use crate::swap::moving::{Moving, Remembered};
use crate::swap::room::Footprint;
use crate::swap::{
    InFlight, Loading, MemoryPolicy, SwapError, SwapFailure, SwapReport, SwapRequest, SwapState,
};

impl RuntimeHandle {
    /// Changes the cartridge. Blocks while the new one is verified, loaded and warmed up on this
    /// thread, while streams go on; call it where that does not matter.
    ///
    /// # Errors
    /// Another swap is under way, the runtime has been stopped, there is no memory for the new cartridge, or it did not get
    /// to `Warm`. The running generation is as it was.
    pub fn swap(&self, request: SwapRequest) -> Result<SwapReport, SwapError> {
        let turn = self.shared.begin_swap(&request.name).ok_or(SwapError::InProgress)?;
        let refuse = |failure| SwapError::Refused {
            name: request.name.clone(),
            stage: turn.lifecycle().state(),
            failure: Box::new(failure),
        };
        let running = self.active().map_err(|_| SwapError::Stopped)?;
        check_kept(&request, running.agent()).map_err(refuse)?;
        let shares = running.agent().has_parts_of(request.cartridge.manifest());
        if request.loading == Loading::InPlace && !shares {
            let _taken = self.check_place(&request).map_err(refuse)?;
            return self.swap_in_place(request, running, &turn);
        }
        // Taken until the loop counts what it has got.
        let _taken = self.make_room(&request, shares).map_err(refuse)?;
        let moving = Moving::new(request.memory, Remembered::of(running.agent()));
        let lifecycle = Arc::clone(turn.lifecycle());
        let now = Some(running.agent().clone());
        let staged = Staged { cartridge: request.cartridge.clone(), lifecycle, running: now };
        let warm = prepare(staged, &self.shared.options, moving).map_err(refuse)?;
        let SwapRequest { name, in_flight, memory, cartridge, loading: _ } = request;
        let incoming = Incoming { name, cartridge, warm, in_flight, memory };
        self.ask(|reply| Command::Activate { incoming, reply }).ok_or(SwapError::Stopped)
    }

    /// Sees that there is memory for the new cartridge beside those that are loaded. Where there is not, the one that could
    /// be rolled back to goes first: the swap would take its place.
    fn make_room(&self, request: &SwapRequest, shares: bool) -> Result<Taken, SwapFailure> {
        let needed = Footprint::of(request.cartridge.manifest()).bytes(shares);
        let account = &self.shared.options.account;
        if let Ok(taken) = account.take(needed, 0) {
            return Ok(taken);
        }
        drop(self.ask(|reply| Command::ForgetPrevious { reply }));
        Ok(account.take(needed, 0)?)
    }

    /// Sees that the new cartridge can be put in the place of all that is loaded, as far as that can be known before.
    fn check_place(&self, request: &SwapRequest) -> Result<Taken, SwapFailure> {
        let in_flight = request.in_flight;
        if in_flight != InFlight::Finish {
            return Err(SwapFailure::InPlace { in_flight });
        }
        let loaded = self.ask(|reply| Command::Loaded { reply }).unwrap_or(0);
        let needed = request.cartridge.manifest().total_bytes();
        let taken = self.shared.options.account.take(needed, loaded)?;
        // While what runs still does: damage is found before anything is given up for it.
        let threads = self.shared.options.verify_threads;
        let options = VerifyOptions { threads, ..VerifyOptions::default() };
        request.cartridge.clone().verify(&options, &Silent)?;
        Ok(taken)
    }

    /// Waits for the streams to end, unloads everything, and loads the new cartridge, or the old one again.
    fn swap_in_place(
        &self,
        request: SwapRequest,
        running: Arc<Resident>,
        turn: &SwapTurn,
    ) -> Result<SwapReport, SwapError> {
        let before = Unloaded::of(&running);
        drop(running);
        let unloaded = self.ask(|reply| Command::Unload { reply }).ok_or(SwapError::Stopped)?;
        // Unmapped here, and not beside what comes.
        drop(unloaded);
        let SwapRequest { name, in_flight, memory, cartridge, loading: _ } = request;
        let moving = Moving::new(memory, before.remembered.clone());
        let lifecycle = Arc::clone(turn.lifecycle());
        let staged = Staged { cartridge: cartridge.clone(), lifecycle, running: None };
        match prepare(staged, &self.shared.options, moving) {
            Ok(warm) => {
                let incoming = Box::new(Incoming { name, cartridge, warm, in_flight, memory });
                self.ask(|reply| {
                    let replacement = Replacement::New(incoming, before.side, reply);
                    Command::Replace { replacement: Box::new(replacement) }
                })
                .ok_or(SwapError::Stopped)
            }
            Err(failure) => {
                let stage = turn.lifecycle().state();
                self.load_again(before, &name, stage, &failure)?;
                Err(SwapError::Refused { name, stage, failure: Box::new(failure) })
            }
        }
    }

    /// Loads what was unloaded, with the memory that it had.
    fn load_again(
        &self,
        before: Unloaded,
        name: &str,
        stage: SwapState,
        why: &SwapFailure,
    ) -> Result<(), SwapError> {
        let Unloaded { side, cartridge, remembered } = before;
        let moving = Moving::new(MemoryPolicy::Carry, remembered);
        let lifecycle = Arc::default();
        let staged = Staged { cartridge: cartridge.clone(), lifecycle, running: None };
        match prepare(staged, &self.shared.options, moving) {
            Ok(warm) => {
                let resident = Resident::new(side.name, side.generation, warm, cartridge);
                let replacement = Box::new(Replacement::Same(resident));
                self.commands.send(Command::Replace { replacement }).map_err(|_| SwapError::Stopped)
            }
            Err(failure) => {
                // Nothing is left to answer with: those who wait hear so.
                let _ = self.commands.send(Command::Stop);
                Err(SwapError::Lost {
                    name: name.to_owned(),
                    stage,
                    why: why.to_string(),
                    before: side.name,
                    failure: Box::new(failure),
                })
            }
        }
    }
}
