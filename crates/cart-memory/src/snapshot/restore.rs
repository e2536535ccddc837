//! From a snapshot to a memory, believing nothing.

mod graph;
mod slots;
mod tensors;

use std::collections::BTreeSet;

use super::MemorySnapshot;
use super::error::RestoreError;
use super::state::{State, VERSION};
use crate::config::{check_centres, with_parts};
use crate::goal::Goal;
use crate::observation::MAX_TICK;
use crate::slot::StoreKind;
use crate::{Normalization, UnifiedMemory, vector};
use graph::read_graph;
use slots::{Ids, StoreReader};
use tensors::Tensors;

pub(super) fn restore(snapshot: &MemorySnapshot) -> Result<UnifiedMemory, RestoreError> {
    let state = read_state(snapshot)?;
    let mut tensors = Tensors::new(snapshot)?;
    let dim = usize::try_from(snapshot.dim).unwrap_or(usize::MAX);
    let centre = tensors.floats("centre", dim)?;
    let scale = tensors.floats("scale", dim)?;
    let normalization = with_parts(Normalization::new(centre, scale)?, &state.config)?;
    let goal = read_goal(&mut tensors, dim, &state)?;
    let mut ids = Ids { seen: BTreeSet::new(), next: state.next_slot };
    let mut read = |store, slots, capacity| {
        StoreReader { store, state: &state, normalization: &normalization, slots, capacity }
            .read(&mut tensors, &mut ids)
    };
    let stm = read(StoreKind::Stm, &state.stm, state.config.stm_slots)?;
    let ltm = read(StoreKind::Ltm, &state.ltm, state.config.ltm_slots)?;
    tensors.finish()?;
    let graph = read_graph(&state, &ids)?;
    check_centres(&state.config, &normalization)?;
    Ok(UnifiedMemory {
        space: snapshot.space,
        stm,
        ltm: ltm.into(),
        goal,
        graph,
        surprise: state.surprise,
        counters: state.counters,
        now: state.now,
        observed_at: state.observed_at,
        pruned_at: state.pruned_at,
        next_slot: state.next_slot,
        offers: None,
        normalization,
        config: state.config,
    })
}

fn read_state(snapshot: &MemorySnapshot) -> Result<State, RestoreError> {
    // The version comes first: a later one may differ in everything else.
    let version = snapshot.state.get("version").and_then(serde_json::Value::as_u64);
    if let Some(found) = version.filter(|found| !(1..=u64::from(VERSION)).contains(found)) {
        return Err(RestoreError::Version { found: u32::try_from(found).unwrap_or(u32::MAX) });
    }
    let state: State = serde::Deserialize::deserialize(&snapshot.state)
        .map_err(|source| RestoreError::State { source })?;
    state.config.check()?;
    if state.version != state.lowest_version() {
        return Err(RestoreError::OtherVersion {
            found: state.version,
            lowest: state.lowest_version(),
        });
    }
    let ticks = [
        ("now", state.now, MAX_TICK),
        ("observed_at", state.observed_at, state.now),
        ("pruned_at", state.pruned_at, state.now),
        ("next_slot", state.next_slot, MAX_TICK),
    ];
    for (name, found, most) in ticks {
        if found > most {
            return Err(RestoreError::Tick { name, found, most });
        }
    }
    let (mean, variance) = (state.surprise.mean, state.surprise.variance);
    if !(mean.is_finite() && variance.is_finite() && variance >= 0.0) {
        return Err(RestoreError::Surprise { mean, variance });
    }
    Ok(state)
}

fn read_goal(tensors: &mut Tensors<'_>, dim: usize, state: &State) -> Result<Goal, RestoreError> {
    let values = tensors.floats("goal", dim)?;
    vector::check("goal", &values, dim)
        .map_err(|problem| RestoreError::Vector { tensor: "goal".to_owned(), problem })?;
    let prompt = state.goal_prompt.then(|| tensors.floats("prompt", dim)).transpose()?;
    if let Some(prompt) = &prompt {
        vector::check("prompt", prompt, dim)
            .map_err(|problem| RestoreError::Vector { tensor: "prompt".to_owned(), problem })?;
        let length = vector::norm(prompt);
        if (length - 1.0).abs() > 1e-4 {
            return Err(RestoreError::Prompt { found: length });
        }
    }
    let goal = Goal { vector: values, steps: state.goal_steps, prompt };
    let cap = state.config.goal_cap;
    // The cap is met up to the rounding of the length.
    if goal.norm() > cap * 1.0001 {
        return Err(RestoreError::Goal { found: goal.norm(), cap });
    }
    Ok(goal)
}
