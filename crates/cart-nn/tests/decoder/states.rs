//! States as values, chunks, batches and taps.

use std::num::NonZeroUsize;

use cart_nn::logits::logprob;
use cart_nn::{
    Counted, ForwardError, KernelLevel, KvFormat, Logits, LogitsFor, Model, RestoreStateError, Run,
    SavedState, SpanKv, State, Taps, Threads, TruncateError,
};

use crate::specimens::{Specimen, all, attending, gemma, llama, recurring, tokens};
use crate::{assert_close, forward, model};

#[test]
fn a_long_prompt_in_other_pieces_gives_the_same() {
    for (name, specimen) in all() {
        let model = model(&specimen);
        let tokens = tokens(600);
        let mut whole = model.new_state();
        let all = forward(&model, &mut whole, &tokens, LogitsFor::All);
        assert_eq!((whole.len(), all.len()), (600, 600 * 50));
        let mut pieces = model.new_state();
        let mut found = Vec::new();
        for piece in tokens.chunks(97) {
            found.extend(forward(&model, &mut pieces, piece, LogitsFor::All));
        }
        assert_close(&found, all.iter().map(|logit| f64::from(*logit)), name);
        let last = forward(&model, &mut model.new_state(), &tokens, LogitsFor::Last);
        assert_close(&last, all[599 * 50..].iter().map(|logit| f64::from(*logit)), name);
        assert!(forward(&model, &mut model.new_state(), &tokens, LogitsFor::None).is_empty());
    }
}

#[test]
fn what_follows_has_the_probability_that_the_logits_say() {
    for (name, specimen) in all() {
        let model = model(&specimen);
        let tokens = tokens(150);
        let logits = |asked| {
            let state = &mut model.new_state();
            let run = Run { state, tokens: &tokens, logits: asked, taps: None };
            model.forward(&mut [run]).unwrap().remove(0)
        };
        let all = logits(LogitsFor::All);
        for from in [0, 7, 148, 149, 150] {
            // The vocabulary is too small for a sample.
            for counted in [Counted::All, Counted::Sample] {
                let found = logits(LogitsFor::Following { from, counted });
                assert_eq!((found.rows, found.last()), (1, all.last()), "{name}, from {from}");
                let logprob = |row: usize| logprob(all.row(row), tokens[row + 1]);
                let expected: Vec<f64> = (from..149).map(logprob).collect();
                assert_eq!(found.following, expected, "{name}, from {from}");
            }
        }
    }
}

/// ln p of a token of 20,005 by the sample: of the first 2,048 all are counted, of those up to 4,096 every eighth sixteen
/// for all, up to 8,192 every sixteenth, of the rest every 32nd; its own sixteen by themselves.
fn by_sample(logits: &[f32], token: usize) -> f64 {
    let exp = |token: usize| f64::from(logits[token]).exp();
    let own = token / 16 * 16..logits.len().min((token / 16 + 1) * 16);
    let strata = [(0..2048, 1), (2048..4096, 8), (4096..8192, 16), (8192..20_005, 32)];
    let mut total: f64 = own.clone().map(exp).sum();
    for (tokens, every) in strata {
        let first = tokens.start / 16;
        let others: Vec<usize> = tokens.filter(|token| !own.contains(token)).collect();
        let is_counted = |token: usize| (token / 16 - first) % every == every / 2;
        let counted = others.iter().filter(|&&token| is_counted(token) && token < 20_000);
        let counted: Vec<f64> = counted.map(|&token| exp(token)).collect();
        total += counted.iter().sum::<f64>() * others.len() as f64 / counted.len() as f64;
    }
    f64::from(logits[token]) - total.ln()
}

