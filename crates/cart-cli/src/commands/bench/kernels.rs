//! `cart bench kernels`.

use std::time::Instant;

use cart_engine::{Agent, LoadOptions, ParseSpecial};
use cart_nn::decoder::Run;
use cart_nn::{Activations, KernelLevel, LogitsFor};
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::table::Table;

/// Compare the kernel levels with the portable one: same answers, and how much faster.
///
/// Loads the model once for each level that this processor has and reads the same text with each:
/// prints how often the most likely token is the same as with the portable kernels, the largest
/// difference of a logit, and tokens a second as a ratio to portable. Then, at the best level, what
/// the 8-bit activations of `--activations mixed` change.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench kernels smol
  cart --json bench kernels smol --positions 1000 --rounds 5")]
pub(crate) struct KernelsArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Positions of the text at which the answers are compared
    #[arg(long, value_name = "N", default_value_t = 500,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    positions: u32,
    /// How many times the speed of each level is measured; the best counts
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
}

#[derive(Serialize)]
struct KernelsReport {
    manifest: String,
    positions: usize,
    rounds: u16,
    rows: Vec<KernelsRow>,
    activations: ActivationsRow,
}

#[derive(Serialize)]
struct KernelsRow {
    level: String,
    /// Positions with the same most likely token as the portable kernels.
    same_top1: usize,
    share_top1: f64,
    largest_difference: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    prefill_over_portable: f64,
    decode_over_portable: f64,
}

/// Mixed activations against exact ones.
#[derive(Serialize)]
struct ActivationsRow {
    level: String,
    /// Positions with the same most likely token.
    same_top1: usize,
    share_top1: f64,
    largest_difference: f64,
    /// Mean Kullback–Leibler divergence of the tokens' probabilities from the exact ones, in nats.
    divergence: f64,
    /// Mixed over exact.
    prefill_ratio: f64,
    decode_ratio: f64,
}

/// Tokens generated to measure a level's speed.
const DECODE: usize = 32;

pub(crate) fn run(context: &Context, args: &KernelsArgs) -> Result<(), Failure> {
    let levels = KernelLevel::ALL.into_iter().filter(|level| level.is_supported());
    let activations = history::load_options(context).activations.unwrap_or_default();
    let load = |level, activations| Reader::load(context, &args.reference, level, activations);
    let readers = levels.map(|level| load(level, activations)).collect::<Result<Vec<_>, _>>()?;
    let tokens = readers[0].tokens(args.positions as usize)?;
    let (agreements, speeds) = compare(context, &readers, &tokens, args.rounds)?;
    let best = KernelLevel::detect();
    let both = [Activations::Exact, Activations::Mixed].map(|activations| load(best, activations));
    let both = both.into_iter().collect::<Result<Vec<_>, _>>()?;
    let of_both = compare(context, &both, &tokens, args.rounds)?;
    let rows = readers.iter().zip(&agreements).zip(&speeds);
    let rows = rows.map(|((reader, agreement), speed)| row(reader, agreement, &speeds[0], speed));
    let body = KernelsReport {
        manifest: readers[0].agent.id().hex(),
        positions: tokens.len(),
        rounds: args.rounds,
        rows: rows.collect(),
        activations: activations_row(best, &of_both),
    };
    if context.json {
        return report::print("bench-kernels", &body);
    }
    show(&body)
}

/// Reads the tokens with each in turn, and compares all with the first.
fn compare(
    context: &Context,
    readers: &[Reader],
    tokens: &[u32],
    rounds: u16,
) -> Result<(Vec<Agreement>, Vec<Speed>), Failure> {
    let mut speeds = vec![Speed::default(); readers.len()];
    let (mut first, mut agreements) = (None, Vec::new());
    for round in 1..=rounds {
        for (reader, speed) in readers.iter().zip(&mut speeds) {
            let Reader { level, activations, .. } = reader;
            context.remark(&format!("round {round} of {rounds}: {level}, {activations} …"));
            let logits = reader.read(tokens, speed)?;
            if round == 1 {
                let base = first.get_or_insert_with(|| logits.clone());
                agreements.push(Agreement::of(base, &logits));
            }
        }
    }
    Ok((agreements, speeds))
}

/// A model at one level.
struct Reader {
    agent: Agent,
    level: KernelLevel,
    activations: Activations,
}

/// Best tokens a second.
#[derive(Clone, Copy, Default)]
struct Speed {
    prefill: f64,
    decode: f64,
}

/// Logits of every position: rows of the vocabulary.
#[derive(Clone)]
struct AllLogits {
    data: Vec<f32>,
    vocabulary: usize,
}

impl Reader {
    fn load(
        context: &Context,
        reference: &str,
        level: KernelLevel,
        activations: Activations,
    ) -> Result<Self, Failure> {
        let verified = history::verified(context, reference)?;
        let options = LoadOptions {
            kernels: Some(level),
            activations: Some(activations),
            ..history::load_options(context)
        };
        let agent = Agent::load(&verified, &options).map_err(Failure::refused)?;
        Ok(Self { agent, level, activations })
    }

    fn tokens(&self, positions: usize) -> Result<Vec<u32>, Failure> {
        let tokenizer = self.agent.tokenizer().ok_or_else(|| {
            Failure::refused("the cartridge has no tokenizer, so there is no text to read")
        })?;
        let ids = tokenizer.encode(super::TEXT, ParseSpecial::No).map_err(Failure::refused)?;
        let room = self.agent.context_length().saturating_sub(DECODE);
        Ok(ids.into_iter().cycle().take(positions.min(room)).collect())
    }

