//! A small teacher with drawn weights, and students of it.

use std::path::Path;

use cart_format::BlobId;
use cart_nn::decoder::Decoder;
use cart_nn::graph::{Device, Divergence, Products};
use cart_nn::{SharedBytes, WeightTensor};
use serde_json::json;

use super::*;
use crate::Checkpoint;
use crate::agent::AgentSpec;
use crate::birth;
use crate::schedule::Schedule;

const VOCABULARY: u64 = 50;
const CONTEXT: usize = 12;

/// A decoder and its weights.
struct Drawn {
    decoder: Decoder,
    weights: BTreeMap<String, WeightTensor>,
}

fn drawn() -> Drawn {
    let spec: AgentSpec = "layers=4,hidden=32,heads=2,context=32".parse().unwrap();
    let architecture = spec.architecture(VOCABULARY);
    let mut weights = BTreeMap::new();
    for (name, variable) in birth::variables(&architecture, 7).unwrap() {
        // Larger than those of a model that is yet to learn, so that it says something.
        let larger = if variable.rank() > 1 { 8.0 } else { 1.0 };
        let values = variable.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| (larger * x).to_le_bytes()).collect();
        let shape = variable.dims().to_vec();
        let dtype = cart_format::DType::F32;
        weights.insert(name, WeightTensor { dtype, shape, bytes: SharedBytes::new(bytes) });
    }
    let graph = Graph::load(&architecture, &weights, &Device::Cpu, cart_nn::graph::DType::F32);
    Drawn { decoder: Decoder::Graph(graph.unwrap()), weights }
}

impl Drawn {
    fn student(&self, spec: &str) -> Student {
        let teacher = (self.decoder.spec(), &self.weights as &dyn cart_nn::WeightSource);
        Student::made(teacher, (&spec.parse().unwrap(), None), None, 1, &|_| false).unwrap()
    }

    fn distillation(
        &self,
        student: Student,
        options: DistillOptions,
        cache: Option<&Path>,
    ) -> Result<Distillation<'_>, TrainError> {
        let tokens = (0..1500_u32).map(|at| at * at % 47 + at % 3).collect();
        self.distillation_of((tokens, None), student, options, cache)
    }

    fn distillation_of(
        &self,
        (tokens, alignment): (Vec<u32>, Option<Alignment>),
        student: Student,
        options: DistillOptions,
        cache: Option<&Path>,
    ) -> Result<Distillation<'_>, TrainError> {
        let corpus = Corpus::new(tokens, 0.2, CONTEXT, 4, 3).unwrap();
        let schedule = Schedule { peak: 3e-3, warmup: 2, steps: 40, floor: 0.1 };
        let products = Products::F32;
        let training = TrainOptions {
            schedule,
            weight_decay: 0.0,
            clip: 1.0,
            accumulate: 1,
            seed: 3,
            products,
        };
        let teacher = Teacher {
            decoder: &self.decoder,
            basis: BlobId::of(b"teacher").hex().parse().unwrap(),
            arithmetic: "graph".to_owned(),
            products,
            cache: cache.map(Cache::new),
            alignment,
        };
        Distillation::new(teacher, student, corpus, options, training)
    }
}

fn options() -> DistillOptions {
    DistillOptions {
        divergence: Divergence::ForwardKl,
        temperature: 1.0,
        hard: 0.0,
        best: 20,
        hidden: None,
        on_policy: 0.0,
        prompt: 4,
    }
}

#[test]
fn a_student_comes_to_say_what_its_teacher_says() {
    let drawn = drawn();
    let hidden = HiddenOptions { weight: 0.5, map: vec![(0, 1), (1, 3)], normed: true };
    for options in [
        options(),
        DistillOptions { divergence: Divergence::ReverseKl, temperature: 1.5, ..options() },
        DistillOptions { divergence: Divergence::JensenShannon { beta: 0.5 }, ..options() },
        DistillOptions { hidden: Some(hidden), hard: 0.1, ..options() },
        DistillOptions { on_policy: 0.5, ..options() },
    ] {
        let student = drawn.student("layers=2");
        let mut run = drawn.distillation(student, options.clone(), None).unwrap();
        let before = run.measure(8).unwrap();
        let mut losses = Vec::new();
        while !run.trainer().is_done() {
            losses.push(run.step().unwrap().loss);
        }
        let after = run.measure(8).unwrap();
        assert!(after.agreement > before.agreement, "{options:?}: {before:?} {after:?}");
        assert!(losses[39] < losses[0] * 0.7, "{options:?}: {losses:?}");
        assert_eq!(after.teacher_perplexity, before.teacher_perplexity);
    }
}

