//! `cart swap`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::bytes::milliseconds;
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// Change the cartridge of a running server between two tokens.
///
/// The server verifies, loads, warms and probes the new cartridge while streams go on, then flips.
/// If anything fails, the running cartridge stays as it is.
#[derive(Args)]
#[command(after_help = "Examples:
  cart swap smol:v2 --server http://127.0.0.1:8080
  cart swap smol:v2 --server http://127.0.0.1:8080 --in-flight boundary --memory carry
  cart swap smol:told --server http://127.0.0.1:8080 --in-flight keep
  cart swap gemma --server http://127.0.0.1:8080 --memory migrate")]
pub(crate) struct SwapArgs {
    /// A cartridge of the server's store
    #[arg(value_name = "REF")]
    reference: String,
    /// The server
    #[arg(long, value_name = "URL")]
    server: String,
    /// The server's secret, where it has one
    #[arg(long, value_name = "TOKEN", env = "CART_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// What becomes of running streams
    #[arg(long, value_name = "MODE", default_value = "finish")]
    in_flight: InFlight,
    /// What is remembered after
    #[arg(long, value_name = "POLICY", default_value = "replace")]
    memory: Memory,
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
    let url = format!("{}/cart/swap", args.server.trim_end_matches('/'));
    let body = json!({
        "ref": args.reference,
        "in_flight": named(args.in_flight),
        "memory": named(args.memory),
    });
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(10)))
        .build();
    let unreachable = |source: ureq::Error| {
        Failure::refused_with(
            format!("{url} did not answer: {source}"),
            "`cart serve REF --listen ADDR` starts a server",
        )
    };
    let mut request = ureq::Agent::new_with_config(config).post(&url);
    if let Some(token) = &args.admin_token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut response = request.send_json(&body).map_err(unreachable)?;
    let status = response.status();
    let answer: Value = response.body_mut().read_json().map_err(unreachable)?;
    if !status.is_success() {
        let said = answer["error"]["message"].as_str().unwrap_or("no reason was given");
        return Err(Failure::refused_with(
            format!("the server refused the swap: {said}"),
            "the running cartridge is as it was",
        ));
    }
    if context.json {
        return report::print("swap", &answer);
    }
    report::line(&format!(
        "swapped to {}  sha256:{}",
        args.reference,
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

/// A choice as people and the server write it.
fn named(choice: impl ValueEnum) -> String {
    choice.to_possible_value().expect("no choice is hidden").get_name().to_owned()
}
