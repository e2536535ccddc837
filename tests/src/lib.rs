//! Helpers for the journeys: where the binary, the fixtures and the cached models are.
