//! The engine on the graph: the same texts, memories and sessions as on the CPU's kernels.

use cart_engine::{
    Agent, DeviceChoice, DeviceError, GenerateOptions, KnnOptions, KnnScope, KvFormat, LoadError,
    LoadOptions, MemoryOptions, Precision, PrefixOptions, Prompt, SavedSession, Session,
    perplexity, step_many, with_session,
};
use cart_nn::KernelLevel;
use cart_nn::decoder::Decoder;

use crate::given::{Shelf, fixture, greedy, raw, shelf};

fn on_graph() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Graph, ..LoadOptions::default() }
}

/// The same model on the kernels and on the graph.
fn both(shelf: &Shelf, model: &str) -> [Agent; 2] {
    let verified = shelf.verified(shelf.import(&fixture(model)));
    [LoadOptions::default(), on_graph()].map(|options| Agent::load(&verified, &options).unwrap())
}

const TEXT: &str = "The code of the red boat is 4821. The code of the red boat is";

#[test]
fn the_graph_generates_what_the_kernels_generate() {
    let shelf = shelf();
    let [kernels, graph] = both(&shelf, "tiny");
    assert!(matches!(graph.model(), Decoder::Graph(_)) && graph.model().kernel_level().is_none());
    // Longer than a chunk of the graph.
    let long = format!("{}{TEXT}", "A boat sails. ".repeat(45));
    for prompt in [TEXT, &long] {
        let expected = raw(&kernels, prompt, &greedy(24));
        let found = raw(&graph, prompt, &greedy(24));
        assert_eq!(found.token_ids, expected.token_ids);
        for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
            assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        }
    }
    let text = "The boat is red and the code is known to all who sail in it. ".repeat(40);
    let measured =
        [&kernels, &graph].map(|agent| perplexity(agent, &text, 256).unwrap().perplexity);
    assert!((measured[0] / measured[1] - 1.0).abs() < 1e-4, "{measured:?}");
}

#[test]
fn sessions_of_the_graph_go_together() {
    let shelf = shelf();
    for model in ["tiny", "logits/mamba2", "logits/qwen3-moe"] {
        let [_, agent] = both(&shelf, model);
        let start = |seed: u32| {
            let prompt = (0..20 + seed).map(|index| (index * 7 + seed) % 60).collect();
            let options = GenerateOptions { ignore_eos: true, ..greedy(8) };
            Session::start(&agent, &Prompt::Tokens(prompt), &options).unwrap()
        };
        let mut alone: Vec<Session> = (0..3).map(start).collect();
        for session in &mut alone {
            while session.finished().is_none() {
                session.step(&agent).unwrap();
            }
        }
        let mut together: Vec<Session> = (0..3).map(start).collect();
        while together.iter().any(|session| session.finished().is_none()) {
            let mut running: Vec<&mut Session> =
                together.iter_mut().filter(|session| session.finished().is_none()).collect();
            step_many(&agent, &mut running).into_iter().for_each(|event| drop(event.unwrap()));
        }
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.token_ids(), together.token_ids(), "{model}");
        }
    }
}

#[test]
fn memory_takes_part_on_the_graph() {
    let shelf = shelf();
    let eager = MemoryOptions {
        prefix: Some(PrefixOptions { min_score: -1.0, ..PrefixOptions::default() }),
        knn: Some(KnnOptions { min_cosine: 0.0, scope: KnnScope::All, ..KnnOptions::default() }),
        compare: true,
        ..MemoryOptions::default()
    };
    let found = both(&shelf, "tiny").map(|agent| {
        let write = GenerateOptions { memory: MemoryOptions::write_only(), ..greedy(0) };
        let told = raw(&agent, "The code of the red boat is 4821.", &write);
        assert_eq!(told.memory.unwrap().written, 1);
        let options = GenerateOptions { memory: eager.clone(), ..greedy(4) };
        let answer = raw(&agent, "The code of the red boat is", &options);
        let used = answer.memory.unwrap();
        assert!(used.prefix_tokens > 0 && used.knn_steps > 0);
        (answer.token_ids, used.prefix_tokens, used.knn_steps, used.delta_logprob.unwrap())
    });
    let [kernels, graph] = found;
    assert_eq!((&kernels.0, kernels.1, kernels.2), (&graph.0, graph.1, graph.2));
    assert!((kernels.3 - graph.3).abs() < 1e-2, "{} {}", kernels.3, graph.3);
}

