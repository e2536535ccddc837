//! What becomes of the memories of a merge.

use std::collections::BTreeMap;

use cart_engine::{Agent, JoinedSection, memory_space, migrate_by_text, read_section};
use cart_format::{BlobId, Manifest, MemorySection, PARTS_VERSION, SpaceId};
use cart_memory::{JoinReport, OnContradiction, SlotRef, UnifiedMemory, join};
use cart_merge::memories::{MemoryPart, MemoryPlan};
use cart_merge::weights::{How, Plan, TokenizerPlan};
use cart_store::{Ingested, ObjectError, Silent, SourceRange, Store};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inputs::Input;
use super::job::Job;
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;

/// Contradictions that people are shown.
const SHOWN: usize = 10;

/// Which memory the result has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MemoryChoice {
    /// Those of the result's weights, joined
    Join,
    /// All of them, joined; the result reads the texts of those that are of other weights
    Migrate,
    /// That of the cartridge whose metadata the result has: ours
    #[default]
    Ours,
    /// None
    None,
}

/// What is to become of contradictions, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Contradictions {
    /// Both hold
    KeepBoth,
    /// What was said last holds, each agent's time counted back from its own end
    Newest,
    /// What is worth more holds
    HighestEnergy,
    /// Nothing is merged
    Refuse,
}

impl From<Contradictions> for OnContradiction {
    fn from(choice: Contradictions) -> Self {
        match choice {
            Contradictions::KeepBoth => Self::KeepBoth,
            Contradictions::Newest => Self::Newest,
            Contradictions::HighestEnergy => Self::HighestEnergy,
            Contradictions::Refuse => Self::Refuse,
        }
    }
}

/// What was asked for, which a recipe keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MemoryRules {
    pub(super) choice: MemoryChoice,
    pub(super) on_contradiction: OnContradiction,
    /// States of memories that an input has lived on from. It follows from history, which a
    /// repetition does not have; none where it is to be looked up.
    pub(super) outlived: Option<Vec<BlobId>>,
}

/// A memory that the result can't be told.
#[derive(Debug, Error)]
#[error("{slot} of what {input} remembers has no text, so that the result can't read what it says")]
struct NoText {
    slot: SlotRef,
    input: String,
}

/// What will become of the memories.
pub(super) struct Remembering {
    plan: MemoryPlan,
    /// What was of other weights, as the result has read it.
    migrated: Vec<JoinedSection>,
    /// What several become.
    joined: Option<(JoinedSection, JoinReport)>,
    rules: MemoryRules,
}

impl Remembering {
    /// Finds what belongs into the result, and joins it.
    pub(super) fn new(context: &Context, job: &Job, plan: &Plan) -> Result<Self, Failure> {
        let inputs = job.merged();
        let manifests: Vec<&Manifest> =
            inputs.iter().map(|input| input.cartridge.manifest()).collect();
        let space = space_of(job, plan)?;
        let mut plan = match job.memory.choice {
            MemoryChoice::Join | MemoryChoice::Migrate => {
                let past = Past::of(context, job, inputs)?;
                MemoryPlan::new(&manifests, space, |input, section| past.had(input, section))
            }
            MemoryChoice::Ours => of_frame(plan, &manifests, space),
            MemoryChoice::None => MemoryPlan::default(),
        };
        plan.outlived.sort_by_key(|part| part.section.state);
        let outlived = plan.outlived.iter().map(|part| part.section.state).collect();
        let rules = MemoryRules { outlived: Some(outlived), ..job.memory.clone() };
        let mut remembering = Self { plan, migrated: Vec::new(), joined: None, rules };
        if remembering.waits_for_model() {
            // What can't be read is found before weights are computed.
            for part in &remembering.plan.foreign {
                check_texts(&inputs[part.input], &read(inputs, part)?)?;
            }
        } else {
            remembering.join(inputs, &[])?;
        }
        Ok(remembering)
    }

    /// Whether the result's model has to read what is of other weights.
    pub(super) fn waits_for_model(&self) -> bool {
        self.rules.choice == MemoryChoice::Migrate && !self.plan.foreign.is_empty()
    }

