//! `cart swap`.

mod following;
mod server;

use std::path::{Path, PathBuf};

use cart_store::RefName;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::apply::{self, ApplyOptions};
use crate::bytes::milliseconds;
use crate::context::Context;
use crate::failure::Failure;
use crate::{report, trust};
use server::Server;

/// Change the cartridge of a running server between two tokens.
///
/// The server verifies, loads, warms and probes the new cartridge while streams go on, then flips.
/// If anything fails, the running cartridge stays as it is. With --rollback it goes back to what ran before, as long as
/// that is kept; with --watch it follows a name and swaps whenever that moves, until Ctrl-C.
#[derive(Args)]
#[command(after_help = "Examples:
  cart swap smol:v2 --server http://127.0.0.1:8080
  cart swap smol:v2 --server http://127.0.0.1:8080 --in-flight boundary --memory carry
  cart swap smol:told --server http://127.0.0.1:8080 --in-flight keep
  cart swap gemma --server http://127.0.0.1:8080 --memory migrate
  cart swap smol:v2 --server https://models.example:8443 --ca company-ca.pem
  cart swap --delta my-lora/ --server http://127.0.0.1:8080 -t smol:tuned
  cart swap smol:v2 --server http://127.0.0.1:8080 --stop-first
  cart swap --rollback --server http://127.0.0.1:8080
  cart swap --watch smol:live --server http://127.0.0.1:8080")]
pub(crate) struct SwapArgs {
    /// A cartridge of the server's store
    #[arg(value_name = "REF", required_unless_present_any = ["delta", "rollback"])]
    reference: Option<String>,
    /// What turns the running cartridge into the new one: a delta, or a folder with a PEFT adapter.
    /// It is applied in --store, which has to be the server's
    #[arg(long, value_name = "D", conflicts_with = "reference", value_hint = clap::ValueHint::AnyPath)]
    delta: Option<PathBuf>,
    /// The name of what a delta makes
    #[arg(short, long, value_name = "NAME[:TAG]", requires = "delta")]
    tag: Option<RefName>,
    /// Leave quantized tensors to which a delta adds as floats
    #[arg(long, requires = "delta")]
    keep_float: bool,
    /// Go back to what ran before the last swap
    #[arg(long, conflicts_with_all = ["reference", "delta", "memory", "watch", "stop_first"])]
    rollback: bool,
    /// Follow REF in --store, which has to be the server's: swap now if it does not run, and whenever it moves
    #[arg(long, conflicts_with = "delta")]
    watch: bool,
    /// With --watch: seconds between two looks at REF
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, requires = "watch")]
    every: f64,
    /// Unload what runs before the new one is loaded, where there is no memory for both: running streams end, new
    /// requests wait. If the new one can't be loaded, the old one is loaded again
    #[arg(long)]
    stop_first: bool,
    /// Which of the server's cartridges, by the name that it was started with or by what runs under it [default: the first]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The server
    #[arg(long, value_name = "URL")]
    server: String,
    /// Trust the certificates that these vouch for, PEM, instead of those that the system trusts; with https only
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    ca: Option<PathBuf>,
    /// The server's secret, where it has one; an API key where it has keys and no secret
    #[arg(long, value_name = "TOKEN", env = "CART_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// What becomes of running streams
    #[arg(long, value_name = "MODE", default_value = "finish")]
    in_flight: InFlight,
    /// What is remembered after [default: replace; with --delta, migrate]
    #[arg(long, value_name = "POLICY")]
    memory: Option<Memory>,
}

#[derive(Clone, Copy, ValueEnum)]
enum InFlight {
    /// They end on the old cartridge
    Finish,
    /// They go on with the new one, which reads their texts again
    Boundary,
    /// They go on with the new one and keep what they have read; of the same weights
    Keep,
    /// They end now, with an error
    Abort,
}

