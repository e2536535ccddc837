//! What both cartridges answer.

use std::path::Path;

use cart_engine::{BehaviourReport, compare_behaviour};
use cart_merge::diff::Effect;
use serde::Serialize;

use super::DiffArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress;

/// Prompts where nobody gives any. The help lists them.
pub(super) const PROMPTS: [&str; 8] = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "To make a cup of tea, first",
    "1, 2, 3, 5, 8, 13,",
    "The opposite of hot is",
    "Dear Sir or Madam,",
];

/// Where prompts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PromptsFrom {
    File,
    Probes,
    BuiltIn,
}

/// How far apart answers are.
#[derive(Serialize)]
pub(crate) struct Answers {
    pub(crate) prompts_from: PromptsFrom,
    /// In a word.
    pub(crate) effect: Effect,
    #[serde(flatten)]
    pub(crate) report: BehaviourReport,
}

/// Loads both and lets them answer.
pub(super) fn compared(context: &Context, args: &DiffArgs) -> Result<Answers, Failure> {
    let (a, origin_a) = history::load(context, &args.a)?;
    let (b, origin_b) = history::load(context, &args.b)?;
    let (prompts_from, prompts) = if let Some(file) = &args.prompts {
        (PromptsFrom::File, read(file)?)
    } else {
        let mut prompts: Vec<String> = Vec::new();
        for probe in origin_a.probes.iter().chain(&origin_b.probes) {
            if !prompts.contains(&probe.prompt) {
                prompts.push(probe.prompt.clone());
            }
        }
        if prompts.is_empty() {
            (PromptsFrom::BuiltIn, PROMPTS.map(str::to_owned).to_vec())
        } else {
            (PromptsFrom::Probes, prompts)
        }
    };
    progress::stop_on_interrupt();
    let steps = usize::from(args.steps);
    let report = compare_behaviour([&a, &b], &prompts, steps, &progress::interrupted)
        .map_err(Failure::refused)?;
    Ok(Answers { prompts_from, effect: Effect::of(report.kl), report })
}

fn read(file: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|source| {
        Failure::refused_with(
            format!("{} can't be read: {source}", file.display()),
            "give a file of UTF-8 text with a prompt on each line",
        )
    })?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let prompts: Vec<String> = lines.map(str::to_owned).collect();
    if prompts.is_empty() {
        return Err(Failure::refused_with(
            format!("{} has no prompts", file.display()),
            "give a file with a prompt on each line",
        ));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_lists_the_prompts() {
        #[derive(clap::Parser)]
        struct Lone {
            #[command(flatten)]
            diff: DiffArgs,
        }
        let _ = |lone: Lone| lone.diff;
        let help = Lone::command().render_long_help().to_string();
        for prompt in PROMPTS {
            assert!(help.contains(&format!("\n  {prompt}\n")), "{prompt}: {help}");
        }
    }
}
