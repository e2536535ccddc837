//! A memory that a program of version 1 saved is read for ever, and saves as the same bytes.

use cart_format::DType;
use cart_memory::{MemorySnapshot, MemoryTensor, UnifiedMemory};
use serde_json::Value;

/// The memory of a session of the small model in `fixtures/tiny`, saved before there was a version 2.
fn version_1() -> MemorySnapshot {
    let path = format!("{}/../../fixtures/memory/v1.json", env!("CARGO_MANIFEST_DIR"));
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tensors = saved["tensors"].as_array().unwrap().iter().map(tensor).collect();
    MemorySnapshot {
        space: serde_json::from_value(saved["space"].clone()).unwrap(),
        dim: saved["dim"].as_u64().unwrap(),
        state: saved["state"].clone(),
        tensors,
    }
}

/// A tensor whose rows are hexadecimal, without the zeros at their ends.
fn tensor(saved: &Value) -> MemoryTensor {
    let dtype: DType = serde_json::from_value(saved["dtype"].clone()).unwrap();
    let shape: Vec<u64> = serde_json::from_value(saved["shape"].clone()).unwrap();
    let row = shape[1..].iter().product::<u64>() * dtype.block_bytes();
    let bytes = saved["rows"].as_array().unwrap().iter().flat_map(|hex| {
        let hex = hex.as_str().unwrap().as_bytes();
        let digits = hex.as_chunks::<2>().0.iter();
        let mut bytes: Vec<u8> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        bytes.resize(row as usize, 0);
        bytes
    });
    MemoryTensor {
        name: saved["name"].as_str().unwrap().to_owned(),
        bytes: bytes.collect(),
        rows_per_block: saved["rows_per_block"].as_u64().unwrap(),
        dtype,
        shape,
    }
}

#[test]
fn a_memory_of_version_1_is_read_and_saves_as_the_same_bytes() {
    let saved = version_1();
    assert_eq!(saved.state["version"], 1);
    let mut memory = UnifiedMemory::restore(&saved).unwrap();
    // By canonical bytes: a document writes 3, where a memory has 3.0.
    assert_eq!(memory.snapshot().id(), saved.id());
    let key = memory.slots().next().unwrap().1.key.clone();
    let hits = memory.recall(memory.now() + 1, &key, 3).unwrap();
    let known = hits.iter().find(|hit| hit.text.contains("4821")).unwrap();
    assert!(known.cosine > 0.999, "{hits:?}");
    // What version 1 knew is still all that it says.
    assert_eq!(memory.snapshot().state["version"], 1);
}
