//! Joining memories: its laws over generated histories, and its rules by hand.

use std::collections::BTreeSet;

use cart_format::MemoryId;
use cart_memory::config::{ContradictionPolicy, ContradictionRules, GraphRules};
use cart_memory::{
    JoinError, JoinReport, MemoryConfig, OnContradiction, StoreKind, UnifiedMemory, join,
};
use proptest::prelude::*;

use crate::given::{eager, find, memory, quiet, seen, texts};
use crate::properties::{Call, DIM, apply, calls, small};

/// A memory, with what went into it where it was joined: as a cartridge keeps it.
#[derive(Clone, Debug)]
struct Agent {
    memory: UnifiedMemory,
    parts: Vec<UnifiedMemory>,
}

impl Agent {
    fn of(memory: UnifiedMemory) -> Self {
        Self { parts: vec![memory.clone()], memory }
    }

    fn with(&self, other: &Self, on_contradiction: OnContradiction) -> Self {
        let parts: Vec<_> = self.parts.iter().chain(&other.parts).cloned().collect();
        let (memory, _) = join(&parts.iter().collect::<Vec<_>>(), on_contradiction).unwrap();
        Self { memory: restored(&memory), parts: parts.iter().map(restored).collect() }
    }

    fn id(&self) -> MemoryId {
        self.memory.snapshot().id()
    }
}

/// What a store gives back.
fn restored(memory: &UnifiedMemory) -> UnifiedMemory {
    let snapshot = memory.snapshot();
    let restored = UnifiedMemory::restore(&snapshot).unwrap();
    assert_eq!(restored.snapshot(), snapshot);
    restored
}

/// Three agents: some with a common past, some with settings of their own.
fn agents() -> impl Strategy<Value = [Agent; 3]> {
    let history = || (calls(), 0_u8..3, any::<bool>());
    (calls(), prop::array::uniform3(history())).prop_map(|(past, histories)| {
        histories.map(|(own, common, linked)| {
            let graph = linked.then(GraphRules::default);
            let contradictions = linked
                .then_some(ContradictionRules { policy: ContradictionPolicy::Newest, cosine: 0.9 });
            let config = MemoryConfig { graph, contradictions, goal_vectors: 1, ..small() };
            let mut memory = memory(DIM, config);
            if common > 0 {
                apply(&mut memory, &past);
            }
            apply(&mut memory, &own);
            Agent::of(memory)
        })
    })
}

fn rule() -> impl Strategy<Value = OnContradiction> {
    prop_oneof![
        Just(OnContradiction::KeepBoth),
        Just(OnContradiction::Newest),
        Just(OnContradiction::HighestEnergy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_200))]

    #[test]
    fn every_order_and_grouping_gives_one_memory([a, b, c] in agents(), rule in rule()) {
        let with = |x: &Agent, y: &Agent| x.with(y, rule);
        let (ab, bc, ca) = (with(&a, &b), with(&b, &c), with(&c, &a));
        prop_assert_eq!(ab.id(), with(&b, &a).id());
        let id = with(&ab, &c).id();
        let all = [
            with(&a, &bc), with(&b, &ca), with(&c, &ab), with(&bc, &a), with(&ca, &b),
            // What is in it already changes nothing.
            with(&ab, &bc), with(&ab, &with(&bc, &ca)), with(&with(&ab, &c), &with(&c, &a)),
        ];
        for one in all {
            prop_assert_eq!(one.id(), id);
        }
        prop_assert_eq!(with(&a, &a).id(), a.id());
        prop_assert_eq!(with(&ab, &ab).id(), ab.id());
    }

    #[test]
    fn nothing_that_was_said_is_lost_and_life_goes_on(
        [a, b, c] in agents(), rule in rule(), more in calls(),
    ) {
        let all = a.with(&b, rule).with(&c, rule);
        for store in [StoreKind::Stm, StoreKind::Ltm] {
            let said: BTreeSet<&str> = [&a, &b, &c]
                .into_iter()
                .flat_map(|agent| texts(&agent.memory, store))
                .collect();
            let found: BTreeSet<&str> = texts(&all.memory, store).into_iter().collect();
            prop_assert_eq!(said, found);
        }
        let mut lived = all.memory.clone();
        apply(&mut lived, &more);
        restored(&lived);
    }

    #[test]
    fn of_agents_with_nothing_in_common_sums_add_up(
        histories in prop::array::uniform3(calls()),
    ) {
        let agents: Vec<UnifiedMemory> = histories
            .into_iter()
            .enumerate()
            .map(|(who, calls)| {
                let mut memory = memory(DIM, small());
                let renamed = |mut call: Call| {
                    if let Call::Observe(seen) = &mut call {
                        seen.source = format!("agent {who}");
                    }
                    call
                };
                apply(&mut memory, &calls.into_iter().map(renamed).collect::<Vec<_>>());
                memory
            })
            .collect();
        let distinct: BTreeSet<MemoryId> = agents.iter().map(|one| one.snapshot().id()).collect();
        prop_assume!(distinct.len() == 3);
        let (joined, report) =
            join(&agents.iter().collect::<Vec<_>>(), OnContradiction::KeepBoth).unwrap();
        let counted = |of: fn(&UnifiedMemory) -> u64| agents.iter().map(of).sum::<u64>();
        let sums = |memory: &UnifiedMemory| -> u64 {
            memory.slots().map(|(_, slot)| slot.statistics.count).sum()
        };
        prop_assert_eq!(sums(&joined), counted(sums));
        let observed = |memory: &UnifiedMemory| memory.counters().observations;
        prop_assert_eq!(observed(&joined), counted(observed));
        prop_assert_eq!(report.shared, 0);
        prop_assert_eq!(report.slots, report.slots_before - report.merged);
    }
}

