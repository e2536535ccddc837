//! One long-term memory, many conversations.

use cart_memory::config::{ContradictionPolicy, ContradictionRules};
use cart_memory::{
    MemoryConfig, MemoryEvent, Offered, Settlement, SlotRecord, StoreKind, UnifiedMemory,
};

use crate::given::{eager, find, memory, quiet, seen, spanned, texts};

/// Lets a conversation say something that it will offer at once.
fn say(conversation: &mut UnifiedMemory, text: &str, key: &[f32]) -> Vec<Offered> {
    let at = conversation.now() + 1;
    let rows: Vec<&[f32]> = text.bytes().map(|_| key).collect();
    conversation.observe(at, &spanned(text, key, &rows)).unwrap();
    conversation.take_offers()
}

/// Takes an offer, and lets the conversation hear of it.
fn take(shared: &mut UnifiedMemory, from: &mut UnifiedMemory, offered: &Offered) -> Settlement {
    let (settlement, _) = shared.accept(offered).unwrap();
    from.adopt(shared);
    from.settled(offered.from, settlement);
    settlement
}

#[test]
fn what_one_conversation_consolidates_the_others_recall() {
    let mut shared = memory(4, eager());
    let (mut anna, mut ben) = (shared.conversation(), shared.conversation());
    let offers = say(&mut anna, "the boat is red", &[1.0, 0.0, 0.0, 0.0]);
    assert_eq!(offers.len(), 1);
    assert_eq!(texts(&anna, StoreKind::Ltm), [""; 0]);
    let Settlement::Inserted { into } = take(&mut shared, &mut anna, &offers[0]) else { panic!() };
    assert_eq!(texts(&anna, StoreKind::Ltm), ["the boat is red"]);
    let kept = anna.slot(find(&anna, StoreKind::Stm, "the boat is red")).unwrap();
    assert_eq!(kept.consolidation.unwrap().into, Some(into));
    assert_eq!(kept.statistics.count, 0);

    assert!(!ben.has_adopted(&shared));
    ben.adopt(&shared);
    let recalled = ben.recall(3, &[0.9, 0.1, 0.0, 0.0], 1).unwrap();
    assert_eq!(recalled[0].text, "the boat is red");
    assert_eq!(recalled[0].slot.id, into);
    // The read is told, not written into what is shared.
    assert_eq!(ben.take_reads(), [into]);
    assert!(ben.has_adopted(&shared));
    let offers = say(&mut ben, "the boat is red", &[1.0, 0.0, 0.0, 0.0]);
    assert!(matches!(take(&mut shared, &mut ben, &offers[0]), Settlement::Merged { .. }));
    let entry = shared.slot(find(&shared, StoreKind::Ltm, "the boat is red")).unwrap();
    assert_eq!((entry.count, entry.statistics.count, entry.statistics.weight), (2, 2, 2.0));
}

#[test]
fn a_conversation_changes_nothing_that_is_shared() {
    let config = MemoryConfig { ltm_slots: 2, ..eager() };
    let mut shared = memory(2, config);
    let mut anna = shared.conversation();
    for (text, key) in [("one", [1.0, 0.0]), ("two", [0.0, 1.0])] {
        let offers = say(&mut anna, text, &key);
        take(&mut shared, &mut anna, &offers[0]);
    }
    let before = shared.snapshot().id();
    for tick in 0..50_u8 {
        say(&mut anna, &format!("more {tick}"), &[1.0, f32::from(tick)]);
        anna.recall(anna.now(), &[1.0, 0.5], 8).unwrap();
    }
    anna.part();
    assert_eq!(shared.snapshot().id(), before);
    assert_eq!(texts(&anna, StoreKind::Ltm), ["one", "two"]);
}

#[test]
fn an_offer_that_is_not_taken_gives_its_sums_back() {
    let mut shared = memory(2, MemoryConfig { ltm_slots: 1, ..eager() });
    let mut anna = shared.conversation();
    let offers = say(&mut anna, "dear", &[1.0, 0.0]);
    take(&mut shared, &mut anna, &offers[0]);
    anna.observe(anna.now() + 1, &seen("cheap", &[0.0, 1.0], 0.7)).unwrap();
    let offers = anna.take_offers();
    let cheap = find(&anna, StoreKind::Stm, "cheap");
    assert_eq!(anna.slot(cheap).unwrap().statistics.count, 0);
    assert_eq!(take(&mut shared, &mut anna, &offers[0]), Settlement::Outranked);
    let slot = anna.slot(cheap).unwrap();
    assert_eq!((slot.statistics.count, slot.statistics.weight), (1, f64::from(0.7_f32)));
}

