//! What an import will do, before anything is written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use cart_format::limits::HEADER_BYTES;
use cart_format::safetensors::TensorRange;
use cart_format::{ArchSpec, OriginKind, SpecialTokens};
use serde_json::Value;

use crate::import::config::{self, Mapped};
use crate::import::error::ImportError;
use crate::import::folder::Folder;
use crate::import::hf_tokenizer::RoleDocuments;
use crate::import::model_file::{OpenFile, Part};
use crate::import::tensor_check::{self, Fit};
use crate::import::tokenizer_document::TokenizerDocument;
use crate::import::{ImportOptions, folder_tokenizer, gguf_config, gguf_tokenizer, model_card};
use crate::source::SourceRange;

/// What an import will do. Making one reads heads and documents, and writes nothing;
/// [`ImportPlan::apply`] does it.
#[derive(Debug)]
pub struct ImportPlan {
    pub(crate) kind: OriginKind,
    /// Sorted by path.
    pub(crate) files: Vec<PlannedFile>,
    pub(crate) architecture: Option<ArchSpec>,
    pub(crate) tokenizer: Option<PlannedTokenizer>,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) warnings: Vec<String>,
}

/// A file of the origin, cut into parts.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    pub(crate) path: String,
    pub(crate) file: OpenFile,
    pub(crate) parts: Vec<Part>,
}

/// The tokenizer, its documents not yet in the store.
#[derive(Debug)]
pub(crate) struct PlannedTokenizer {
    pub(crate) document: SourceRange,
    pub(crate) vocab_size: u64,
    pub(crate) chat_template: Option<SourceRange>,
    pub(crate) special: SpecialTokens,
}

impl ImportPlan {
    /// Looks at a model: a folder, a `.safetensors` or a `.gguf` file.
    ///
    /// # Errors
    /// It is none of these, is damaged, or contradicts itself.
    pub fn new(path: &Path, options: &ImportOptions) -> Result<Self, ImportError> {
        let mut plan = if path.is_dir() {
            Self::of_folder(path, options)?
        } else {
            let file = OpenFile::open(path)?;
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending.map(str::to_ascii_lowercase).as_deref() {
                Some("gguf") => Self::of_gguf(file, options)?,
                Some("safetensors") => Self::of_safetensors(file, options)?,
                _ => return Err(ImportError::UnknownInput { path: path.to_path_buf() }),
            }
        };
        plan.check_tokenizer()?;
        plan.metadata.extend(options.metadata.clone());
        Ok(plan)
    }

