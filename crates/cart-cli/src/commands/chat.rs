//! `cart chat`.

mod commands;
mod exchange;
mod lines;

use std::io::Write as _;
use std::path::PathBuf;

use cart_engine::{
    GenerateError, GenerateEvent, GenerateOptions, Generation, KvFormat, LoadOptions, Message,
    Prompt, Session, StepEvent,
};
use cart_format::Recipe;
use cart_store::RefName;
use clap::{Args, ValueHint};

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::{end_on_interrupt, stop_on_interrupt, take_interrupt};
use crate::report;
use crate::sampling::{MemoryArgs, SamplingArgs};
use crate::saved::{self, Kept, Saved};
use exchange::Exchange;
use lines::Lines;

/// Bytes of the conversation's keys and values that are kept from one answer to the next.
const CACHE: usize = 512 << 20;

/// Talk with an agent in the terminal.
///
/// Lines that begin with `/` are commands: /memory shows what is remembered, /recall TEXT what a text
/// would recall, /goal where the goal points, /why what was read for the last answer and what it changed,
/// /undo takes the last question back, /swap REF goes on with another cartridge, /save NAME keeps
/// the memory, /clear forgets the conversation (not the memory), /quit ends. A line that ends with `\`
/// goes on in the next one. Ctrl-C stops an answer, Ctrl-D ends. With --with-session, /save keeps what was
/// read and said as well, so that nothing is read again when it goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  cart chat smol
  cart chat smol --memory --system 'You answer in one sentence.'
  printf 'Name three colors.\\n' | cart chat smol -n 40
  printf 'My name is Ada.\\n/clear\\nWhat is my name?\\n/why\\n' | cart chat smol --memory")]
pub(crate) struct ChatArgs {
    /// A cartridge with a chat template
    #[arg(value_name = "REF")]
    reference: String,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// At most so many tokens an answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Let /save keep the session too, to be continued with `cart run NAME --resume -p TEXT`
    #[arg(long)]
    with_session: bool,
    /// With --memory: write down everything that is done to the memory, in a new file
    #[arg(long, requires = "memory", value_name = "FILE", value_hint = ValueHint::FilePath)]
    memory_log: Option<PathBuf>,
    /// How keys and values are stored: f32, f16 or q8 [default: f16; f32 for float weights]
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

struct Chat<'c> {
    context: &'c Context,
    args: &'c ChatArgs,
    agent: cart_engine::Agent,
    origin: history::LoadedFrom,
    /// How another cartridge is loaded.
    load: LoadOptions,
    messages: Vec<Message>,
    /// Questions of this conversation that were answered, the last at the end.
    exchanges: Vec<Exchange>,
    /// The session of the last answer, where it is to be saved.
    last: Option<Session>,
    /// Whether the last /save saved nothing.
    unsaved: bool,
}

enum Turn {
    GoOn,
    Quit,
}

pub(crate) fn run(context: &Context, args: &ChatArgs) -> Result<(), Failure> {
    let options = args.sampling.options(args.max_tokens, args.memory.options());
    options.check().map_err(|error| Failure::arguments(error.to_string()))?;
    let load = LoadOptions { kv: args.kv, prefix_cache: CACHE, ..history::load_options(context) };
    let (agent, origin) = history::load_with(context, &args.reference, &load)?;
    if let Some(path) = &args.memory_log {
        super::memory::log_to(&agent, path)?;
    }
    let mut chat = Chat {
        context,
        args,
        agent,
        origin,
        load,
        messages: Vec::new(),
        exchanges: Vec::new(),
        last: None,
        unsaved: false,
    };
    chat.clear();
    let mut lines = Lines::open()?;
    if lines.is_terminal() {
        stop_on_interrupt();
        context.remark("type a message; /help lists commands; Ctrl-D ends");
    } else {
        // In a script Ctrl-C ends all of it.
        end_on_interrupt();
    }
    while let Some(message) = lines.next()? {
        let message = message.trim();
        match message.strip_prefix('/') {
            _ if message.is_empty() => {}
            Some(command) => {
                if let Turn::Quit = chat.command(command)? {
                    break;
                }
            }
            None => chat.answer(message)?,
        }
    }
    chat.end()
}

impl Chat<'_> {
    /// Scripts see by the exit code that what was to be saved is not.
    fn end(&self) -> Result<(), Failure> {
        if self.unsaved { Err(Failure::Found) } else { Ok(()) }
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.exchanges.clear();
        self.last = None;
        if let Some(system) = &self.args.system {
            self.messages.push(Message::new("system", system.clone()));
        }
    }

    fn answer(&mut self, text: &str) -> Result<(), Failure> {
        let options = self.args.sampling.options(self.args.max_tokens, self.args.memory.options());
        let (before, memory) = (self.messages.len(), self.agent.memory());
        let exchange = Exchange { before, memory, options: options.clone() };
        self.messages.push(Message::new("user", text));
        let mut broken = None;
        let done = self.generate(&options, |event: &GenerateEvent| {
            if broken.is_none() {
                broken = report::stdout(event.text_delta.as_bytes()).err();
            }
        });
        report::line("")?;
        if let Some(failure) = broken {
            return Err(failure);
        }
        match done {
            Ok(generation) => {
                if let Some(used) = &generation.memory
                    && !used.read.is_empty()
                {
                    let texts: Vec<&str> = used.read.iter().map(|read| read.text.trim()).collect();
                    self.context.remark(&format!("  (remembered: {})", texts.join(" | ")));
                }
                self.messages.push(Message::new("assistant", generation.text));
                self.exchanges.push(exchange);
            }
            Err(error) => {
                // A question that can't be answered must not spoil the conversation.
                self.messages.pop();
                let _ = writeln!(anstream::stderr().lock(), "error: {error}");
            }
        }
        Ok(())
    }

    /// Generates the answer, and holds on to its session if that may be saved.
    fn generate(
        &mut self,
        options: &GenerateOptions,
        mut on_event: impl FnMut(&GenerateEvent),
    ) -> Result<Generation, GenerateError> {
        let mut session =
            Session::start(&self.agent, &Prompt::Chat(self.messages.clone()), options)?;
        take_interrupt();
        while session.finished().is_none() && !take_interrupt() {
            if let StepEvent::Generated(event) = session.step(&self.agent)? {
                on_event(&event);
            }
        }
        self.last = self.args.with_session.then(|| session.clone());
        Ok(session.finish(&self.agent)?)
    }

    fn save_as(&self, name: &RefName) -> Result<Saved, Failure> {
        let session = self.last.as_ref().map(|last| last.save(&self.agent)).transpose();
        let session = session.map_err(Failure::refused)?;
        let memory = self.agent.memory();
        let kept = Kept { memory: memory.as_deref(), session: session.as_ref() };
        saved::save(self.context, &self.origin, kept, name, Recipe::new("chat"))
    }
}
