//! A loaded cartridge.

mod loading;
mod memory;
mod sharing;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock};

use cart_format::arch::ArchError;
use cart_format::json::JsonError;
use cart_format::{ArchSpec, BasisId, Manifest, ManifestId, Probe, SpaceId};
use cart_memory::{MemoryConfig, Normalization, UnifiedMemory};
use cart_nn::decoder::{Decoder, Run, State};
use cart_nn::graph::GraphLoadError;
use cart_nn::{
    Activations, DeviceChoice, DeviceError, ForwardError, KernelError, KernelLevel, KvFormat,
    KvFormatError, Logits, PackedAhead, Precision,
};
use cart_store::{BlobError, Cartridge, Verified};
use thiserror::Error;

use crate::chat::{ChatError, ChatTemplate};
use crate::constraint::{ConstraintError, Vocabulary};
use crate::memory_cell::MemoryCell;
use crate::memory_layers::{self, MemoryLayersError, TrainedLayers};
use crate::memory_loop::GoalProbe;
use crate::memory_section::{self, MemorySectionError};
use crate::prefix_cache::{PrefixCache, PrefixCacheReport};
use crate::prepared::Prepared;
use crate::session_report::SavedSessionReport;
use crate::swap::room::Footprint;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::{code_pages, session_section, space};

/// Largest tokenizer document, in bytes.
pub(crate) const TOKENIZER_BYTES: u64 = 256 << 20;
/// Largest chat template, in bytes.
const TEMPLATE_BYTES: u64 = 1 << 20;

/// How to load a cartridge.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// Threads that compute, of the agent's own; those that the process shares if absent.
    pub threads: Option<NonZeroUsize>,
    /// Positions that a session may use; what the model was made for if absent.
    pub context: Option<NonZeroUsize>,
    /// Kernels of the products; the best that the processor has if absent.
    pub kernels: Option<KernelLevel>,
    /// In how many bits the kernels take activations to quantized weights; exact if absent.
    pub activations: Option<Activations>,
    /// How sessions store keys and values. If absent: f16 for quantized weights, whose rounding is
    /// far coarser; f32 for float weights, so that nothing is rounded that was not before.
    pub kv: Option<KvFormat>,
    /// What computes.
    pub device: DeviceChoice,
    /// In what the graph computes and keeps matrices. If absent: on the CPU f32; on a GPU as the
    /// weights are stored, and bf16 where they are quantized.
    pub precision: Option<Precision>,
    /// Bytes of what was read that are kept: prompts, so that sessions with the same beginning share it, and recalled
    /// spans; 0 keeps none.
    pub prefix_cache: usize,
    /// Settings of a memory that is yet to be made. A cartridge's own memory keeps its own.
    pub memory: MemoryConfig,
}

impl Default for LoadOptions {
    fn default() -> Self {
        // Sentences come faster than one observation per answer, for which the memory's own default
        // was made.
        let memory = MemoryConfig { stm_slots: 128, ..MemoryConfig::default() };
        Self {
            threads: None,
            context: None,
            kernels: None,
            activations: None,
            kv: None,
            device: DeviceChoice::Cpu,
            precision: None,
            prefix_cache: 0,
            memory,
        }
    }
}

