//! The association graph of a state, as the rules would have left it.

use super::slots::Ids;
use crate::config::GraphRules;
use crate::graph::{Activity, Graph, Link};
use crate::slot::SlotId;
use crate::snapshot::state::{GraphState, State};
use crate::snapshot::{GraphProblem, RestoreError};

/// Reads the graph; it is empty where the state has none.
pub(super) fn read_graph(state: &State, ids: &Ids) -> Result<Graph, RestoreError> {
    let Some(saved) = &state.graph else { return Ok(Graph::default()) };
    let Some(rules) = &state.config.graph else { return Err(GraphProblem::NoRules.into()) };
    check_activity(state, saved, ids)?;
    let mut graph = Graph {
        current: saved.current.clone(),
        previous: saved.previous.clone(),
        decayed_at: saved.decayed_at,
        ..Graph::default()
    };
    let mut after: Option<(SlotId, SlotId)> = None;
    for link in &saved.links {
        let ends = (link.from, link.to);
        let ordered = after.replace(ends).is_none_or(|before| before < ends);
        if !(ordered && is_link(link, rules, ids)) {
            return Err(GraphProblem::Link(*link).into());
        }
        let row = graph.rows.entry(link.from).or_default();
        row.push((link.to, link.strength));
        if row.len() > rules.out_degree as usize {
            let (slot, most) = (link.from, rules.out_degree);
            return Err(GraphProblem::Degree { slot, most }.into());
        }
    }
    // A graph that says nothing is left out, so that a state has one form.
    if graph.is_empty() { Err(GraphProblem::Empty.into()) } else { Ok(graph) }
}

fn is_link(link: &Link, rules: &GraphRules, ids: &Ids) -> bool {
    let &Link { from, to, strength } = link;
    let known = from != to && ids.seen.contains(&from) && ids.seen.contains(&to);
    known && strength > 0.0 && strength >= rules.floor && strength <= 1.0
}

fn check_activity(state: &State, saved: &GraphState, ids: &Ids) -> Result<(), GraphProblem> {
    let GraphState { current, previous, decayed_at, .. } = saved;
    let in_time = current.at <= *decayed_at && *decayed_at <= state.now;
    let in_order = previous.at < current.at || previous.slots.is_empty();
    if !(in_time && in_order && previous.at <= current.at) {
        let (previous, current, decayed_at) = (previous.at, current.at, *decayed_at);
        return Err(GraphProblem::Ticks { previous, current, decayed_at, now: state.now });
    }
    for Activity { slots, .. } in [current, previous] {
        let ordered = slots.windows(2).all(|pair| pair[0].0 < pair[1].0);
        for &(slot, amount) in slots {
            let share = amount > 0.0 && amount <= 1.0;
            if !(ordered && share && ids.seen.contains(&slot)) {
                return Err(GraphProblem::Activity { slot, amount });
            }
        }
    }
    Ok(())
}
