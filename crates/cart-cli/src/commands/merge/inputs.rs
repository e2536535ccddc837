//! From what people name to what is merged.

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::{CommitId, ManifestId};
use cart_merge::weights::{MergeConfig, Model, PlanOptions};
use cart_store::Cartridge;
use thiserror::Error;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;

/// Most bytes of a tokenizer's document.
const DOCUMENT: u64 = 256 << 20;

/// What is asked for, with everything found.
pub(super) struct Asked {
    /// Models are called by the hexadecimal digits of their ids.
    pub(super) config: MergeConfig,
    pub(super) options: PlanOptions,
    /// Each once, in the order of the configuration.
    pub(super) inputs: Vec<Input>,
    /// Where the base of two sides comes from.
    pub(super) base: BaseFrom,
}

/// Where a base comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BaseFrom {
    /// There is none.
    None,
    /// The nearest common commit.
    History,
    /// Somebody named it.
    Given,
}

/// A cartridge to merge.
pub(super) struct Input {
    /// What people called it.
    pub(super) label: String,
    pub(super) cartridge: Cartridge,
    pub(super) tokenizer: Option<Vec<u8>>,
}

impl Input {
    /// Opens what a REF means.
    pub(super) fn open(context: &Context, reference: &str) -> Result<Self, Failure> {
        Self::of(reference.to_owned(), history::open(context, reference)?)
    }

    pub(super) fn of(label: String, cartridge: Cartridge) -> Result<Self, Failure> {
        let document = cartridge.manifest().tokenizer.as_ref().map(|tokenizer| tokenizer.document);
        let read = |blob| cartridge.read(&blob, DOCUMENT).map_err(Failure::refused);
        let tokenizer = document.map(read).transpose()?;
        Ok(Self { label, cartridge, tokenizer })
    }

    pub(super) fn id(&self) -> ManifestId {
        self.cartridge.manifest_id()
    }

    /// What a plan is made of.
    pub(super) fn model(&self) -> Model<'_> {
        Model {
            name: self.id().hex(),
            label: self.label.clone(),
            id: self.id(),
            manifest: self.cartridge.manifest(),
            tokenizer: self.tokenizer.clone(),
        }
    }

    pub(super) fn commit(&self) -> Option<CommitId> {
        self.cartridge.commit().map(|(id, _)| id)
    }
}

/// A configuration that can't be used.
#[derive(Debug, Error)]
#[error("{file} can't be used: {source}")]
struct Unusable {
    file: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Reads mergekit's YAML and opens its models.
pub(super) fn configured(context: &Context, file: &Path) -> Result<Asked, Failure> {
    let unusable = |source| {
        let file = file.display().to_string();
        Failure::refused_with(Unusable { file, source }, "the keys are those of mergekit's YAML")
    };
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.into()))?;
    let config = MergeConfig::from_yaml(&text).map_err(|error| unusable(error.into()))?;
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    let mut inputs: Vec<Input> = Vec::new();
    for name in config.model_names() {
        let input = Input::open(context, name)?;
        ids.insert(name.to_owned(), input.id().hex());
        if inputs.iter().all(|other| other.id() != input.id()) {
            inputs.push(input);
        }
    }
    let config = config.renamed(|name| ids.get(name).cloned().unwrap_or_else(|| name.to_owned()));
    let base = if config.base_model.is_some() { BaseFrom::Given } else { BaseFrom::None };
    Ok(Asked { config, options: PlanOptions::default(), inputs, base })
}