    /// Has the result's model read what is of other weights, and joins all.
    pub(super) fn migrate(&mut self, job: &Job, model: &Agent) -> Result<(), Failure> {
        let inputs = job.merged();
        let mut memories = BTreeMap::new();
        for part in &self.plan.foreign {
            let foreign = read(inputs, part)?;
            if foreign.slots().next().is_none() {
                continue;
            }
            let memory = migrate_by_text(&foreign, model).map_err(|error| {
                let label = &inputs[part.input].label;
                Failure::refused_with(
                    error,
                    format!("it is of what {label} remembers; --memory join leaves it out"),
                )
            })?;
            memories.insert(memory.snapshot().id(), memory);
        }
        let memories: Vec<UnifiedMemory> = memories.into_values().collect();
        let laid_out = memories.iter().map(JoinedSection::new).collect::<Result<_, _>>();
        self.migrated = laid_out.map_err(Failure::refused)?;
        self.join(inputs, &memories)
    }

    /// Joins what is of the result's weights, and what was brought to them.
    fn join(&mut self, inputs: &[Input], migrated: &[UnifiedMemory]) -> Result<(), Failure> {
        if self.plan.parts.len() + migrated.len() < 2 {
            return Ok(());
        }
        let own = self.plan.parts.iter().map(|part| read(inputs, part));
        let own: Vec<UnifiedMemory> = own.collect::<Result<_, _>>()?;
        let memories: Vec<&UnifiedMemory> = own.iter().chain(migrated).collect();
        self.joined = Some(joined(&memories, self.rules.on_contradiction)?);
        Ok(())
    }

    /// What a recipe keeps.
    pub(super) fn rules(&self) -> &MemoryRules {
        &self.rules
    }

    /// Gives the result its memory, whose blobs are in the store when this returns; gives what is new there.
    pub(super) fn keep(
        &self,
        store: &Store,
        job: &Job,
        manifest: &mut Manifest,
    ) -> Result<Vec<Ingested>, Failure> {
        let sources = self.blobs().map(|blob| SourceRange::bytes(blob.as_slice()));
        let sources: Vec<SourceRange> = sources.collect();
        let made = store.ingest(&sources, &Silent).map_err(Failure::refused)?;
        self.put_into(manifest, job, &made)?;
        Ok(made)
    }

    /// Gives the result its memory, and keeps nothing.
    pub(super) fn rehearse(
        &self,
        store: &Store,
        job: &Job,
        manifest: &mut Manifest,
    ) -> Result<(), Failure> {
        let mut made = Vec::new();
        // Each draft is a file; two are hashed side by side.
        let blobs: Vec<&Vec<u8>> = self.blobs().collect();
        for pair in blobs.chunks(2) {
            let lens = pair.iter().map(|blob| blob.len() as u64);
            let drafts = store.passing_drafts(lens).map_err(Failure::refused)?;
            let bytes: Vec<(usize, &[u8])> =
                pair.iter().enumerate().map(|(at, blob)| (at, blob.as_slice())).collect();
            drafts.keep(&bytes).map_err(Failure::refused)?;
            made.extend(drafts.identify());
        }
        self.put_into(manifest, job, &made)
    }

    /// What has to be in the store: of each memory that was brought over, then of the joined one.
    fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        let joined = self.joined.iter().map(|(section, _)| section);
        self.migrated.iter().chain(joined).flat_map(JoinedSection::blobs)
    }

    fn put_into(
        &self,
        manifest: &mut Manifest,
        job: &Job,
        made: &[Ingested],
    ) -> Result<(), Failure> {
        *manifest = cart_engine::without_memory(manifest);
        let mut ids = made.iter().map(|one| one.blob);
        let mut sections: Vec<MemorySection> =
            self.plan.parts.iter().map(|part| part.section.clone()).collect();
        for migrated in &self.migrated {
            let section = migrated.section(ids.by_ref(), Vec::new());
            sections.push(section.map_err(Failure::refused)?);
        }
        sections.sort_by_key(|section| section.state);
        manifest.memory = match &self.joined {
            None => sections.into_iter().next(),
            Some((joined, _)) => Some(joined.section(ids, sections).map_err(Failure::refused)?),
        };
        if manifest.cart <= PARTS_VERSION {
            manifest.cart = manifest.lowest_version();
        }
        let made: BTreeMap<BlobId, _> = made.iter().map(|one| (one.blob, &one.entry)).collect();
        for (_, blob) in manifest.uses() {
            let of_inputs = || {
                let mut inputs = job.inputs.iter().map(|input| input.cartridge.manifest());
                inputs.find_map(|manifest| manifest.blobs.get(&blob))
            };
            if let Some(entry) = made.get(&blob).copied().or_else(of_inputs) {
                manifest.blobs.insert(blob, entry.clone());
            }
        }
        Ok(())
    }
}

