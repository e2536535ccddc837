//! Cart's own driver: one job, in a process of its own, speaking as the rivals' drivers do.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use cart_engine::{Agent, GenerateOptions, Prompt, Session, StepError, StepEvent, step_many};
use clap::Args;
use serde_json::json;

use super::plan::{Job, Plan};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// One job of `cart bench engine`.
#[derive(Args)]
pub(crate) struct EngineJobArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// What to measure
    job: Job,
    /// The plan, as JSON
    plan: PathBuf,
}

pub(crate) fn run(context: &Context, args: &EngineJobArgs) -> Result<(), Failure> {
    let text = std::fs::read(&args.plan).map_err(Failure::refused)?;
    let plan: Plan = serde_json::from_slice(&text).map_err(Failure::refused)?;
    let (agent, _) = history::load(context, &args.reference)?;
    let version = env!("CARGO_PKG_VERSION");
    let kernels = agent.model().kernel_level();
    let kernels = kernels.map_or_else(|| context.device.to_string(), |level| level.to_string());
    say(&json!({"event": "engine", "engine": "cart", "version": format!("{version}, {kernels}")}))?;
    let worker = Worker { agent: &agent, plan: &plan };
    match args.job {
        Job::Short => worker.short(),
        Job::Long => worker.long(),
        Job::Many => worker.many(),
        Job::First => Err(Failure::arguments("the first token is measured on `cart run` itself")),
    }?;
    say(&json!({"event": "done"}))?;
    // Whoever asked reads this process's peak memory now, and closes stdin then.
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(Failure::refused)?;
    Ok(())
}

struct Worker<'a> {
    agent: &'a Agent,
    plan: &'a Plan,
}

impl Worker<'_> {
    fn short(&self) -> Result<(), Failure> {
        let (plan, ids) = (self.plan, &self.plan.ids);
        self.decode(self.read(&ids[..64.min(plan.prefill)], 5)?, 4, None)?;
        let began = Instant::now();
        self.read(&ids[..plan.prefill], 1)?;
        measured("prefill", plan.prefill, began)?;
        let session = self.read(&ids[..plan.prompt], plan.decode + 1)?;
        self.decode(session, plan.decode, Some("decode"))
    }

    fn long(&self) -> Result<(), Failure> {
        let plan = self.plan;
        let began = Instant::now();
        let session = self.read(&plan.ids[..plan.long_prefill], plan.long_decode + 1)?;
        measured("long_prefill", plan.long_prefill, began)?;
        self.decode(session, plan.long_decode, Some("long_decode"))
    }

    fn many(&self) -> Result<(), Failure> {
        let plan = self.plan;
        let starts = 0..plan.sessions;
        let sessions = starts.map(|one| self.read(plan.session_prompt(one), plan.many_decode + 1));
        let mut sessions = sessions.collect::<Result<Vec<Session>, Failure>>()?;
        let began = Instant::now();
        for _ in 0..plan.many_decode {
            let mut batch: Vec<&mut Session> = sessions.iter_mut().collect();
            for event in step_many(self.agent, &mut batch) {
                generated(event)?;
            }
        }
        measured("many_decode", plan.sessions * plan.many_decode, began)
    }

    /// A session that has read its prompt and chosen one token, of `tokens` in all.
    fn read(&self, prompt: &[u32], tokens: usize) -> Result<Session, Failure> {
        let options = GenerateOptions {
            max_tokens: Some(tokens),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let prompt = Prompt::Tokens(prompt.to_vec());
        let mut session =
            Session::start(self.agent, &prompt, &options).map_err(Failure::refused)?;
        while !matches!(
            session.step(self.agent).map_err(Failure::refused)?,
            StepEvent::Generated(_)
        ) {}
        Ok(session)
    }

    fn decode(
        &self,
        mut session: Session,
        tokens: usize,
        what: Option<&str>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        for _ in 0..tokens {
            generated(session.step(self.agent))?;
        }
        what.map_or(Ok(()), |what| measured(what, tokens, began))
    }
}

/// Counts only tokens that were generated.
fn generated(event: Result<StepEvent, StepError>) -> Result<(), Failure> {
    match event.map_err(Failure::refused)? {
        StepEvent::Generated(_) => Ok(()),
        StepEvent::Prefilled { .. } => {
            Err(Failure::refused("a step read a prompt where it should have generated a token"))
        }
    }
}

fn measured(what: &str, tokens: usize, began: Instant) -> Result<(), Failure> {
    let seconds = began.elapsed().as_secs_f64();
    say(&json!({"event": "measure", "what": what, "tokens": tokens, "seconds": seconds}))
}

fn say(line: &serde_json::Value) -> Result<(), Failure> {
    report::line(&line.to_string())
}
