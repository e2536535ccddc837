//! `cart quantize`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Instant;

use cart_format::{DType, Manifest, Recipe};
use cart_merge::weights::{
    How, Model, Plan, PlannedTensor, QuantizationError, TypeRule, TypeRules,
};
use cart_store::{Cartridge, RefName, Store};
use clap::Args;
use serde::Serialize;

use crate::bytes::{counted, human, seconds};
use crate::computed::Computed;
use crate::context::Context;
use crate::failure::Failure;
use crate::held::Held;
use crate::history::{self, NewCommit};
use crate::report;

/// Write a cartridge's weights in another type.
///
/// Matrices that products are made with, and embeddings, are written in --type; norms, biases, convolutions and
/// what has rows that are no whole blocks stay as they are. Values are rounded by the rules of llama.cpp, without data; what that
/// lost is said, as a share of the values' root mean square. The same input gives the same cartridge everywhere.
///
/// Tokenizer, metadata and architecture go along; the commit's parent is REF. What REF remembers is of its own
/// weights: `cart memory migrate` brings it over. A cartridge with memory layers is refused, as they are too.
#[derive(Args)]
#[command(after_help = "Examples:
  cart quantize student --type q8_0 -t student:q8
  cart quantize student --type q4_1 --except token_embd=q8_0 -t student:q4
  cart quantize student --type bf16 --except '*.attn_k.*=keep' -t student:half
  cart quantize smol --type f32 -t smol:float")]
pub(crate) struct QuantizeArgs {
    /// The cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The type of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0
    #[arg(long = "type", value_name = "TYPE", value_parser = dtype)]
    dtype: DType,
    /// Another type for tensors whose names have this in them, or fit it as a pattern with *; `keep` leaves
    /// them as they are; of several that fit the last counts
    #[arg(long, value_name = "FILTER=TYPE")]
    except: Vec<Exception>,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: RefName,
    /// Why, in words
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
}

#[derive(Clone, Debug)]
struct Exception(TypeRule);

impl FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((filter, name)) = text.rsplit_once('=').filter(|(filter, _)| !filter.is_empty())
        else {
            return Err("allowed: FILTER=TYPE, or FILTER=keep".to_owned());
        };
        let dtype = if name == "keep" { None } else { Some(dtype(name)?) };
        Ok(Self(TypeRule { filter: filter.to_owned(), dtype }))
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    let found = text.to_lowercase().parse::<DType>();
    found.map_err(|_unknown| {
        format!("{text} is no type; allowed: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0")
    })
}

#[derive(Serialize)]
struct QuantizeReport {
    base: String,
    name: String,
    manifest: String,
    commit: String,
    /// Tensors that were written anew, and those that stayed.
    written: usize,
    kept: usize,
    /// Bytes of all tensors by type, before and after.
    before: BTreeMap<&'static str, u64>,
    after: BTreeMap<&'static str, u64>,
    before_bytes: u64,
    after_bytes: u64,
    /// Of what was quantized; none where nothing was.
    error: Option<Error>,
    /// Whether the base remembers something, which is of its own weights alone.
    memory_left: bool,
    seconds: f64,
}

/// What quantizing lost.
#[derive(Serialize)]
struct Error {
    /// The root of all squared differences by that of all squared values.
    relative: f64,
    /// The greatest of a tensor, and which.
    most: f64,
    tensor: String,
}

pub(crate) fn run(context: &Context, args: &QuantizeArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let base = history::open(context, &args.reference)?;
    if base.manifest().memory_layers.is_some() {
        let said =
            format!("`{}` has memory layers, which are of its weights alone", args.reference);
        let hint = "take them out with `cart train memory REF --remove`, and train them again on the result";
        return Err(Failure::refused_with(said, hint));
    }
    let rules = TypeRules {
        all: args.dtype,
        except: args.except.iter().map(|exception| exception.0.clone()).collect(),
    };
    let plan = Plan::retyped(&model(&base), &rules).map_err(Failure::refused)?;
    let parent = base.commit().map(|(commit, _)| commit);
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let base = history::verify(context, super::apply::stored(&store, base)?)?;
    base.check_finite().map_err(Failure::refused)?;
    let base = base.cartridge();
    let (manifest, lost) = carry_out(context, &store, base, &plan)?;
    let id = store.put_manifest(&manifest).map_err(Failure::refused)?;
    let types = serde_json::to_value(&rules).map_err(Failure::bug)?;
    let recipe = Recipe::new("quantize").with("tool", history::tool());
    let new = NewCommit {
        manifest: id,
        parents: parent.into_iter().collect(),
        recipe: recipe.with("base", base.manifest_id().hex()).with("types", types),
        message: args.message.clone(),
        probes: Vec::new(),
    };
    let commit = history::commit(&store, new, Some(&args.tag))?;
    drop(held);
    let is_written = |of: &&PlannedTensor| matches!(of.how, How::Merge(_));
    let written = plan.tensors.iter().filter(is_written).count();
    let (before, after) = (by_type(base.manifest()), by_type(&manifest));
    let report = QuantizeReport {
        base: base.manifest_id().hex(),
        name: args.tag.to_string(),
        manifest: id.hex(),
        commit: commit.hex(),
        written,
        kept: plan.tensors.len() - written,
        before_bytes: before.values().sum(),
        after_bytes: after.values().sum(),
        before,
        after,
        error: Error::of(&plan, &lost),
        memory_left: base.manifest().memory.is_some(),
        seconds: began.elapsed().as_secs_f64(),
    };
    if context.json { report::print("quantize", &report) } else { report.render() }
}

