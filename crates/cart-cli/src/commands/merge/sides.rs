//! `cart merge OURS THEIRS`: what the arguments mean.

use std::str::FromStr;

use cart_format::CommitId;
use cart_merge::weights::{
    Case, FloatType, MergeConfig, Method, OnConflict, Parameters, PlanOptions, Setting as Value,
    ThreeWay,
};
use cart_store::ObjectError;
use thiserror::Error;

use super::MergeArgs;
use super::inputs::{Asked, BaseFrom, Input};
use crate::context::Context;
use crate::failure::Failure;

/// `[ours.|theirs.]NAME[@FILTER]=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    side: Option<Side>,
    name: String,
    filter: Option<String>,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

/// What to do with tensors that both changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conflicts {
    Choice(OnConflict),
    Method(Method),
}

/// Where the tokenizer comes from.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum TokenizerSource {
    /// Ours
    Base,
    /// Ours, and what the other has beyond it
    Union,
}

/// A base that is in neither history.
#[derive(Debug, Error)]
#[error(
    "{base} is no common ancestor of {ours} and {theirs}{}; without --base the nearest is found, and --unrelated-base takes this one all the same",
    nearest.map_or_else(String::new, |id| format!(" (the nearest is commit {})", &id.hex()[..12]))
)]
struct NoAncestor {
    base: String,
    ours: String,
    theirs: String,
    nearest: Option<CommitId>,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "it has the form [ours.|theirs.]NAME[@FILTER]=VALUE";
        let (key, value) = text.split_once('=').ok_or_else(|| form.to_owned())?;
        let (side, key) = match key.split_once('.') {
            Some(("ours", key)) => (Some(Side::Ours), key),
            Some(("theirs", key)) => (Some(Side::Theirs), key),
            _ => (None, key),
        };
        let (name, filter) = match key.split_once('@') {
            Some((name, filter)) => (name, Some(filter.to_owned())),
            None => (key, None),
        };
        let value = serde_json::from_str(value).map_err(|_| {
            format!("its value is `{value}`; allowed: a number, true, false, or a list of numbers as [0,0.5,1]")
        })?;
        Ok(Self { side, name: name.to_owned(), filter, value })
    }
}

impl FromStr for Conflicts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "ours" => Self::Choice(OnConflict::Ours),
            "theirs" => Self::Choice(OnConflict::Theirs),
            "base" => Self::Choice(OnConflict::Base),
            "refuse" => Self::Choice(OnConflict::Refuse),
            method => Self::Method(
                method
                    .parse()
                    .map_err(|error| format!("ours, theirs, base, refuse, or a method: {error}"))?,
            ),
        })
    }
}

/// A float type by its name in manifests or in mergekit.
pub(crate) fn float_type(text: &str) -> Result<FloatType, String> {
    let named = serde_json::from_value(text.into());
    named.map_err(|_| "allowed: f32, f16, bf16, float32, float16, bfloat16".to_owned())
}

/// Opens both sides and their base, and puts the arguments into a configuration.
pub(super) fn asked(context: &Context, args: &MergeArgs) -> Result<Asked, Failure> {
    let (Some(ours), Some(theirs)) = (&args.ours, &args.theirs) else {
        return Err(Failure::arguments("OURS and THEIRS are needed"));
    };
    let (ours, theirs) = (Input::open(context, ours)?, Input::open(context, theirs)?);
    let (base, from) = base(context, args, [&ours, &theirs])?;
    let (method, on_conflict) = match (args.method, args.on_conflict) {
        (Some(_), Some(Conflicts::Method(_))) => {
            return Err(Failure::arguments(
                "--method and a method of --on-conflict say the same; give one",
            ));
        }
        (Some(method), None) | (None, Some(Conflicts::Method(method))) => {
            (method, OnConflict::Merge)
        }
        (method, Some(Conflicts::Choice(choice))) => (method.unwrap_or(Method::Linear), choice),
        (None, None) => (Method::Linear, OnConflict::Refuse),
    };
    if on_conflict == OnConflict::Base && base.is_none() {
        let message =
            "--on-conflict base needs a base: the histories have no common commit; give --base";
        return Err(Failure::arguments(message));
    }
    let mut config = MergeConfig::of_models(method, [ours.id().hex(), theirs.id().hex()]);
    config.base_model = base.as_ref().map(|base| base.id().hex());
    config.out_dtype = args.dtype;
    config.tokenizer_source = args.tokenizer.map(|source| match source {
        TokenizerSource::Base => {
            config.models.iter().flatten().map(|one| one.model.clone()).next().unwrap_or_default()
        }
        TokenizerSource::Union => "union".to_owned(),
    });
    set_parameters(&mut config, &args.parameters)?;
    config.check().map_err(|error| Failure::arguments(error.to_string()))?;
    let mut inputs: Vec<Input> = Vec::new();
    for input in [Some(ours), Some(theirs), base].into_iter().flatten() {
        if inputs.iter().all(|other| other.id() != input.id()) {
            inputs.push(input);
        }
    }
    let three_way = Some(ThreeWay { on_conflict });
    Ok(Asked {
        config,
        options: PlanOptions { three_way, ..PlanOptions::default() },
        inputs,
        base: from,
    })
}