/// The space of the result's memory; none where its weights are new.
fn space_of(job: &Job, plan: &Plan) -> Result<Option<SpaceId>, Failure> {
    let is_new = |how: &How| matches!(how, How::Merge(_) | How::Conflict);
    let is_computed = plan.tensors.iter().any(|tensor| is_new(&tensor.how));
    if is_computed || matches!(plan.tokenizer, TokenizerPlan::New { .. }) {
        return Ok(None);
    }
    let manifest = plan.manifest(&job.models(), &BTreeMap::new(), None);
    memory_space(&manifest).map_err(Failure::refused)
}

/// The frame's memory, as it is.
fn of_frame(plan: &Plan, manifests: &[&Manifest], space: Option<SpaceId>) -> MemoryPlan {
    let mut memories = MemoryPlan::new(&manifests[plan.frame..=plan.frame], space, |_, _| false);
    for part in &mut memories.parts {
        part.input = plan.frame;
    }
    memories
}

/// The memories that inputs have lived on from.
enum Past<'a> {
    /// As a recipe says: their states.
    Known(&'a [BlobId]),
    /// For each input, the memories of the commits that it came from.
    Found(Vec<Vec<MemorySection>>),
}

impl<'a> Past<'a> {
    fn of(context: &Context, job: &'a Job, inputs: &[Input]) -> Result<Self, Failure> {
        if let Some(known) = &job.memory.outlived {
            return Ok(Self::Known(known));
        }
        let of_input = |input: &Input| match (input.commit(), context.store()) {
            (Some(commit), Ok(store)) => memories_before(&store, &commit),
            _ => Ok(Vec::new()),
        };
        Ok(Self::Found(inputs.iter().map(of_input).collect::<Result<_, _>>()?))
    }

    /// Whether an input has lived on from a memory.
    fn had(&self, input: usize, section: &MemorySection) -> bool {
        match self {
            Self::Known(states) => states.contains(&section.state),
            Self::Found(memories) => memories[input].contains(section),
        }
    }
}

/// The memories of all commits that one came from.
fn memories_before(
    store: &Store,
    commit: &cart_format::CommitId,
) -> Result<Vec<MemorySection>, Failure> {
    let ancestors = match store.ancestors(commit) {
        Err(ObjectError::Absent { .. }) => return Ok(Vec::new()),
        found => found.map_err(Failure::refused)?,
    };
    let mut memories: Vec<MemorySection> = Vec::new();
    for ancestor in ancestors.keys().filter(|ancestor| *ancestor != commit) {
        let read = store.commit(ancestor).and_then(|commit| store.manifest(&commit.manifest));
        let manifest = match read {
            Err(ObjectError::Absent { .. }) => continue,
            found => found.map_err(Failure::refused)?,
        };
        let lived = manifest.memory.iter().flat_map(MemorySection::lived);
        for section in lived {
            if !memories.contains(&section) {
                memories.push(section);
            }
        }
    }
    Ok(memories)
}

fn read(inputs: &[Input], part: &MemoryPart) -> Result<UnifiedMemory, Failure> {
    read_section(&inputs[part.input].cartridge, &part.section).map_err(Failure::refused)
}

/// Refuses a memory of which a model can't be told everything.
fn check_texts(input: &Input, memory: &UnifiedMemory) -> Result<(), Failure> {
    match memory.slots().find(|(_, slot)| slot.value.text.trim().is_empty()) {
        None => Ok(()),
        Some((slot, _)) => Err(Failure::refused_with(
            NoText { slot, input: input.label.clone() },
            "--memory join leaves out what is of other weights",
        )),
    }
}

