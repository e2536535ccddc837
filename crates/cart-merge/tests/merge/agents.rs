//! Models whose tensors are in memory, and the merges of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cart_format::{BlobEntry, BlobId, DType, Manifest, TensorEntry, TensorName};
use cart_merge::weights::{
    MergeConfig, MergeError, Model, Output, Plan, PlanError, PlanOptions, QuantizationError, Sink,
    TensorBytes, Tensors, Trouble, Unwatched,
};

/// A model in memory.
#[derive(Clone, Default)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) manifest: Manifest,
    pub(crate) tokenizer: Option<Vec<u8>>,
    pub(crate) blobs: BTreeMap<BlobId, Vec<u8>>,
}

/// Values as little-endian f32.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The values of f32 bytes.
pub(crate) fn values_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

impl Agent {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn with(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        self.with_bytes(name, DType::F32, shape, bytes_of(values))
    }

    pub(crate) fn with_bytes(
        mut self,
        name: &str,
        dtype: DType,
        shape: &[u64],
        bytes: Vec<u8>,
    ) -> Self {
        assert_eq!(dtype.size_of(shape).unwrap(), bytes.len() as u64);
        let blob = BlobId::of(&bytes);
        let entry = TensorEntry { dtype, shape: shape.to_vec(), blob };
        self.manifest.model.tensors.insert(TensorName::new(name).unwrap(), entry);
        let entry = BlobEntry { size: bytes.len() as u64, segments: Vec::new() };
        self.manifest.blobs.insert(blob, entry);
        self.blobs.insert(blob, bytes);
        self
    }

    pub(crate) fn values(&self, tensor: &str) -> Vec<f32> {
        let blob = self.manifest.model.tensors[&TensorName::new(tensor).unwrap()].blob;
        values_of(&self.blobs[&blob])
    }

    fn model(&self) -> Model<'_> {
        Model {
            name: self.name.clone(),
            label: self.name.clone(),
            id: self.manifest.id().unwrap(),
            manifest: &self.manifest,
            tokenizer: self.tokenizer.clone(),
        }
    }
}

/// What came of a merge.
pub(crate) struct Merged {
    pub(crate) plan: Plan,
    pub(crate) manifest: Manifest,
    pub(crate) lost: BTreeMap<usize, QuantizationError>,
    tensors: BTreeMap<String, Vec<u8>>,
}

impl Merged {
    pub(crate) fn bytes(&self, tensor: &str) -> &[u8] {
        &self.tensors[tensor]
    }

    pub(crate) fn values(&self, tensor: &str) -> Vec<f32> {
        values_of(self.bytes(tensor))
    }
}

/// Plans a merge.
pub(crate) fn plan(
    config: &MergeConfig,
    agents: &[Agent],
    options: PlanOptions,
) -> Result<Plan, PlanError> {
    let models: Vec<Model<'_>> = agents.iter().map(Agent::model).collect();
    Plan::new(config, &models, options)
}

/// Plans a merge and carries it out.
pub(crate) fn merge(config: &MergeConfig, agents: &[Agent], options: PlanOptions) -> Merged {
    let plan = plan(config, agents, options).unwrap();
    merge_planned(plan, agents, 7).unwrap()
}

pub(crate) fn merge_planned(plan: Plan, agents: &[Agent], seed: u64) -> Result<Merged, MergeError> {
    let sink = Kept { plan: &plan, tensors: Mutex::default() };
    let lost = plan.run(seed, &Held(agents), &sink, &Unwatched)?;
    let made = sink.tensors.into_inner().unwrap();
    let output = |bytes: &Vec<u8>| Output {
        blob: BlobId::of(bytes),
        entry: BlobEntry { size: bytes.len() as u64, segments: Vec::new() },
    };
    let outputs = made.iter().map(|(index, (bytes, _))| (*index, output(bytes))).collect();
    let models: Vec<Model<'_>> = agents.iter().map(Agent::model).collect();
    let manifest = plan.manifest(&models, &outputs, None);
    let mut tensors = BTreeMap::new();
    for (name, entry) in &manifest.model.tensors {
        let taken = agents.iter().find_map(|agent| agent.blobs.get(&entry.blob));
        let made =
            made.values().map(|(bytes, _)| bytes).find(|bytes| BlobId::of(bytes) == entry.blob);
        tensors.insert(name.to_string(), made.or(taken).unwrap().clone());
    }
    assert!(made.values().all(|(_, sealed)| *sealed));
    Ok(Merged { plan, manifest, lost, tensors })
}

pub(crate) struct Held<'a>(pub(crate) &'a [Agent]);

struct Bytes(Vec<u8>);

impl Tensors for Held<'_> {
    fn open(&self, model: usize, tensor: &TensorName) -> Result<Box<dyn TensorBytes>, Trouble> {
        let agent = &self.0[model];
        let blob = agent.manifest.model.tensors[tensor].blob;
        Ok(Box::new(Bytes(agent.blobs[&blob].clone())))
    }
}

impl TensorBytes for Bytes {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
        buffer.copy_from_slice(&self.0[at as usize..][..buffer.len()]);
        Ok(())
    }
}

struct Kept<'a> {
    plan: &'a Plan,
    tensors: Mutex<BTreeMap<usize, (Vec<u8>, bool)>>,
}

impl Sink for Kept<'_> {
    fn write(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), Trouble> {
        let mut tensors = self.tensors.lock().unwrap();
        let len = self.plan.tensors[tensor].bytes() as usize;
        let (kept, sealed) = tensors.entry(tensor).or_insert_with(|| (vec![0; len], false));
        assert!(!*sealed);
        kept[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn seal(&self, tensor: usize) -> Result<(), Trouble> {
        self.tensors.lock().unwrap().entry(tensor).or_default().1 = true;
        Ok(())
    }
}
