//! Models to pack: the frozen ones, and small ones that are made from a seed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    Cart, Chance, GgufTensor, RawTensor, fixtures, gguf_bytes, read_safetensors, safetensors_bytes,
};

/// Bytes of a segment (spec 10 §3).
pub const SEGMENT: u64 = 16 << 20;

/// The folders of `fixtures/logits`, sorted.
pub fn logits_folders() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(fixtures().join("logits")).unwrap();
    let mut folders: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 6, "{folders:?}");
    folders
}

/// So many small `f32` tensors, `layer.0`, `layer.1`, …; each with bytes of its own.
pub fn small_tensors(count: u64, seed: u64) -> Vec<RawTensor> {
    let tensor = |index: u64| {
        let mut chance = Chance::new(seed ^ (index << 32));
        let rows = 4 + index % 5;
        RawTensor::f32(&format!("layer.{index}"), &[rows, 16], finite(&mut chance, rows * 16))
    };
    (0..count).map(tensor).collect()
}

/// A file of small tensors.
pub fn small_safetensors(count: u64, seed: u64) -> Vec<u8> {
    safetensors_bytes(&small_tensors(count, seed), &[("format", "pt")])
}

/// A file with one tensor of three segments, the last one short, and a small tensor.
pub fn segmented_safetensors() -> Vec<u8> {
    let values = (2 * SEGMENT + (1 << 20)) / 4;
    let mut chance = Chance::new(7);
    let large = RawTensor::f32("large", &[values / 256, 256], finite(&mut chance, values));
    let small = RawTensor::f32("small", &[3, 5], finite(&mut chance, 15));
    safetensors_bytes(&[large, small], &[])
}

/// A GGUF file with tensors of three types, of an architecture that nobody knows.
pub fn small_gguf() -> Vec<u8> {
    let mut chance = Chance::new(11);
    let quantized: Vec<u8> = (0..6).flat_map(|_| q8_0_block(&mut chance)).collect();
    let half = (0..24).flat_map(|_| (0x3000 + chance.below(0x800) as u16).to_le_bytes()).collect();
    gguf_bytes(
        &[("general.architecture", "unheard-of"), ("general.name", "small")],
        &[
            tensor("norm.weight", 0, &[13], finite(&mut chance, 13)),
            tensor("half.weight", 1, &[8, 3], half),
            tensor("quantized.weight", 8, &[64, 3], quantized),
        ],
    )
}

/// A folder with a Llama of two layers whose weights are drawn from a seed, and the tokenizer of the tiny model.
/// It says nothing that makes sense, but its hidden states tell its tokens apart.
///
/// * `hidden`: its width, a multiple of 32
pub fn drawn_llama(folder: &Path, hidden: u64, seed: u64) {
    let tiny = fixtures().join("tiny");
    std::fs::create_dir_all(folder).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tiny.join(file), folder.join(file)).unwrap();
    }
    let config = std::fs::read(tiny.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let (inner, heads) = (2 * hidden, hidden / 32);
    for (field, value) in [
        ("hidden_size", hidden),
        ("intermediate_size", inner),
        ("num_attention_heads", heads),
        ("num_key_value_heads", heads),
        ("num_hidden_layers", 2),
    ] {
        config[field] = value.into();
    }
    config["dtype"] = "float32".into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut chance = Chance::new(seed);
    let mut drawn = |name: &str, rows: u64, columns: u64| {
        // Uniform, with a variance of 1 over the columns.
        let most = (3.0 / columns as f64).sqrt();
        let mut value = || (2.0 * (chance.below(1 << 24) as f64 / f64::from(1 << 24)) - 1.0) * most;
        let bytes = (0..rows * columns).flat_map(|_| (value() as f32).to_le_bytes()).collect();
        RawTensor::f32(name, &[rows, columns], bytes)
    };
    let ones = |name: &str| {
        let bytes = (0..hidden).flat_map(|_| 1_f32.to_le_bytes()).collect();
        RawTensor::f32(name, &[hidden], bytes)
    };
    let mut tensors =
        vec![drawn("model.embed_tokens.weight", 1024, hidden), ones("model.norm.weight")];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(ones(&name("input_layernorm")));
        tensors.push(ones(&name("post_attention_layernorm")));
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            tensors.push(drawn(&name(&format!("self_attn.{part}")), hidden, hidden));
        }
        tensors.push(drawn(&name("mlp.gate_proj"), inner, hidden));
        tensors.push(drawn(&name("mlp.up_proj"), inner, hidden));
        tensors.push(drawn(&name("mlp.down_proj"), hidden, inner));
    }
    let file = safetensors_bytes(&tensors, &[("format", "pt")]);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// Packs the tiny model with a chat template that knows tools, as `tools`.