    /// Notes on what was left out or can't be used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tensors, file by file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorRange> {
        self.files.iter().flat_map(|file| &file.parts).filter_map(|part| match part {
            Part::Tensor(tensor) => Some(tensor),
            Part::Bytes(_) | Part::Zeros(_) => None,
        })
    }

    fn of_gguf(file: OpenFile, options: &ImportOptions) -> Result<Self, ImportError> {
        let head = file.gguf()?;
        let mut warnings = Vec::new();
        let mapped = gguf_config::map_metadata(&head)?;
        let architecture = checked(mapped, head.tensors.iter(), &mut warnings)?;
        let tokenizer = match &options.tokenizer {
            Some(path) => {
                let mut tokenizer = PlannedTokenizer::of_file(path, &RoleDocuments::default())?;
                tokenizer.chat_template = template_of(&head);
                Some(tokenizer)
            }
            None => gguf_tokenizer::rebuild(&head)?.map(|rebuilt| {
                warnings.extend(rebuilt.warnings);
                PlannedTokenizer {
                    document: SourceRange::bytes(rebuilt.document),
                    vocab_size: rebuilt.vocab_size,
                    chat_template: template_of(&head),
                    special: rebuilt.special,
                }
            }),
        };
        let metadata = gguf_config::describe(&head);
        let parts = file.parts(head.data_start, head.tensors)?;
        let files = vec![PlannedFile { path: "model.gguf".to_owned(), file, parts }];
        Ok(Self { kind: OriginKind::Gguf, files, architecture, tokenizer, metadata, warnings })
    }

    fn of_safetensors(file: OpenFile, options: &ImportOptions) -> Result<Self, ImportError> {
        let head = file.safetensors()?;
        let roles = RoleDocuments::default();
        let tokenizer = match &options.tokenizer {
            Some(path) => Some(PlannedTokenizer::of_file(path, &roles)?),
            None => None,
        };
        let parts = file.parts(head.data_start, head.tensors)?;
        let warning = "a lone safetensors file does not say what it computes: it can be stored and exported, not run";
        Ok(Self {
            kind: OriginKind::Safetensors,
            files: vec![PlannedFile { path: "model.safetensors".to_owned(), file, parts }],
            architecture: None,
            tokenizer,
            metadata: BTreeMap::new(),
            warnings: vec![warning.to_owned()],
        })
    }

    fn of_folder(path: &Path, options: &ImportOptions) -> Result<Self, ImportError> {
        let mut folder = Folder::open(path)?;
        let mut files = Vec::new();
        let mut found_in = BTreeMap::new();
        for (name, file) in std::mem::take(&mut folder.shards) {
            let head = file.safetensors()?;
            for tensor in &head.tensors {
                let tensor = tensor.name.to_string();
                if let Some(first) = found_in.insert(tensor.clone(), name.clone()) {
                    return Err(ImportError::DuplicateTensor { tensor, first, second: name });
                }
            }
            let parts = file.parts(head.data_start, head.tensors)?;
            files.push(PlannedFile { path: name, file, parts });
        }
        let mut warnings = std::mem::take(&mut folder.warnings);
        warnings.extend(folder.check_index(&found_in)?);
        let mut plan = Self {
            kind: OriginKind::Hf,
            files,
            architecture: None,
            tokenizer: None,
            metadata: card_facts(&folder)?,
            warnings,
        };
        plan.read_documents(&folder, options)?;
        for (path, file) in folder.kept {
            let parts = match file.len() {
                0 => Vec::new(),
                len => vec![Part::Bytes(0..len)],
            };
            plan.files.push(PlannedFile { path, file, parts });
        }
        plan.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(plan)
    }

    fn read_documents(
        &mut self,
        folder: &Folder,
        options: &ImportOptions,
    ) -> Result<(), ImportError> {
        let config = folder.document("config.json")?;
        let mapped = match &config {
            Some(config) => config::map_config(config)?,
            None => Mapped::Beyond("there is no config.json".to_owned()),
        };
        let mut warnings = std::mem::take(&mut self.warnings);
        self.architecture = checked(mapped, self.tensors(), &mut warnings)?;
        let roles = RoleDocuments {
            tokenizer_config: folder.document("tokenizer_config.json")?,
            special_tokens_map: folder.document("special_tokens_map.json")?,
            generation_config: folder.document("generation_config.json")?,
            config,
        };
        self.tokenizer = match (&options.tokenizer, folder.kept.get("tokenizer.json")) {
            (Some(path), _) => Some(PlannedTokenizer::of_file(path, &roles)?),
            (None, Some(file)) => Some(PlannedTokenizer::of_open(file, &roles)?),
            (None, None) => PlannedTokenizer::of_parts(folder, &roles, &mut warnings)?,
        };
        if let (Some(tokenizer), Some(file)) =
            (&mut self.tokenizer, folder.kept.get("chat_template.jinja"))
        {
            tokenizer.chat_template = Some(file.whole());
        }
        self.warnings = warnings;
        Ok(())
    }

    /// Refuses a tokenizer with ids that the embedding has no rows for. Fewer ids than rows are
    /// padding.
    fn check_tokenizer(&mut self) -> Result<(), ImportError> {
        let Some(ids) = self.tokenizer.as_ref().map(|tokenizer| tokenizer.vocab_size) else {
            return Ok(());
        };
        let Some(rows) = self.embedding_rows() else { return Ok(()) };
        if ids > rows {
            return Err(ImportError::TokenizerTooLarge { largest: ids - 1, rows });
        }
        if ids < rows {
            self.warnings.push(format!(
                "the embedding has {rows} rows, the tokenizer {ids} ids; the other rows are never used"
            ));
        }
        Ok(())
    }

    fn embedding_rows(&self) -> Option<u64> {
        let names = ["model.embed_tokens.weight", "token_embd.weight"];
        let is_embedding = |tensor: &&TensorRange| names.contains(&tensor.name.as_str());
        let spec = self.architecture.as_ref().map(|spec| spec.vocab_size);
        spec.or_else(|| self.tensors().find(is_embedding)?.shape.first().copied())
    }
}