/// Why a cartridge can't be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A bare set of tensors.
    #[error(
        "the cartridge has no architecture, so there is nothing to run; pack a model folder with its config.json, or a GGUF file"
    )]
    NoArchitecture,
    /// The architecture can't be used.
    #[error(transparent)]
    Architecture(#[from] ArchError),
    /// The architecture has a number without a canonical form.
    #[error("the memory space has no name")]
    Space(#[from] JsonError),
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Weights are infinite or no numbers.
    #[error(transparent)]
    Finite(#[from] cart_store::NotFinite),
    /// The weights don't fit the architecture.
    #[error(transparent)]
    Weights(#[from] cart_nn::LoadError),
    /// The processor lacks the kernels asked for.
    #[error(transparent)]
    Kernels(#[from] KernelError),
    /// Keys and values can't be stored as asked.
    #[error(transparent)]
    Kv(#[from] KvFormatError),
    /// The device can't be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights don't fit the architecture, or not onto the device.
    #[error(transparent)]
    Graph(#[from] GraphLoadError),
    /// An option of the CPU's kernels, of the graph.
    #[error(
        "{option} is of the CPU's own kernels, but `{device}` computes with the graph; leave it out, or take --device cpu"
    )]
    OfKernels {
        /// The option.
        option: &'static str,
        /// The device.
        device: DeviceChoice,
    },
    /// A precision for the CPU's kernels, which compute on weights as they are stored.
    #[error(
        "{precision} was asked for, but the CPU's own kernels compute on weights as they are stored; leave the precision out, or take --device graph, cuda or metal"
    )]
    OfGraph {
        /// The precision.
        precision: Precision,
    },
    /// The tokenizer can't be used, or belongs to another model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template is not text.
    #[error("the chat template is not UTF-8")]
    TemplateEncoding(#[source] std::string::FromUtf8Error),
    /// The chat template can't be used.
    #[error(transparent)]
    Template(#[from] ChatError),
    /// More positions were asked for than the model was made for.
    #[error("a context of {found} was asked for; the model was made for up to {allowed}")]
    Context {
        /// Positions asked for.
        found: usize,
        /// Positions that the model was made for.
        allowed: u64,
    },
    /// Threads could not be started.
    #[error("{threads} threads could not be started")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The memory can't be restored.
    #[error(transparent)]
    Memory(#[from] MemorySectionError),
    /// The memory layers can't be used.
    #[error(transparent)]
    Layers(#[from] MemoryLayersError),
}

/// A loaded cartridge: model, tokenizer, chat template and memory. Cheap to clone; clones share the
/// memory.
#[derive(Clone, Debug)]
pub struct Agent {
    core: Arc<Core>,
    memory: MemoryCell,
}

#[derive(Debug)]
struct Core {
    id: ManifestId,
    manifest: Arc<Manifest>,
    footprint: Footprint,
    session: Option<SavedSessionReport>,
    /// Memory layers whose gates are open.
    layers: Option<Arc<TrainedLayers>>,
    parts: Arc<Parts>,
}

/// What cartridges with the same weights and the same tokenizer have in common.
#[derive(Debug)]
struct Parts {
    model: Decoder,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    context: usize,
    tap_layer: usize,
    space: SpaceId,
    basis: BasisId,
    empty: State,
    prefixes: PrefixCache,
    memory_config: MemoryConfig,
    normalization: OnceLock<Normalization>,
    goal_probe: GoalProbe,
    /// Made when the first answer is held to a grammar.
    vocabulary: OnceLock<Arc<Vocabulary>>,
    /// Golden probes that the model has passed.
    passed: Mutex<Vec<Probe>>,
    /// What the model gave to the prompts that it is watched by, when it was first asked.
    watched: OnceLock<Vec<Probe>>,
}

impl Agent {
    /// Loads a cartridge whose every blob has been checked. Weights stay mapped.
    ///
    /// # Errors
    /// Weights are not finite, or parts are missing or do not belong together: weights and
    /// architecture, tokenizer and embedding, memory and model.
    pub fn load(verified: &Verified, options: &LoadOptions) -> Result<Self, LoadError> {
        Self::load_with(verified, options, PackedAhead::default(), None)
    }

    /// As [`Agent::load`], of which some is done already.
    ///
    /// # Errors
    /// As [`Agent::load`].
    pub fn load_prepared(prepared: Prepared) -> Result<Self, LoadError> {
        let Prepared { verified, options, weights, tokenizer } = prepared;
        Self::load_with(&verified, &options, weights, tokenizer)
    }

    fn load_with(
        verified: &Verified,
        options: &LoadOptions,
        packed: PackedAhead,
        tokenizer: Option<Result<Tokenizer, TokenizerError>>,
    ) -> Result<Self, LoadError> {
        let manifest = verified.manifest();
        let architecture = manifest.model.architecture.as_ref().ok_or(LoadError::NoArchitecture)?;
        let spec = ArchSpec::from_value(architecture)?;
        let space = space::space(manifest, &spec)?;
        let memory = memory_section::restore(verified, space)?;
        // The tokenizer's document is parsed by one thread; the others read the weights meanwhile.
        let (text, model) = std::thread::scope(|scope| {
            let text = scope.spawn(|| loading::text_parts(verified, &spec, tokenizer));
            let model = loading::model(verified, &spec, options, packed);
            (text.join().expect("reading a tokenizer does not panic"), model)
        });
        let ((tokenizer, template), model) = (text?.unzip(), model?);
        let parts = Parts {
            basis: session_section::basis(manifest)?,
            empty: model.new_state_in(options.kv.unwrap_or_else(|| loading::usual_kv(manifest)))?,
            prefixes: PrefixCache::new(options.prefix_cache),
            model,
            tokenizer,
            template: template.flatten(),
            context: loading::context(&spec, options)?,
            tap_layer: space::tap_layer(&spec),
            space,
            memory_config: options.memory.clone(),
            normalization: OnceLock::new(),
            goal_probe: GoalProbe::default(),
            vocabulary: OnceLock::new(),
            passed: Mutex::default(),
            watched: OnceLock::new(),
        };
        code_pages::release();
        Self::of_parts(verified.cartridge(), Arc::new(parts), memory)
    }

    fn of_parts(
        cartridge: &Cartridge,
        parts: Arc<Parts>,
        memory: Option<UnifiedMemory>,
    ) -> Result<Self, LoadError> {
        let (id, manifest) = (cartridge.manifest_id(), cartridge.shared_manifest());
        let footprint = Footprint::of(&manifest);
        let session = SavedSessionReport::of(&manifest)?;
        let layers =
            memory_layers::read(&manifest, parts.model.spec(), parts.basis, |blob, most| {
                cartridge.read(blob, most)
            })?;
        let core = Core { id, manifest, footprint, session, layers, parts };
        Ok(Self { core: Arc::new(core), memory: MemoryCell::new(memory) })
    }

    /// The id of the cartridge that was loaded. What the memory has learned since is not in it.
    pub fn id(&self) -> ManifestId {
        self.core.id
    }

    /// What was loaded.
    pub fn manifest(&self) -> &Manifest {
        &self.core.manifest
    }

    /// What it takes of memory.
    pub(crate) fn footprint(&self) -> Footprint {
        self.core.footprint
    }

    /// The model, on whatever computes it.
    pub fn model(&self) -> &Decoder {
        &self.core.parts.model
    }

    /// The tokenizer, if the cartridge has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.core.parts.tokenizer.as_ref()
    }

    /// The chat template, if the cartridge has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.core.parts.template.as_ref()
    }

    /// What the numbers of a session's state depend on: weights, architecture and tokenizer.
    pub fn basis(&self) -> BasisId {
        self.core.parts.basis
    }

    /// The session that was saved in the cartridge, in numbers.
    pub fn saved_session(&self) -> Option<&SavedSessionReport> {
        self.core.session.as_ref()
    }

    /// What is kept of prompts and recalled spans that were read.
    pub fn prefix_cache(&self) -> PrefixCacheReport {
        self.core.parts.prefixes.report()
    }

    /// The memory layers; none where there are none, or all their gates are shut.
    pub(crate) fn memory_layers(&self) -> Option<&Arc<TrainedLayers>> {
        self.core.layers.as_ref()
    }

    /// An empty state, with keys and values in the agent's format.
    pub(crate) fn new_state(&self) -> State {
        self.core.parts.empty.clone()
    }

    pub(crate) fn prefixes(&self) -> &PrefixCache {
        &self.core.parts.prefixes
    }

    /// Positions that a session may use.
    pub fn context_length(&self) -> usize {
        self.core.parts.context
    }

    /// The layer, from 0, after which memory listens.
    pub fn tap_layer(&self) -> usize {
        self.core.parts.tap_layer
    }

    /// What steps towards a goal do to its logits.
    pub(crate) fn goal_probe(&self) -> &GoalProbe {
        &self.core.parts.goal_probe
    }

    /// Its tokens by their bytes.
    ///
    /// # Errors
    /// There is no tokenizer, or its tokens have no bytes of their own.
    pub(crate) fn vocabulary(&self) -> Result<&Arc<Vocabulary>, ConstraintError> {
        let made = &self.core.parts.vocabulary;
        if let Some(made) = made.get() {
            return Ok(made);
        }
        let tokenizer = self.tokenizer().ok_or(ConstraintError::NoTokenizer)?;
        let rows = self.model().spec().vocab_size as usize;
        let vocabulary = Arc::new(Vocabulary::new(tokenizer, rows)?);
        Ok(made.get_or_init(|| vocabulary))
    }

    /// The space of its memory's vectors.
    pub fn space(&self) -> SpaceId {
        self.core.parts.space
    }

    /// Runs a batch through the model.
    pub(crate) fn forward(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        self.core.parts.model.forward(runs)
    }
}
