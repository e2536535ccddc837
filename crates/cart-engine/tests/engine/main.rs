//! The engine on real cartridges in real stores: the tiny model and the checkpoints whose logits
//! `transformers` has computed.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod attending;
mod chatting;
mod constrained;
mod devices;
mod gemma3;
mod generation;
mod given;
mod keeping;
mod loading;
mod logits;
mod measuring;
mod memory;
mod preparing;
mod sentencepiece;
mod smollm2;
mod states;
mod steering;
mod tokenizing;
