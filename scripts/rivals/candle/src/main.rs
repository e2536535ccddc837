//! Drives stock candle, with the quantized models of candle-transformers, through one job of `cart bench engine`.
//!
//! Arguments: MODEL THREADS JOB PROMPT; the protocol is in `../README.md`. Its Gemma 3 computes another function
//! than Gemma 3 (SiLU for GELU), so only its speed says something.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Content;
use candle_core::{D, Device, Tensor};
use candle_transformers::models::{quantized_gemma3, quantized_llama};
use serde::Deserialize;
use serde_json::json;

/// What every driver is given: token ids and how many of them each measure takes.
#[derive(Deserialize)]
struct Plan {
    ids: Vec<u32>,
    prompt: usize,
    prefill: usize,
    decode: usize,
    long_prefill: usize,
    long_decode: usize,
}

enum Model {
    Llama(quantized_llama::ModelWeights),
    Gemma(quantized_gemma3::ModelWeights),
}

impl Model {
    fn open(path: &str) -> Result<Self> {
        let mut reader = BufReader::new(File::open(path)?);
        let content = Content::read(&mut reader)?;
        let family = content.metadata.get("general.architecture").context("no architecture")?;
        Ok(match family.to_string()?.as_str() {
            "gemma3" => {
                let model = quantized_gemma3::ModelWeights::from_gguf;
                Self::Gemma(model(content, &mut reader, &Device::Cpu)?)
            }
            _ => {
                let model = quantized_llama::ModelWeights::from_gguf;
                Self::Llama(model(content, &mut reader, &Device::Cpu)?)
            }
        })
    }

    /// Takes `tokens` at position `at` and returns the most likely next token. Position 0 begins anew.
    fn take(&mut self, tokens: &[u32], at: usize) -> Result<u32> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Llama(model) => model.forward(&input, at)?,
            Self::Gemma(model) => model.forward(&input, at)?,
        };
        Ok(logits.squeeze(0)?.argmax(D::Minus1)?.to_scalar()?)
    }

    fn decode(&mut self, mut token: u32, at: usize, count: usize) -> Result<()> {
        for step in 0..count {
            token = self.take(&[token], at + step)?;
        }
        Ok(())
    }
}

fn measure(what: &str, tokens: usize, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", json!({"event": "measure", "what": what, "tokens": tokens, "seconds": seconds}));
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, _threads, job, plan] = arguments.as_slice() else {
        anyhow::bail!("arguments: MODEL THREADS JOB PROMPT (RAYON_NUM_THREADS sets the threads)");
    };
    let plan: Plan = serde_json::from_reader(BufReader::new(File::open(plan)?))?;
    let mut model = Model::open(path)?;
    println!("{}", json!({"event": "engine", "engine": "candle", "version": "0.11.1"}));
    match job.as_str() {
        "first" => {
            model.take(&plan.ids[..plan.prompt], 0)?;
            println!("{}", json!({"event": "first"}));
        }
        "short" => {
            let token = model.take(&plan.ids[..64], 0)?;
            model.decode(token, 64, 4)?;
            let begun = Instant::now();
            model.take(&plan.ids[..plan.prefill], 0)?;
            measure("prefill", plan.prefill, begun);
            let token = model.take(&plan.ids[..plan.prompt], 0)?;
            let begun = Instant::now();
            model.decode(token, plan.prompt, plan.decode)?;
            measure("decode", plan.decode, begun);
        }
        "long" => {
            let begun = Instant::now();
            let token = model.take(&plan.ids[..plan.long_prefill], 0)?;
            measure("long_prefill", plan.long_prefill, begun);
            let begun = Instant::now();
            model.decode(token, plan.long_prefill, plan.long_decode)?;
            measure("long_decode", plan.long_decode, begun);
        }
        other => println!("{}", json!({"event": "absent", "job": other})),
    }
    println!("{}", json!({"event": "done"}));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
