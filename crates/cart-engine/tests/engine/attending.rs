//! Memory layers in a loaded agent.

use cart_engine::{
    Agent, GenerateOptions, LayerTensor, LayersOptions, LoadError, LoadOptions, MemoryLayersError,
    MemoryOptions, PrefixOptions, Prompt, Session, step_many, with_memory_layers,
    without_memory_layers,
};
use cart_format::{BasisId, Manifest};
use cart_nn::graph::MemoryLayers;

use crate::given::{Shelf, fixture, shelf};

const FACT: &str = "The code of the red boat is 4821.";

/// The small model with memory layers of small numbers.
fn with_layers(shelf: &Shelf, gate: f32) -> Manifest {
    let verified = shelf.verified(shelf.import(&fixture("tiny")));
    let agent = Agent::load(&verified, &LoadOptions::default()).unwrap();
    let shapes = MemoryLayers::shapes(agent.model().spec(), &[1, 2]).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let value =
            |at: usize| if name.contains("gate") { gate } else { (at % 7) as f32 * 0.02 - 0.05 };
        LayerTensor { values: (0..count).map(value).collect(), name, shape }
    };
    let tensors: Vec<LayerTensor> = shapes.into_iter().map(tensor).collect();
    with_memory_layers(verified.manifest(), &[1, 2], &tensors, &shelf.store).unwrap()
}

fn load(shelf: &Shelf, manifest: &Manifest) -> Result<Agent, LoadError> {
    let id = shelf.store.put_manifest(manifest).unwrap();
    Agent::load(&shelf.verified(id), &LoadOptions::default())
}

fn options(memory: MemoryOptions, max_tokens: usize) -> GenerateOptions {
    let max_tokens = Some(max_tokens);
    GenerateOptions { max_tokens, ignore_eos: true, memory, ..GenerateOptions::default() }
}

fn attending() -> MemoryOptions {
    MemoryOptions { layers: Some(LayersOptions::default()), ..MemoryOptions::default() }
}

#[test]
fn a_session_reads_alone_what_it_reads_beside_others() {
    let shelf = shelf();
    let agent = load(&shelf, &with_layers(&shelf, 0.8)).unwrap();
    let tell = options(MemoryOptions::write_only(), 0);
    agent.generate(&Prompt::Raw(FACT.into()), &tell, |_| {}).unwrap();
    let prompt = Prompt::Raw("What is the code of the blue boat?".into());
    let alone = agent.generate(&prompt, &options(attending(), 8), |_| {}).unwrap();
    let bare = agent.generate(&prompt, &options(MemoryOptions::default(), 8), |_| {}).unwrap();
    let used = alone.memory.as_ref().unwrap();
    assert!(used.layer_tokens >= 10, "{used:?}");
    assert_ne!(alone.logprobs, bare.logprobs);
    let kinds = [attending(), MemoryOptions::default(), attending()];
    let mut sessions: Vec<Session> =
        kinds.map(|memory| Session::start(&agent, &prompt, &options(memory, 8)).unwrap()).into();
    while sessions.iter().any(|session| session.finished().is_none()) {
        let mut running: Vec<&mut Session> =
            sessions.iter_mut().filter(|session| session.finished().is_none()).collect();
        step_many(&agent, &mut running).into_iter().for_each(|event| drop(event.unwrap()));
    }
    let found: Vec<_> =
        sessions.into_iter().map(|session| session.finish(&agent).unwrap().logprobs).collect();
    assert_eq!(found, [alone.logprobs.clone(), bare.logprobs, alone.logprobs]);
}

#[test]
fn recalled_spans_are_left_out_where_layers_read_the_same_memory_unless_they_are_asked_for() {
    let shelf = shelf();
    let prefix_tokens = |gate, beside_layers, layers: Option<LayersOptions>| {
        let agent = load(&shelf, &with_layers(&shelf, gate)).unwrap();
        let tell = options(MemoryOptions::write_only(), 0);
        agent.generate(&Prompt::Raw(FACT.into()), &tell, |_| {}).unwrap();
        let prefix = PrefixOptions { min_score: -1.0, beside_layers, ..PrefixOptions::default() };
        let memory = MemoryOptions { prefix: Some(prefix), layers, ..MemoryOptions::read_only() };
        let asked = Prompt::Raw("What is the code?".into());
        let answer = agent.generate(&asked, &options(memory, 2), |_| {}).unwrap();
        answer.memory.unwrap().prefix_tokens
    };
    let layers = || Some(LayersOptions::default());
    assert_eq!(prefix_tokens(0.8, false, layers()), 0);
    assert!(prefix_tokens(0.8, true, layers()) > 0);
    assert!(prefix_tokens(0.8, false, None) > 0, "the layers were turned off");
    assert!(prefix_tokens(0.0, false, layers()) > 0, "the layers are shut");
}

#[test]
fn layers_of_other_weights_are_refused() {
    let shelf = shelf();
    let whole = with_layers(&shelf, 0.8);
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = whole.clone();
        change(&mut manifest);
        match load(&shelf, &manifest).unwrap_err() {
            LoadError::Layers(error) => error,
            other => panic!("{other}"),
        }
    };
    let other = refused(&|manifest| {
        manifest.memory_layers.as_mut().unwrap().basis = BasisId::of(b"other weights");
    });
    assert!(matches!(other, MemoryLayersError::OtherBasis { .. }), "{other}");
    assert!(other.to_string().contains("trained for other weights"));
    let fewer = refused(&|manifest| {
        let section = manifest.memory_layers.as_mut().unwrap();
        section.layers = vec![1];
    });
    assert!(matches!(fewer, MemoryLayersError::Bind(_)), "{fewer}");
    let broken = with_layers(&shelf, f32::NAN);
    let error = load(&shelf, &broken).unwrap_err();
    assert!(matches!(error, LoadError::Layers(MemoryLayersError::NotFinite { .. })), "{error}");
}

#[test]
fn layers_that_were_taken_out_leave_the_manifest_as_it_was() {
    let shelf = shelf();
    let base = shelf.verified(shelf.import(&fixture("tiny"))).manifest().clone();
    let with = with_layers(&shelf, 0.8);
    assert_ne!(with.id().unwrap(), base.id().unwrap());
    assert_eq!(without_memory_layers(&with), base);
    // Behind shut gates no layer is there.
    let shut = load(&shelf, &with_layers(&shelf, 0.0)).unwrap();
    let tell = options(MemoryOptions::write_only(), 0);
    shut.generate(&Prompt::Raw(FACT.into()), &tell, |_| {}).unwrap();
    let prompt = Prompt::Raw("What is".into());
    let read = shut.generate(&prompt, &options(attending(), 4), |_| {}).unwrap();
    let bare = shut.generate(&prompt, &options(MemoryOptions::default(), 4), |_| {}).unwrap();
    assert_eq!((read.logprobs, read.memory.unwrap().layer_tokens), (bare.logprobs, 0));
}
