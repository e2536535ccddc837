//! `cart serve`.

mod certificate;
mod keeping;
mod models;
mod watching;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cart_engine::long_term::{LongTermSource, SavedConversations};
use cart_engine::runtime::{Runtime, RuntimeOptions};
use cart_engine::{Counted, KvFormat, LoadOptions, MemoryOptions};
use cart_format::ManifestId;
use cart_server::postgres::{Address, PostgresSource};
use cart_server::{Admin, AdminToken, ApiKeys, AppState, KeySource, RequestLog, ServerOptions};
use cart_store::Store;
use clap::{Args, ValueEnum, ValueHint};

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::sampling::MemoryArgs;
use keeping::SessionArgs;
use models::{ModelArgs, Served as Started};
use watching::{WatchArgs, beside};

/// From one giving back of freed memory to the next.
const RETURNS: Duration = Duration::from_secs(20);

/// Serve cartridges over HTTP.
///
/// OpenAI-compatible: /v1/chat/completions, /v1/completions, /v1/models, with streaming. Besides:
/// GET /cart/state, POST /cart/swap, POST /cart/rollback, GET /healthz, GET /metrics. Ctrl-C lets
/// running streams end. The first line on stdout says where it listens.
#[derive(Args)]
#[command(after_help = "Examples:
  cart serve smol
  cart serve smol --listen 127.0.0.1:0
  cart serve smol --memory --sessions --max-sessions 100
  cart serve smol gemma --memory-budget 2000 --on-demand --idle-unload 600
  cart serve smol --listen 0.0.0.0:8443 --api-keys keys.txt --tls-cert server.pem --tls-key server.key
  curl http://127.0.0.1:8080/v1/completions -H 'content-type: application/json' \\
       -d '{\"prompt\":\"Hello\",\"max_tokens\":8}'")]
pub(crate) struct ServeArgs {
    /// Cartridges; requests choose by their `model`, and the first answers those that name none
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,
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
    /// Ask requests for this key, as `Authorization: Bearer KEY`; may be given several times
    ///
    /// 16 to 4096 visible ASCII characters, after NAME: where its holder is to be told apart in /metrics. Keys guard /v1,
    /// /cart/state and /metrics (which take the admin token too); /healthz asks for none. Where there is no admin token, swap
    /// and rollback ask for a key too.
    #[arg(
        long = "api-key",
        value_name = "[NAME:]KEY",
        env = "CART_API_KEY",
        hide_env_values = true
    )]
    api_key: Vec<String>,
    /// A file with such keys, one a line; lines that begin with # are passed over
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    api_keys: Option<PathBuf>,
    /// Longest body of a request, in MiB; longer ones get 413
    #[arg(long, value_name = "MIB", default_value = "8")]
    max_body: NonZeroU32,
    /// Serve over TLS: the server's certificate and those that vouch for it, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key", value_hint = ValueHint::FilePath)]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    tls_key: Option<PathBuf>,
    /// Write a line about each request to stderr: off or json
    #[arg(long, value_name = "FORMAT", default_value = "off")]
    log: Log,
    /// How keys and values are stored: f32, f16 or q8 [default: f16; f32 where the weights are
    /// floats]
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    /// Keep so many MiB of what was read: prompts, for requests that begin alike, and what memory recalled; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    prefix_cache: usize,
    /// How memory takes part in requests that don't say
    #[command(flatten)]
    memory: MemoryArgs,
    /// Measure the surprise of what prompts tell memory over the whole vocabulary
    ///
    /// Otherwise it is over a fifteenth of it: the most frequent tokens, those that came, and of the others fewer and fewer, which stand
    /// for all. The mean of a sentence is within 0.2 nats of the exact one (root mean square), and writing prompts into memory costs a
    /// fraction of what it would.
    #[arg(long)]
    exact_surprise: bool,
    /// Several cartridges
    #[command(flatten)]
    models: ModelArgs,
    /// Sessions
    #[command(flatten)]
    sessions: SessionArgs,
    /// What happens after a swap
    #[command(flatten)]
    watch: WatchArgs,
    /// Share long-term memory with other servers, in PostgreSQL: postgres://USER@HOST:PORT/DATABASE
    ///
    /// Conversations (`memory.session` of a request) keep a short-term memory of their own. Without this they share the
    /// cartridge's long-term memory within this server. The password may be in $PGPASSWORD.
    #[arg(long, value_name = "URL", env = "CART_LTM", hide_env_values = true)]
    ltm: Option<String>,
    /// Where offers to it wait while it is away [default: beside the store, NAME.offers]
    #[arg(long, value_name = "DIR", requires = "ltm", value_hint = ValueHint::DirPath)]
    ltm_journal: Option<PathBuf>,
    /// Begin a memory for this model in a database that has those of other models only
    #[arg(long, requires = "ltm")]
    ltm_begin: bool,
    /// Seconds for which an answer waits until what it offered to it is committed
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    commit_wait: f64,
}

/// What is written about requests.
#[derive(Clone, Copy, ValueEnum)]
enum Log {
    /// Nothing
    Off,
    /// Time, id, method, route, status, the key's name and milliseconds
    Json,
}

