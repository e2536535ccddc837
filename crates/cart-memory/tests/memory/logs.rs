//! Logs: replay gives the same bits, a cut opens to the last whole record, an edit is noticed.

use cart_memory::config::StoreRules;
use cart_memory::log::{LogError, LogStatistics, LogWriter, MemoryLog};
use cart_memory::trace::Trace;
use cart_memory::{Input, MemoryConfig, Observation, UnifiedMemory};
use proptest::prelude::*;

use crate::given::{eager, memory, quiet, seen};

/// The log of a trace, and the memory that the trace leads to.
fn logged(name: &str, operations: usize) -> (Vec<u8>, UnifiedMemory) {
    let path = format!("{}/../../fixtures/memory/{name}.trace.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut trace = Trace::open(&text).unwrap();
    let start = trace.memory();
    let (mut writer, mut bytes) =
        LogWriter::begin(start.space(), start.normalization(), start.config()).unwrap();
    for _ in 0..operations {
        let Some(step) = trace.step().unwrap() else { break };
        bytes.extend(writer.record(&step.input, &step.outcome).unwrap());
    }
    (bytes, trace.memory().clone())
}

#[test]
fn replaying_a_log_rebuilds_the_memory_bit_for_bit() {
    for name in ["stm", "ltm", "observer", "goal", "store", "graph", "validity"] {
        let (bytes, memory) = logged(name, 1000);
        let log = MemoryLog::open(&bytes).unwrap();
        assert_eq!((log.records.len(), log.whole_bytes), (1000, bytes.len()));
        let replayed = UnifiedMemory::replay(&log, None).unwrap();
        assert_eq!(replayed.snapshot(), memory.snapshot(), "{name}");
        assert_eq!(replayed.snapshot().id(), memory.snapshot().id());
        // What follows is the same as well: nothing that counts lies outside of the snapshot.
        let restored = UnifiedMemory::restore(&memory.snapshot()).unwrap();
        assert_eq!(restored.snapshot(), memory.snapshot());
    }
}

#[test]
fn a_log_cut_at_any_byte_opens_to_its_last_whole_record() {
    let (bytes, _) = logged("graph", 30);
    let mut last = 0;
    for end in 0..bytes.len() {
        match MemoryLog::open(&bytes[..end]) {
            Ok(log) => {
                assert!(log.whole_bytes <= end && log.records.len() >= last);
                let again = MemoryLog::open(&bytes[..log.whole_bytes]).unwrap();
                assert_eq!(again.records, log.records);
                last = log.records.len();
            }
            Err(LogError::NoHead { .. }) => assert_eq!(last, 0),
            Err(other) => panic!("cut at {end}: {other}"),
        }
    }
    assert_eq!(last, 29);
}

#[test]
fn a_byte_that_was_changed_anywhere_is_noticed() {
    let (bytes, _) = logged("graph", 12);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let refused = MemoryLog::open(&changed);
        assert!(matches!(refused, Err(LogError::Edited { .. } | LogError::Magic)), "byte {at}");
    }
}

#[test]
fn what_comes_before_an_edit_can_be_replayed() {
    let (mut bytes, _) = logged("graph", 12);
    let (_, fifth) = logged("graph", 5);
    let (five, _) = logged("graph", 5);
    bytes[five.len() + 20] ^= 1;
    let refused = MemoryLog::open(&bytes).unwrap_err();
    assert_eq!(refused.operations_before(), Some(5));
    assert!(
        refused.to_string().contains("the 5 operations before it can be replayed"),
        "{refused}"
    );
    let log = MemoryLog::open_first(&bytes, 5).unwrap();
    assert_eq!(UnifiedMemory::replay(&log, None).unwrap().snapshot(), fifth.snapshot());
    assert!(MemoryLog::open_first(&bytes, 6).is_err());
    // Where the head itself was changed there is nothing.
    bytes[14] ^= 1;
    assert_eq!(MemoryLog::open(&bytes).unwrap_err().operations_before(), None);
}

#[test]
fn a_surprise_beyond_what_f32_holds_is_replayed() {
    let store = Some(StoreRules::default());
    let config = MemoryConfig { store, surprise_prior_deviation: 1e-6, ..quiet() };
    let mut memory = memory(2, config);
    let (mut writer, mut bytes) =
        LogWriter::begin(memory.space(), memory.normalization(), memory.config()).unwrap();
    for (at, nats) in [(1, f32::MAX), (2, 0.0), (3, f32::MAX)] {
        let seen = Observation { surprise: vec![nats], ..seen("a", &[1.0, 0.0], 0.5) };
        let input = Input::Observe { at, seen };
        let outcome = memory.apply(&input).unwrap();
        bytes.extend(writer.record(&input, &outcome).unwrap());
    }
    let log = MemoryLog::open(&bytes).unwrap();
    let replayed = UnifiedMemory::replay(&log, None).unwrap();
    assert_eq!(replayed.snapshot(), memory.snapshot());
}