/// A student that is its teacher agrees with it everywhere, and is at no distance.
#[test]
fn a_whole_copy_has_nothing_to_learn() {
    let drawn = drawn();
    let student = drawn.student("");
    assert_eq!((student.report().copied, student.report().drawn), (38, 0));
    let mut run = drawn.distillation(student, options(), None).unwrap();
    let found = run.measure(8).unwrap();
    assert_eq!(found.agreement, 1.0);
    assert!((found.perplexity / found.teacher_perplexity - 1.0).abs() < 1e-4, "{found:?}");
    assert!(run.step().unwrap().loss < 1e-5);
}

#[test]
fn another_width_keeps_nothing_but_norms_of_its_size() {
    let drawn = drawn();
    let student = drawn.student("layers=3,hidden=16");
    let report = student.report();
    assert_eq!((report.layers, report.hidden, &report.taken[..]), (3, 16, &[0, 2, 3][..]));
    assert_eq!((report.copied, report.drawn), (0, 29));
    let mut run = drawn.distillation(student, options(), None).unwrap();
    run.step().unwrap();
}

#[test]
fn a_run_that_was_cut_ends_in_the_same_bits_with_what_the_student_says_itself() {
    let (drawn, folder) = (drawn(), tempfile::tempdir().unwrap());
    let options = DistillOptions { on_policy: 0.5, hard: 0.2, ..options() };
    let run = || drawn.distillation(drawn.student("layers=2"), options.clone(), None).unwrap();
    let recipe = json!({ "what": "test" });
    let mut whole = run();
    (0..12).for_each(|_| drop(whole.step().unwrap()));
    let mut first = run();
    (0..5).for_each(|_| drop(first.step().unwrap()));
    first.trainer().save(folder.path(), &recipe).unwrap();
    let mut second = run();
    let checkpoint = Checkpoint::read(folder.path()).unwrap().unwrap();
    second.trainer_mut().restore(folder.path(), checkpoint, &recipe).unwrap();
    (5..12).for_each(|_| drop(second.step().unwrap()));
    let values = |run: &Distillation<'_>| {
        let state = run.trainer().checkpoint(&recipe).unwrap();
        state.variables.into_iter().map(|variable| variable.values).collect::<Vec<_>>()
    };
    assert!(values(&whole) == values(&second));
}

