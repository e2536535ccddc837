//! What to merge and how: mergekit's YAML, typed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::weights::float_type::FloatType;
use crate::weights::method::Method;
use crate::weights::setting::Setting;

/// Most bytes of a configuration.
const CONFIG_BYTES: usize = 1 << 20;

/// Why a text is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Longer than any configuration.
    #[error("the configuration has {found} bytes; allowed: up to {CONFIG_BYTES}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not YAML, or with a key or value that is not known.
    #[error("the configuration can't be read: {0}")]
    Unreadable(#[from] serde_yaml_ng::Error),
    /// Neither models nor slices, or both.
    #[error(
        "the configuration has {found}; allowed: exactly one of `models` and `slices`, with at least one entry"
    )]
    Inputs {
        /// What it has.
        found: &'static str,
    },
    /// Both ways of saying where the tokenizer comes from.
    #[error("the configuration has both `tokenizer_source` and `tokenizer`; allowed: one of them")]
    TwoTokenizers,
    /// A parameter that the method does not have.
    #[error("`{found}` is no parameter of {method}; allowed: {}", allowed.join(", "))]
    Parameter {
        /// The name that was found.
        found: String,
        /// The method.
        method: Method,
        /// Its parameters.
        allowed: Vec<&'static str>,
    },
}

/// Settings of parameters by their names.
pub type Parameters = BTreeMap<String, Setting>;

/// What to merge and how, as in mergekit's YAML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeConfig {
    /// How tensors are merged.
    pub merge_method: Method,
    /// The model that differences are taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Whole models to merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ModelInput>>,
    /// Layers to stack, each merged from layers of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<Vec<OutputSlice>>,
    /// Settings for all models.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// What inputs are rounded to before they are merged, and the type of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<FloatType>,
    /// The type of the result, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_dtype: Option<FloatType>,
    /// `union`, `base`, or the model whose tokenizer the result gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_source: Option<String>,
    /// The same as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerConfig>,
    /// `auto` (the first input's) or the model whose template the result gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
}

/// A whole model to merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInput {
    /// Its name.
    pub model: String,
    /// Settings for this model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
}

/// Some layers of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSlice {
    /// What they are merged from.
    pub sources: Vec<SliceSource>,
    /// The base here, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Settings for these layers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
}

/// Layers of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceSource {
    /// Its name.
    pub model: String,
    /// The first layer, and the one after the last.
    pub layer_range: [u64; 2],
    /// Settings for this model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// `union`, `base`, or a model.
    pub source: String,
}

impl MergeConfig {
    /// A merge of whole models, all parameters unsaid.
    pub fn of_models(method: Method, models: impl IntoIterator<Item = String>) -> Self {
        let input = |model| ModelInput { model, parameters: Parameters::new() };
        Self {
            merge_method: method,
            base_model: None,
            models: Some(models.into_iter().map(input).collect()),
            slices: None,
            parameters: Parameters::new(),
            dtype: None,
            out_dtype: None,
            tokenizer_source: None,
            tokenizer: None,
            chat_template: None,
        }
    }