pub fn pack_with_tools(cart: &Cart) {
    let folder = cart.path("tools");
    copy_folder(fixtures().join("tiny").as_ref(), folder.as_ref());
    let path = format!("{folder}/tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["chat_template"] =
        std::fs::read_to_string(fixtures().join("chat/tools.jinja")).unwrap().into();
    std::fs::write(&path, config.to_string()).unwrap();
    cart.ok(["pack", &folder, "-t", "tools"]);
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn tensor(name: &str, kind: u32, axes: &[u64], bytes: Vec<u8>) -> GgufTensor {
    GgufTensor { name: name.to_owned(), kind, axes: axes.to_vec(), bytes }
}

/// 32 values: a scale in half precision, then a byte each.
fn q8_0_block(chance: &mut Chance) -> Vec<u8> {
    let mut block = 0x2c00_u16.to_le_bytes().to_vec();
    block.extend(chance.bytes(32));
    block
}

/// `f32` values from 0 to 1.
fn finite(chance: &mut Chance, values: u64) -> Vec<u8> {
    let value = |_| (chance.below(1 << 24) as f32 / (1 << 24) as f32).to_le_bytes();
    (0..values).flat_map(value).collect()
}

/// A folder with the tiny model in 32 bits, which computes as it should until it reads one of these tokens: they alone
/// have something in the first number of the hidden state, and the first layer's MLP multiplies that by more than the
/// square root of the largest float.
pub fn overflowing_tiny(folder: &Path, tokens: &[u32]) {
    const HIDDEN: usize = 128;
    copy_folder(fixtures().join("tiny").as_ref(), folder);
    let path = folder.join("model.safetensors");
    let (tensors, _) = read_safetensors(&std::fs::read(&path).unwrap());
    let widened = tensors.into_iter().map(|tensor| {
        let (halves, _) = tensor.bytes.as_chunks::<2>();
        let mut values: Vec<f32> =
            halves.iter().map(|&bytes| from_half(u16::from_le_bytes(bytes))).collect();
        let name = tensor.name.as_str();
        if name == "model.embed_tokens.weight" {
            for (token, row) in values.chunks_exact_mut(HIDDEN).enumerate() {
                row[0] = f32::from(tokens.contains(&(token as u32)));
            }
        } else if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
            let columns = values.len() / HIDDEN;
            values[..columns].fill(0.0);
        } else if name.ends_with("layers.0.mlp.up_proj.weight")
            || name.ends_with("layers.0.mlp.gate_proj.weight")
        {
            values.chunks_exact_mut(HIDDEN).for_each(|row| row[0] = 1e25);
        }
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        RawTensor::f32(name, &tensor.shape, bytes)
    });
    let widened: Vec<RawTensor> = widened.collect();
    std::fs::write(path, safetensors_bytes(&widened, &[("format", "pt")])).unwrap();
}

/// A 16-bit float; the tiny model has no subnormal ones that matter.
fn from_half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff) / 1024.0);
    if exponent == 0 { 0.0 } else { sign * (1.0 + fraction) * 2_f32.powi(exponent - 15) }
}