/// The mean squared difference falls, with the gradient of each projection asserted by the first
/// step; projections resume with the student, and are no part of it.
#[test]
fn hidden_states_of_another_width_are_followed_through_projections_that_are_not_kept() {
    let (drawn, folder) = (drawn(), tempfile::tempdir().unwrap());
    let hidden = HiddenOptions { weight: 5.0, map: vec![(0, 1), (1, 3)], normed: true };
    let options = DistillOptions { hidden: Some(hidden), ..options() };
    let run = |spec: &str| drawn.distillation(drawn.student(spec), options.clone(), None).unwrap();
    assert_eq!(run("layers=2").projections(), None);
    let recipe = json!({ "what": "test" });
    let mut whole = run("layers=2,hidden=16");
    let report = whole.projections().unwrap();
    assert_eq!((report.matrices, report.parameters), (2, 2 * 16 * 32));
    let first = whole.step().unwrap();
    let projected = |name: &str| name.starts_with("projection.");
    let norms: Vec<_> = first.norms.iter().filter(|(name, _)| projected(name)).collect();
    assert!(norms.len() == 2 && norms.iter().all(|(_, norm)| *norm > 0.0), "{norms:?}");
    let mut last = 0.0;
    (1..30).for_each(|_| last = whole.step().unwrap().loss);
    assert!(last < first.loss * 0.7, "{} {last}", first.loss);

    let mut cut = run("layers=2,hidden=16");
    (0..7).for_each(|_| drop(cut.step().unwrap()));
    cut.trainer().save(folder.path(), &recipe).unwrap();
    let mut gone_on = run("layers=2,hidden=16");
    let checkpoint = Checkpoint::read(folder.path()).unwrap().unwrap();
    gone_on.trainer_mut().restore(folder.path(), checkpoint, &recipe).unwrap();
    (7..30).for_each(|_| drop(gone_on.step().unwrap()));
    let values = |run: &Distillation<'_>| {
        let state = run.trainer().checkpoint(&recipe).unwrap();
        let of = |variable: cart_nn::graph::AdamWState| (variable.name, variable.values);
        state.variables.into_iter().map(of).collect::<Vec<_>>()
    };
    assert!(values(&whole) == values(&gone_on));
    assert_eq!(values(&whole).iter().filter(|(name, _)| projected(name)).count(), 2);

    let store = Store::open_or_create(folder.path().join("store")).unwrap();
    let tokenizer = crate::agent::AgentTokenizer::bytes();
    let tokenizer = NewTokenizer {
        document: tokenizer.document().to_vec(),
        chat_template: None,
        vocab_size: VOCABULARY,
        special: cart_format::SpecialTokens::default(),
    };
    let kept = whole.put(&store, tokenizer, BTreeMap::new()).unwrap();
    let tensors = store.manifest(&kept).unwrap().model.tensors;
    let asked = whole.student().architecture().tensors().len();
    assert_eq!(tensors.len(), asked);
}

#[test]
fn what_the_teacher_said_is_kept_for_other_runs_and_said_again_where_it_was_damaged() {
    let (drawn, folder) = (drawn(), tempfile::tempdir().unwrap());
    let run = |options: DistillOptions, spec: &str| {
        let student = drawn.student(spec);
        let mut run = drawn.distillation(student, options, Some(folder.path())).unwrap();
        let losses: Vec<f64> = (0..5).map(|_| run.step().unwrap().loss).collect();
        (losses, run.teacher(), run.damage())
    };
    let (losses, work, _) = run(options(), "layers=2");
    // Some sequences of the text are the same.
    let read = work.read;
    assert!(read > 10 && read + work.reused == 20, "{work:?}");
    let (again, work, _) = run(options(), "layers=2");
    assert_eq!((work.read, work.reused), (0, 20));
    assert_eq!(again, losses);
    let js = DistillOptions { divergence: Divergence::JensenShannon { beta: 0.1 }, ..options() };
    assert_eq!(run(js, "layers=3,hidden=16").1.read, 0);
    let warm = DistillOptions { temperature: 2.0, ..options() };
    assert_eq!(run(warm, "layers=2").1.read, read);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let (again, work, damage) = run(options(), "layers=2");
    assert_eq!((work.read, work.damaged), (read, read));
    assert_eq!((again, damage.len() as u64), (losses, read));
    assert!(damage[0].contains("its digest is another one"), "{}", damage[0]);
}

/// What is kept of a sequence must not depend on what was read beside it.
#[test]
fn a_teacher_says_of_a_sequence_what_it_says_of_it_among_others() {
    let drawn = drawn();
    for products in [Products::F32, Products::Bf16] {
        let teacher = Teacher {
            decoder: &drawn.decoder,
            basis: BlobId::of(b"teacher").hex().parse().unwrap(),
            arithmetic: "graph".to_owned(),
            products,
            cache: None,
            alignment: None,
        };
        let sequence = |first: u32| (0..33).map(|at| (first + at * at) % 47).collect();
        let sequences: Vec<Vec<u32>> = (0..30).map(sequence).collect();
        let asked = super::teacher::Asked { best: 7, temperature: 1.0 };
        let of = |some: &[Vec<u32>]| teacher.of(some, asked, None, &Work::default()).unwrap();
        let together = of(&sequences);
        assert_eq!(together.len(), 30);
        for (sequence, said) in sequences.chunks(1).zip(&together) {
            assert_eq!(of(sequence), std::slice::from_ref(said), "{products:?}");
        }
    }
}

