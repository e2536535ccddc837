//! `cart apply`.

mod low_rank;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cart_format::low_rank::LowRank;
use cart_format::{ManifestId, Recipe};
use cart_store::import::{is_adapter, read_adapter};
use cart_store::{
    Cartridge, PackedFile, RefName, Silent, Store, UnpackError, Unpacked, is_low_rank,
    read_low_rank,
};
use clap::{Args, ValueHint};
use serde::Serialize;
use thiserror::Error;

use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, NewCommit};
use crate::packed;
use crate::report;

/// Make a cartridge of another and what turns it into that.
///
/// D is what `cart delta A B` wrote. The result is B: its id is recomputed from the bytes and must be the one that D names. A base
/// other than the one that D was made from, a damaged D, a full disk and Ctrl-C leave the store as it was. The commit of B comes
/// along.
///
/// D may be of low rank (`cart delta --rank`, `--adapter`), or a folder with a PEFT adapter: then the products of its factors are added to A's
/// weights, rounded once; quantized weights are quantized again, and the error said. `cart swap --delta D` does all that for what a server runs.
#[derive(Args)]
#[command(after_help = "Examples:
  cart apply smol mine.delta.cart -t mine
  cart apply smol.cart mine.delta.cart -o mine.cart
  cart apply smol my-lora/ -t mine --keep-float")]
pub(crate) struct ApplyArgs {
    /// What the delta was made from
    #[arg(value_name = "A")]
    base: String,
    /// The delta, or a folder with a PEFT adapter
    #[arg(value_name = "D", value_hint = ValueHint::AnyPath)]
    delta: PathBuf,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<RefName>,
    /// Why, in words
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Leave quantized tensors to which something is added as floats
    #[arg(long)]
    keep_float: bool,
    /// Also write a .cart file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrite the .cart file
    #[arg(long)]
    force: bool,
}

/// Not what `cart delta` writes.
#[derive(Debug, Error)]
#[error("{} is no delta: {why}", path.display())]
struct NoDelta {
    path: PathBuf,
    why: &'static str,
}

/// How to apply.
pub(crate) struct ApplyOptions<'a> {
    /// The name of the result.
    pub(crate) tag: Option<&'a RefName>,
    /// Why, in words.
    pub(crate) message: &'a str,
    /// Whether quantized tensors that are changed stay float.
    pub(crate) keep_float: bool,
}

/// What was made.
#[derive(Serialize)]
pub(crate) struct ApplyReport {
    base: String,
    pub(crate) manifest: String,
    pub(crate) commit: String,
    name: Option<String>,
    delta: String,
    blobs: u64,
    bytes: u64,
    unpacked_blobs: u64,
    unpacked_bytes: u64,
    new_blobs: u64,
    new_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_rank: Option<low_rank::Addition>,
    output: Option<String>,
    output_bytes: Option<u64>,
    seconds: f64,
}

pub(crate) fn run(context: &Context, args: &ApplyArgs) -> Result<(), Failure> {
    let began = Instant::now();
    if let Some(output) = &args.output {
        history::refuse_existing(output, args.force)?;
    }
    let options = ApplyOptions {
        tag: args.tag.as_ref(),
        message: &args.message,
        keep_float: args.keep_float,
    };
    let mut body = made(context, &args.base, &args.delta, &options)?;
    if let Some(output) = &args.output {
        let commit = body.commit.parse().map_err(Failure::bug)?;
        let bytes = history::write_cart_file(context, &context.store()?, commit, output)?;
        body.output = Some(output.display().to_string());
        body.output_bytes = Some(bytes);
    }
    body.seconds = began.elapsed().as_secs_f64();
    if context.json {
        return report::print("apply", &body);
    }
    if args.tag.is_none() && args.output.is_none() {
        context.remark(&format!(
            "note: without a name `cart gc` collects it; `cart tag {} NAME` gives it one",
            &body.manifest[..12]
        ));
    }
    body.render()
}

/// Applies a delta to a base, into the store.
pub(crate) fn made(
    context: &Context,
    base: &str,
    path: &Path,
    options: &ApplyOptions<'_>,
) -> Result<ApplyReport, Failure> {
    match delta(path)? {
        Delta::Packed(file) => exactly(context, &file, history::open(context, base)?, options),
        Delta::LowRank(delta) => {
            low_rank::apply(context, options, (&delta, path), history::open(context, base)?)
        }
        Delta::Adapter => {
            let base = history::open(context, base)?;
            let delta = read_adapter(path, (base.manifest_id(), base.manifest()));
            let delta = delta.map_err(Failure::refused)?;
            low_rank::apply(context, options, (&delta, path), base)
        }
    }
}

/// What turns a base into something else.
enum Delta {
    Packed(PackedFile),
    LowRank(Box<LowRank>),
    Adapter,
}

