//! A student in a few words: `layers=6,hidden=288`, made from its teacher.

use std::fmt;
use std::str::FromStr;

use cart_format::ArchSpec;
use cart_format::arch::{BlockSpec, MixerSpec, MlpSpec};

use super::DistillError;
use crate::agent::SpecError;
use crate::agent::spec::{fields, number};

const KNOWN: &str = "layers, hidden, heads, kv_heads, intermediate";

/// What a student has other than its teacher; what is not said is as the teacher has it, or follows
/// from the width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StudentSpec {
    /// Layers.
    pub layers: Option<u64>,
    /// Width of the residual stream.
    pub hidden: Option<u64>,
    /// Attention heads, each as wide as those of the teacher.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Width of the MLPs.
    pub intermediate: Option<u64>,
}

impl FromStr for StudentSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        for field in fields(text) {
            let (name, value) = field?;
            match name {
                "layers" => spec.layers = Some(number("layers", value)?),
                "hidden" => spec.hidden = Some(number("hidden", value)?),
                "heads" => spec.heads = Some(number("heads", value)?),
                "kv_heads" => spec.kv_heads = Some(number("kv_heads", value)?),
                "intermediate" => spec.intermediate = Some(number("intermediate", value)?),
                _ => return Err(SpecError::Field { found: name.to_owned(), known: KNOWN }),
            }
        }
        Ok(spec)
    }
}

impl fmt::Display for StudentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, hidden, heads, kv_heads, intermediate } = *self;
        let said = [
            ("layers", layers),
            ("hidden", hidden),
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("intermediate", intermediate),
        ];
        let said = said.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
        f.write_str(&said.collect::<Vec<_>>().join(","))
    }
}

impl StudentSpec {
    /// The teacher's layers that the student's begin from: those that were named, or as many as it
    /// has, spread evenly, the first and the last among them.
    ///
    /// # Errors
    /// The teacher has no such layer, or the specification has another number of them.
    pub fn taken(
        &self,
        teacher: &ArchSpec,
        named: Option<&[usize]>,
    ) -> Result<Vec<usize>, DistillError> {
        let last = teacher.layers.len() - 1;
        let Some(named) = named else {
            let count = self.layers.unwrap_or(teacher.layers.len() as u64) as usize;
            return Ok(spread(count, last));
        };
        if let Some(layers) = self.layers.filter(|&layers| layers != named.len() as u64) {
            return Err(DistillError::Layers { layers, taken: named.len() });
        }
        match named.iter().find(|&&layer| layer > last) {
            Some(&found) => Err(DistillError::TeacherLayer { found, last }),
            None => Ok(named.to_vec()),
        }
    }

    /// What a student computes whose layers are like these of the teacher.
    ///
    /// # Errors
    /// A block can't be made for another width.
    pub fn architecture(
        &self,
        teacher: &ArchSpec,
        taken: &[usize],
    ) -> Result<ArchSpec, DistillError> {
        let mut student = teacher.clone();
        student.hidden_size = self.hidden.unwrap_or(teacher.hidden_size);
        // Gemma's factor is the root of the width.
        let is_root = |scale: &f64| (scale * scale - teacher.hidden_size as f64).abs() < 1.0;
        if teacher.embedding_scale.is_some_and(|scale| is_root(&scale)) {
            student.embedding_scale = Some((student.hidden_size as f64).sqrt());
        }
        let mut used: Vec<u32> = taken.iter().map(|&layer| teacher.layers[layer]).collect();
        student.layers.clone_from(&used);
        used.sort_unstable();
        used.dedup();
        let place = |block: &u32| used.iter().position(|used| used == block);
        for block in &mut student.layers {
            *block = place(block).expect("it is one of those that are used") as u32;
        }
        let blocks = used.iter().map(|&block| self.block(teacher, &teacher.blocks[block as usize]));
        student.blocks = blocks.collect::<Result<_, _>>()?;
        Ok(student)
    }