const EAST: [f32; 3] = [1.0, 0.0, 0.0];
const NORTH: [f32; 3] = [0.0, 1.0, 0.0];

fn told(config: &MemoryConfig, said: &[(u64, &str, [f32; 3], f32)]) -> UnifiedMemory {
    let mut memory = memory(3, config.clone());
    for &(at, text, key, energy) in said {
        memory.observe(at, &seen(text, &key, energy)).unwrap();
    }
    memory
}

fn joined(
    memories: &[&UnifiedMemory],
    rule: OnContradiction,
) -> Result<(UnifiedMemory, JoinReport), JoinError> {
    let (memory, report) = join(memories, rule)?;
    Ok((restored(&memory), report))
}

#[test]
fn a_common_past_counts_once() {
    let past = told(&quiet(), &[(1, "a", EAST, 0.5), (2, "a", EAST, 0.5)]);
    let (mut left, mut right) = (past.clone(), past);
    left.observe(3, &seen("a", &EAST, 0.5)).unwrap();
    right.observe(9, &seen("b", &NORTH, 0.5)).unwrap();
    let (both, report) = joined(&[&left, &right], OnContradiction::KeepBoth).unwrap();
    assert_eq!(texts(&both, StoreKind::Stm), ["a", "b"]);
    let slot = both.slot(find(&both, StoreKind::Stm, "a")).unwrap();
    // Two of the past and one of the left; the left was six ticks behind.
    assert_eq!((slot.count, slot.statistics.count, slot.made, slot.refreshed), (3, 3, 7, 9));
    assert_eq!((report.memories, report.shared, report.merged, report.slots), (2, 1, 0, 2));
}

#[test]
fn what_two_agents_heard_of_each_their_own_adds_up() {
    let left = told(&quiet(), &[(1, "a", [1.0, 0.0, 0.0], 0.8)]);
    let right = told(&quiet(), &[(1, "z", NORTH, 0.5), (5, "a", [1.0, 0.1, 0.0], 0.4)]);
    let (both, report) = joined(&[&left, &right], OnContradiction::KeepBoth).unwrap();
    let slot = both.slot(find(&both, StoreKind::Stm, "a")).unwrap();
    assert_eq!((slot.count, slot.energy), (2, 0.8));
    // Mean by energy times count: ⅓ of 0.1.
    assert!((slot.key[1] - 0.1 / 3.0).abs() < 1e-7, "{:?}", slot.key);
    assert!((slot.statistics.weighted_sum[1] - 0.04).abs() < 1e-7);
    assert_eq!((report.shared, report.merged), (0, 1));
}

