//! `cart chat`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
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
use crate::report;
use crate::sampling::{MemoryArgs, SamplingArgs};
use crate::saved::{self, Kept, Saved};

/// Bytes of the conversation's keys and values that are kept from one answer to the next.
const CACHE: usize = 512 << 20;

/// Talk with an agent in the terminal.
///
/// Lines that begin with `/` are commands: /memory shows what is remembered, /save NAME keeps it,
/// /clear forgets the conversation (not the memory), /quit ends. Ctrl-D ends too. With
/// --with-session, /save keeps what was read and said as well, so that nothing is read again when
/// it goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  cart chat smol
  cart chat smol --memory --system 'You answer in one sentence.'
  printf 'Name three colors.\\n' | cart chat smol -n 40")]
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
    messages: Vec<Message>,
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
    let mut chat =
        Chat { context, args, agent, origin, messages: Vec::new(), last: None, unsaved: false };
    chat.clear();
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        context.remark("type a message; /help lists commands; Ctrl-D ends");
    }
    loop {
        if interactive {
            report::stdout(b"> ")?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).map_err(Failure::refused)? == 0 {
            return chat.end();
        }
        let line = line.trim();
        match line.strip_prefix('/') {
            _ if line.is_empty() => {}
            Some(command) => {
                if let Turn::Quit = chat.command(command)? {
                    return chat.end();
                }
            }
            None => chat.answer(line)?,
        }
    }
}

impl Chat<'_> {
    /// Scripts see by the exit code that what was to be saved is not.
    fn end(&self) -> Result<(), Failure> {
        if self.unsaved { Err(Failure::Found) } else { Ok(()) }
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.last = None;
        if let Some(system) = &self.args.system {
            self.messages.push(Message::new("system", system.clone()));
        }
    }

    fn answer(&mut self, text: &str) -> Result<(), Failure> {
        self.messages.push(Message::new("user", text));
        let options = self.args.sampling.options(self.args.max_tokens, self.args.memory.options());
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
        while session.finished().is_none() {
            if let StepEvent::Generated(event) = session.step(&self.agent)? {
                on_event(&event);
            }
        }
        self.last = self.args.with_session.then(|| session.clone());
        Ok(session.finish(&self.agent)?)
    }

    fn command(&mut self, command: &str) -> Result<Turn, Failure> {
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        match name {
            "quit" | "exit" => return Ok(Turn::Quit),
            "clear" => self.clear(),
            "memory" => match self.agent.memory() {
                Some(memory) => report::stdout(super::inspect::memory_table(&memory).as_bytes())?,
                None => report::line("nothing is remembered yet")?,
            },
            "save" => self.save(rest.trim())?,
            _ => report::line("/memory  /save NAME[:TAG]  /clear  /quit")?,
        }
        Ok(Turn::GoOn)
    }

    /// Saves under a name, or says why not: the conversation goes on either way.
    fn save(&mut self, name: &str) -> Result<(), Failure> {
        let saved = match name.parse::<RefName>() {
            Ok(_) if self.args.with_session && self.last.is_none() => Err(Failure::refused_with(
                "there is no session to keep before the first answer",
                "say something first, or chat without --with-session",
            )),
            Ok(name) => self.save_as(&name),
            Err(error) => Err(Failure::refused(error)),
        };
        self.unsaved = saved.is_err();
        match saved {
            Ok(saved) => report::line(&format!(
                "saved {}: {}",
                saved.name,
                serde_json::to_string(&saved).map_err(Failure::bug)?
            )),
            Err(failure @ Failure::Refused { .. }) => {
                failure.say();
                report::line("not saved")
            }
            Err(failure) => Err(failure),
        }
    }

    fn save_as(&self, name: &RefName) -> Result<Saved, Failure> {
        let session = self.last.as_ref().map(|last| last.save(&self.agent)).transpose();
        let session = session.map_err(Failure::refused)?;
        let memory = self.agent.memory();
        let kept = Kept { memory: memory.as_deref(), session: session.as_ref() };
        saved::save(self.context, &self.origin, kept, name, Recipe::new("chat"))
    }
}
