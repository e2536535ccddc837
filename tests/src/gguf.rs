//! GGUF files, written from the format's description, independently of our own code.

/// A tensor as a file has it.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// The number of its type: 0 for `f32`, 1 for `f16`, 8 for `q8_0`.
    pub kind: u32,
    /// Its shape in GGUF's order: the first axis is contiguous.
    pub axes: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const ALIGNMENT: usize = 32;
const TEXT: u32 = 8;

/// A file of version 3 with text metadata and tensors, data aligned to 32.
pub fn gguf_bytes(metadata: &[(&str, &str)], tensors: &[GgufTensor]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut file, key);
        file.extend(TEXT.to_le_bytes());
        text(&mut file, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut file, &tensor.name);
        file.extend((tensor.axes.len() as u32).to_le_bytes());
        file.extend(tensor.axes.iter().flat_map(|axis| axis.to_le_bytes()));
        file.extend(tensor.kind.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&tensor.bytes);
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}