#[test]
fn a_log_goes_on_after_a_cut_and_from_a_memory() {
    let (bytes, _) = logged("ltm", 50);
    let log = MemoryLog::open(&bytes[..bytes.len() - 1]).unwrap();
    let mut memory = UnifiedMemory::replay(&log, None).unwrap();
    let mut all = bytes[..log.whole_bytes].to_vec();
    let input = Input::Advance { at: memory.now() + 3 };
    let outcome = memory.apply(&input).unwrap();
    all.extend(log.resume().record(&input, &outcome).unwrap());
    let on = MemoryLog::open(&all).unwrap();
    assert_eq!(UnifiedMemory::replay(&on, None).unwrap().snapshot(), memory.snapshot());

    let base = memory.clone();
    let (mut writer, mut bytes) = LogWriter::continuing(&base).unwrap();
    let input = Input::Recall { at: memory.now() + 1, query: vec![1.0; 8], k: 2 };
    let outcome = memory.apply(&input).unwrap();
    bytes.extend(writer.record(&input, &outcome).unwrap());
    let log = MemoryLog::open(&bytes).unwrap();
    assert_eq!(log.digest, writer.digest());
    let replayed = UnifiedMemory::replay(&log, Some(&base)).unwrap();
    assert_eq!(replayed.snapshot().id(), memory.snapshot().id());
    assert!(matches!(UnifiedMemory::replay(&log, None), Err(LogError::Base { found: None, .. })));
    assert!(matches!(UnifiedMemory::replay(&log, Some(&memory)), Err(LogError::Base { .. })));
}

#[test]
fn other_decisions_and_refused_inputs_are_named() {
    let write = |config: &MemoryConfig, input: &Input, told: &Input| {
        let mut memory = memory(2, config.clone());
        let (mut writer, mut bytes) =
            LogWriter::begin(memory.space(), memory.normalization(), memory.config()).unwrap();
        let outcome = memory.apply(input).unwrap();
        bytes.extend(writer.record(told, &outcome).unwrap());
        MemoryLog::open(&bytes).unwrap()
    };
    let observe = |at, energy| Input::Observe { at, seen: seen("a", &[1.0, 0.0], energy) };
    let log = write(&quiet(), &observe(3, 0.5), &observe(3, 0.25));
    let refused = UnifiedMemory::replay(&log, None).unwrap_err();
    assert!(matches!(refused, LogError::OtherDecisions { record: 0, op: "observe" }), "{refused}");
    let log = write(&quiet(), &observe(3, 0.5), &observe(3, 1.5));
    let refused = UnifiedMemory::replay(&log, None).unwrap_err();
    assert!(refused.to_string().starts_with("record 0 (observe) is refused: energy is 1.5"));
}

#[test]
fn statistics_by_hand() {
    let mut memory = memory(2, MemoryConfig { stm_slots: 1, ..eager() });
    let (mut writer, mut bytes) =
        LogWriter::begin(memory.space(), memory.normalization(), memory.config()).unwrap();
    let inputs = [
        // What takes no time does not begin the count of ticks.
        Input::Novelty { query: vec![1.0, 0.0] },
        Input::Observe { at: 1, seen: seen("a", &[1.0, 0.0], 1.0) },
        Input::Observe { at: 2, seen: seen("a", &[1.0, 0.0], 0.5) },
        Input::Observe { at: 5, seen: seen("b", &[0.0, 1.0], 0.2) },
        Input::Recall { at: 8, query: vec![1.0, 1.0], k: 3 },
    ];
    for input in &inputs {
        let outcome = memory.apply(input).unwrap();
        bytes.extend(writer.record(input, &outcome).unwrap());
    }
    let log = MemoryLog::open(&bytes).unwrap();
    let statistics = LogStatistics::of(&log.records);
    assert_eq!((statistics.records, statistics.ticks), (5, (1, 8)));
    // `a` was added at 1 and consolidated; it left the ring at 5. `b` is 3 old.
    assert_eq!((statistics.stm.lifetimes, statistics.stm.ages), (vec![4], vec![3]));
    assert_eq!((statistics.ltm.lifetimes, statistics.ltm.ages), (vec![], vec![7]));
    assert_eq!(statistics.writes.observations, 3);
    assert!((statistics.writes.per_tick - 3.0 / 8.0).abs() < 1e-12);
    assert!((statistics.writes.blended - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(statistics.energy_curve, [(1, 1.0), (2, 0.95), (5, 0.2)]);
    assert_eq!((statistics.reads.reads, statistics.reads.slots), (1, 2));
    assert!(statistics.reads.entropy > 0.1 && statistics.reads.entropy < 0.7);
    assert_eq!(statistics.goal.len(), 1);
}

proptest! {
    #[test]
    fn any_floats_survive_a_log(key in prop::collection::vec(-1e30_f32..1e30, 3), energy in 0.0_f32..=1.0) {
        prop_assume!(key.iter().any(|&value| value != 0.0));
        let mut memory = memory(3, quiet());
        let (mut writer, mut bytes) =
            LogWriter::begin(memory.space(), memory.normalization(), memory.config()).unwrap();
        let input = Input::Observe { at: 1, seen: seen("x", &key, energy) };
        if let Ok(outcome) = memory.apply(&input) {
            bytes.extend(writer.record(&input, &outcome).unwrap());
            let log = MemoryLog::open(&bytes).unwrap();
            prop_assert_eq!(&log.records[0].input, &input);
            let replayed = UnifiedMemory::replay(&log, None).unwrap();
            prop_assert_eq!(replayed.snapshot(), memory.snapshot());
        }
    }
}
