//! Finding out what differs.

use cart_engine::SavedSessionReport;
use cart_format::{Manifest, TokenizerSection};
use cart_merge::diff::{
    DiffOptions, DiffPlan, MemoryDiff, RollUp, TokenizerDiff, TokenizerInput, field_changes,
};
use cart_store::{Cartridge, Progress as _};
use serde_json::{Map, Value};

use super::findings::{DiffReport, SessionDiff, Tensors, Weights};
use super::{DiffArgs, answers};
use crate::context::Context;
use crate::failure::Failure;
use crate::held::{Held, Watching};
use crate::history;
use crate::progress::Bar;

/// Most bytes of a tokenizer's document, or of a chat template.
const DOCUMENT: u64 = 256 << 20;

/// What decides where sketches of changes look.
const RANK_SEED: u64 = 0;

/// Compares two cartridges in everything that was asked for.
pub(super) fn difference(context: &Context, args: &DiffArgs) -> Result<DiffReport, Failure> {
    let a = history::open(context, &args.a)?;
    let b = history::open(context, &args.b)?;
    let (left, right) = (a.manifest(), b.manifest());
    let plan = DiffPlan::new(left, right);
    let tokenizer = tokenizers(&a, &b)?;
    if args.behaviour && !tokenizer.same_numbers() {
        return Err(unlike(&tokenizer));
    }
    let weights = if args.digests { None } else { Some(weights(context, args, &plan, [&a, &b])?) };
    let (memory_a, memory_b) = (history::memory_of(&a)?, history::memory_of(&b)?);
    let behaviour = if args.behaviour { Some(answers::compared(context, args)?) } else { None };
    let fields =
        |of: fn(&Manifest) -> Option<Value>| field_changes(of(left).as_ref(), of(right).as_ref());
    let architecture = fields(|manifest| manifest.model.architecture.clone());
    let metadata = fields(|manifest| {
        let fields: Map<String, Value> = manifest.metadata.clone().into_iter().collect();
        Some(Value::Object(fields))
    });
    let bytes = |of: &Manifest, shared: bool, other: &Manifest| -> u64 {
        let entries = of.blobs.iter().filter(|(id, _)| other.blobs.contains_key(*id) == shared);
        entries.map(|(_, entry)| entry.size).sum()
    };
    Ok(DiffReport {
        a: a.manifest_id().hex(),
        b: b.manifest_id().hex(),
        identical: a.manifest_id() == b.manifest_id(),
        tensors: Tensors::new(&plan, weights.as_ref()),
        weights,
        architecture_changed: left.model.architecture != right.model.architecture,
        architecture,
        tokenizer_changed: tokenizer.changed,
        tokenizer,
        metadata,
        memory: MemoryDiff::new(memory_a.as_ref(), memory_b.as_ref()).into(),
        session: sessions(left, right)?,
        behaviour,
        shared_bytes: bytes(left, true, right),
        only_a_bytes: bytes(left, false, right),
        only_b_bytes: bytes(right, false, left),
    })
}

/// Reads the tensors that differ.
fn weights(
    context: &Context,
    args: &DiffArgs,
    plan: &DiffPlan,
    cartridges: [&Cartridge; 2],
) -> Result<Weights, Failure> {
    let bar = Bar::new(context, "comparing");
    bar.total(plan.work());
    // In a terminal nobody sees histograms.
    let histograms = context.json || args.html.is_some();
    let options = DiffOptions { rank: args.rank.then_some(RANK_SEED), histograms };
    let held = Held(cartridges.to_vec());
    let deltas = plan.run(&options, &held, &Watching(&bar)).map_err(Failure::refused)?;
    let totals = RollUp::new(plan, &deltas);
    Ok(Weights::new(totals, deltas))
}

fn tokenizers(a: &Cartridge, b: &Cartridge) -> Result<TokenizerDiff, Failure> {
    // Documents of one digest need not be read.
    let same = a.manifest().tokenizer == b.manifest().tokenizer;
    let [read_a, read_b] = [a, b].map(|cartridge| -> Result<_, Failure> {
        let Some(section) = &cartridge.manifest().tokenizer else { return Ok(None) };
        if same {
            return Ok(Some((section, Vec::new(), None)));
        }
        let read = |blob| cartridge.read(&blob, DOCUMENT).map_err(Failure::refused);
        let template = section.chat_template.map(read).transpose()?;
        let template = template.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Some((section, read(section.document)?, template)))
    });
    let (read_a, read_b) = (read_a?, read_b?);
    TokenizerDiff::new(input(read_a.as_ref()), input(read_b.as_ref())).map_err(Failure::refused)
}

/// A section, its document and its chat template.
type Read<'c> = (&'c TokenizerSection, Vec<u8>, Option<String>);

fn input<'r>(read: Option<&'r Read<'_>>) -> Option<TokenizerInput<'r>> {
    let (section, document, template) = read?;
    Some(TokenizerInput { section, document, template: template.as_deref() })
}

/// Why answers can't be compared.
fn unlike(tokenizer: &TokenizerDiff) -> Failure {
    let why = match tokenizer.present {
        [true, true] => format!(
            "{} of its tokens are not in B, {} of B's not in A, {} have other numbers",
            tokenizer.removed.len(),
            tokenizer.added.len(),
            tokenizer.renumbered.len()
        ),
        [false, _] => "A has no tokenizer".to_owned(),
        _ => "B has no tokenizer".to_owned(),
    };
    Failure::refused_with(
        format!(
            "answers can be compared only over equal vocabularies, and A's is another than B's: {why}"
        ),
        "leave out --behaviour; `cart eval` measures each on a text by itself",
    )
}

fn sessions(a: &Manifest, b: &Manifest) -> Result<SessionDiff, Failure> {
    let report = |of| SavedSessionReport::of(of).map_err(Failure::bug);
    Ok(SessionDiff { changed: a.session != b.session, a: report(a)?, b: report(b)? })
}
