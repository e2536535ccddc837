//! Weights as tensors on a device.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use cart_format::arch::{MixerSpec, Part};
use cart_format::blocks::values;
use cart_format::{ArchSpec, DType};

use super::GraphLoadError;
use super::operations::wide_dtype;
use crate::ahead::PackedAhead;
use crate::bytes::{WeightSource, WeightTensor};
use crate::kernel::format::with_format;
use crate::model::LoadError;
use crate::model::binding::{Binder, unsupported_weight};

/// The tensors of a model by their names, as [`ArchSpec::tensors`] lists them. Put a variable in
/// place of a tensor to train it.
pub type Parameters = BTreeMap<String, Tensor>;

/// Reads every tensor that `spec` asks for.
///
/// Matrices become `dtype`; vectors, convolutions and decays, which are small and which sums depend
/// on, `f32` (or `f64`, where that is `dtype`). Blocks of quantized tensors become what they stand
/// for.
///
/// # Errors
/// A tensor is missing, of another shape, or of a type that is not known; or the device fails.
pub fn load_parameters(
    spec: &ArchSpec,
    source: &dyn WeightSource,
    device: &Device,
    dtype: candle_core::DType,
) -> Result<Parameters, GraphLoadError> {
    spec.check().map_err(LoadError::from)?;
    let binder = Binder::new(source, PackedAhead::default());
    let small = small_names(spec);
    let mut parameters = Parameters::new();
    for asked in spec.tensors() {
        let shape: Vec<usize> = asked.shape.iter().map(|&dim| dim as usize).collect();
        let found = binder.tensor(&asked.name, &shape)?;
        let wide = shape.len() < 2 || small.contains(&asked.name);
        let dtype = if wide { wide_dtype(dtype) } else { dtype };
        let tensor = tensor(&asked.name, &found, device)?.to_dtype(dtype)?;
        parameters.insert(asked.name, tensor);
    }
    Ok(parameters)
}

/// Tensors of two dimensions or more that no product is taken with.
fn small_names(spec: &ArchSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, block) in spec.layer_blocks().enumerate() {
        if matches!(block.mixer, Some(MixerSpec::Mamba(_) | MixerSpec::Mamba2(_))) {
            let name = |part| spec.naming.part(index, part, block);
            names.extend([name(Part::Decay), name(Part::Skip)]);
            names.extend([Part::SsmConv, Part::SsmNorm].map(|part| name(part) + ".weight"));
        }
    }
    names
}

fn tensor(name: &str, found: &WeightTensor, device: &Device) -> Result<Tensor, GraphLoadError> {
    let shape = found.shape.as_slice();
    let plain = match found.dtype {
        DType::F32 => Some(candle_core::DType::F32),
        DType::F16 => Some(candle_core::DType::F16),
        DType::BF16 => Some(candle_core::DType::BF16),
        _ => None,
    };
    if let Some(dtype) = plain {
        return Ok(Tensor::from_raw_buffer(&found.bytes, dtype, shape, device)?);
    }
    let values = with_format!(
        found.dtype,
        F => values::<F>(&found.bytes),
        else return Err(unsupported_weight(name, found.dtype).into())
    );
    Ok(Tensor::from_vec(values, shape, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::SharedBytes;
    use crate::kernel::Kernels;
    use crate::kernel::memory::Arena;
    use crate::matrix::Matrix;

    /// What the products' own tiles say.
    #[test]
    fn blocks_stand_for_what_the_kernels_read() {
        let inputs = 512;
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantized()) {
            if !Matrix::supports(dtype) {
                continue;
            }
            let rows = 3;
            let size = dtype.size_of(&[rows, inputs]).unwrap() as usize;
            let mut state = 5_u32;
            let mut byte = |at: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // The high byte of a 16-bit float that may be there: small and finite.
                if at % 2 == 1 { (state >> 24) as u8 & 0b1011_0111 } else { (state >> 24) as u8 }
            };
            let bytes: Vec<u8> = (0..size).map(&mut byte).collect();
            let found = with_format!(dtype, F => values::<F>(&bytes), else unreachable!());
            let shape = [rows as usize, inputs as usize];
            let matrix =
                Matrix::new(&mut Arena::default(), dtype, shape, SharedBytes::new(bytes.clone()));
            let mut expected = vec![0.0; inputs as usize];
            for (row, found) in found.chunks_exact(inputs as usize).enumerate() {
                matrix.read_row(Kernels::detect(), row, &mut expected);
                for (found, expected) in found.iter().zip(&expected) {
                    let close = (found - expected).abs() <= 1e-6 * expected.abs().max(1e-3);
                    assert!(close || found.is_nan(), "{dtype}: {found} {expected}");
                }
            }
        }
    }
}
