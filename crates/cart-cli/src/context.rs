//! What every command needs to know: the store, the form of output, the number of threads.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use cart_nn::{Activations, DeviceChoice, KernelLevel, Precision};
use cart_store::Store;
use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// Options of every command.
#[derive(Args)]
pub(crate) struct GlobalOptions {
    /// The store's folder [default: the platform's data folder, cart/store]
    #[arg(long, global = true, value_name = "DIR", env = "CART_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
    /// Print a report as one line of JSON (schemas/ describes each)
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no remarks on stderr
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Worker threads [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Force the kernels of a processor: portable, avx2, avx512vnni, amx, neon [default: the best it has]
    #[arg(long, global = true, value_name = "LEVEL")]
    kernels: Option<KernelLevel>,
    /// Bits of activations to quantized weights: exact (16) or mixed (8, and 16 where they stand
    /// out) [default: mixed]
    #[arg(long, global = true, value_name = "BITS")]
    activations: Option<Activations>,
    /// What computes: cpu, graph, cuda, cuda:N, metal, metal:N (GPUs where built in) [default: cpu]
    ///
    /// `cpu` has kernels of its own, which take weights as they are stored. The others compute with
    /// tensor operations: `graph` on the CPU, slower, and the same as on a GPU.
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value = "cpu",
        hide_default_value = true
    )]
    device: DeviceChoice,
    /// In what a device other than cpu computes: f32, f16, bf16 [default: f32; on a GPU as the
    /// weights]; in what `cart train` multiplies: f32, bf16 [default: f32]
    #[arg(long, global = true, value_name = "TYPE")]
    precision: Option<Precision>,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorWhen,
}

#[derive(Clone, Copy, ValueEnum)]
enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// What every command needs to know.
pub(crate) struct Context {
    store_root: Option<PathBuf>,
    /// Whether output is a JSON report.
    pub(crate) json: bool,
    /// Whether remarks and progress are wanted.
    pub(crate) quiet: bool,
    /// Worker threads; `None` for all cores.
    pub(crate) threads: Option<usize>,
    /// Kernels of the engine; `None` for the best.
    pub(crate) kernels: Option<KernelLevel>,
    /// Activations of the engine's kernels; `None` for exact ones.
    pub(crate) activations: Option<Activations>,
    /// What computes.
    pub(crate) device: DeviceChoice,
    /// In what a device other than the CPU's kernels computes.
    pub(crate) precision: Option<Precision>,
}

impl Context {
    /// Reads the options and sets up colours and threads for the process.
    pub(crate) fn new(options: GlobalOptions) -> Self {
        match options.color {
            ColorWhen::Auto => {}
            ColorWhen::Always => anstream::ColorChoice::Always.write_global(),
            ColorWhen::Never => anstream::ColorChoice::Never.write_global(),
        }
        let threads = options.threads.map(usize::from);
        if let Some(threads) = threads {
            // A second call in one process would fail; there is one call in one process.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        Self {
            store_root: options.store.filter(|root| !root.as_os_str().is_empty()),
            json: options.json,
            quiet: options.quiet,
            threads,
            kernels: options.kernels,
            activations: options.activations,
            device: options.device,
            precision: options.precision,
        }
    }

    /// The options that say what computes, for a process of its own.
    pub(crate) fn of_computing(&self) -> Vec<String> {
        let options = [
            ("--kernels", self.kernels.map(|level| level.to_string())),
            ("--activations", self.activations.map(|activations| activations.to_string())),
            ("--device", Some(self.device.to_string())),
            ("--precision", self.precision.map(|precision| precision.to_string())),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().collect()
    }

    /// The same options on another store.
    pub(crate) fn with_store(&self, root: PathBuf) -> Self {
        let store_root = Some(root);
        Self { store_root, ..*self }
    }

    /// The same options with another precision.
    pub(crate) fn with_precision(&self, precision: Option<Precision>) -> Self {
        let store_root = self.store_root.clone();
        Self { store_root, precision, ..*self }
    }

    /// The store's folder.
    pub(crate) fn store_root(&self) -> Result<PathBuf, Failure> {
        match &self.store_root {
            Some(root) => Ok(root.clone()),
            None => Store::default_root().map_err(Failure::refused),
        }
    }

    /// Opens the store. Reading never makes one.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Store::open(self.store_root()?).map_err(Failure::refused)
    }

    /// Opens the store to write to it, making it if it is not there.
    pub(crate) fn store_or_new(&self) -> Result<Store, Failure> {
        Store::open_or_create(self.store_root()?).map_err(Failure::refused)
    }

    /// Whether to draw progress.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && !self.json && std::io::stderr().is_terminal()
    }

    /// A remark for people, to stderr.
    pub(crate) fn remark(&self, text: &str) {
        use std::io::Write as _;
        if !self.quiet {
            // A closed stderr is no reason to stop.
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        }
    }
}

/// Seconds since 1970: the one place where the command reads the clock for content.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