fn joined(
    memories: &[&UnifiedMemory],
    on_contradiction: OnContradiction,
) -> Result<(JoinedSection, JoinReport), Failure> {
    let (memory, report) = join(memories, on_contradiction).map_err(|error| {
        Failure::refused_with(error, "`cart merge --dry-run` without --contradictions lists them")
    })?;
    Ok((JoinedSection::new(&memory).map_err(Failure::refused)?, report))
}

/// What becomes of the memories.
#[derive(Serialize)]
pub(super) struct MemoryReport {
    choice: MemoryChoice,
    /// The inputs that what the result remembers comes from.
    from: Vec<String>,
    /// Inputs of which another one has lived on.
    outlived: Vec<String>,
    /// Inputs whose memories are of other weights than the result's.
    left_out: Vec<String>,
    /// Inputs whose memories were of other weights, and whose texts the result has read.
    migrated: Vec<String>,
    /// What joining several did.
    join: Option<JoinReport>,
}

impl MemoryReport {
    pub(super) fn new(job: &Job, remembering: &Remembering) -> Self {
        let label = |input: usize| job.inputs[input].label.clone();
        let labels = |parts: &[MemoryPart]| {
            let mut inputs: Vec<usize> = parts.iter().map(|part| part.input).collect();
            inputs.sort_unstable();
            inputs.dedup();
            inputs.into_iter().map(label).collect()
        };
        let plan = &remembering.plan;
        let (migrated, left_out) = match remembering.rules.choice {
            MemoryChoice::Migrate => (labels(&plan.foreign), Vec::new()),
            _ => (Vec::new(), labels(&plan.foreign)),
        };
        Self {
            choice: remembering.rules.choice,
            from: labels(&plan.parts),
            outlived: labels(&plan.outlived),
            left_out,
            migrated,
            join: remembering.joined.as_ref().map(|(_, report)| report.clone()),
        }
    }

    /// Lines for people.
    pub(super) fn said(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.migrated.is_empty() {
            let names = self.migrated.join(" and ");
            lines.push(format!("  memory: the result reads again what {names} says"));
        }
        match &self.join {
            None => lines.extend(self.from.first().map(|from| format!("  memory: {from}'s"))),
            Some(join) => lines.extend(said_of(join)),
        }
        if !self.outlived.is_empty() {
            let names = self.outlived.join(" and ");
            lines.push(format!("  memory: what {names} remembers, the other has lived on from"));
        }
        if !self.left_out.is_empty() {
            let names = self.left_out.join(" and ");
            lines.push(format!(
                "  memory: what {names} remembers is of other weights and was left out; --memory migrate has the result read it"
            ));
        }
        lines
    }
}

fn said_of(join: &JoinReport) -> Vec<String> {
    let mut counts = Vec::new();
    if join.shared > 0 {
        counts.push(format!("{} of a common past", join.shared));
    }
    if join.merged > 0 {
        counts.push(format!("{} said by several", join.merged));
    }
    let counts =
        if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
    let mut lines = vec![format!(
        "  memory: {} of {}, joined to {}{counts}",
        counted(join.slots_before as u64, "slot"),
        counted_memories(join.memories),
        join.slots,
    )];
    if let Some(angle) = join.goal_angle {
        let conflict = if join.goals_conflict { ", a conflict" } else { "" };
        lines.push(format!("  goals: up to {angle:.0}° apart{conflict}"));
    }
    if !join.contradictions.is_empty() {
        let count = counted(join.contradictions.len() as u64, "contradiction");
        lines.push(format!("  {count}"));
    }
    for pair in join.contradictions.iter().take(SHOWN) {
        let sign = if pair.ended { "ends" } else { "also holds" };
        lines.push(format!(
            "    ! {}  |  {sign}: {}",
            one_line(&pair.holds),
            one_line(&pair.other)
        ));
    }
    if join.contradictions.len() > SHOWN {
        let more = join.contradictions.len() - SHOWN;
        lines.push(format!("    … and {more} more (--json lists all)"));
    }
    lines
}

fn counted_memories(count: usize) -> String {
    format!("{count} memories")
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "⏎")
}
