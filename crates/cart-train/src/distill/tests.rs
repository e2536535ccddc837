//! A small teacher with drawn weights, and students of it.

use std::path::Path;

use cart_format::BlobId;
use cart_nn::decoder::Decoder;
use cart_nn::graph::{Device, Divergence};
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
        Student::made(teacher, &spec.parse().unwrap(), None, 1, &|_| false).unwrap()
    }

    fn distillation(
        &self,
        student: Student,
        options: DistillOptions,
        cache: Option<&Path>,
    ) -> Result<Distillation<'_>, TrainError> {
        let tokens = (0..1500_u32).map(|at| at * at % 47 + at % 3).collect();
        let corpus = Corpus::new(tokens, 0.2, CONTEXT, 4, 3).unwrap();
        let schedule = Schedule { peak: 3e-3, warmup: 2, steps: 40, floor: 0.1 };
        let training =
            TrainOptions { schedule, weight_decay: 0.0, clip: 1.0, accumulate: 1, seed: 3 };
        let teacher = Teacher {
            decoder: &self.decoder,
            basis: BlobId::of(b"teacher").hex().parse().unwrap(),
            arithmetic: "graph".to_owned(),
            cache: cache.map(Cache::new),
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
    refused(with(&|o| o.hidden = hidden(vec![(0, 0)])), "hidden=16", "have 16 numbers");
    refused(with(&|o| o.hidden = hidden(vec![(2, 0)])), "layers=2", "layer 2 of the student");
    refused(with(&|o| o.hidden = hidden(Vec::new())), "layers=2", "the map of layers is empty");
    let teacher = (drawn.decoder.spec(), &drawn.weights as &dyn cart_nn::WeightSource);
    let frozen = Student::made(teacher, &StudentSpec::default(), None, 1, &|_| true).unwrap();
    let frozen = drawn.distillation(frozen, options(), None).unwrap_err();
    assert!(matches!(frozen, TrainError::Frozen), "{frozen}");
}
