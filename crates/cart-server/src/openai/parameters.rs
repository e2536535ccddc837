//! Parameters that chat and completion share.

use cart_engine::{
    Constraint, GenerateOptions, GoalOptions, Grammar, KnnOptions, LayersOptions, MemoryOptions,
    PrefixOptions, SamplingOptions,
};
use serde::Deserialize;
use serde_json::Value;

use super::format::ResponseFormat;
use crate::error::ApiError;

/// Longest model name that is looked at, in bytes.
const MODEL_BYTES: usize = 256;

/// Parameters that chat and completion share.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Parameters {
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<OneOrMany>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    seed: Option<i64>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    repetition_penalty: Option<f32>,
    ignore_eos: Option<bool>,
    n: Option<u64>,
    memory: Option<MemoryParameter>,
    best_of: Option<u64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<Value>,
    tools: Option<Value>,
    functions: Option<Value>,
    response_format: Option<ResponseFormat>,
    suffix: Option<String>,
    echo: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

/// A value, or an array of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The extension field `memory`: which ways are on for this request, and in which conversation it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryParameter {
    prefix: Option<Switch<PrefixOptions>>,
    knn: Option<Switch<KnnOptions>>,
    goal: Option<Switch<GoalOptions>>,
    layers: Option<Switch<LayersOptions>>,
    write: Option<bool>,
    compare: Option<bool>,
    session: Option<String>,
}

/// `true`, `false`, or on with these settings.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Switch<T> {
    Flag(bool),
    On(T),
}

impl<T: Clone + Default> Switch<T> {
    /// Does to a way what was asked; nothing where nothing was.
    fn turn(asked: Option<&Self>, way: &mut Option<T>) {
        match asked {
            None => {}
            Some(Self::Flag(false)) => *way = None,
            Some(Self::Flag(true)) => *way = Some(way.take().unwrap_or_default()),
            Some(Self::On(settings)) => *way = Some(settings.clone()),
        }
    }
}

/// What the server assumes where a request says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    /// How memory takes part.
    pub(crate) memory: MemoryOptions,
    /// Most tokens; none for the rest of the context.
    pub(crate) max_tokens: Option<usize>,
    /// Which draws.
    pub(crate) seed: u64,
    /// Since 1970, for chat templates that ask.
    pub(crate) now: std::time::Duration,
}

impl Parameters {
    /// What it calls the cartridge.
    pub(crate) fn model(&self) -> Option<String> {
        self.model.clone()
    }

    /// Whether the answer comes in parts.
    pub(crate) fn stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a last part says how many tokens there were.
    pub(crate) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The options of the generation.
    ///
    /// # Errors
    /// A parameter that this server does not have, or a value out of its range.
    pub(crate) fn options(
        &self,
        top_logprobs: usize,
        defaults: Defaults,
    ) -> Result<GenerateOptions, ApiError> {
        self.refuse_unsupported()?;
        let greedy = SamplingOptions::default();
        let options = GenerateOptions {
            sampling: SamplingOptions {
                temperature: self.temperature.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(greedy.top_k),
                top_p: self.top_p.unwrap_or(greedy.top_p),
                min_p: self.min_p.unwrap_or(greedy.min_p),
                repetition_penalty: self.repetition_penalty.unwrap_or(greedy.repetition_penalty),
                repetition_window: greedy.repetition_window,
                seed: self.seed.map_or(defaults.seed, i64::cast_unsigned),
            },
            max_tokens: self.max_tokens()?.or(defaults.max_tokens),
            stop: self.stops(),
            top_logprobs,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            constraint: self.grammar()?.map(Constraint::new),
            tools: Vec::new(),
            memory: self.memory(defaults.memory),
            now: defaults.now,
        };
        options.check().map_err(cart_engine::runtime::SubmitError::from)?;
        Ok(options)
    }

    /// What the answer is held to.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, ApiError> {
        Ok(self.response_format.as_ref().map(ResponseFormat::grammar).transpose()?.flatten())
    }

    fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let (param, asked) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(asked), _) => ("max_completion_tokens", asked),
            (None, Some(asked)) => ("max_tokens", asked),
            (None, None) => return Ok(None),
        };
        if asked == 0 {
            return Err(ApiError::Invalid { param, found: "0".to_owned(), allowed: "1 or more" });
        }
        Ok(Some(usize::try_from(asked).unwrap_or(usize::MAX)))
    }

    fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        }
    }

    fn memory(&self, mut memory: MemoryOptions) -> MemoryOptions {
        let Some(asked) = &self.memory else { return memory };
        Switch::turn(asked.prefix.as_ref(), &mut memory.prefix);
        if let (Some(Switch::Flag(true)), Some(prefix)) = (&asked.prefix, &mut memory.prefix) {
            // Who asks for it by name means it.
            prefix.beside_layers = true;
        }
        Switch::turn(asked.knn.as_ref(), &mut memory.knn);
        Switch::turn(asked.goal.as_ref(), &mut memory.goal);
        Switch::turn(asked.layers.as_ref(), &mut memory.layers);
        memory.write = asked.write.unwrap_or(memory.write);
        memory.compare = asked.compare.unwrap_or(memory.compare);
        memory.session = asked.session.clone().or(memory.session);
        memory
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        if let Some(model) = self.model.as_ref().filter(|model| model.len() > MODEL_BYTES) {
            let found = format!("{} bytes long", model.len());
            return Err(ApiError::Invalid { param: "model", found, allowed: "up to 256 bytes" });
        }
        if let Some(n) = self.n.filter(|&n| n != 1) {
            return Err(ApiError::Invalid { param: "n", found: n.to_string(), allowed: "1" });
        }
        let filled = |value: &Option<Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        };
        let nonzero = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
        let refused: [(&'static str, bool); 8] = [
            ("best_of", self.best_of.is_some_and(|best| best != 1)),
            ("frequency_penalty", nonzero(self.frequency_penalty)),
            ("presence_penalty", nonzero(self.presence_penalty)),
            ("logit_bias", filled(&self.logit_bias)),
            ("tools", filled(&self.tools)),
            ("functions", filled(&self.functions)),
            ("suffix", self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
            ("echo", self.echo.unwrap_or(false)),
        ];
        match refused.iter().find(|(_, found)| *found) {
            Some(&(param, _)) => Err(ApiError::Unsupported { param }),
            None => Ok(()),
        }
    }
}
