//! Tensor blocks: quantized and float kernels, attention, RoPE, norms and the one decoder