#[test]
fn hard_labels_alone_do_not_ask_the_teacher() {
    let drawn = drawn();
    let options = DistillOptions { hard: 1.0, ..options() };
    let mut run = drawn.distillation(drawn.student("layers=2"), options, None).unwrap();
    run.step().unwrap();
    assert_eq!(run.teacher().read, 0);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let drawn = drawn();
    let refused = |options: DistillOptions, spec: &str, said: &str| {
        let refused = drawn.distillation(drawn.student(spec), options, None).unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    };
    let with = |change: &dyn Fn(&mut DistillOptions)| {
        let mut options = options();
        change(&mut options);
        options
    };
    refused(with(&|options| options.temperature = 0.0), "layers=2", "the temperature is 0");
    refused(with(&|options| options.hard = 1.5), "layers=2", "the share of hard labels is 1.5");
    refused(with(&|options| options.best = 51), "layers=2", "top-k is 51");
    refused(with(&|options| options.on_policy = -0.1), "layers=2", "the on-policy share is -0.1");
    let js = Divergence::JensenShannon { beta: 1.0 };
    refused(with(&|options| options.divergence = js), "layers=2", "beta is 1");
    let hidden = |map| Some(HiddenOptions { weight: 1.0, map, normed: true });
    refused(with(&|o| o.hidden = hidden(vec![(2, 0)])), "layers=2", "layer 2 of the student");
    refused(with(&|o| o.hidden = hidden(Vec::new())), "layers=2", "the map of layers is empty");
    let teacher = (drawn.decoder.spec(), &drawn.weights as &dyn cart_nn::WeightSource);
    let frozen =
        Student::made(teacher, (&StudentSpec::default(), None), None, 1, &|_| true).unwrap();
    let frozen = drawn.distillation(frozen, options(), None).unwrap_err();
    assert!(matches!(frozen, TrainError::Frozen), "{frozen}");
    // Projections learn, but nobody keeps them.
    let spec: StudentSpec = "hidden=16".parse().unwrap();
    let frozen = Student::made(teacher, (&spec, None), None, 1, &|_| true).unwrap();
    let options = with(&|options| options.hidden = hidden(vec![(0, 0)]));
    let frozen = drawn.distillation(frozen, options, None).unwrap_err();
    assert!(matches!(frozen, TrainError::Frozen), "{frozen}");
}

/// Letters, pairs of letters that follow each other, and the end of a text: the teacher's tokens.
fn pairs() -> Vocabulary {
    let letters = (b'a'..=b'z').map(|letter| vec![letter]);
    let pairs = (b'a'..b'x').map(|letter| vec![letter, letter + 1]);
    Vocabulary::new(letters.chain(pairs).chain([Vec::new()]).collect(), vec![49])
}

/// Letters and the end: the student's.
fn letters() -> Vocabulary {
    let letters = (b'a'..=b'z').map(|letter| vec![letter]);
    Vocabulary::new(letters.chain([Vec::new()]).collect(), vec![26])
}

/// Pairs where a text has them.
fn paired(text: &[u8]) -> Vec<u32> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let letter = text[at] - b'a';
        let is_pair = letter < 23 && text.get(at + 1) == Some(&(text[at] + 1));
        tokens.push(u32::from(letter) + if is_pair { 26 } else { 0 });
        at += 1 + usize::from(is_pair);
    }
    tokens
}

/// A text in both sides' tokens.
fn aligned() -> (Vec<u32>, Option<Alignment>) {
    let mut chance = crate::Chance::new(4, &[]);
    let mut text = vec![b'a'];
    while text.len() < 1500 {
        let last = text[text.len() - 1] - b'a';
        let next = if chance.unit() < 0.6 { last + 1 } else { chance.below(26) as u8 };
        text.push(b'a' + next % 26);
    }
    let (pairs, letters) = (pairs(), letters());
    let [mut said, mut own] = [TokenStream::default(), TokenStream::default()];
    said.push(&pairs, &text, &paired(&text), pairs.end()).unwrap();
    let one_by_one: Vec<u32> = text.iter().map(|letter| u32::from(letter - b'a')).collect();
    own.push(&letters, &text, &one_by_one, letters.end()).unwrap();
    let of_pairs = |text: &str| paired(text.as_bytes()).first().copied();
    let of_letters = |text: &str| Some(u32::from(text.as_bytes()[0] - b'a'));
    let alignment = Alignment::new((said, pairs), (own, &letters), None, [&of_pairs, &of_letters]);
    (alignment.student_tokens().to_vec(), Some(alignment))
}