fn base(
    context: &Context,
    args: &MergeArgs,
    [ours, theirs]: [&Input; 2],
) -> Result<(Option<Input>, BaseFrom), Failure> {
    let common = match (ours.commit(), theirs.commit()) {
        (Some(a), Some(b)) => match context.store() {
            Ok(store) => known(store.common_ancestors(&a, &b))?,
            Err(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    if let Some(base) = &args.base {
        let input = Input::open(context, base)?;
        let in_both = || -> Result<bool, Failure> {
            let (Some(base), Ok(store)) = (input.commit(), context.store()) else {
                return Ok(false);
            };
            for side in [ours, theirs] {
                let Some(side) = side.commit() else { return Ok(false) };
                if !known(store.ancestors(&side))?.contains_key(&base) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if !args.unrelated_base && !in_both()? {
            return Err(Failure::refused(NoAncestor {
                base: base.clone(),
                ours: ours.label.clone(),
                theirs: theirs.label.clone(),
                nearest: common.first().copied(),
            }));
        }
        return Ok((Some(input), BaseFrom::Given));
    }
    let Some(nearest) = common.first() else { return Ok((None, BaseFrom::None)) };
    let cartridge = context.store()?.cartridge(*nearest).map_err(Failure::refused)?;
    let input = Input::of(format!("commit {}", &nearest.hex()[..12]), cartridge)?;
    Ok((Some(input), BaseFrom::History))
}

/// What a store knows of history; nothing where it lacks a commit that a file has.
fn known<T: Default>(found: Result<T, ObjectError>) -> Result<T, Failure> {
    match found {
        Err(ObjectError::Absent { .. }) => Ok(T::default()),
        found => found.map_err(Failure::refused),
    }
}

fn set_parameters(config: &mut MergeConfig, settings: &[Setting]) -> Result<(), Failure> {
    for setting in settings {
        let parameters = match (setting.side, &mut config.models) {
            (None, _) | (_, None) => &mut config.parameters,
            (Some(side), Some(models)) => &mut models[usize::from(side == Side::Theirs)].parameters,
        };
        add(parameters, setting)?;
    }
    let method = config.merge_method;
    let is_said = |name: &str| {
        let own = config.models.iter().flatten().all(|model| model.parameters.contains_key(name));
        own || config.parameters.contains_key(name)
    };
    // Both sides count alike where nobody says otherwise, and slerp goes half way.
    let mut unsaid = Vec::new();
    for (name, value) in [("weight", 1.0), ("t", 0.5)] {
        let has = method.parameters().iter().any(|one| one.name == name);
        if has && !is_said(name) && (name != "t" || method == Method::Slerp) {
            unsaid.push((name, value));
        }
    }
    for (name, value) in unsaid {
        config.parameters.entry(name.to_owned()).or_insert(Value::number(value));
    }
    Ok(())
}

/// Adds a setting: those with a filter come before the one without.
fn add(parameters: &mut Parameters, setting: &Setting) -> Result<(), Failure> {
    let name = &setting.name;
    let twice = || Failure::arguments(format!("-p {name} is given twice for the same tensors"));
    let case = Case { filter: setting.filter.clone(), value: setting.value.clone() };
    let before = parameters.remove(name);
    let value = match (before, &setting.filter) {
        (None, None) => setting.value.clone(),
        (None, Some(_)) => Value::Cases(vec![case]),
        (Some(Value::Cases(mut cases)), filter) => {
            if cases.iter().any(|other| other.filter == *filter) {
                return Err(twice());
            }
            let end = cases.iter().position(|other| other.filter.is_none()).unwrap_or(cases.len());
            cases.insert(if filter.is_some() { end } else { cases.len() }, case);
            Value::Cases(cases)
        }
        (Some(_), None) => return Err(twice()),
        (Some(all), Some(_)) => Value::Cases(vec![case, Case { filter: None, value: all }]),
    };
    parameters.insert(name.clone(), value);
    Ok(())
}