/// Writes the tensors.
fn carry_out(
    context: &Context,
    store: &Store,
    base: &Cartridge,
    plan: &Plan,
) -> Result<(Manifest, BTreeMap<usize, QuantizationError>), Failure> {
    let computed = Computed::of(plan);
    let drafts = store.drafts(computed.lens(plan)).map_err(Failure::refused)?;
    let held = Held(vec![base]);
    let lost = computed.run((context, "quantizing"), plan, 0, &held, &drafts)?;
    let made = drafts.publish().map_err(Failure::refused)?;
    Ok((plan.manifest(&[model(base)], &computed.outputs(made), None), lost))
}

fn model(base: &Cartridge) -> Model<'_> {
    Model {
        name: base.manifest_id().hex(),
        label: "the cartridge".to_owned(),
        id: base.manifest_id(),
        manifest: base.manifest(),
        tokenizer: None,
    }
}

/// Bytes of the tensors of each type.
fn by_type(manifest: &Manifest) -> BTreeMap<&'static str, u64> {
    let mut bytes = BTreeMap::new();
    for entry in manifest.model.tensors.values() {
        *bytes.entry(entry.dtype.name()).or_default() +=
            entry.dtype.size_of(&entry.shape).unwrap_or(0);
    }
    bytes
}

impl Error {
    fn of(plan: &Plan, lost: &BTreeMap<usize, QuantizationError>) -> Option<Self> {
        let count = |index: usize| plan.tensors[index].shape.iter().product::<u64>() as f64;
        let sums = lost.iter().fold([0.0; 2], |[lost, all], (&index, of)| {
            let count = count(index);
            [lost + count * of.rmse * of.rmse, all + count * of.rms * of.rms]
        });
        let share = |of: &QuantizationError| if of.rms > 0.0 { of.rmse / of.rms } else { 0.0 };
        let most = lost.iter().max_by(|a, b| share(a.1).total_cmp(&share(b.1)))?;
        Some(Self {
            relative: if sums[1] > 0.0 { (sums[0] / sums[1]).sqrt() } else { 0.0 },
            most: share(most.1),
            tensor: plan.tensors[*most.0].name.to_string(),
        })
    }
}

impl QuantizeReport {
    fn render(&self) -> Result<(), Failure> {
        report::line(&format!("made {}  sha256:{}", self.name, self.manifest))?;
        report::line(&format!(
            "  {} written, {} kept; {} where {} were ({:.1} %); {}",
            counted(self.written as u64, "tensor"),
            self.kept,
            human(self.after_bytes),
            human(self.before_bytes),
            100.0 * self.after_bytes as f64 / self.before_bytes.max(1) as f64,
            seconds(self.seconds),
        ))?;
        let types = |of: &BTreeMap<&'static str, u64>| {
            let one = |(name, bytes): (&&'static str, &u64)| format!("{name} {}", human(*bytes));
            of.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        report::line(&format!("  {} from {}", types(&self.after), types(&self.before)))?;
        if let Some(Error { relative, most, tensor }) = &self.error {
            report::line(&format!(
                "  error {:.2} % of the values, most {:.2} % in {tensor}",
                100.0 * relative,
                100.0 * most
            ))?;
        }
        if self.memory_left {
            report::line(
                "  what the base remembers is of its weights; `cart memory migrate` brings it over",
            )?;
        }
        Ok(())
    }
}
