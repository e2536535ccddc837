//! Verifying a cartridge and making an agent of it in one reading.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cart_format::{ArchSpec, BlobId, Manifest, TokenizerSection};
use cart_nn::{DeviceChoice, PackedAhead};
use cart_store::{
    BlobLocation, Cartridge, Interest, Progress, Verified, VerifyError, VerifyOptions, Witness,
};

use crate::agent::TOKENIZER_BYTES;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::{LoadOptions, code_pages};

/// A verified cartridge with what could be made of it while its bytes were hashed: weights in tiles, and
/// the tokenizer. [`Agent::load_prepared`] makes the agent, which is the one that [`Agent::load`] makes.
///
/// [`Agent::load`]: crate::Agent::load
/// [`Agent::load_prepared`]: crate::Agent::load_prepared
#[derive(Debug)]
pub struct Prepared {
    pub(crate) verified: Verified,
    pub(crate) options: LoadOptions,
    pub(crate) weights: PackedAhead,
    pub(crate) tokenizer: Option<Result<Tokenizer, TokenizerError>>,
}

impl Prepared {
    /// Hashes every blob of the cartridge, and works on each piece while it is at hand. All of that is
    /// dropped if anything is damaged. What can't be made ahead is left to [`Agent::load_prepared`], and
    /// so is saying why.
    ///
    /// # Errors
    /// As [`Cartridge::verify`].
    ///
    /// [`Agent::load_prepared`]: crate::Agent::load_prepared
    pub fn verify(
        cartridge: Cartridge,
        verify: &VerifyOptions,
        options: LoadOptions,
        progress: &dyn Progress,
    ) -> Result<Self, VerifyError> {
        let manifest = cartridge.shared_manifest();
        let ahead = Ahead::new(&manifest, &options);
        let verified = cartridge.verify_before(verify, progress, &ahead)?;
        let Ahead { weights, tokenizer, .. } = ahead;
        let tokenizer = tokenizer.into_inner().expect("no thread panics holding it");
        Ok(Self { verified, options, weights, tokenizer })
    }

    /// The cartridge, every digest of which has matched.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }
}

/// Sees the bytes of a cartridge while it is verified.
struct Ahead<'a> {
    weights: PackedAhead,
    /// The tensor whose bytes a blob is. Where several have the same, it is one of them; the others are
    /// packed later.
    tensors: BTreeMap<BlobId, &'a str>,
    section: Option<&'a TokenizerSection>,
    tokenizer: Mutex<Option<Result<Tokenizer, TokenizerError>>>,
}

impl<'a> Ahead<'a> {
    fn new(manifest: &'a Manifest, options: &LoadOptions) -> Self {
        let architecture = manifest.model.architecture.as_ref();
        let spec = architecture.and_then(|value| ArchSpec::from_value(value).ok());
        let tensors = &manifest.model.tensors;
        let weights = match spec {
            Some(spec) if options.device == DeviceChoice::Cpu => {
                let stored = tensors
                    .iter()
                    .map(|(name, entry)| (name.as_str(), entry.dtype, entry.shape.as_slice()));
                PackedAhead::new(&spec, stored)
            }
            _ => PackedAhead::default(),
        };
        let packed = tensors.iter().filter(|(name, _)| weights.grain(name.as_str()).is_some());
        let tensors = packed.map(|(name, entry)| (entry.blob, name.as_str())).collect();
        let section = manifest.tokenizer.as_ref();
        Self { weights, tensors, section, tokenizer: Mutex::new(None) }
    }
}

impl Witness for Ahead<'_> {
    fn interest(&self, blob: &BlobId) -> Interest {
        if self.section.is_some_and(|section| section.document == *blob) {
            return Interest::Whole;
        }
        let grain = self.tensors.get(blob).and_then(|name| self.weights.grain(name));
        grain.map_or(Interest::None, |grain| Interest::Pieces { grain })
    }

    fn see(&self, blob: &BlobId, at: u64, bytes: &[u8]) {
        if let (Some(name), Ok(at)) = (self.tensors.get(blob), usize::try_from(at)) {
            self.weights.see(name, at, bytes);
        }
    }

    fn matched(&self, _blob: &BlobId, location: &BlobLocation) {
        let Some(section) = self.section.filter(|_| location.len <= TOKENIZER_BYTES) else {
            return;
        };
        // A document that can't be mapped now is mapped again when the agent is loaded.
        if let Ok(document) = location.map() {
            let tokenizer = Tokenizer::new(&document, section.special.clone());
            // The tiles that are packed from now on come on top of what is in memory then.
            drop(document);
            code_pages::release();
            *self.tokenizer.lock().expect("no thread panics holding it") = Some(tokenizer);
        }
    }
}
