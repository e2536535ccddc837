//! `cart serve`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use cart_engine::runtime::{Runtime, RuntimeOptions};
use cart_engine::{KvFormat, LoadOptions};
use cart_server::{Admin, AdminToken, AppState, ServerOptions};
use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::sampling::MemoryArgs;

/// Serve a cartridge over HTTP.
///
/// OpenAI-compatible: /v1/chat/completions, /v1/completions, /v1/models, with streaming. Besides:
/// GET /cart/state, POST /cart/swap, POST /cart/rollback, GET /healthz, GET /metrics. Ctrl-C lets
/// running streams end. The first line on stdout says where it listens.
#[derive(Args)]
#[command(after_help = "Examples:
  cart serve smol
  cart serve smol --listen 127.0.0.1:0
  curl http://127.0.0.1:8080/v1/completions -H 'content-type: application/json' \\
       -d '{\"prompt\":\"Hello\",\"max_tokens\":8}'")]
pub(crate) struct ServeArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Streams that run at once; further ones wait
    #[arg(long, value_name = "N", default_value = "64")]
    max_streams: NonZeroUsize,
    /// Requests that may wait; further ones get 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Seconds that a request may wait; then it gets 503
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    max_wait: u64,
    /// Secret that swap and rollback need, as `Authorization: Bearer TOKEN`
    ///
    /// Without one they are open on a loopback address and off on any other.
    #[arg(long, value_name = "TOKEN", env = "CART_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// How keys and values are stored: f32, f16 or q8 [default: f16; f32 where the weights are
    /// floats]
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    /// Keep so many MiB of prompts that were read, for requests that begin alike; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    prefix_cache: usize,
    /// How memory takes part in requests that don't say
    #[command(flatten)]
    memory: MemoryArgs,
}

pub(crate) fn run(context: &Context, args: &ServeArgs) -> Result<(), Failure> {
    let admin = admin(context, args)?;
    let store = context.store_or_new()?;
    let cartridge = history::open(context, &args.reference)?;
    let manifest = cartridge.manifest_id();
    let options = RuntimeOptions {
        max_streams: args.max_streams,
        max_queued: args.queue,
        max_wait: Duration::from_secs(args.max_wait),
        load: LoadOptions {
            kv: args.kv,
            prefix_cache: args.prefix_cache.saturating_mul(1 << 20),
            ..history::load_options(context)
        },
        verify_threads: context.threads,
        ..RuntimeOptions::default()
    };
    let runtime = Runtime::start(&args.reference, cartridge, options).map_err(Failure::refused)?;
    let memory = args.memory.options();
    let server = ServerOptions { memory, admin, ..ServerOptions::default() };
    let state = AppState::new(runtime.handle(), store, server);
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::refused)?;
    let served = executor.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(|source| {
            Failure::refused_with(
                format!("{} can't be listened on: {source}", args.listen),
                "give another address with --listen; port 0 takes a free one",
            )
        })?;
        let address = listener.local_addr().map_err(Failure::refused)?;
        report::line(&format!(
            "serving {} on http://{address}  sha256:{manifest}",
            args.reference
        ))?;
        cart_server::serve(listener, state, cart_server::shutdown_signal())
            .await
            .map_err(Failure::refused)
    })?;
    if served.cut_off > 0 {
        context
            .remark(&format!("{} streams took too long to end and were cut off", served.cut_off));
    }
    drop(runtime);
    Ok(())
}

fn admin(context: &Context, args: &ServeArgs) -> Result<Admin, Failure> {
    let token = args.admin_token.clone().map(AdminToken::new).transpose();
    let token = token.map_err(|error| Failure::arguments(error.to_string()))?;
    let admin = Admin::on(args.listen, token);
    if matches!(admin, Admin::Off) {
        context.remark(&format!(
            "swap and rollback are off: {} is reached from beyond this machine, and there is no --admin-token",
            args.listen
        ));
    }
    Ok(admin)
}
