//! HTTP over the engine: OpenAI-compatible endpoints, state, swap and metrics
