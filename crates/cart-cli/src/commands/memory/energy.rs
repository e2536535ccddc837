//! `cart memory energy`.

use std::fmt::Write as _;

use cart_memory::{StoreKind, UnifiedMemory};
use clap::Args;
use serde::Serialize;

use super::remembered::{Remembered, say_nothing};
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// Bars of a histogram, over 0 to 1.
const BINS: usize = 10;
/// Characters of the longest bar.
const BAR: usize = 40;

/// Show how much the memories matter: statistics of their energies, and a histogram.
///
/// Gated energy is σ(A) · energy, which decides what is consolidated and what is replaced. No model is loaded.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory energy smol:told
  cart --json memory energy smol:told")]
pub(crate) struct EnergyArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
}

#[derive(Serialize)]
struct EnergyReport {
    manifest: String,
    memory_id: Option<String>,
    energies: Option<Energies>,
}

#[derive(Serialize)]
struct Energies {
    stm: StoreEnergies,
    ltm: StoreEnergies,
    /// Gated energy from which a slot is consolidated.
    consolidate_threshold: f32,
    surprise: Surprise,
}

#[derive(Serialize)]
struct StoreEnergies {
    slots: usize,
    energy: Option<Statistics>,
    gated_energy: Option<Statistics>,
}

/// Statistics of shares, 0 to 1.
#[derive(Debug, PartialEq, Serialize)]
struct Statistics {
    least: f32,
    median: f32,
    mean: f64,
    most: f32,
    /// Of the whole, not of a sample.
    deviation: f64,
    /// How many are in each tenth of 0 to 1; 1 is in the last.
    histogram: [usize; BINS],
}

/// Running statistics of the surprise of observations, nats.
#[derive(Serialize)]
struct Surprise {
    count: u64,
    mean: f64,
    deviation: f64,
}

pub(crate) fn run(context: &Context, args: &EnergyArgs) -> Result<(), Failure> {
    let found = Remembered::open(context, &args.reference)?;
    let body = EnergyReport {
        manifest: found.manifest.hex(),
        memory_id: found.id(),
        energies: found.memory.as_ref().map(energies),
    };
    if context.json {
        return report::print("memory-energy", &body);
    }
    match &body.energies {
        Some(energies) => report::stdout(render(energies).as_bytes()),
        None => say_nothing(),
    }
}

fn energies(memory: &UnifiedMemory) -> Energies {
    let store = |kind: StoreKind| {
        let slots = || memory.slots().filter(move |(at, _)| at.store == kind).map(|(_, slot)| slot);
        StoreEnergies {
            slots: slots().count(),
            energy: Statistics::of(slots().map(|slot| slot.energy).collect()),
            gated_energy: Statistics::of(slots().map(cart_memory::Slot::gated_energy).collect()),
        }
    };
    let surprise = memory.surprise();
    Energies {
        stm: store(StoreKind::Stm),
        ltm: store(StoreKind::Ltm),
        consolidate_threshold: memory.config().consolidate_threshold,
        surprise: Surprise {
            count: surprise.count,
            mean: surprise.mean,
            deviation: surprise.variance.sqrt(),
        },
    }
}

impl Statistics {
    /// None of no numbers.
    fn of(mut numbers: Vec<f32>) -> Option<Self> {
        numbers.sort_by(f32::total_cmp);
        let (&least, &most) = (numbers.first()?, numbers.last()?);
        let count = numbers.len() as f64;
        let mean = numbers.iter().map(|&number| f64::from(number)).sum::<f64>() / count;
        let square = |&number: &f32| (f64::from(number) - mean).powi(2);
        let variance = numbers.iter().map(square).sum::<f64>() / count;
        let middle = numbers.len() / 2;
        let median = if numbers.len() % 2 == 1 {
            numbers[middle]
        } else {
            f32::midpoint(numbers[middle - 1], numbers[middle])
        };
        let mut histogram = [0; BINS];
        for number in &numbers {
            histogram[((number * BINS as f32) as usize).min(BINS - 1)] += 1;
        }
        Some(Self { least, median, mean, most, deviation: variance.sqrt(), histogram })
    }
}

fn render(energies: &Energies) -> String {
    let mut text = String::new();
    for (name, store) in [("short-term", &energies.stm), ("long-term", &energies.ltm)] {
        let _ = writeln!(text, "{name}: {}", counted(store.slots as u64, "slot"));
        for (what, statistics) in [("energy", &store.energy), ("gated energy", &store.gated_energy)]
        {
            text += &statistics.as_ref().map_or_else(String::new, |found| drawn(what, found));
        }
    }
    let surprise = &energies.surprise;
    let _ = writeln!(text, "consolidated from gated energy {}", energies.consolidate_threshold);
    let _ = writeln!(
        text,
        "surprise {:.2} ± {:.2} nats over {}",
        surprise.mean,
        surprise.deviation,
        counted(surprise.count, "observation")
    );
    text
}

fn drawn(what: &str, found: &Statistics) -> String {
    let mut text = format!(
        "  {what}: {:.3} to {:.3}, mean {:.3} ± {:.3}, median {:.3}\n",
        found.least, found.most, found.mean, found.deviation, found.median
    );
    let longest = found.histogram.iter().copied().max().unwrap_or(0).max(1);
    for (bin, &count) in found.histogram.iter().enumerate() {
        let (from, to) = (bin as f64 / BINS as f64, (bin + 1) as f64 / BINS as f64);
        let length = (count * BAR).div_ceil(longest);
        let line = format!("    {from:.1} to {to:.1}  {count:>5}  {}", "█".repeat(length));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_are_counted_in_tenths_and_one_belongs_to_the_last() {
        assert_eq!(Statistics::of(Vec::new()), None);
        let found = Statistics::of(vec![1.0, 0.0, 0.5, 0.25]).unwrap();
        assert_eq!(found.histogram, [1, 0, 1, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!((found.least, found.median, found.most), (0.0, 0.375, 1.0));
        assert!((found.mean - 0.4375).abs() < 1e-12);
        assert!((found.deviation - 0.136_718_75_f64.sqrt()).abs() < 1e-12);
    }
}