/// A session goes over from one device to the other: what is saved is the same for both.
#[test]
fn a_saved_session_goes_on_with_the_other_decoder() {
    let shelf = shelf();
    for model in ["tiny", "logits/mamba", "logits/nemotron-h"] {
        let [kernels, graph] = both(&shelf, model);
        let prompt: Vec<u32> = (0..40).map(|index| (index * 11 + 3) % 60).collect();
        let options =
            |max| GenerateOptions { max_tokens: Some(max), ignore_eos: true, ..Default::default() };
        let run = |agent: &Agent, session: &mut Session| {
            while session.finished().is_none() {
                session.step(agent).unwrap();
            }
        };
        let mut whole =
            Session::start(&kernels, &Prompt::Tokens(prompt.clone()), &options(12)).unwrap();
        run(&kernels, &mut whole);
        for (first, second) in [(&kernels, &graph), (&graph, &kernels), (&graph, &graph)] {
            let mut session =
                Session::start(first, &Prompt::Tokens(prompt.clone()), &options(4)).unwrap();
            run(first, &mut session);
            let saved = session.save(first).unwrap();
            let (manifest, _) = with_session(first.manifest(), &saved, &shelf.store).unwrap();
            let verified = shelf.verified(shelf.store.put_manifest(&manifest).unwrap());
            let back = SavedSession::read(&verified).unwrap();
            assert!(back.bytes() == saved.bytes() && back.positions() == 43, "{model}");
            let mut resumed = Session::resume(second, &back, &[], &options(8)).unwrap();
            run(second, &mut resumed);
            assert_eq!(resumed.token_ids(), &whole.token_ids()[4..], "{model}");
        }
    }
}

#[test]
fn prompts_are_kept_on_the_graph_too() {
    let shelf = shelf();
    let verified = shelf.verified(shelf.import(&fixture("tiny")));
    let cached = LoadOptions { prefix_cache: 64 << 20, ..on_graph() };
    let agent = Agent::load(&verified, &cached).unwrap();
    let prompt: Vec<u32> = (0..400).map(|index| (index * 7 + 5) % 250).collect();
    let generate = || {
        let prompt = Prompt::Tokens(prompt.clone());
        agent.generate(&prompt, &greedy(4), |_| {}).unwrap().token_ids
    };
    assert_eq!(generate(), generate());
    let report = agent.prefix_cache();
    assert!(report.hits == 1 && report.tokens == 256, "{report:?}");
}

#[test]
fn options_that_do_not_go_together_and_devices_that_are_not_there_are_refused() {
    let shelf = shelf();
    let verified = shelf.verified(shelf.import(&fixture("tiny")));
    let load = |options: LoadOptions| Agent::load(&verified, &options).unwrap_err();
    let kernels = LoadOptions { kernels: Some(KernelLevel::Portable), ..on_graph() };
    assert!(matches!(load(kernels), LoadError::OfKernels { option: "a kernel level", .. }));
    let kv = LoadOptions { kv: Some(KvFormat::F16), ..on_graph() };
    assert!(matches!(load(kv), LoadError::OfKernels { .. }));
    let precision = LoadOptions { precision: Some(Precision::BF16), ..LoadOptions::default() };
    let error = load(precision);
    assert!(matches!(error, LoadError::OfGraph { precision: Precision::BF16 }));
    assert!(error.to_string().starts_with("bf16 was asked for"), "{error}");
    if cfg!(not(feature = "cuda")) {
        let cuda = LoadOptions { device: DeviceChoice::Cuda(0), ..LoadOptions::default() };
        let error = load(cuda);
        let built = LoadError::Device(DeviceError::NotBuilt {
            asked: DeviceChoice::Cuda(0),
            feature: "cuda",
        });
        assert_eq!(error.to_string(), built.to_string());
    }
    let half = LoadOptions { precision: Some(Precision::BF16), ..on_graph() };
    let agent = Agent::load(&verified, &half).unwrap();
    assert_eq!(raw(&agent, TEXT, &greedy(4)).token_ids.len(), 4);
}