#[test]
fn what_follows_is_estimated_by_the_sample_alike_in_any_pieces() {
    // The last sixteen are not whole.
    let specimen = Specimen::of_vocabulary(gemma().spec, 20_005);
    let model = model(&specimen);
    // Common ones, others and sampled ones of each stratum, and one of the last.
    let mut tokens: Vec<u32> = (0..150).map(|at: u32| at * 7919 % 20_005).collect();
    let chosen =
        [3, 2047, 2048, 2048 + 4 * 16, 4095, 4096 + 8 * 16 + 15, 8191, 8192 + 16 * 16, 20_004];
    tokens[..chosen.len()].copy_from_slice(&chosen);
    let logits = |state: &mut State, tokens: &[u32], asked| {
        let run = Run { state, tokens, logits: asked, taps: None };
        model.forward(&mut [run]).unwrap().remove(0)
    };
    let all = logits(&mut model.new_state(), &tokens, LogitsFor::All);
    let asked = |from| LogitsFor::Following { from, counted: Counted::Sample };
    for from in [0, 9, 149] {
        let found = logits(&mut model.new_state(), &tokens, asked(from));
        assert_eq!((found.rows, found.last()), (1, all.last()), "from {from}");
        assert_eq!(found.following.len(), 149 - from);
        for (at, found) in (from..).zip(&found.following) {
            let next = tokens[at + 1];
            let expected = by_sample(all.row(at), next as usize);
            assert!((found - expected).abs() < 1e-5, "{found} for {next}, expected {expected}");
        }
    }
    let whole = logits(&mut model.new_state(), &tokens, asked(0)).following;
    let mut state = model.new_state();
    let mut pieces = logits(&mut state, &tokens[..70], asked(0)).following;
    let last = logits(&mut state, &tokens[70..], asked(0)).following;
    // What follows the last token of a piece is told by the logits, which are those of the whole.
    pieces.push(whole[69]);
    pieces.extend(last);
    assert_eq!(pieces, whole);
    let one = model.with_kernel_level(KernelLevel::Portable).unwrap();
    let run = Run { state: &mut one.new_state(), tokens: &tokens, logits: asked(0), taps: None };
    assert_eq!(one.forward(&mut [run]).unwrap()[0].following, whole);
}

/// Keeps what it sees after a layer.
struct Ending {
    layer: usize,
    ends: bool,
    rows: Vec<f32>,
}

impl Taps for Ending {
    fn wants(&self, layer: usize) -> bool {
        layer == self.layer
    }

    fn ends_after(&self) -> Option<usize> {
        self.ends.then_some(self.layer)
    }

    fn after_layer(&mut self, _layer: usize, _first_position: usize, hidden: &[f32]) {
        self.rows.extend_from_slice(hidden);
    }
}

#[test]
fn layers_that_nobody_wants_are_left_out_and_the_state_is_lost() {
    for (name, specimen) in all() {
        let model = model(&specimen);
        let tokens = tokens(200);
        let read = |ends, logits| {
            let (mut taps, mut state) =
                (Ending { layer: 0, ends, rows: Vec::new() }, model.new_state());
            let run = Run { state: &mut state, tokens: &tokens, logits, taps: Some(&mut taps) };
            model.forward(&mut [run]).unwrap();
            let run = Run { state: &mut state, tokens: &[1], logits: LogitsFor::Last, taps: None };
            (taps.rows, model.forward(&mut [run]).map(|mut logits| logits.remove(0)))
        };
        let (rows, next) = read(false, LogitsFor::None);
        let (ended, refused) = read(true, LogitsFor::None);
        assert_eq!(rows, ended, "{name}");
        assert!(matches!(refused, Err(ForwardError::Lost { run: 0 })), "{name}: {refused:?}");
        let (_, kept) = read(true, LogitsFor::Last);
        assert_eq!(kept.unwrap(), next.unwrap(), "{name}: who asks for logits gets them");
    }
}

#[test]
fn a_truncated_state_is_the_earlier_one() {
    for (name, specimen) in attending() {
        let model = model(&specimen);
        let tokens = tokens(40);
        let mut state = model.new_state();
        assert!(state.is_empty() && state.bytes() == 0);
        forward(&model, &mut state, &tokens[..25], LogitsFor::None);
        let earlier = state.clone();
        let first = forward(&model, &mut state, &tokens[25..], LogitsFor::All);
        assert_ne!(state, earlier, "{name}");
        let mut fork = earlier.clone();
        let second = forward(&model, &mut fork, &tokens[25..], LogitsFor::All);
        assert_eq!((&first, &state), (&second, &fork), "{name}: a clone goes on as the original");
        state.truncate(100).unwrap();
        assert_eq!(state.len(), 40);
        state.truncate(25).unwrap();
        assert_eq!(state, earlier, "{name}");
        assert_eq!(forward(&model, &mut state, &tokens[25..], LogitsFor::All), first, "{name}");
    }
}

