use cart_format::SpaceId;

use super::*;
use crate::config::MergeRule;
use crate::seeded::Seeded;
use crate::{MemoryConfig, Normalization, Observation, SlotId};

const DIM: usize = 48;

/// A long-term memory of this many entries around a few hundred directions, of which one in ten says
/// what another one says.
fn filled(entries: u32, search: SearchRule) -> (UnifiedMemory, Seeded) {
    let config = MemoryConfig {
        ltm_slots: entries,
        novelty_threshold: 1.0,
        merge: MergeRule::SameValue,
        search,
        ..MemoryConfig::default()
    };
    let normalization = Normalization::identity(DIM).unwrap();
    let mut memory = UnifiedMemory::new(SpaceId::of(b"s"), normalization, config).unwrap();
    let mut chance = Seeded::new(u64::from(entries));
    let centres: Vec<Vec<f32>> = (0..200).map(|_| direction(&mut chance, None)).collect();
    for index in 0..entries {
        let centre = &centres[chance.below(centres.len())];
        let twin = if index % 10 == 9 { chance.below(index as usize) as u32 } else { index };
        let seen = Observation {
            key: direction(&mut chance, Some(centre)),
            token_keys: Vec::new(),
            token_ids: vec![twin],
            text: if twin % 3 == 0 { String::new() } else { format!("text {twin}") },
            surprise: Vec::new(),
            energy: 1.0,
            source: String::new(),
        };
        let offered = Seen { seen, energy: 0.3 + 0.7 * (chance.below(1000) as f32 / 1000.0) };
        offered.put_into(&mut memory, index);
    }
    (memory, chance)
}

struct Seen {
    seen: Observation,
    energy: f32,
}

impl Seen {
    /// Straight into long-term memory, as a snapshot that is restored puts it there.
    fn put_into(self, memory: &mut UnifiedMemory, index: u32) {
        let unit = memory.normalization.unit("key", &self.seen.key).unwrap();
        let seen = Observation { energy: self.energy, ..self.seen };
        let mut other =
            UnifiedMemory::new(memory.space, memory.normalization.clone(), MemoryConfig::default())
                .unwrap();
        other.observe(0, &seen).unwrap();
        let mut slot = other.stm.slot(0).clone();
        slot.id = SlotId(u64::from(index));
        memory.next_slot = u64::from(index) + 1;
        let position = memory.ltm.free_position().unwrap();
        memory.ltm.place(position, slot, &unit);
    }
}

fn direction(chance: &mut Seeded, near: Option<&[f32]>) -> Vec<f32> {
    let mut value = |index: usize| {
        let noise = chance.normal() as f32;
        near.map_or(noise, |near| near[index] + 0.7 * noise)
    };
    (0..DIM).map(&mut value).collect()
}

fn query(memory: &UnifiedMemory, chance: &mut Seeded) -> Vec<f32> {
    let place = chance.below(memory.ltm.len());
    let key = memory.ltm.iter().nth(place).unwrap().1.key.clone();
    memory.normalization.unit("query", &direction(chance, Some(&key))).unwrap()
}

/// What looking at everything finds.
fn everything(memory: &UnifiedMemory, unit: &[f32], order: Order, top_k: usize) -> Vec<Recalled> {
    best_of(memory.all(unit, order), top_k)
}

const BOTH: [StoreKind; 2] = [StoreKind::Stm, StoreKind::Ltm];

#[test]
fn a_large_store_is_searched_as_if_everything_were_looked_at() {
    let (mut memory, mut chance) = filled(5000, SearchRule::Quick);
    assert!(memory.ltm.is_large());
    for round in 0..60 {
        // Entries leave, end, change their gates and come back.
        let positions: Vec<usize> = memory.ltm.iter().map(|(position, _)| position).collect();
        let one = positions[chance.below(positions.len())];
        match round % 4 {
            0 => drop(memory.ltm.remove(one)),
            1 => memory.ltm.slot_mut(one).validity.until = Some(round),
            2 => memory.ltm.slot_mut(one).gate = 3.0,
            _ => memory.ltm.change_all(|slot| slot.energy *= 0.99),
        }
        memory.now = round;
        let unit = query(&memory, &mut chance);
        for top_k in [1, 10, 300] {
            for order in [Order::Worth(round), Order::Cosine(round)] {
                let found = memory.best(&unit, order, &BOTH, top_k);
                assert_eq!(found, everything(&memory, &unit, order, top_k), "round {round}");
            }
        }
    }
}

#[test]
fn searches_that_no_bound_helps_look_at_everything() {
    let (mut memory, mut chance) = filled(3000, SearchRule::Quick);
    let unit = query(&memory, &mut chance);
    let order = Order::Worth(0);
    let all = memory.best(&unit, order, &BOTH, 4000);
    assert_eq!(all, everything(&memory, &unit, order, 4000));
    assert!(all.iter().any(|hit| !hit.also.is_empty()));
    // Nothing is worth anything: the lowest ids come first.
    memory.ltm.change_all(|slot| slot.energy = 0.0);
    assert_eq!(memory.best(&unit, order, &BOTH, 5), everything(&memory, &unit, order, 5));
    assert_eq!(memory.best(&unit, order, &BOTH, 0), []);
    // Everything says the same.
    memory.ltm.change_all(|slot| slot.value.text = "one".to_owned());
    let one = memory.best(&unit, order, &BOTH, 5);
    assert_eq!((one.len(), one[0].also.len()), (1, 2999));
    assert_eq!(one, everything(&memory, &unit, order, 5));
}

#[test]
fn a_quick_search_finds_what_it_promises_and_depends_on_nothing_but_what_is_there() {
    let (mut memory, mut chance) = filled(70_000, SearchRule::Quick);
    let order = Order::Worth(0);
    let (mut found, mut asked) = (0, 0);
    // What was there before does not matter.
    let other = memory.clone();
    for position in 0..500 {
        let slot = memory.ltm.remove(position * 7);
        let unit = memory.normalization.unit("key", &slot.key).unwrap();
        memory.ltm.place(position * 7, slot, &unit);
    }
    for _ in 0..100 {
        let unit = query(&memory, &mut chance);
        let quick = memory.best(&unit, order, &BOTH, 10);
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let on = |threads| pool(threads).install(|| other.best(&unit, order, &BOTH, 10));
        assert_eq!((on(1), on(3)), (quick.clone(), quick.clone()));
        let exact = everything(&memory, &unit, order, 10);
        memory.config.search = SearchRule::Exact;
        assert_eq!(memory.best(&unit, order, &BOTH, 10), exact);
        memory.config.search = SearchRule::Quick;
        asked += exact.len();
        found += exact.iter().filter(|hit| quick.iter().any(|one| one.slot == hit.slot)).count();
        // What is found has its exact score.
        assert!(quick.iter().filter(|hit| exact.contains(hit)).count() > 0);
    }
    assert!(found * 100 >= asked * 95, "{found} of {asked}");
}
