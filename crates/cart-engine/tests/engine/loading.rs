//! What is loaded, and what is refused.

use std::num::NonZeroUsize;

use cart_engine::{Agent, LoadError, LoadOptions, TokenizerError};
use cart_format::TensorName;

use crate::given::{fixture, shelf};

#[test]
fn weights_stay_mapped() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let bytes = agent.model().weight_bytes();
    assert!(bytes.mapped > 9 * bytes.copied, "{bytes:?}");
    assert_eq!(agent.context_length(), 512);
}

#[test]
fn a_larger_context_than_the_models_is_refused() {
    let shelf = shelf();
    let verified = shelf.verified(shelf.import(&fixture("tiny")));
    let with = |context| LoadOptions { context: NonZeroUsize::new(context), ..Default::default() };
    let refused = Agent::load(&verified, &with(513));
    assert!(matches!(refused, Err(LoadError::Context { found: 513, allowed: 512 })), "{refused:?}");
    assert_eq!(Agent::load(&verified, &with(64)).unwrap().context_length(), 64);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let shelf = shelf();
    let good = shelf.verified(shelf.import(&fixture("tiny")));
    let load = |manifest| Agent::load(&shelf.put(manifest), &LoadOptions::default());

    let mut bare = good.manifest().clone();
    bare.model.architecture = None;
    assert!(matches!(load(&bare), Err(LoadError::NoArchitecture)));

    let mut special = good.manifest().clone();
    special.tokenizer.as_mut().unwrap().special.eos = vec![1024];
    let refused = load(&special);
    assert!(
        matches!(refused, Err(LoadError::Tokenizer(TokenizerError::SpecialOutOfRange { .. }))),
        "{refused:?}"
    );

    let mut missing = good.manifest().clone();
    missing.origin = None;
    let norm = TensorName::new("model.norm.weight").unwrap();
    let entry = missing.model.tensors.remove(&norm).unwrap();
    let used = missing.model.tensors.values().any(|tensor| tensor.blob == entry.blob);
    let named: std::collections::BTreeSet<_> =
        missing.uses().into_iter().map(|(_, blob)| blob).collect();
    missing.blobs.retain(|blob, _| named.contains(blob));
    let refused = load(&missing);
    assert!(matches!(refused, Err(LoadError::Weights(_))), "{used} {refused:?}");
}

#[test]
fn a_tokenizer_of_another_size_is_refused() {
    let shelf = shelf();
    let tiny = shelf.verified(shelf.import(&fixture("tiny")));
    let small = shelf.verified(shelf.import(&fixture("logits/llama-f32-tied")));
    let mut mixed = small.manifest().clone();
    let tokenizer = tiny.manifest().tokenizer.clone().unwrap();
    for blob in std::iter::once(tokenizer.document).chain(tokenizer.chat_template) {
        mixed.blobs.insert(blob, tiny.manifest().blobs[&blob].clone());
    }
    mixed.tokenizer = Some(tokenizer);
    let refused = Agent::load(&shelf.put(&mixed), &LoadOptions::default());
    assert!(
        matches!(
            refused,
            Err(LoadError::Tokenizer(TokenizerError::TooLarge { largest: 1023, embeddings: 256 }))
        ),
        "{refused:?}"
    );
}