    /// Reads the tokens in one pass, then generates a few.
    fn read(&self, tokens: &[u32], speed: &mut Speed) -> Result<AllLogits, Failure> {
        let model = self.agent.model();
        let mut state = model.new_state();
        let mut forward = |tokens: &[u32], logits| {
            let run = Run { state: &mut state, tokens, logits, taps: None };
            let began = Instant::now();
            let mut logits = model.forward(&mut [run]).map_err(Failure::refused)?;
            Ok::<_, Failure>((logits.remove(0), began.elapsed().as_secs_f64()))
        };
        let (all, _) = forward(tokens, LogitsFor::All)?;
        let mut seconds = 0.0;
        for _ in 0..DECODE {
            seconds += forward(&tokens[..1], LogitsFor::Last)?.1;
        }
        state = model.new_state();
        let run = Run { state: &mut state, tokens, logits: LogitsFor::Last, taps: None };
        let began = Instant::now();
        model.forward(&mut [run]).map_err(Failure::refused)?;
        let prefill = tokens.len() as f64 / began.elapsed().as_secs_f64();
        speed.prefill = speed.prefill.max(prefill);
        speed.decode = speed.decode.max(DECODE as f64 / seconds);
        Ok(AllLogits { data: all.data, vocabulary: model.spec().vocab_size as usize })
    }
}

impl AllLogits {
    fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.vocabulary)
    }
}

/// How near logits are to the first ones.
struct Agreement {
    positions: usize,
    same_top1: usize,
    largest_difference: f64,
    divergence: f64,
}

impl Agreement {
    fn of(first: &AllLogits, own: &AllLogits) -> Self {
        let rows = || first.rows().zip(own.rows());
        let positions = first.rows().len();
        let differences = first.data.iter().zip(&own.data).map(|(a, b)| (a - b).abs());
        let divergences = rows().map(|(a, b)| divergence(a, b));
        Self {
            positions,
            same_top1: rows().filter(|(a, b)| super::top(a) == super::top(b)).count(),
            largest_difference: differences.fold(0.0, f32::max).into(),
            divergence: divergences.sum::<f64>() / positions as f64,
        }
    }
}

/// Kullback–Leibler divergence of the probabilities of `own` from those of `first`, in nats.
fn divergence(first: &[f32], own: &[f32]) -> f64 {
    let normalizer = |logits: &[f32]| {
        let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        most + logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln()
    };
    let (of_first, of_own) = (normalizer(first), normalizer(own));
    let terms = first.iter().zip(own).map(|(first, own)| {
        let (first, own) = (f64::from(*first) - of_first, f64::from(*own) - of_own);
        first.exp() * (first - own)
    });
    terms.sum()
}

fn activations_row(
    level: KernelLevel,
    (agreements, speeds): &(Vec<Agreement>, Vec<Speed>),
) -> ActivationsRow {
    let mixed = &agreements[1];
    ActivationsRow {
        level: level.name().to_owned(),
        same_top1: mixed.same_top1,
        share_top1: mixed.same_top1 as f64 / mixed.positions as f64,
        largest_difference: mixed.largest_difference,
        divergence: mixed.divergence,
        prefill_ratio: speeds[1].prefill / speeds[0].prefill,
        decode_ratio: speeds[1].decode / speeds[0].decode,
    }
}

fn row(reader: &Reader, agreement: &Agreement, base: &Speed, speed: &Speed) -> KernelsRow {
    KernelsRow {
        level: reader.level.name().to_owned(),
        same_top1: agreement.same_top1,
        share_top1: agreement.same_top1 as f64 / agreement.positions as f64,
        largest_difference: agreement.largest_difference,
        prefill_tokens_per_second: speed.prefill,
        decode_tokens_per_second: speed.decode,
        prefill_over_portable: speed.prefill / base.prefill,
        decode_over_portable: speed.decode / base.decode,
    }
}

fn show(body: &KernelsReport) -> Result<(), Failure> {
    let headings =
        ["LEVEL", ">SAME TOP-1", ">LARGEST |Δ|", ">PREFILL tok/s", ">DECODE tok/s", ">× PORTABLE"];
    let mut table = Table::new(&headings);
    for row in &body.rows {
        table.row([
            row.level.clone(),
            format!("{} of {} ({:.1} %)", row.same_top1, body.positions, 100.0 * row.share_top1),
            format!("{:.2e}", row.largest_difference),
            format!("{:.0}", row.prefill_tokens_per_second),
            format!("{:.1}", row.decode_tokens_per_second),
            format!("{:.2} and {:.2}", row.prefill_over_portable, row.decode_over_portable),
        ]);
    }
    let mixed = &body.activations;
    let note = format!(
        "\nmixed activations against exact ones, {}: same top-1 {} of {} ({:.1} %), largest |Δ| {:.2}, \
         divergence {:.1e} nats, prefill {:.2} ×, decode {:.2} ×\n",
        mixed.level,
        mixed.same_top1,
        body.positions,
        100.0 * mixed.share_top1,
        mixed.largest_difference,
        mixed.divergence,
        mixed.prefill_ratio,
        mixed.decode_ratio,
    );
    report::stdout((table.render() + &note).as_bytes())
}
