//! `cart swap`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cart_store::RefName;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use ureq::tls::TlsConfig;

use super::apply::{self, ApplyOptions};
use crate::bytes::milliseconds;
use crate::context::Context;
use crate::failure::Failure;
use crate::{report, trust};

/// Change the cartridge of a running server between two tokens.
///
/// The server verifies, loads, warms and probes the new cartridge while streams go on, then flips.
/// If anything fails, the running cartridge stays as it is.
#[derive(Args)]
#[command(after_help = "Examples:
  cart swap smol:v2 --server http://127.0.0.1:8080
  cart swap smol:v2 --server http://127.0.0.1:8080 --in-flight boundary --memory carry
  cart swap smol:told --server http://127.0.0.1:8080 --in-flight keep
  cart swap gemma --server http://127.0.0.1:8080 --memory migrate
  cart swap smol:v2 --server https://models.example:8443 --ca company-ca.pem
  cart swap --delta my-lora/ --server http://127.0.0.1:8080 -t smol:tuned")]
pub(crate) struct SwapArgs {
    /// A cartridge of the server's store
    #[arg(value_name = "REF", required_unless_present = "delta")]
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
    let (reference, usual) = match (&args.reference, &args.delta) {
        (Some(reference), _) => (reference.clone(), Memory::Replace),
        (None, Some(delta)) => (applied(context, args, &server, delta)?, Memory::Migrate),
        (None, None) => return Err(Failure::arguments("REF or --delta is needed")),
    };
    let body = json!({
        "ref": reference,
        "in_flight": named(args.in_flight),
        "memory": named(args.memory.unwrap_or(usual)),
    });
    let answer = server.ask("/cart/swap", Some(&body))?;
    if context.json {
        return report::print("swap", &answer);
    }
    let name = args.tag.as_ref().map(ToString::to_string).or_else(|| args.reference.clone());
    report::line(&format!(
        "swapped to {}  sha256:{}",
        name.as_deref().unwrap_or("(no name)"),
        answer["to"]["manifest"].as_str().unwrap_or("?")
    ))?;
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
    let state = server.ask("/cart/state", None)?;
    let running = state["active"]["manifest"].as_str().unwrap_or_default();
    let options = ApplyOptions { tag: args.tag.as_ref(), message: "", keep_float: args.keep_float };
    let made = apply::made(context, running, delta, &options)?;
    if !context.json {
        made.render()?;
    }
    Ok(made.manifest)
}

/// A running server.
struct Server<'a> {
    address: &'a str,
    token: Option<&'a str>,
    /// How its certificate is judged; none where it is not asked over TLS.
    trusted: Option<TlsConfig>,
}

impl Server<'_> {
    /// Posts a body to a path, or gets it where there is none.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.address);
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)));
        if let Some(trusted) = &self.trusted {
            config = config.tls_config(trusted.clone());
        }
        let unreachable = |source: ureq::Error| {
            Failure::refused_with(
                format!("{url} did not answer: {source}"),
                "`cart serve REF --listen ADDR` starts a server",
            )
        };
        let agent = ureq::Agent::new_with_config(config.build());
        let response = match body {
            None => self.signed(agent.get(&url)).call(),
            Some(body) => self.signed(agent.post(&url)).send_json(body),
        };
        let mut response = response.map_err(unreachable)?;
        let status = response.status();
        let answer: Value = response.body_mut().read_json().map_err(unreachable)?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer["error"]["message"].as_str().unwrap_or("no reason was given");
        Err(Failure::refused_with(
            format!("the server refused the swap: {said}"),
            "the running cartridge is as it was",
        ))
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// A choice as people and the server write it.
fn named(choice: impl ValueEnum) -> String {
    choice.to_possible_value().expect("no choice is hidden").get_name().to_owned()
}