#[test]
fn contradictions_are_listed_and_settled_as_asked() {
    // The younger is the left's: it has four ticks behind it, the right's nine.
    let left = told(&quiet(), &[(6, "The code is 4821.", EAST, 0.3), (10, "so", NORTH, 0.1)]);
    let right = told(&quiet(), &[(1, "The code is 1134.", EAST, 0.9), (10, "yes", NORTH, 0.1)]);
    let pair = |holds: &str, other: &str, ended| {
        let text = |code: &str| format!("The code is {code}.");
        vec![cart_memory::Contradiction { holds: text(holds), other: text(other), ended }]
    };
    let holding = |memory: &UnifiedMemory| {
        let slots = memory.slots().filter(|(_, slot)| slot.validity.holds(memory.now()));
        slots.filter(|(_, slot)| slot.value.text.starts_with("The")).count()
    };
    let (memory, report) = joined(&[&right, &left], OnContradiction::KeepBoth).unwrap();
    assert_eq!((report.contradictions, holding(&memory)), (pair("4821", "1134", false), 2));
    let (memory, report) = joined(&[&right, &left], OnContradiction::Newest).unwrap();
    assert_eq!((report.contradictions, holding(&memory)), (pair("4821", "1134", true), 1));
    let ended = memory.slot(find(&memory, StoreKind::Stm, "The code is 1134.")).unwrap();
    let heir = find(&memory, StoreKind::Stm, "The code is 4821.");
    assert_eq!(ended.validity.superseded_by, Some(heir.id));
    let (memory, report) = joined(&[&right, &left], OnContradiction::HighestEnergy).unwrap();
    assert_eq!((report.contradictions, holding(&memory)), (pair("1134", "4821", true), 1));
    let refused = joined(&[&right, &left], OnContradiction::Refuse).unwrap_err();
    assert!(matches!(refused, JoinError::Contradictions { count: 1, .. }), "{refused}");
    assert_eq!(
        refused.to_string(),
        "2 texts contradict each other, the first: `The code is 4821.` and `The code is 1134.`; say which hold with newest, highest-energy or keep-both"
    );
    // What one agent was told and told otherwise is its own affair.
    let corrected = told(
        &quiet(),
        &[(1, "The code is 4821.", EAST, 0.3), (2, "The code is 1134.", NORTH, 0.3)],
    );
    let (_, report) = joined(&[&corrected, &left], OnContradiction::Newest).unwrap();
    assert_eq!(report.contradictions, []);
}

#[test]
fn goals_are_averaged_by_steps_unless_they_point_away_from_each_other() {
    let config = MemoryConfig { goal_rate: 0.4, ..eager() };
    let east = told(&config, &[(1, "a", EAST, 0.9), (2, "b", EAST, 0.9)]);
    let north = told(&config, &[(1, "c", NORTH, 0.9)]);
    let (both, report) = joined(&[&east, &north], OnContradiction::Refuse).unwrap();
    assert!((report.goal_angle.unwrap() - 90.0).abs() < 1e-3 && !report.goals_conflict);
    let (steps, own) = (east.goal().steps() as f32, east.goal().vector()[0]);
    let share = steps / (steps + north.goal().steps() as f32);
    assert!((both.goal().vector()[0] - share * own).abs() < 1e-6);
    let west = told(&config, &[(1, "d", [-1.0, 0.1, 0.0], 0.9)]);
    let refused = joined(&[&east, &west], OnContradiction::Refuse).unwrap_err();
    assert!(matches!(refused, JoinError::Goals { .. }), "{refused}");
    let (both, report) = joined(&[&east, &west], OnContradiction::Newest).unwrap();
    assert!(report.goals_conflict && both.goal().vector() == east.goal().vector());
}

#[test]
fn links_of_a_common_past_count_once_and_others_add_up() {
    let config = MemoryConfig { graph: Some(GraphRules::default()), ..quiet() };
    let past = told(&config, &[(1, "a", EAST, 0.5), (2, "b", NORTH, 0.5)]);
    let link = |memory: &UnifiedMemory| {
        let ends = ["a", "b"].map(|text| find(memory, StoreKind::Stm, text).id);
        let mut links = memory.links();
        links.find(|link| [link.from, link.to] == ends).map(|link| link.strength)
    };
    let one = link(&past).unwrap();
    let mut later = past.clone();
    later.observe(3, &seen("c", &[0.0, 0.0, 1.0], 0.5)).unwrap();
    let (both, _) = joined(&[&past, &later], OnContradiction::KeepBoth).unwrap();
    assert_eq!(link(&both), Some(one));
    let other = told(&config, &[(4, "a", EAST, 0.5), (5, "b", NORTH, 0.5)]);
    let (both, _) = joined(&[&past, &other], OnContradiction::KeepBoth).unwrap();
    assert!((link(&both).unwrap() - 2.0 * one).abs() < 1e-6);
}

#[test]
fn stores_grow_and_memories_of_two_spaces_are_refused() {
    let config = MemoryConfig { stm_slots: 2, ..quiet() };
    let left = told(&config, &[(1, "a", EAST, 0.5), (2, "b", NORTH, 0.5)]);
    let right = told(&config, &[(1, "c", EAST, 0.5)]);
    let (both, report) = joined(&[&left, &right], OnContradiction::KeepBoth).unwrap();
    assert_eq!((both.config().stm_slots, report.grown.stm, report.grown.ltm), (3, 1, 0));
    assert_eq!(join(&[], OnContradiction::KeepBoth).unwrap_err(), JoinError::None);
    let normalization = cart_memory::Normalization::identity(3).unwrap();
    let other = cart_format::SpaceId::of(b"other");
    let foreign = UnifiedMemory::new(other, normalization, config).unwrap();
    let refused = join(&[&left, &foreign], OnContradiction::KeepBoth).unwrap_err();
    assert!(matches!(refused, JoinError::Space(_)));
}