#[test]
fn a_recurrent_state_can_not_go_back_but_be_cloned() {
    for (name, specimen) in recurring() {
        let model = model(&specimen);
        let tokens = tokens(40);
        let mut state = model.new_state();
        let bytes = state.bytes();
        forward(&model, &mut state, &tokens[..25], LogitsFor::None);
        let earlier = state.clone();
        let first = forward(&model, &mut state, &tokens[25..], LogitsFor::All);
        let mut fork = earlier.clone();
        let second = forward(&model, &mut fork, &tokens[25..], LogitsFor::All);
        assert_eq!((&first, &state), (&second, &fork), "{name}: a clone goes on as the original");
        assert_eq!(
            state.truncate(25),
            Err(TruncateError::Recurrent { layer: 0, found: 40, asked: 25 })
        );
        assert_eq!(state, fork, "{name}: a refusal changes nothing");
        assert_eq!(state.truncate(40), Ok(()));
        assert_eq!(state, fork);
        assert_eq!(state.truncate(0), Ok(()));
        assert_eq!((state.bytes(), &state), (bytes, &model.new_state()), "{name}");
        assert!(!model.takes_spans());
        for refused in [
            model.encode_span(&[], &tokens).unwrap_err(),
            model.push_span(&mut state, &span(), 0.0).unwrap_err(),
        ] {
            assert!(matches!(refused, ForwardError::NoKeys { layer: 0 }), "{refused}");
        }
    }
}

/// A span of another model.
fn span() -> SpanKv {
    model(&llama()).encode_span(&[], &[1]).unwrap()
}

#[test]
fn no_bit_depends_on_the_number_of_threads() {
    for (name, specimen) in all() {
        let run = |threads| {
            let threads = Threads::new(NonZeroUsize::new(threads).unwrap()).unwrap();
            let model = Model::load_on(&threads, &specimen.spec, &specimen.tensors).unwrap();
            let mut state = model.new_state();
            let pieces = tokens(140);
            let (prompt, steps) = pieces.split_at(110);
            let mut logits = forward(&model, &mut state, &prompt[..10], LogitsFor::All);
            logits.extend(forward(&model, &mut state, &prompt[10..], LogitsFor::All));
            for token in steps {
                logits.extend(forward(&model, &mut state, &[*token], LogitsFor::All));
            }
            (logits, state)
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert!(run(threads) == one, "{name} on {threads} threads");
        }
    }
}

#[test]
fn a_batch_gives_each_run_what_it_gets_alone() {
    for (name, specimen) in all() {
        let model = model(&specimen);
        let pieces = [tokens(9), tokens(300), vec![7], tokens(70), vec![49], vec![0]];
        let wanted = [LogitsFor::Last, LogitsFor::All, LogitsFor::Last, LogitsFor::None];
        let wanted = |index: usize| wanted[index % wanted.len()];
        let mut alone = Vec::new();
        let mut states = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut state = model.new_state();
            forward(&model, &mut state, &tokens(index * 3 + 1), LogitsFor::None);
            states.push(state.clone());
            alone.push(forward(&model, &mut state, piece, wanted(index)));
        }
        let mut runs: Vec<Run<'_>> = states
            .iter_mut()
            .zip(&pieces)
            .enumerate()
            .map(|(index, (state, tokens))| Run {
                state,
                tokens,
                logits: wanted(index),
                taps: None,
            })
            .collect();
        let together = model.forward(&mut runs).unwrap();
        for (index, (alone, Logits { rows, vocab, data, .. })) in
            alone.iter().zip(together).enumerate()
        {
            assert_eq!(rows * vocab, data.len());
            assert_eq!(&data, alone, "{name}");
            assert_eq!(states[index].len(), index * 3 + 1 + pieces[index].len());
        }
    }
}

struct NoTaps;

impl Taps for NoTaps {}

/// Keeps all it is shown.
struct Keep {
    from: usize,
    seen: Vec<(usize, usize, Vec<f32>)>,
}

impl Taps for Keep {
    fn wants(&self, layer: usize) -> bool {
        layer >= self.from
    }

    fn after_layer(&mut self, layer: usize, first_position: usize, hidden: &[f32]) {
        self.seen.push((layer, first_position, hidden.to_vec()));
    }
}