    fn block(&self, teacher: &ArchSpec, block: &BlockSpec) -> Result<BlockSpec, DistillError> {
        let mut block = block.clone();
        let hidden = self.hidden.filter(|&hidden| hidden != teacher.hidden_size);
        let scaled = |of: u64| match hidden {
            Some(hidden) => ((of * hidden) as f64 / teacher.hidden_size as f64).round() as u64,
            None => of,
        };
        match &mut block.mixer {
            Some(MixerSpec::Attention(attention)) => {
                let heads = self.heads.unwrap_or(scaled(attention.heads).max(1));
                let most = scaled(attention.kv_heads).clamp(1, heads);
                let divides = |kv_heads: &u64| heads.is_multiple_of(*kv_heads);
                let largest = (1..=most).rev().find(divides).unwrap_or(1);
                attention.heads = heads;
                attention.kv_heads = self.kv_heads.unwrap_or(largest);
            }
            Some(MixerSpec::Mamba(mamba)) => {
                mamba.inner_size = scaled(mamba.inner_size);
                mamba.time_step_rank = scaled(mamba.time_step_rank).max(1);
            }
            Some(MixerSpec::Mamba2(_)) if hidden.is_some() => {
                return Err(DistillError::Width { part: "Mamba-2 layers", field: "hidden" });
            }
            Some(MixerSpec::Mamba2(_)) | None => {}
        }
        match &mut block.mlp {
            Some(MlpSpec::Gated(dense) | MlpSpec::Plain(dense)) => {
                let of_width = match hidden {
                    Some(_) => scaled(dense.intermediate_size).next_multiple_of(32),
                    None => dense.intermediate_size,
                };
                dense.intermediate_size = self.intermediate.unwrap_or(of_width);
            }
            Some(MlpSpec::Experts(_)) if self.intermediate.is_some() => {
                return Err(DistillError::Width { part: "experts", field: "intermediate" });
            }
            Some(MlpSpec::Experts(_)) | None => {}
        }
        Ok(block)
    }
}

/// `count` of the numbers up to `last`, evenly.
fn spread(count: usize, last: usize) -> Vec<usize> {
    let gaps = count.saturating_sub(1).max(1);
    (0..count).map(|index| (2 * index * last + gaps) / (2 * gaps)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentSpec;

    fn teacher() -> ArchSpec {
        let spec: AgentSpec = "layers=9,hidden=96,heads=6,kv_heads=3".parse().unwrap();
        spec.architecture(50)
    }

    #[test]
    fn layers_are_spread_from_the_first_to_the_last() {
        assert_eq!(spread(12, 29), [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]);
        assert_eq!((spread(2, 29), spread(1, 29)), (vec![0, 29], vec![0]));
        assert_eq!(spread(4, 3), [0, 1, 2, 3]);
        // A deeper student begins with some of them twice.
        assert_eq!(spread(5, 2), [0, 1, 1, 2, 2]);
    }

    #[test]
    fn another_width_has_heads_of_the_same_size() {
        let spec: StudentSpec = "layers=3,hidden=32".parse().unwrap();
        let taken = spec.taken(&teacher(), None).unwrap();
        assert_eq!(taken, [0, 4, 8]);
        let student = spec.architecture(&teacher(), &taken).unwrap();
        student.check().unwrap();
        assert_eq!((student.hidden_size, &student.layers[..]), (32, &[0, 0, 0][..]));
        let Some(MixerSpec::Attention(attention)) = &student.blocks[0].mixer else { panic!() };
        assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (2, 1, 16));
        let Some(MlpSpec::Gated(mlp)) = &student.blocks[0].mlp else { panic!() };
        assert_eq!(mlp.intermediate_size, 96);
        assert_eq!(spec.to_string(), "layers=3,hidden=32");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let said = |error: &dyn std::error::Error| error.to_string();
        let field = "layers=3,width=5".parse::<StudentSpec>().unwrap_err();
        assert!(said(&field).contains("no `width`"), "{field}");
        let spec: StudentSpec = "layers=3".parse().unwrap();
        let many = spec.taken(&teacher(), Some(&[0, 1])).unwrap_err();
        assert!(said(&many).contains("3 layers, but 2"), "{many}");
        let beyond = StudentSpec::default().taken(&teacher(), Some(&[0, 9])).unwrap_err();
        assert!(said(&beyond).contains("layer 9 of the teacher"), "{beyond}");
    }
}