    /// Reads mergekit's YAML.
    ///
    /// # Errors
    /// Not YAML; an unknown key or parameter; not exactly one of `models` and `slices`.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        if text.len() > CONFIG_BYTES {
            return Err(ConfigError::TooLong { found: text.len() });
        }
        let config: Self = serde_yaml_ng::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// As [`MergeConfig::from_yaml`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let found = match (&self.models, &self.slices) {
            (Some(models), None) if models.is_empty() => Some("no models"),
            (None, Some(slices)) if slices.is_empty() => Some("no slices"),
            (None, Some(slices)) if slices.iter().any(|slice| slice.sources.is_empty()) => {
                Some("a slice without sources")
            }
            (Some(_), None) | (None, Some(_)) => None,
            (Some(_), Some(_)) => Some("both"),
            (None, None) => Some("neither"),
        };
        if let Some(found) = found {
            return Err(ConfigError::Inputs { found });
        }
        if self.tokenizer.is_some() && self.tokenizer_source.is_some() {
            return Err(ConfigError::TwoTokenizers);
        }
        self.settings().try_for_each(|parameters| self.check_names(parameters))
    }

    fn check_names(&self, parameters: &Parameters) -> Result<(), ConfigError> {
        let allowed: Vec<_> = self.merge_method.parameters().iter().map(|one| one.name).collect();
        match parameters.keys().find(|name| !allowed.contains(&name.as_str())) {
            None => Ok(()),
            Some(found) => Err(ConfigError::Parameter {
                found: found.clone(),
                method: self.merge_method,
                allowed,
            }),
        }
    }

    fn settings(&self) -> impl Iterator<Item = &Parameters> {
        let models = self.models.iter().flatten().map(|model| &model.parameters);
        let slices = self.slices.iter().flatten();
        let sources = slices.clone().flat_map(|slice| &slice.sources);
        std::iter::once(&self.parameters)
            .chain(models)
            .chain(slices.map(|slice| &slice.parameters))
            .chain(sources.map(|source| &source.parameters))
    }

    /// Where the tokenizer of the result comes from, if that is said.
    pub fn tokenizer_from(&self) -> Option<&str> {
        let object = self.tokenizer.as_ref().map(|tokenizer| tokenizer.source.as_str());
        self.tokenizer_source.as_deref().or(object)
    }

    /// The names of all models, each once: the base, then the others as they come.
    pub fn model_names(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let slices = self.slices.iter().flatten();
        let of_slices = slices.flat_map(|slice| {
            let sources = slice.sources.iter().map(|source| source.model.as_str());
            slice.base_model.as_deref().into_iter().chain(sources)
        });
        let named = |name: &&str| !matches!(*name, "union" | "base" | "auto");
        let names = self.base_model.as_deref().into_iter();
        names
            .chain(self.models.iter().flatten().map(|model| model.model.as_str()))
            .chain(of_slices)
            .chain(self.tokenizer_from().filter(named))
            .chain(self.chat_template.as_deref().filter(named))
            .filter(|name| seen.insert(*name))
            .collect()
    }

    /// The same with every model called otherwise.
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Self {
        let mut config = self.clone();
        let change = |name: &mut String| *name = rename(name);
        let change_unless = |words: &[&str], name: &mut String| {
            if !words.contains(&name.as_str()) {
                change(name);
            }
        };
        config.base_model.iter_mut().for_each(&change);
        config.models.iter_mut().flatten().for_each(|model| change(&mut model.model));
        for slice in config.slices.iter_mut().flatten() {
            slice.base_model.iter_mut().for_each(&change);
            slice.sources.iter_mut().for_each(|source| change(&mut source.model));
        }
        let sources = ["union", "base"];
        config.tokenizer_source.iter_mut().for_each(|name| change_unless(&sources, name));
        config.tokenizer.iter_mut().for_each(|one| change_unless(&sources, &mut one.source));
        config.chat_template.iter_mut().for_each(|name| change_unless(&["auto"], name));
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIES: &str = "
models:
  - model: a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: b
    parameters:
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: c
parameters:
  normalize: true
  int8_mask: true
dtype: float16
";

    #[test]
    fn mergekits_example_is_read_and_comes_back() {
        let config = MergeConfig::from_yaml(TIES).unwrap();
        assert_eq!(config.merge_method, Method::Ties);
        assert_eq!(config.model_names(), ["c", "a", "b"]);
        assert_eq!(config.dtype, Some(FloatType::F16));
        let renamed = MergeConfig { base_model: Some("base".into()), ..config.clone() };
        let renamed = renamed.renamed(str::to_uppercase);
        assert_eq!(renamed.model_names(), ["BASE", "A", "B"]);
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<MergeConfig>(json).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_refused_with_the_allowed_ones() {
        let wrong = TIES.replace("dtype:", "dtyp:");
        let said = MergeConfig::from_yaml(&wrong).unwrap_err().to_string();
        assert!(said.contains("`dtyp`") && said.contains("`out_dtype`"), "{said}");
        let wrong = TIES.replace("density:", "densities:");
        let said = MergeConfig::from_yaml(&wrong).unwrap_err().to_string();
        assert!(
            said.contains("`densities` is no parameter of ties") && said.contains("density"),
            "{said}"
        );
        let wrong = TIES.replace("merge_method: ties", "merge_method: tie");
        let said = MergeConfig::from_yaml(&wrong).unwrap_err().to_string();
        assert!(said.contains("`tie`") && said.contains("breadcrumbs_ties"), "{said}");
        assert!(MergeConfig::from_yaml("merge_method: linear").is_err());
        assert!(MergeConfig::from_yaml("merge_method: [").is_err());
    }
}
