//! Gemma-3-270M from GGUF, where `CART_TEST_GEMMA` names the file.

use crate::given::{gpl_perplexity, large_model};

/// PyTorch 2.15 with transformers 5.23 gives 15.0198 in f32 on the dequantized weights and the same
/// windows; llama.cpp, which rounds activations to 8 bits, 15.101.
#[test]
fn perplexity_of_the_gpl_is_pytorchs() {
    let Some(model) = large_model("CART_TEST_GEMMA") else { return };
    let found = gpl_perplexity(&model);
    assert!((found / 15.0198 - 1.0).abs() < 0.005, "{found}");
}
