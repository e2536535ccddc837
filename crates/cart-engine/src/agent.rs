//! A loaded cartridge.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock};

use cart_format::arch::ArchError;
use cart_format::json::JsonError;
use cart_format::{
    ArchSpec, BasisId, DType, Manifest, ManifestId, Probe, SpaceId, TokenizerSection,
};
use cart_memory::{
    ForeignSpace, Input, MemoryConfig, MemorySnapshot, Normalization, Outcome, UnifiedMemory,
};
use cart_nn::decoder::{Decoder, Run, State};
use cart_nn::graph::{Graph, GraphLoadError};
use cart_nn::{
    Activations, DeviceChoice, DeviceError, ForwardError, KernelError, KernelLevel, KvFormat,
    KvFormatError, Logits, Model, PackedAhead, Precision, Threads,
};
use cart_store::{BlobError, Cartridge, Verified};
use thiserror::Error;

use crate::calibration::{self, CalibrationError};
use crate::chat::{ChatError, ChatTemplate};
use crate::memory_cell::{MemoryCell, Told};
use crate::memory_log::MemoryLogError;
use crate::memory_loop::GoalProbe;
use crate::memory_section::{self, MemorySectionError};
use crate::prefix_cache::{PrefixCache, PrefixCacheReport};
use crate::prepared::Prepared;
use crate::session_report::SavedSessionReport;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::{code_pages, session_section, space, weights};

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
    /// Bytes of read prompts that are kept, so that sessions with the same beginning share it; 0
    /// keeps none.
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
    manifest: Manifest,
    session: Option<SavedSessionReport>,
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
    /// Golden probes that the model has passed.
    passed: Mutex<Vec<Probe>>,
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
            let text = scope.spawn(|| text_parts(verified, &spec, tokenizer));
            let model = model(verified, &spec, options, packed);
            (text.join().expect("reading a tokenizer does not panic"), model)
        });
        let ((tokenizer, template), model) = (text?.unzip(), model?);
        let parts = Parts {
            basis: session_section::basis(manifest)?,
            empty: model.new_state_in(options.kv.unwrap_or_else(|| usual_kv(manifest)))?,
            prefixes: PrefixCache::new(options.prefix_cache),
            model,
            tokenizer,
            template: template.flatten(),
            context: context(&spec, options)?,
            tap_layer: space::tap_layer(&spec),
            space,
            memory_config: options.memory.clone(),
            normalization: OnceLock::new(),
            goal_probe: GoalProbe::default(),
            passed: Mutex::default(),
        };
        code_pages::release();
        Self::of_parts(verified.cartridge(), Arc::new(parts), memory)
    }

    fn of_parts(
        cartridge: &Cartridge,
        parts: Arc<Parts>,
        memory: Option<UnifiedMemory>,
    ) -> Result<Self, LoadError> {
        let (id, manifest) = (cartridge.manifest_id(), cartridge.manifest().clone());
        let session = SavedSessionReport::of(&manifest)?;
        let core = Core { id, manifest, session, parts };
        Ok(Self { core: Arc::new(core), memory: MemoryCell::new(memory) })
    }

    /// Whether a cartridge has the weights and the tokenizer of this one, so that they need not be
    /// loaded again.
    pub(crate) fn has_parts_of(&self, manifest: &Manifest) -> bool {
        let own = self.manifest();
        own.model == manifest.model && own.tokenizer == manifest.tokenizer
    }

    /// The cartridge as an agent that shares weights and tokenizer with this one, which must have the
    /// same ([`Agent::has_parts_of`]). They were verified when this one was loaded, and are not read again.
    ///
    /// * `memory`: the cartridge's, from blobs that were checked
    pub(crate) fn with_memory_from(
        &self,
        cartridge: &Cartridge,
        memory: Option<&MemorySnapshot>,
    ) -> Result<Self, LoadError> {
        let memory = memory_section::restored(memory, self.space())?;
        Self::of_parts(cartridge, Arc::clone(&self.core.parts), memory)
    }

    /// Whether the two share loaded weights.
    pub fn shares_weights_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core.parts, &other.core.parts)
    }

    /// Whether the model has passed a golden probe before.
    pub(crate) fn has_passed(&self, probe: &Probe) -> bool {
        self.core.parts.passed.lock().expect("no thread panics holding it").contains(probe)
    }

    /// Notes that the model has passed a golden probe.
    pub(crate) fn note_passed(&self, probe: &Probe) {
        let mut passed = self.core.parts.passed.lock().expect("no thread panics holding it");
        if !passed.contains(probe) {
            passed.push(probe.clone());
        }
    }

    /// The id of the cartridge that was loaded. What the memory has learned since is not in it.
    pub fn id(&self) -> ManifestId {
        self.core.id
    }

    /// What was loaded.
    pub fn manifest(&self) -> &Manifest {
        &self.core.manifest
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

    /// What is kept of prompts that were read.
    pub fn prefix_cache(&self) -> PrefixCacheReport {
        self.core.parts.prefixes.report()
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

    /// The space of its memory's vectors.
    pub fn space(&self) -> SpaceId {
        self.core.parts.space
    }

    /// The memory as it is now; none where nothing was ever written.
    pub fn memory(&self) -> Option<Arc<UnifiedMemory>> {
        self.memory.read()
    }

    /// Counts the changes of the memory since the agent was loaded.
    pub fn memory_epoch(&self) -> u64 {
        self.memory.epoch()
    }

    /// Puts another memory in place of the agent's; none forgets everything.
    ///
    /// # Errors
    /// The memory's vectors belong to another model.
    pub fn set_memory(&self, memory: Option<UnifiedMemory>) -> Result<(), ForeignSpace> {
        if let Some(memory) = &memory {
            memory.require_space(self.core.parts.space)?;
        }
        self.memory.replace(memory);
        Ok(())
    }

    /// The same model with a memory of its own, which begins as this one is now.
    pub fn fork(&self) -> Self {
        let memory = self.memory().map(|memory| memory.on_its_own());
        Self { core: Arc::clone(&self.core), memory: MemoryCell::new(memory) }
    }

    /// Most tokens of one remembered span.
    pub(crate) fn max_span_tokens(&self) -> usize {
        let span = |config: &MemoryConfig| config.max_span_tokens as usize;
        self.memory().map_or(span(&self.core.parts.memory_config), |memory| span(memory.config()))
    }

    /// The same model with the memory of another agent, which both share from now on.
    ///
    /// # Errors
    /// The memory's vectors belong to another model.
    pub fn with_memory_of(&self, other: &Self) -> Result<Self, ForeignSpace> {
        let (found, expected) = (other.space(), self.space());
        if found != expected {
            return Err(ForeignSpace { found, expected });
        }
        Ok(Self { core: Arc::clone(&self.core), memory: other.memory.clone() })
    }

    /// Writes a log of everything that is done to the memory from now on (spec 37). It begins with the
    /// memory as it is, or an empty one, and has each record before the next begins.
    ///
    /// # Errors
    /// The model can't read the calibration text of a new memory, or the log can't be written.
    pub fn log_memory(&self, sink: Box<dyn Write + Send>) -> Result<(), MemoryLogError> {
        self.memory.log(|| self.new_memory(), sink)
    }

    /// Does one thing to the memory, which is made now if there is none.
    ///
    /// * `input`: what, from the memory as it is now
    ///
    /// # Errors
    /// The memory refuses, or the log can't be written.
    pub fn tell_memory(
        &self,
        input: impl FnOnce(&UnifiedMemory) -> Input,
    ) -> Result<Outcome, MemoryLogError> {
        Ok(self.tell(input)?.outcome)
    }

    /// As [`Agent::tell_memory`], with what the memory offers to the one that it shares.
    pub(crate) fn tell(
        &self,
        input: impl FnOnce(&UnifiedMemory) -> Input,
    ) -> Result<Told, MemoryLogError> {
        self.memory.apply(|| self.new_memory(), input)
    }

    /// What holds the memory.
    pub(crate) fn memory_cell(&self) -> &MemoryCell {
        &self.memory
    }

    /// The same model with another memory.
    pub(crate) fn with_cell(&self, cell: &MemoryCell) -> Self {
        Self { core: Arc::clone(&self.core), memory: cell.clone() }
    }

    /// Changes the memory, which is made now if there is none, in a way that is no record: a log ends.
    ///
    /// # Errors
    /// The model can't read the calibration text of a new memory.
    pub fn update_memory<T>(
        &self,
        change: impl FnOnce(&mut UnifiedMemory) -> T,
    ) -> Result<T, CalibrationError> {
        self.memory.update(|| self.new_memory(), change)
    }

    /// An empty memory for this model.
    pub(crate) fn new_memory(&self) -> Result<UnifiedMemory, CalibrationError> {
        let config = self.core.parts.memory_config.clone();
        Ok(UnifiedMemory::new(self.core.parts.space, self.normalization()?, config)?)
    }

    /// Centre and scale of a new memory's keys.
    pub(crate) fn normalization(&self) -> Result<Normalization, CalibrationError> {
        if let Some(fitted) = self.core.parts.normalization.get() {
            return Ok(fitted.clone());
        }
        let fitted = calibration::normalization(self)?;
        Ok(self.core.parts.normalization.get_or_init(|| fitted).clone())
    }

    /// Runs a batch through the model.
    pub(crate) fn forward(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        self.core.parts.model.forward(runs)
    }
}

/// The model, once its weights were seen to be numbers.
fn model(
    verified: &Verified,
    spec: &ArchSpec,
    options: &LoadOptions,
    packed: PackedAhead,
) -> Result<Decoder, LoadError> {
    let device = options.device.open()?;
    let Some(device) = device else { return kernels(verified, spec, options, packed) };
    let of_kernels = |option| LoadError::OfKernels { option, device: options.device };
    if options.kernels.is_some() {
        return Err(of_kernels("a kernel level"));
    }
    if options.activations.is_some() {
        return Err(of_kernels("a choice of activations"));
    }
    if options.kv.is_some() {
        return Err(of_kernels("a format of keys and values"));
    }
    verified.check_finite()?;
    let precision = options.precision.unwrap_or_else(|| match options.device {
        DeviceChoice::Cpu | DeviceChoice::Graph => Precision::F32,
        DeviceChoice::Cuda(_) | DeviceChoice::Metal(_) => usual_precision(verified.manifest()),
    });
    let weights = weights::weights(verified)?;
    Ok(Decoder::Graph(Graph::load(spec, &weights, &device, precision.dtype())?))
}

fn kernels(
    verified: &Verified,
    spec: &ArchSpec,
    options: &LoadOptions,
    packed: PackedAhead,
) -> Result<Decoder, LoadError> {
    if let Some(precision) = options.precision {
        return Err(LoadError::OfGraph { precision });
    }
    verified.check_finite()?;
    let weights = weights::weights(verified)?;
    let model = Model::load_packed(&threads(options)?, spec, &weights, packed)?;
    let model = model.with_activations(options.activations.unwrap_or_default());
    Ok(Decoder::Kernels(match options.kernels {
        Some(level) => model.with_kernel_level(level)?,
        None => model,
    }))
}

/// What a GPU computes in where nobody says: the type of the largest tensor, or bf16 for blocks.
fn usual_precision(manifest: &Manifest) -> Precision {
    let size = |shape: &[u64]| shape.iter().product::<u64>();
    let largest = manifest.model.tensors.values().max_by_key(|tensor| size(&tensor.shape));
    match largest.map(|tensor| tensor.dtype) {
        Some(DType::F32) => Precision::F32,
        Some(DType::F16) => Precision::F16,
        _ => Precision::BF16,
    }
}

/// Tokenizer and chat template, if the cartridge has a tokenizer.
///
/// * `ready`: the tokenizer, if it is made already
fn text_parts(
    verified: &Verified,
    spec: &ArchSpec,
    ready: Option<Result<Tokenizer, TokenizerError>>,
) -> Result<Option<(Tokenizer, Option<ChatTemplate>)>, LoadError> {
    let Some(section) = &verified.manifest().tokenizer else { return Ok(None) };
    let tokenizer = match ready {
        Some(ready) => ready?,
        None => tokenizer(verified, section)?,
    };
    tokenizer.check_embeddings(spec.vocab_size)?;
    let Some(template) = &section.chat_template else { return Ok(Some((tokenizer, None))) };
    let source = String::from_utf8(verified.read(template, TEMPLATE_BYTES)?)
        .map_err(LoadError::TemplateEncoding)?;
    let text = |token: Option<u32>| {
        token.map_or_else(|| Ok(String::new()), |token| tokenizer.token_text(token))
    };
    let (bos, eos) = (text(section.special.bos)?, text(section.special.eos.first().copied())?);
    let template = ChatTemplate::new(source, bos, eos)?;
    Ok(Some((tokenizer, Some(template))))
}

fn tokenizer(verified: &Verified, section: &TokenizerSection) -> Result<Tokenizer, LoadError> {
    let document = verified.map(&section.document)?;
    let (blob, found, allowed) = (section.document, document.len() as u64, TOKENIZER_BYTES);
    if found > allowed {
        return Err(BlobError::TooLarge { blob, found, allowed }.into());
    }
    Ok(Tokenizer::new(&document, section.special.clone())?)
}

/// How keys and values are stored where nobody says.
fn usual_kv(manifest: &Manifest) -> KvFormat {
    let quantized = manifest.model.tensors.values().any(|tensor| tensor.dtype.is_quantized());
    if quantized { KvFormat::F16 } else { KvFormat::F32 }
}

fn context(spec: &ArchSpec, options: &LoadOptions) -> Result<usize, LoadError> {
    let allowed = spec.context_length;
    let found = options.context.map_or(allowed as usize, NonZeroUsize::get);
    if found as u64 > allowed {
        return Err(LoadError::Context { found, allowed });
    }
    Ok(found)
}

fn threads(options: &LoadOptions) -> Result<Threads, LoadError> {
    let Some(count) = options.threads else { return Ok(Threads::shared().clone()) };
    let threads = count.get();
    Threads::new(count).map_err(|source| LoadError::Threads { threads, source })
}
