//! Perplexity and probes.

use cart_engine::{
    PerplexityError, ProbeError, ProbeFailure, check_probe, finite_check, perplexity, record_probe,
};

use crate::given::shelf;

#[test]
fn perplexity_scores_the_second_half_of_each_whole_chunk() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let text =
        "What is the code of the red boat? The code of the red boat is not known.\n".repeat(12);
    let report = perplexity(&agent, &text, 64).unwrap();
    assert_eq!(report.chunks, report.tokens / 64);
    assert_eq!(report.scored, report.chunks * 31);
    // Chance would be 1,024; the second half of a chunk repeats the first.
    assert!(report.perplexity > 1.0 && report.perplexity < 8.0, "{report:?}");
    let noise: String = text.chars().rev().collect();
    assert!(perplexity(&agent, &noise, 64).unwrap().perplexity > report.perplexity);
}

#[test]
fn texts_and_chunks_that_do_not_fit_are_refused() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let short = perplexity(&agent, "One day", 64);
    assert!(matches!(short, Err(PerplexityError::TooShort { chunk: 64, .. })), "{short:?}");
    let wide = perplexity(&agent, "One day", 513);
    assert!(matches!(wide, Err(PerplexityError::Chunk { found: 513, context: 512 })), "{wide:?}");
}

#[test]
fn a_probe_passes_where_it_was_recorded_and_fails_where_something_moved() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let probe = record_probe(&agent, "One day, Anna went to the", 4, 5).unwrap();
    let outcome = check_probe(&agent, &probe).unwrap();
    assert!(outcome.passed && outcome.largest < 1e-6, "{outcome:?}");
    assert_eq!(outcome.compared, 20);

    let mut moved = probe.clone();
    moved.steps[2].top[1].logprob += 0.5;
    let outcome = check_probe(&agent, &moved).unwrap();
    assert!(
        matches!(outcome.failure, Some(ProbeFailure::Moved { step: 2, .. })) && !outcome.passed,
        "{outcome:?}"
    );

    let mut other = probe.clone();
    other.token_ids.push(5);
    let outcome = check_probe(&agent, &other).unwrap();
    assert!(matches!(outcome.failure, Some(ProbeFailure::OtherTokens { .. })), "{outcome:?}");

    let mut foreign = probe.clone();
    foreign.steps[0].top[0].token = 1 << 20;
    let outcome = check_probe(&agent, &foreign).unwrap();
    let unknown = ProbeFailure::UnknownToken { step: 0, token: 1 << 20 };
    assert_eq!((outcome.passed, outcome.failure), (false, Some(unknown)));

    assert!(matches!(record_probe(&agent, "x", 0, 5), Err(ProbeError::Nothing { .. })));
}

#[test]
fn a_sound_model_passes_the_finite_check() {
    let shelf = shelf();
    let report = finite_check(&shelf.tiny()).unwrap();
    assert_eq!((report.prompts, report.logits), (3, 3 * 1024));
}
