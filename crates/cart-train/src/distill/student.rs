//! The student before its first step: packed, or made from its teacher.

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::{Global, MixerSpec, Part, TensorSpec};
use cart_nn::WeightSource;
use cart_nn::graph::{DType, Device, Graph, Parameters, Tensor, Var, load_parameters};
use serde::Serialize;

use super::{DistillError, StudentSpec, Vocabulary};
use crate::birth::Birth;
use crate::cartridge::NewTensor;
use crate::error::TrainError;

/// A model with variables in the place of what is to be trained.
#[derive(Debug)]
pub struct Student {
    architecture: ArchSpec,
    variables: BTreeMap<String, Var>,
    frozen: Parameters,
    report: StudentReport,
}

/// Where a student's numbers come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StudentReport {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Numbers in all tensors.
    pub parameters: usize,
    /// Numbers that are trained.
    pub trained: usize,
    /// The teacher's layers that its layers begin from; none of a packed student.
    pub taken: Vec<usize>,
    /// Tensors that are copies of the teacher's.
    pub copied: usize,
    /// Tensors that were drawn, as the teacher has none of their shape.
    pub drawn: usize,
    /// Tensors whose rows are means of the teacher's, for other tokens.
    pub respelled: usize,
}

/// Another vocabulary than the teacher's, for a student that is made from it.
#[derive(Clone, Debug)]
pub struct Respelled {
    /// For each token, those of the teacher that spell it; none of one that the teacher can't say.
    pub(super) spelled: Vec<Vec<u32>>,
}

impl Respelled {
    /// How a teacher spells the tokens of a student: by the token with the same bytes, or those that its
    /// tokenizer makes of them.
    ///
    /// * `tokenized`: by the teacher's tokenizer
    pub fn between(
        teacher: &Vocabulary,
        student: &Vocabulary,
        tokenized: &dyn Fn(&str) -> Vec<u32>,
    ) -> Self {
        let spelled = |token: u32| {
            let piece = student.piece(token);
            if piece.is_empty() {
                let end = student.is_end(token).then(|| teacher.end()).flatten();
                return end.into_iter().collect();
            }
            match teacher.exactly(piece) {
                Some(same) => vec![same],
                None => std::str::from_utf8(piece).map(tokenized).unwrap_or_default(),
            }
        };
        Self { spelled: (0..student.size() as u32).map(spelled).collect() }
    }

    /// Rows for its tokens: each the mean of those that spell it (Gee et al., 2022), so that a token of
    /// both sides keeps its row.
    ///
    /// * `of`: `[teacher's vocabulary, width]`; `drawn`: `[vocabulary, width]`, for tokens that nothing spells
    fn rows(&self, of: &Tensor, drawn: &Tensor) -> Result<Tensor, TrainError> {
        let (_, width) = of.dims2()?;
        let of = of.flatten_all()?.to_vec1::<f32>()?;
        let mut rows = drawn.flatten_all()?.to_vec1::<f32>()?;
        for (row, spelled) in rows.chunks_exact_mut(width).zip(&self.spelled) {
            if spelled.is_empty() {
                continue;
            }
            row.fill(0.0);
            for &token in spelled {
                let from = &of[token as usize * width..][..width];
                row.iter_mut().zip(from).for_each(|(sum, x)| *sum += x / spelled.len() as f32);
            }
        }
        Ok(Tensor::from_vec(rows, drawn.dims(), &Device::Cpu)?)
    }
}