#[test]
fn taps_change_no_bit() {
    let model = model(&gemma());
    let tokens = tokens(300);
    let bare = forward(&model, &mut model.new_state(), &tokens, LogitsFor::All);
    let keep = Keep { from: 0, seen: Vec::new() };
    for taps in [&mut NoTaps as &mut dyn Taps, &mut { keep }] {
        let mut state = model.new_state();
        let run =
            Run { state: &mut state, tokens: &tokens, logits: LogitsFor::All, taps: Some(taps) };
        assert_eq!(model.forward(&mut [run]).unwrap()[0].data, bare);
    }
}

#[test]
fn taps_see_every_position_once_in_each_layer_that_they_want() {
    let specimen = llama();
    let model = model(&specimen);
    let mut state = model.new_state();
    forward(&model, &mut state, &tokens(11), LogitsFor::None);
    let mut keep = Keep { from: 2, seen: Vec::new() };
    let tokens = tokens(400);
    let run =
        Run { state: &mut state, tokens: &tokens, logits: LogitsFor::Last, taps: Some(&mut keep) };
    let logits = model.forward(&mut [run]).unwrap().remove(0);
    for layer in [2, 3] {
        let mut next = 11;
        for (_, first, hidden) in keep.seen.iter().filter(|(seen, ..)| *seen == layer) {
            assert_eq!(*first, next);
            next += hidden.len() / 32;
        }
        assert_eq!(next, 411);
    }
    assert!(keep.seen.iter().all(|(layer, ..)| [2, 3].contains(layer)));
    // Layer 3 of 3 is the final norm's output: the head on it gives the logits.
    let (_, _, hidden) = keep.seen.last().unwrap();
    let last = &hidden[hidden.len() - 32..];
    let embedding = &specimen.weights["model.embed_tokens.weight"];
    let dot = |row: &[f64]| row.iter().zip(last).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
    assert_close(logits.last().unwrap(), embedding.chunks(32).map(dot), "head");
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    for (name, specimen) in all() {
        let model = model(&specimen);
        for format in [KvFormat::F32, KvFormat::F16] {
            let mut state = model.new_state_in(format).unwrap();
            forward(&model, &mut state, &tokens(90), LogitsFor::None);
            if let Ok(span) = model.encode_span(&[], &[1, 2]) {
                model.push_span(&mut state, &span, -0.5).unwrap();
            }
            let mut back = model.restore_state(&state.save()).unwrap();
            assert_eq!(back, state, "{name} {format}");
            let found = forward(&model, &mut back, &[3, 4, 5], LogitsFor::All);
            assert_eq!(found, forward(&model, &mut state, &[3, 4, 5], LogitsFor::All), "{name}");
        }
    }
}

#[test]
fn a_saved_state_that_does_not_fit_is_refused() {
    let model = model(&llama());
    let mut state = model.new_state();
    assert_eq!(model.restore_state(&state.save()), Err(RestoreStateError::Empty));
    forward(&model, &mut state, &tokens(10), LogitsFor::None);
    let good = state.save();
    let refusal = |change: &dyn Fn(&mut SavedState)| {
        let mut saved = good.clone();
        change(&mut saved);
        model.restore_state(&saved).unwrap_err()
    };
    let error = refusal(&|saved| saved.tensors.truncate(1));
    assert!(matches!(error, RestoreStateError::Missing { name } if name == "0.values"));
    let error = refusal(&|saved| saved.tensors[2].name = "9.keys".to_owned());
    assert!(matches!(error, RestoreStateError::Missing { name } if name == "1.keys"));
    let error = refusal(&|saved| {
        let mut extra = saved.tensors[0].clone();
        extra.name = "9.keys".to_owned();
        saved.tensors.push(extra);
    });
    assert!(matches!(error, RestoreStateError::Unknown { name } if name == "9.keys"));
    let changes: [&dyn Fn(&mut SavedState); 4] = [
        &|saved| saved.positions = 9,
        &|saved| saved.kv = KvFormat::F16,
        &|saved| saved.tensors[1].shape[2] += 1,
        &|saved| saved.tensors[1].bytes.truncate(8),
    ];
    for change in changes {
        assert!(matches!(refusal(change), RestoreStateError::Tensor { .. }));
    }
    let error = refusal(&|saved| saved.positions = 1 << 40);
    assert!(matches!(error, RestoreStateError::TooLong { .. }));
}
