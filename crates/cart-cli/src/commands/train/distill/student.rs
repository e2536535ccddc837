//! Where the student comes from.

use cart_engine::{Agent, LoadError};
use cart_format::{ArchSpec, CommitId, Manifest, SpecialTokens};
use cart_store::Verified;
use cart_train::distill::{Student, StudentSpec, check_vocabularies};
use serde_json::{Value, json};

use super::DistillArgs;
use super::align::OtherTokens;
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};

/// Largest tokenizer document, in bytes.
const TOKENIZER_BYTES: u64 = 256 << 20;

/// Where a student comes from.
pub(super) enum Origin {
    /// It was packed.
    Packed {
        /// What it is called.
        name: String,
        /// Its content.
        manifest: String,
        /// Its commit.
        commit: Option<CommitId>,
    },
    /// It was made from the teacher.
    Made {
        /// What it has other than the teacher.
        spec: StudentSpec,
        /// The teacher's layers.
        taken: Vec<usize>,
        /// The teacher's commit.
        commit: Option<CommitId>,
    },
}

impl Origin {
    /// For a recipe.
    pub(super) fn described(&self) -> Value {
        match self {
            Self::Packed { manifest, .. } => json!({ "manifest": manifest }),
            Self::Made { spec, taken, .. } => json!({ "spec": spec.to_string(), "taken": taken }),
        }
    }

    /// The commit that the weights were.
    pub(super) fn commit(&self) -> Option<CommitId> {
        match self {
            Self::Packed { commit, .. } | Self::Made { commit, .. } => *commit,
        }
    }

    /// For people.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Packed { name, .. } => name.clone(),
            Self::Made { taken, .. } => {
                let layers: Vec<String> = taken.iter().map(usize::to_string).collect();
                format!("made from the teacher's layers {}", layers.join(", "))
            }
        }
    }
}

/// The student that was asked for.
pub(super) fn of(
    context: &Context,
    args: &DistillArgs,
    (agent, teacher): (&Agent, &LoadedFrom),
    other: Option<&OtherTokens>,
) -> Result<(Origin, Student), Failure> {
    let keep = |name: &str| args.freeze.iter().any(|part| name.contains(part.as_str()));
    if let Some(reference) = &args.student {
        let packed = history::verified_origin(context, reference)?;
        if other.is_none() {
            let [of_teacher, of_student] = [&teacher.verified, &packed.verified].map(vocabulary);
            let ((teacher, teacher_size), (student, student_size)) = (of_teacher?, of_student?);
            check_vocabularies((&teacher, teacher_size), (&student, student_size))
                .map_err(Failure::refused)?;
        }
        let (architecture, weights) = model(&packed.verified)?;
        let student = Student::packed(&architecture, &weights, &keep).map_err(Failure::refused)?;
        let manifest = packed.manifest.hex();
        let origin = Origin::Packed { name: reference.clone(), manifest, commit: packed.commit };
        return Ok((origin, student));
    }
    let spec = args.student_spec.unwrap_or_default();
    let (architecture, weights) = model(&teacher.verified)?;
    let respelled = other.map(|other| other.respelled(agent)).transpose()?;
    let spec_and_layers = (&spec, args.take.as_deref());
    let student = Student::made(
        (&architecture, &weights),
        spec_and_layers,
        respelled.as_ref(),
        args.seed,
        &keep,
    );
    let student = student.map_err(Failure::refused)?;
    let taken = student.report().taken.clone();
    Ok((Origin::Made { spec, taken, commit: teacher.commit }, student))
}

type Weights = std::collections::BTreeMap<String, cart_nn::WeightTensor>;

/// What a cartridge computes, and its tensors.
fn model(verified: &Verified) -> Result<(ArchSpec, Weights), Failure> {
    verified.check_finite().map_err(Failure::refused)?;
    let spec = architecture(verified.manifest())?;
    Ok((spec, cart_engine::weights(verified).map_err(Failure::refused)?))
}

fn architecture(manifest: &Manifest) -> Result<ArchSpec, Failure> {
    let architecture = manifest.model.architecture.as_ref();
    let architecture = architecture.ok_or_else(|| Failure::refused(LoadError::NoArchitecture))?;
    ArchSpec::from_value(architecture).map_err(Failure::refused)
}

/// Rows of the embedding.
pub(super) fn rows(verified: &Verified) -> Result<u64, Failure> {
    Ok(architecture(verified.manifest())?.vocab_size)
}

/// The tokenizer's document, tokens with a role, and what its ids are below.
pub(super) fn section(verified: &Verified) -> Result<(Vec<u8>, SpecialTokens, u64), Failure> {
    let tokenizer = verified.manifest().tokenizer.as_ref().ok_or_else(|| {
        let message = format!("{} has no tokenizer", verified.cartridge().place().display());
        Failure::refused_with(message, "pack the model with its tokenizer.json")
    })?;
    let document = verified.read(&tokenizer.document, TOKENIZER_BYTES).map_err(Failure::refused)?;
    Ok((document, tokenizer.special.clone(), tokenizer.vocab_size))
}

/// The tokenizer's document, and rows of the embedding.
fn vocabulary(verified: &Verified) -> Result<(Vec<u8>, u64), Failure> {
    Ok((section(verified)?.0, rows(verified)?))
}