#[derive(Clone, Copy, ValueEnum)]
enum Memory {
    /// What the new cartridge remembers
    Replace,
    /// The running memory; of the same model
    Carry,
    /// The running memory, whose texts another model reads again
    Migrate,
    /// Both joined; of the same model
    Merge,
    /// The new cartridge's memory with the running short-term memory; of the same model
    StmOnly,
    /// The new cartridge's memory with the running goal; of the same model
    GoalOnly,
}

pub(crate) fn run(context: &Context, args: &SwapArgs) -> Result<(), Failure> {
    let server = Server {
        address: args.server.trim_end_matches('/'),
        token: args.admin_token.as_deref(),
        trusted: trust::trusted(&args.server, args.ca.as_deref())?,
    };
    if args.rollback {
        let body = json!({ "in_flight": named(args.in_flight), "model": args.model });
        let answer = server.ask("/cart/rollback", Some(&body))?;
        return render(context, None, &answer);
    }
    let (reference, usual) = match (&args.reference, &args.delta) {
        (Some(reference), _) => (reference.clone(), Memory::Replace),
        (None, Some(delta)) => (applied(context, args, &server, delta)?, Memory::Migrate),
        (None, None) => return Err(Failure::arguments("REF, --delta or --rollback is needed")),
    };
    if args.watch {
        return following::run(context, args, &server, &reference);
    }
    let answer = server.ask("/cart/swap", Some(&body(&reference, args, usual)))?;
    let name = args.tag.as_ref().map(ToString::to_string).or_else(|| args.reference.clone());
    render(context, name.as_deref().or(Some("(no name)")), &answer)
}

/// What the server is asked.
fn body(reference: &str, args: &SwapArgs, usual: Memory) -> Value {
    json!({
        "ref": reference,
        "in_flight": named(args.in_flight),
        "memory": named(args.memory.unwrap_or(usual)),
        "stop_first": args.stop_first,
        "model": args.model,
    })
}

/// Shows what a swap did, or a rollback where there is no name.
fn render(context: &Context, name: Option<&str>, answer: &Value) -> Result<(), Failure> {
    let left = answer["rolled_back"].as_str();
    if context.json {
        report::print("swap", answer)?;
        return if left.is_some() { Err(Failure::Found) } else { Ok(()) };
    }
    if let Some(reason) = left {
        let name = answer["to"]["name"].as_str().unwrap_or("?");
        return Err(Failure::refused_with(
            format!("{name} became active and was left again by itself: {reason}"),
            "what ran before runs again; `watch` in GET /cart/state says what was moved and remembered",
        ));
    }
    let to = &answer["to"];
    let manifest = to["manifest"].as_str().unwrap_or("?");
    let (done, name) = match name {
        Some(name) => ("swapped", name),
        None => ("rolled back", to["name"].as_str().unwrap_or("?")),
    };
    report::line(&format!("{done} to {name}  sha256:{manifest}"))?;
    report::line(&format!(
        "  verify {}, load {}, warm {}, pause {}; streams moved {}, dropped {}",
        milliseconds(&answer["verify_ms"]),
        milliseconds(&answer["load_ms"]),
        milliseconds(&answer["warm_ms"]),
        milliseconds(&answer["pause_ms"]),
        answer["streams_moved"],
        answer["streams_dropped"],
    ))
}

/// Applies a delta to what the server runs; gives the id of what comes of it.
fn applied(
    context: &Context,
    args: &SwapArgs,
    server: &Server<'_>,
    delta: &Path,
) -> Result<String, Failure> {
    let state = server.state(args.model.as_deref())?;
    let running = state["active"]["manifest"].as_str().unwrap_or_default();
    let options = ApplyOptions { tag: args.tag.as_ref(), message: "", keep_float: args.keep_float };
    let made = apply::made(context, running, delta, &options)?;
    if !context.json {
        made.render()?;
    }
    Ok(made.manifest)
}

/// A choice as people and the server write it.
fn named(choice: impl ValueEnum) -> String {
    choice.to_possible_value().expect("no choice is hidden").get_name().to_owned()
}