/// Opens the delta.
fn delta(path: &Path) -> Result<Delta, Failure> {
    let refuse = |why| Failure::refused(NoDelta { path: path.to_owned(), why });
    if is_adapter(path) {
        return Ok(Delta::Adapter);
    }
    if is_low_rank(path).unwrap_or(false) {
        let delta = read_low_rank(path).map_err(Failure::refused)?;
        return Ok(Delta::LowRank(Box::new(delta)));
    }
    let file = match packed::open(path)? {
        Some(file) => file,
        None if path.is_dir() => return Err(refuse("the folder has no adapter_config.json")),
        None if path.exists() => return Err(refuse("`cart delta A B -o FILE` makes one")),
        None => return Err(refuse("there is no such file")),
    };
    if file.packed().base.is_none() {
        return Err(refuse(
            "it is a whole cartridge, packed; `cart pack FILE -t NAME` takes it in",
        ));
    }
    Ok(Delta::Packed(file))
}

/// Unpacks what turns a base exactly into something else.
fn exactly(
    context: &Context,
    file: &PackedFile,
    base: Cartridge,
    options: &ApplyOptions<'_>,
) -> Result<ApplyReport, Failure> {
    let found = base.manifest_id();
    refuse_wrong(file, found)?;
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let parent = base.commit().map(|(id, _)| id);
    let base = history::verify(context, stored(&store, base)?)?;
    let unpacked = packed::unpack_onto(context, &store, file, Some(&base))?;
    let commit = if let Some(commit) = unpacked.commit {
        history::name_commit(&store, commit, options.tag, options.message)?;
        commit
    } else {
        // A delta of bare manifests is content alone.
        let recipe = Recipe::new("apply").with("tool", history::tool());
        let new = NewCommit {
            manifest: unpacked.manifest,
            parents: parent.into_iter().collect(),
            recipe: recipe.with("base", found.hex()),
            message: options.message.to_owned(),
            probes: Vec::new(),
        };
        history::commit(&store, new, options.tag)?
    };
    drop(held);
    Ok(ApplyReport::new(options, (found, file), &unpacked, commit.hex()))
}

/// Refuses another base before anything is read.
fn refuse_wrong(file: &PackedFile, found: ManifestId) -> Result<(), Failure> {
    match file.packed().base.filter(|expected| *expected != found) {
        Some(expected) => {
            let path = file.path().to_path_buf();
            Err(Failure::refused(UnpackError::WrongBase { path, expected, found }))
        }
        None => Ok(()),
    }
}

/// The base in the store: what the result takes from it has to be there.
pub(super) fn stored(store: &Store, base: Cartridge) -> Result<Cartridge, Failure> {
    if base.place() == store.root() {
        return Ok(base);
    }
    let taken = store.import_cart(base.place(), &Silent).map_err(Failure::refused)?;
    let found = store.resolve(&taken.manifest.hex()).map_err(Failure::refused)?;
    store.open_cartridge(&found).map_err(Failure::refused)
}

impl ApplyReport {
    fn new(
        options: &ApplyOptions<'_>,
        (base, file): (ManifestId, &PackedFile),
        unpacked: &Unpacked,
        commit: String,
    ) -> Self {
        Self {
            base: base.hex(),
            manifest: unpacked.manifest.hex(),
            commit,
            name: options.tag.map(ToString::to_string),
            delta: file.path().display().to_string(),
            blobs: unpacked.blobs,
            bytes: unpacked.bytes,
            unpacked_blobs: unpacked.unpacked_blobs,
            unpacked_bytes: unpacked.unpacked_bytes,
            new_blobs: unpacked.new_blobs,
            new_bytes: unpacked.new_bytes,
            low_rank: None,
            output: None,
            output_bytes: None,
            seconds: 0.0,
        }
    }

    /// Says it to people.
    pub(crate) fn render(&self) -> Result<(), Failure> {
        let name = self.name.as_deref().unwrap_or("(no name)");
        report::line(&format!("made {name}  sha256:{}", self.manifest))?;
        report::line(&format!(
            "  {} of {} {}, {}; new: {}, {}; {}",
            self.unpacked_blobs,
            counted(self.blobs, "blob"),
            if self.low_rank.is_some() { "changed" } else { "unpacked" },
            human(self.unpacked_bytes),
            counted(self.new_blobs, "blob"),
            human(self.new_bytes),
            seconds(self.seconds),
        ))?;
        for line in self.low_rank.iter().flat_map(low_rank::Addition::said) {
            report::line(&line)?;
        }
        if let (Some(output), Some(bytes)) = (&self.output, self.output_bytes) {
            report::line(&format!("  wrote {output}, {}", human(bytes)))?;
        }
        Ok(())
    }
}
