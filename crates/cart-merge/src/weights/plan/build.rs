//! Putting a plan together: which models fit, and what each tensor becomes.

use cart_format::ArchSpec;
use cart_format::arch::Global;
use serde_json::Value;

use crate::weights::config::MergeConfig;
use crate::weights::plan::outline::{self, Slice, index_of};
use crate::weights::plan::tensor::Tensors;
use crate::weights::plan::{Model, Plan, PlanError, PlanOptions, TokenizerPlan};
use crate::weights::vocabulary::{Mapping, Origin, Vocabulary};

/// Fields of an architecture that may differ: they change no tensor's meaning.
const MAY_DIFFER: [&str; 3] = ["family", "context_length", "layers"];

pub(super) fn plan(
    config: &MergeConfig,
    models: &[Model<'_>],
    options: PlanOptions,
) -> Result<Plan, PlanError> {
    let slices = outline::slices(config, models, options.three_way.is_some())?;
    let frame = match (&config.base_model, options.three_way) {
        (Some(base), None) => index_of(models, base)?,
        _ => slices[0].sources[0].model,
    };
    let chat_template = match config.chat_template.as_deref() {
        None | Some("auto") => frame,
        Some(name) => index_of(models, name)?,
    };
    let vocabulary = Tokens { config, models, slices: &slices, frame }.plan()?;
    check_architectures(models, frame, vocabulary.mapping.is_some())?;
    let spec = spec_of(&models[frame]);
    let slots = outline::slots(&slices, models, spec.as_ref());
    let tensors = Tensors {
        config,
        models,
        options,
        slices: &slices,
        mapping: vocabulary.mapping.map(|mapping| (mapping, vocabulary.tensors)),
    };
    let planned = slots.iter().map(|slot| tensors.plan(slot)).collect::<Result<Vec<_>, _>>()?;
    Ok(Plan {
        config: config.clone(),
        frame,
        architecture: architecture(config, models, frame, &slices, vocabulary.rows),
        tokenizer: vocabulary.plan,
        chat_template,
        tensors: planned,
    })
}

fn spec_of(model: &Model<'_>) -> Option<ArchSpec> {
    let value = model.manifest.model.architecture.as_ref()?;
    ArchSpec::from_value(value).ok()
}

fn check_architectures(
    models: &[Model<'_>],
    frame: usize,
    vocabularies_differ: bool,
) -> Result<(), PlanError> {
    let fields = |model: &Model<'_>| match &model.manifest.model.architecture {
        Some(Value::Object(fields)) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    let first = fields(&models[frame]);
    for model in models {
        let other = fields(model);
        for field in first.keys().chain(other.keys()) {
            let may = MAY_DIFFER.contains(&field.as_str())
                || (vocabularies_differ && field == "vocab_size");
            if !may && first.get(field) != other.get(field) {
                let said = |value: Option<&Value>| {
                    let text = value.map_or("absent".to_owned(), Value::to_string);
                    text.chars().take(200).collect()
                };
                return Err(PlanError::Architecture {
                    a: models[frame].label.clone(),
                    b: model.label.clone(),
                    field: field.clone(),
                    found: Box::new([said(first.get(field)), said(other.get(field))]),
                });
            }
        }
    }
    Ok(())
}

/// The frame's architecture, with the layers of the slices and the rows of a mapped vocabulary.
fn architecture(
    config: &MergeConfig,
    models: &[Model<'_>],
    frame: usize,
    slices: &[Slice<'_>],
    rows: Option<u64>,
) -> Option<Value> {
    let value = models[frame].manifest.model.architecture.clone()?;
    let Some(mut spec) = spec_of(&models[frame]) else { return Some(value) };
    if config.slices.is_none() && rows.is_none() {
        return Some(value);
    }
    if config.slices.is_some() {
        let sources = outline::layer_sources(slices).into_iter();
        let layer = |(model, layer): (usize, u64)| {
            let spec = spec_of(&models[model])?;
            spec.layers.get(layer as usize).copied()
        };
        spec.layers = sources.map(layer).collect::<Option<_>>()?;
    }
    if let Some(rows) = rows {
        spec.vocab_size = rows;
    }
    Some(spec.to_value())
}

/// What becomes of the tokenizers.
struct Tokens<'a> {
    config: &'a MergeConfig,
    models: &'a [Model<'a>],
    slices: &'a [Slice<'a>],
    frame: usize,
}

struct TokensPlan {
    plan: TokenizerPlan,
    mapping: Option<Mapping>,
    /// The tensors that have a row for each token.
    tensors: Vec<String>,
    rows: Option<u64>,
}

impl Tokens<'_> {
    fn plan(&self) -> Result<TokensPlan, PlanError> {
        let from = self.config.tokenizer_from();
        let owner = match from {
            None | Some("union" | "base") => self.frame,
            Some(name) => index_of(self.models, name)?,
        };
        let first = self.document(owner);
        let other = self.used().find(|&model| self.document(model) != first);
        let Some(other) = other else {
            let (plan, tensors) = (TokenizerPlan::Of(owner), Vec::new());
            return Ok(TokensPlan { plan, mapping: None, tensors, rows: None });
        };
        if from.is_none() {
            let (a, b) = (self.vocabulary(owner)?, self.vocabulary(other)?);
            return Err(PlanError::Tokenizers {
                a: self.models[owner].label.clone(),
                b: self.models[other].label.clone(),
                differences: Box::new(a.differences(&b)),
            });
        }
        self.mapped(owner, from == Some("union"))
    }

    fn mapped(&self, owner: usize, union: bool) -> Result<TokensPlan, PlanError> {
        let Some(spec) = spec_of(&self.models[owner]) else {
            let model = self.models[owner].label.clone();
            return Err(PlanError::NoArchitecture { model });
        };
        let globals = [Global::Embedding, Global::Head].map(|global| spec.naming.global(global));
        let tensors = globals.iter().map(|name| format!("{name}.weight")).collect();
        let vocabularies = (0..self.models.len())
            .map(|model| self.vocabulary(model))
            .collect::<Result<Vec<_>, _>>()?;
        let origin = if union { Origin::Union } else { Origin::Of };
        let order: Vec<usize> = self.used().collect();
        let (mapping, document) =
            Mapping::new(&vocabularies, owner, origin, &order, spec.vocab_size);
        let rows = Some(mapping.rows_out());
        let plan = match document {
            None => TokenizerPlan::Of(owner),
            Some(document) => TokenizerPlan::New {
                document,
                vocab_size: mapping.vocab_size(),
                added: mapping.added(),
            },
        };
        Ok(TokensPlan { plan, mapping: Some(mapping), tensors, rows })
    }

    /// The models whose tensors are used, in order, each once.
    fn used(&self) -> impl Iterator<Item = usize> {
        let mut used: Vec<usize> = Vec::new();
        for source in self.slices.iter().flat_map(|slice| &slice.sources) {
            if !used.contains(&source.model) {
                used.push(source.model);
            }
        }
        used.into_iter()
    }

    fn document(&self, model: usize) -> Option<&[u8]> {
        self.models[model].tokenizer.as_deref()
    }

    fn vocabulary(&self, model: usize) -> Result<Vocabulary, PlanError> {
        Vocabulary::parse(self.document(model)).map_err(|source| PlanError::Vocabulary {
            model: self.models[model].label.clone(),
            source,
        })
    }
}