impl Student {
    /// A packed model as it is.
    ///
    /// * `keep`: whether a tensor stays as it is
    ///
    /// # Errors
    /// The weights don't fit the architecture.
    pub fn packed(
        architecture: &ArchSpec,
        weights: &dyn WeightSource,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TrainError> {
        let tensors = load_parameters(architecture, weights, &Device::Cpu, DType::F32)?;
        Self::of(architecture.clone(), tensors, StudentReport::default(), keep)
    }

    /// A model like the teacher. Tensors of the same shape are copied, the layers' from those that
    /// are taken; others are drawn as those of a new model are.
    ///
    /// * `named`: the teacher's layers to take; evenly spread ones if absent
    /// * `respelled`: its vocabulary, where that is not the teacher's
    /// * `keep`: whether a tensor stays as it is
    ///
    /// # Errors
    /// The teacher has no such layers, or the specification contradicts itself.
    pub fn made(
        (teacher, weights): (&ArchSpec, &dyn WeightSource),
        (spec, named): (&StudentSpec, Option<&[usize]>),
        respelled: Option<&Respelled>,
        seed: u64,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TrainError> {
        let taken = spec.taken(teacher, named)?;
        let mut architecture = spec.architecture(teacher, &taken)?;
        if let Some(respelled) = respelled {
            architecture.vocab_size = respelled.spelled.len() as u64;
        }
        architecture.check()?;
        let whole = load_parameters(teacher, weights, &Device::Cpu, DType::F32)?;
        let of_layers = origins(teacher, &architecture, &taken);
        let birth = Birth::of(&architecture, seed);
        let (mut tensors, mut report) = (Parameters::new(), StudentReport::default());
        for (index, asked) in architecture.tensors().into_iter().enumerate() {
            let origin = of_layers.get(&asked.name).unwrap_or(&asked.name);
            let found = whole.get(origin);
            let respelled =
                respelled.zip(found.filter(|found| is_of_tokens(found, teacher, &asked)));
            let found = found.filter(|found| has_shape(found, &asked));
            let tensor = match (respelled, found) {
                (Some((respelled, own)), _) => {
                    report.respelled += 1;
                    respelled.rows(own, &birth.tensor(index, &asked)?)?
                }
                (None, Some(own)) => {
                    report.copied += 1;
                    own.copy()?
                }
                (None, None) => {
                    report.drawn += 1;
                    birth.tensor(index, &asked)?
                }
            };
            tensors.insert(asked.name, tensor);
        }
        report.taken = taken;
        Self::of(architecture, tensors, report, keep)
    }

    fn of(
        architecture: ArchSpec,
        tensors: Parameters,
        mut report: StudentReport,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TrainError> {
        let fixed: Vec<String> =
            architecture.rope_tensors().into_iter().map(|tensor| tensor.name).collect();
        let (mut variables, mut frozen) = (BTreeMap::new(), Parameters::new());
        report.layers = architecture.layers.len();
        report.hidden = architecture.hidden_size;
        for (name, tensor) in tensors {
            report.parameters += tensor.elem_count();
            if keep(&name) || fixed.contains(&name) {
                frozen.insert(name, tensor);
            } else {
                report.trained += tensor.elem_count();
                variables.insert(name, Var::from_tensor(&tensor)?);
            }
        }
        Ok(Self { architecture, variables, frozen, report })
    }

    /// What it computes.
    pub fn architecture(&self) -> &ArchSpec {
        &self.architecture
    }

    /// Where its numbers come from.
    pub fn report(&self) -> &StudentReport {
        &self.report
    }

    /// What is trained, by name.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, Var)> {
        self.variables.iter().map(|(name, variable)| (name.clone(), variable.clone()))
    }

    /// What stays as it is.
    pub(super) fn frozen(&self) -> Result<Vec<NewTensor>, TrainError> {
        let tensor = |(name, tensor): (&String, &Tensor)| {
            let values = tensor.flatten_all()?.to_vec1()?;
            Ok(NewTensor { name: name.clone(), shape: tensor.dims().to_vec(), values })
        };
        self.frozen.iter().map(tensor).collect()
    }

    /// The decoder whose gradients reach the variables.
    pub(super) fn graph(&self) -> Result<Graph, TrainError> {
        self.bound(|variable| variable.as_tensor().clone())
    }

    /// The same numbers, also after steps, without gradients.
    pub(super) fn still(&self) -> Result<Graph, TrainError> {
        self.bound(|variable| variable.as_tensor().detach())
    }

    fn bound(&self, tensor: impl Fn(&Var) -> Tensor) -> Result<Graph, TrainError> {
        let mut parameters = self.frozen.clone();
        parameters.extend(self.variables.iter().map(|(name, var)| (name.clone(), tensor(var))));
        Ok(Graph::new(&self.architecture, &parameters)?)
    }

    /// Matrices that don't tend to 0: rates of decay, by their logarithm or as they are.
    pub(super) fn undecayed(&self) -> Vec<String> {
        let naming = self.architecture.naming;
        let blocks = self.architecture.layer_blocks().enumerate();
        let recurrent = blocks.filter(|(_, block)| {
            matches!(block.mixer, Some(MixerSpec::Mamba(_) | MixerSpec::Mamba2(_)))
        });
        recurrent.map(|(index, block)| naming.part(index, Part::Decay, block)).collect()
    }
}

/// For each tensor of the student's layers, the teacher's that it begins from.
fn origins(teacher: &ArchSpec, student: &ArchSpec, taken: &[usize]) -> BTreeMap<String, String> {
    let of_layer = |(index, &from): (usize, &usize)| {
        let own = student.layer_tensors(index).into_iter().map(|tensor| tensor.name);
        own.zip(teacher.layer_tensors(from).into_iter().map(|tensor| tensor.name))
    };
    taken.iter().enumerate().flat_map(of_layer).collect()
}

fn has_shape(found: &Tensor, asked: &TensorSpec) -> bool {
    let dims = found.dims().iter().map(|&dim| dim as u64);
    dims.eq(asked.shape.iter().copied())
}

/// Whether a tensor of the teacher has a row for each of its tokens, as wide as those of the student.
fn is_of_tokens(found: &Tensor, teacher: &ArchSpec, asked: &TensorSpec) -> bool {
    let naming = teacher.naming;
    let of_tokens = [Global::Embedding, Global::Head].map(|global| naming.global(global));
    let is_named = of_tokens.iter().any(|name| asked.name == format!("{name}.weight"));
    let width = |dims: &[usize]| dims.get(1).map(|&width| width as u64);
    is_named && width(found.dims()) == asked.shape.get(1).copied()
}

/// Refuses a student whose tokens are not the teacher's.
///
/// * `teacher`, `student`: `tokenizer.json` documents
///
/// # Errors
/// A document can't be read, or the vocabularies differ.
pub fn check_vocabularies(
    (teacher, teacher_size): (&[u8], u64),
    (student, student_size): (&[u8], u64),
) -> Result<(), DistillError> {
    if teacher_size != student_size {
        let difference = format!("it has {student_size} tokens, the teacher {teacher_size}");
        return Err(DistillError::Vocabulary { difference });
    }
    if teacher == student {
        return Ok(());
    }
    let (teacher, student) = (tokens("teacher", teacher)?, tokens("student", student)?);
    let other = teacher.iter().find(|(id, text)| student.get(id) != Some(text));
    let Some((id, text)) = other else { return Ok(()) };
    let found = student.get(id).map_or("nothing".to_owned(), |found| format!("{found:?}"));
    let difference = format!("token {id} is {found}, the teacher's is {text:?}");
    Err(DistillError::Vocabulary { difference })
}

/// The texts of a tokenizer's tokens.
fn tokens(of: &'static str, document: &[u8]) -> Result<BTreeMap<u64, String>, DistillError> {
    let refused = |reason: String| DistillError::Tokenizer { of, reason };
    let document: serde_json::Value =
        serde_json::from_slice(document).map_err(|error| refused(error.to_string()))?;
    let mut tokens = BTreeMap::new();
    match &document["model"]["vocab"] {
        serde_json::Value::Object(vocab) => {
            let token =
                |(text, id): (&String, &serde_json::Value)| Some((id.as_u64()?, text.clone()));
            tokens.extend(vocab.iter().filter_map(token));
        }
        // Unigram: texts with their scores, whose ids are their places.
        serde_json::Value::Array(vocab) => {
            let texts = vocab.iter().map(|token| token[0].as_str().unwrap_or_default().to_owned());
            tokens.extend((0..).zip(texts));
        }
        _ => return Err(refused("it has no vocabulary".to_owned())),
    }
    let added = document["added_tokens"].as_array().into_iter().flatten();
    let token = |token: &serde_json::Value| {
        Some((token["id"].as_u64()?, token["content"].as_str()?.to_owned()))
    };
    tokens.extend(added.filter_map(token));
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentTokenizer;

    #[test]
    fn vocabularies_are_compared_by_what_their_tokens_say() {
        let document = AgentTokenizer::bytes().document().to_vec();
        let text = String::from_utf8(document.clone()).unwrap();
        let check = |student: &[u8], size| check_vocabularies((&document, 257), (student, size));
        check(&document, 257).unwrap();
        // Another pre-tokenizer cuts texts in another way; tokens are the same.
        check(text.replace("\"use_regex\":false", "\"use_regex\":true").as_bytes(), 257).unwrap();
        let other = check(text.replace("<|endoftext|>", "<|end|>").as_bytes(), 257).unwrap_err();
        let expected = "token 256 is \"<|end|>\", the teacher's is \"<|endoftext|>\"";
        assert!(other.to_string().contains(expected), "{other}");
        let size = check(&document, 300).unwrap_err().to_string();
        assert!(size.contains("it has 300 tokens, the teacher 257"), "{size}");
        let none = check(b"{}", 257).unwrap_err().to_string();
        assert!(none.contains("the student's tokenizer"), "{none}");
    }
}