impl PlannedTokenizer {
    fn of_file(path: &Path, roles: &RoleDocuments) -> Result<Self, ImportError> {
        Self::of_open(&OpenFile::open(path)?, roles)
    }

    /// Of a folder without `tokenizer.json`.
    fn of_parts(
        folder: &Folder,
        roles: &RoleDocuments,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, ImportError> {
        let made = folder_tokenizer::make(folder, roles, warnings)?;
        if made.is_none() {
            let warning = "there is no tokenizer.json, tokenizer.model, or vocab.json with merges.txt; pass a tokenizer.json with --tokenizer";
            warnings.push(warning.to_owned());
        }
        Ok(made.map(|made| Self {
            document: SourceRange::bytes(made.document),
            vocab_size: made.vocab_size,
            chat_template: roles.chat_template().map(|text| SourceRange::bytes(text.as_bytes())),
            special: made.special,
        }))
    }

    fn of_open(file: &OpenFile, roles: &RoleDocuments) -> Result<Self, ImportError> {
        let bytes = file.read(HEADER_BYTES)?;
        let document = TokenizerDocument::parse(&bytes)
            .map_err(|source| ImportError::Tokenizer { path: file.path().to_path_buf(), source })?;
        let template = roles.chat_template().map(|text| SourceRange::bytes(text.as_bytes()));
        Ok(Self {
            vocab_size: document.vocab_size(),
            special: roles.special(&document)?,
            chat_template: template,
            document: SourceRange::bytes(bytes),
        })
    }
}

impl fmt::Display for ImportPlan {
    /// One line for each file, one for the architecture, one for the tokenizer, then the notes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let tensors = file.parts.iter().filter(|part| matches!(part, Part::Tensor(_))).count();
            writeln!(f, "{}: {} bytes, {tensors} tensors", file.path, file.file.len())?;
        }
        match &self.architecture {
            Some(spec) => {
                writeln!(f, "architecture: {}, {} layers", spec.family, spec.layers.len())
            }
            None => writeln!(f, "architecture: not known"),
        }?;
        match &self.tokenizer {
            Some(tokenizer) => writeln!(f, "tokenizer: {} ids", tokenizer.vocab_size),
            None => writeln!(f, "tokenizer: none"),
        }?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "note: {warning}"))
    }
}

/// The architecture, if it can be said and the tensors bear its names.
fn checked<'a>(
    mapped: Mapped,
    tensors: impl Iterator<Item = &'a TensorRange>,
    warnings: &mut Vec<String>,
) -> Result<Option<ArchSpec>, ImportError> {
    let stored = "the cartridge can be stored and exported, not run";
    let spec = match mapped {
        Mapped::Spec(spec) => spec,
        Mapped::Beyond(reason) => {
            warnings.push(format!("{reason}; {stored}"));
            return Ok(None);
        }
    };
    let shapes = tensors.map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    match tensor_check::check(&spec, &shapes)? {
        Fit::OtherNames => {
            warnings.push(format!("no tensor has a name of a {} model; {stored}", spec.family));
            return Ok(None);
        }
        Fit::Unexplained(tensor) => {
            warnings.push(format!(
                "`{tensor}` is of a layer, but a {} model of this configuration has no such \
                 tensor; {stored}",
                spec.family
            ));
            return Ok(None);
        }
        Fit::Full { unused } => {
            if let Some(first) = unused.first() {
                let count = unused.len();
                warnings.push(format!("{count} tensors are kept but not used, such as `{first}`"));
            }
        }
    }
    Ok(Some(spec))
}

fn template_of(head: &cart_format::gguf::Head) -> Option<SourceRange> {
    gguf_tokenizer::chat_template(head).map(|text| SourceRange::bytes(text.as_bytes()))
}

fn card_facts(folder: &Folder) -> Result<BTreeMap<String, Value>, ImportError> {
    let Some(card) = folder.kept.get("README.md") else { return Ok(BTreeMap::new()) };
    let card = card.read(HEADER_BYTES)?;
    Ok(model_card::describe(&String::from_utf8_lossy(&card)))
}