#[test]
fn a_student_with_other_tokens_comes_to_say_what_its_teacher_says() {
    let (drawn, folder) = (drawn(), tempfile::tempdir().unwrap());
    let teacher = (drawn.decoder.spec(), &drawn.weights as &dyn cart_nn::WeightSource);
    let tokenized = |text: &str| paired(text.as_bytes());
    let respelled = Respelled::between(&pairs(), &letters(), &tokenized);
    let spec: StudentSpec = "layers=2".parse().unwrap();
    let student =
        || Student::made(teacher, (&spec, None), Some(&respelled), 1, &|_| false).unwrap();
    // A letter has its own row, and the end that of the end.
    let begun = student();
    assert_eq!((begun.architecture().vocab_size, begun.report().respelled), (27, 1));
    let cache = folder.path().join("teacher");
    let run = |options: &DistillOptions| {
        let options = options.clone();
        drawn.distillation_of(aligned(), student(), options, Some(&cache)).unwrap()
    };
    let mut read = Vec::new();
    for options in [
        options(),
        DistillOptions { divergence: Divergence::ReverseKl, ..options() },
        DistillOptions {
            divergence: Divergence::JensenShannon { beta: 0.5 },
            hard: 0.3,
            ..options()
        },
    ] {
        let mut run = run(&options);
        let before = run.measure(8).unwrap();
        let mut losses = Vec::new();
        while !run.trainer().is_done() {
            losses.push(run.step().unwrap().loss);
        }
        let after = run.measure(8).unwrap();
        assert!(after.agreement > before.agreement + 0.1, "{options:?}: {before:?} {after:?}");
        assert!(losses[39] < losses[0] * 0.7, "{options:?}: {losses:?}");
        let [before, after] = [before, after].map(|held_out| held_out.aligned.unwrap());
        assert_eq!(before.teacher_bits_per_byte, after.teacher_bits_per_byte);
        // But for the first of a sequence, which may be inside of a token, all are compared.
        assert!((80..=96).contains(&after.compared), "{after:?}");
        read.push(run.teacher().read);
    }
    // Other losses ask for the same.
    assert!(read[0] > 50 && read[1..] == [0, 0], "{read:?}");

    // Cut and gone on with, it ends in the same bits.
    let recipe = json!({ "what": "test" });
    let options = DistillOptions { hard: 0.2, ..options() };
    let mut whole = run(&options);
    (0..9).for_each(|_| drop(whole.step().unwrap()));
    let mut first = run(&options);
    (0..4).for_each(|_| drop(first.step().unwrap()));
    first.trainer().save(folder.path(), &recipe).unwrap();
    let mut second = run(&options);
    let checkpoint = Checkpoint::read(folder.path()).unwrap().unwrap();
    second.trainer_mut().restore(folder.path(), checkpoint, &recipe).unwrap();
    (4..9).for_each(|_| drop(second.step().unwrap()));
    let values = |run: &Distillation<'_>| {
        let state = run.trainer().checkpoint(&recipe).unwrap();
        state.variables.into_iter().map(|variable| variable.values).collect::<Vec<_>>()
    };
    assert!(values(&whole) == values(&second));
}

#[test]
fn what_has_no_meaning_between_other_tokens_is_refused() {
    let drawn = drawn();
    let refused = |change: &dyn Fn(&mut DistillOptions), said: &str| {
        let mut options = options();
        change(&mut options);
        let student = drawn.student("layers=2");
        let refused = drawn.distillation_of(aligned(), student, options, None).unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    };
    refused(&|options| options.temperature = 2.0, "the temperature is 2; allowed: 1 where");
    refused(&|options| options.on_policy = 0.5, "the on-policy share is 0.5; allowed: 0");
    refused(&|options| options.best = 28, "top-k is 28");
    let hidden = HiddenOptions { weight: 1.0, map: vec![(0, 0)], normed: true };
    refused(
        &|o| o.hidden = Some(hidden.clone()),
        "the weight of hidden states is 1; allowed: none",
    );
}