#[test]
fn what_waits_for_its_commit_is_offered_once() {
    let shared = memory(2, MemoryConfig { stm_slots: 1, ..eager() });
    let mut anna = shared.conversation();
    assert_eq!(say(&mut anna, "first", &[1.0, 0.0]).len(), 1);
    // It leaves the ring before anybody has heard of a commit.
    let offers = say(&mut anna, "second", &[0.0, 1.0]);
    assert_eq!(offers.iter().map(Offered::text).collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_conversation_that_ends_offers_what_is_worth_it() {
    let shared = memory(2, quiet());
    let mut anna = shared.conversation();
    anna.observe(1, &seen("dear", &[1.0, 0.0], 0.9)).unwrap();
    anna.observe(2, &seen("cheap", &[0.0, 1.0], 0.1)).unwrap();
    assert!(anna.take_offers().is_empty());
    let events = anna.part();
    assert!(matches!(events[0], MemoryEvent::Offered { .. }), "{events:?}");
    let offers = anna.take_offers();
    assert_eq!(offers.iter().map(Offered::text).collect::<Vec<_>>(), ["dear"]);
    assert!(anna.part().is_empty());
}

#[test]
fn a_correction_ends_what_it_contradicts_for_all() {
    let contradictions =
        Some(ContradictionRules { policy: ContradictionPolicy::Newest, cosine: 0.9 });
    let mut shared = memory(2, MemoryConfig { contradictions, ..quiet() });
    let (mut anna, mut ben) = (shared.conversation(), shared.conversation());
    anna.observe(1, &seen("it is red", &[1.0, 0.0], 0.9)).unwrap();
    anna.part();
    let offers = anna.take_offers();
    take(&mut shared, &mut anna, &offers[0]);
    ben.adopt(&shared);
    ben.observe(1, &seen("it is blue", &[1.0, 0.05], 0.2)).unwrap();
    // Worth little, but it corrects: the others have to hear of it.
    let offers = ben.take_offers();
    assert_eq!(offers.iter().map(Offered::text).collect::<Vec<_>>(), ["it is blue"]);
    let said = |memory: &mut UnifiedMemory| {
        memory.recall(memory.now(), &[1.0, 0.0], 1).unwrap()[0].text.clone()
    };
    assert_eq!(said(&mut ben), "it is blue");
    take(&mut shared, &mut ben, &offers[0]);
    anna.adopt(&shared);
    assert_eq!(texts(&anna, StoreKind::Ltm), ["it is blue"]);
}

#[test]
fn an_offer_that_was_written_down_is_the_same() {
    let shared = memory(3, MemoryConfig { goal_vectors: 2, ..eager() });
    let mut anna = shared.conversation();
    let offers = say(&mut anna, "a boat\u{0} with rows", &[0.5, -0.25, 0.125]);
    let record = offers[0].record();
    let back = Offered::from_record(&shared, offers[0].from, offers[0].cause, &record).unwrap();
    assert_eq!(back, offers[0]);

    let refused = |change: &dyn Fn(&mut SlotRecord)| {
        let mut record = record.clone();
        change(&mut record);
        Offered::from_record(&shared, offers[0].from, offers[0].cause, &record).unwrap_err();
    };
    refused(&|record| record.key[1] = f32::NAN);
    refused(&|record| record.key.push(1.0));
    refused(&|record| record.key.fill(0.0));
    refused(&|record| record.key_sums[0] = f64::INFINITY);
    refused(&|record| record.token_keys.truncate(5));
    refused(&|record| record.token_norms[0] = -1.0);
    refused(&|record| record.state["energy"] = 1.5.into());
    refused(&|record| record.state["unknown"] = 1.into());
}

#[test]
fn head_and_records_are_the_long_term_memory() {
    let mut shared = memory(3, MemoryConfig { ltm_slots: 4, ..eager() });
    let mut anna = shared.conversation();
    let mut copy = UnifiedMemory::from_records(&shared.long_term_head(), &[]).unwrap();
    for turn in 0..12_u8 {
        let angle = f32::from(turn);
        let text = format!("thing {}", turn % 7);
        let offers = say(&mut anna, &text, &[angle.cos(), angle.sin(), 0.25]);
        let before = shared.clone();
        for offered in &offers {
            take(&mut shared, &mut anna, offered);
        }
        shared.note_reads(&[find(&shared, StoreKind::Ltm, &text).id]);
        let changes = shared.long_term_changes(&before);
        assert!((1..=2).contains(&changes.len()), "{}", changes.len());
        copy.take_changes(&shared.long_term_head(), &changes).unwrap();
        assert_eq!(copy.snapshot().id(), shared.snapshot().id());
    }
    let whole =
        UnifiedMemory::from_records(&shared.long_term_head(), &shared.long_term_records()).unwrap();
    assert_eq!(whole.snapshot().id(), shared.snapshot().id());
    let mut twice = shared.long_term_records();
    twice[1].position = twice[0].position;
    UnifiedMemory::from_records(&shared.long_term_head(), &twice).unwrap_err();
}