pub(crate) fn run(context: &Context, args: &ServeArgs) -> Result<(), Failure> {
    let admin = admin(context, args)?;
    let (keys, tls) = (keys(args)?, certificate::read(args)?);
    if let Some(identity) = &tls {
        certificate::renew(identity.clone());
    }
    let store = context.store_or_new()?;
    let long_term = long_term(args, &store)?;
    let sessions = args.sessions.kept_in(&store)?;
    let conversations =
        sessions.clone().map(|saved| Arc::new(saved) as Arc<dyn SavedConversations>);
    let options = RuntimeOptions {
        long_term,
        conversations,
        max_streams: args.max_streams,
        max_queued: args.queue,
        max_wait: Duration::from_secs(args.max_wait),
        load: LoadOptions {
            kv: args.kv,
            prefix_cache: args.prefix_cache.saturating_mul(1 << 20),
            ..history::load_options(context)
        },
        verify_threads: context.threads,
        account: Arc::new(args.models.account()),
        ..RuntimeOptions::default()
    };
    let log = match args.log {
        Log::Off => RequestLog::Off,
        Log::Json => RequestLog::Json,
    };
    let options = args.watch.applied_to(&store, log, options)?;
    let Started { first, models, names } = args.models.start(context, &args.references, options)?;
    let surprise = if args.exact_surprise { Counted::All } else { Counted::Sample };
    let memory = MemoryOptions { surprise, ..args.memory.options() };
    let commit_wait = Duration::try_from_secs_f64(args.commit_wait)
        .map_err(|_| Failure::arguments(format!("--commit-wait is {}", args.commit_wait)))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let body_limit = (args.max_body.get() as usize).saturating_mul(1 << 20);
    let server = ServerOptions {
        memory,
        admin,
        sessions,
        commit_wait,
        keys,
        tls,
        body_limit,
        log,
        ..ServerOptions::default()
    };
    let state = AppState::with_models(models, store, server);
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
        announce(&names, &format!("{scheme}://{address}"))?;
        tokio::spawn(return_freed_memory());
        cart_server::serve(listener, state, cart_server::shutdown_signal())
            .await
            .map_err(Failure::refused)
    })?;
    remark_on_end(context, served.cut_off, &first);
    drop(first);
    Ok(())
}

/// Says what did not end as it should have.
///
/// * `cut_off`: streams that took too long
fn remark_on_end(context: &Context, cut_off: usize, first: &Runtime) {
    if cut_off > 0 {
        context.remark(&format!("{cut_off} streams took too long to end and were cut off"));
    }
    let ended = first.handle().active().ok().and_then(|active| active.agent().end_conversations());
    if let Some(state) = ended.filter(|state| state.pending > 0) {
        context.remark(&format!(
            "{} offers to the long-term memory at {} were not committed; they are in the journal, for the next server",
            state.pending, state.place
        ));
    }
}

/// Gives back now and then what requests have freed, as long as it is let.
async fn return_freed_memory() {
    let mut looks = tokio::time::interval(RETURNS);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let _ = tokio::task::spawn_blocking(cart_nn::return_freed_memory).await;
    }
}

/// Says where what is served; the first line has the address.
fn announce(names: &[(String, ManifestId)], url: &str) -> Result<(), Failure> {
    for (index, (name, manifest)) in names.iter().enumerate() {
        let on = if index == 0 { format!(" on {url}") } else { String::new() };
        report::line(&format!("serving {name}{on}  sha256:{manifest}"))?;
    }
    Ok(())
}

/// The long-term memory that others share, if one is named.
fn long_term(args: &ServeArgs, store: &Store) -> Result<Option<Arc<dyn LongTermSource>>, Failure> {
    let Some(url) = args.ltm.as_deref().filter(|url| !url.is_empty()) else { return Ok(None) };
    let address = database(url)?;
    let journal = args.ltm_journal.clone().unwrap_or_else(|| beside(store, ".offers"));
    // Hashers are keyed by the system's randomness, each by another key.
    let draw = || RandomState::new().hash_one(std::process::id());
    Ok(Some(Arc::new(PostgresSource { address, journal, may_begin: args.ltm_begin, draw })))
}

/// The address of a database; the password comes from `$PGPASSWORD` where it has none.
pub(crate) fn database(url: &str) -> Result<Address, Failure> {
    let password = std::env::var("PGPASSWORD").ok();
    Address::new(url, password.as_deref()).map_err(|error| Failure::arguments(error.to_string()))
}

/// The keys of the arguments and of the file.
fn keys(args: &ServeArgs) -> Result<ApiKeys, Failure> {
    let mut keys = ApiKeys::default();
    for (index, key) in args.api_key.iter().enumerate() {
        keys.add(key, KeySource::Argument(index + 1))
            .map_err(|error| Failure::arguments(error.to_string()))?;
    }
    if let Some(path) = &args.api_keys {
        keys.add_file(path).map_err(Failure::refused)?;
    }
    Ok(keys)
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
