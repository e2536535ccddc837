//! Safetensors files, written the way that generic tools write them, independently of our own code.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A tensor as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// Its type, in the words of safetensors: `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// A tensor of `f32`.
    pub fn f32(name: &str, shape: &[u64], bytes: Vec<u8>) -> Self {
        assert_eq!(shape.iter().product::<u64>() * 4, bytes.len() as u64);
        Self { name: name.to_owned(), dtype: "F32".to_owned(), shape: shape.to_vec(), bytes }
    }
}

/// A file with these tensors in this order, and a header padded to 8 bytes with spaces.
pub fn safetensors_bytes(tensors: &[RawTensor], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let texts: BTreeMap<_, _> = metadata.iter().copied().collect();
        header.insert("__metadata__".to_owned(), json!(texts));
    }
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] }),
        );
    }
    let mut header = Value::Object(header);
    header.sort_all_objects();
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(tensors.iter().flat_map(|tensor| &tensor.bytes));
    file
}

/// The tensors of a file, in the order of their bytes, and its metadata.
pub fn read_safetensors(file: &[u8]) -> (Vec<RawTensor>, BTreeMap<String, String>) {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            metadata = serde_json::from_value(entry).unwrap();
            continue;
        }
        let offsets: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone()).unwrap();
        let dtype = entry["dtype"].as_str().unwrap().to_owned();
        let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
        let bytes = data[offsets[0]..offsets[1]].to_vec();
        tensors.push((offsets, RawTensor { name, dtype, shape, bytes }));
    }
    tensors.sort_by_key(|(offsets, _)| *offsets);
    (tensors.into_iter().map(|(_, tensor)| tensor).collect(), metadata)
}
