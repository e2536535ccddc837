//! `cart apply`.

use std::path::PathBuf;
use std::time::Instant;

use cart_format::{ManifestId, Recipe};
use cart_store::{Cartridge, PackedFile, RefName, Silent, Store, UnpackError, Unpacked};
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
/// along. In a running server, `cart swap URL NAME` then reads what D changed; what the two share is in memory already.
#[derive(Args)]
#[command(after_help = "Examples:
  cart apply smol mine.delta.cart -t mine
  cart apply smol.cart mine.delta.cart -o mine.cart")]
pub(crate) struct ApplyArgs {
    /// What the delta was made from
    #[arg(value_name = "A")]
    base: String,
    /// The delta
    #[arg(value_name = "D", value_hint = ValueHint::FilePath)]
    delta: PathBuf,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<RefName>,
    /// Why, in words
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
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

#[derive(Serialize)]
struct ApplyReport {
    base: String,
    manifest: String,
    commit: String,
    name: Option<String>,
    blobs: u64,
    bytes: u64,
    unpacked_blobs: u64,
    unpacked_bytes: u64,
    new_blobs: u64,
    new_bytes: u64,
    output: Option<String>,
    output_bytes: Option<u64>,
    seconds: f64,
}

pub(crate) fn run(context: &Context, args: &ApplyArgs) -> Result<(), Failure> {
    let began = Instant::now();
    if let Some(output) = &args.output {
        history::refuse_existing(output, args.force)?;
    }
    let file = delta(args)?;
    let base = history::open(context, &args.base)?;
    let found = base.manifest_id();
    refuse_wrong(&file, found)?;
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let parent = base.commit().map(|(id, _)| id);
    let base = history::verify(context, stored(&store, base)?)?;
    let unpacked = packed::unpack_onto(context, &store, &file, Some(&base))?;
    let commit = if let Some(commit) = unpacked.commit {
        history::name_commit(&store, commit, args.tag.as_ref(), &args.message)?;
        commit
    } else {
        // A delta of bare manifests is content alone.
        let recipe = Recipe::new("apply").with("tool", history::tool());
        let new = NewCommit {
            manifest: unpacked.manifest,
            parents: parent.into_iter().collect(),
            recipe: recipe.with("base", found.hex()),
            message: args.message.clone(),
            probes: Vec::new(),
        };
        history::commit(&store, new, args.tag.as_ref())?
    };
    drop(held);
    let mut body = ApplyReport::new(args, found, &unpacked, commit.hex());
    if let Some(output) = &args.output {
        let bytes = history::write_cart_file(context, &store, commit, output)?;
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

/// Opens the delta.
fn delta(args: &ApplyArgs) -> Result<PackedFile, Failure> {
    let refuse = |why| Failure::refused(NoDelta { path: args.delta.clone(), why });
    let file = match packed::open(&args.delta)? {
        Some(file) => file,
        None if args.delta.exists() => return Err(refuse("`cart delta A B -o FILE` makes one")),
        None => return Err(refuse("there is no such file")),
    };
    if file.packed().base.is_none() {
        return Err(refuse(
            "it is a whole cartridge, packed; `cart pack FILE -t NAME` takes it in",
        ));
    }
    Ok(file)
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
fn stored(store: &Store, base: Cartridge) -> Result<Cartridge, Failure> {
    if base.place() == store.root() {
        return Ok(base);
    }
    let taken = store.import_cart(base.place(), &Silent).map_err(Failure::refused)?;
    let found = store.resolve(&taken.manifest.hex()).map_err(Failure::refused)?;
    store.open_cartridge(&found).map_err(Failure::refused)
}

impl ApplyReport {
    fn new(args: &ApplyArgs, base: ManifestId, unpacked: &Unpacked, commit: String) -> Self {
        Self {
            base: base.hex(),
            manifest: unpacked.manifest.hex(),
            commit,
            name: args.tag.as_ref().map(ToString::to_string),
            blobs: unpacked.blobs,
            bytes: unpacked.bytes,
            unpacked_blobs: unpacked.unpacked_blobs,
            unpacked_bytes: unpacked.unpacked_bytes,
            new_blobs: unpacked.new_blobs,
            new_bytes: unpacked.new_bytes,
            output: None,
            output_bytes: None,
            seconds: 0.0,
        }
    }

    fn render(&self) -> Result<(), Failure> {
        let name = self.name.as_deref().unwrap_or("(no name)");
        report::line(&format!("made {name}  sha256:{}", self.manifest))?;
        report::line(&format!(
            "  {} of {} unpacked, {}; new: {}, {}; {}",
            self.unpacked_blobs,
            counted(self.blobs, "blob"),
            human(self.unpacked_bytes),
            counted(self.new_blobs, "blob"),
            human(self.new_bytes),
            seconds(self.seconds),
        ))?;
        if let (Some(output), Some(bytes)) = (&self.output, self.output_bytes) {
            report::line(&format!("  wrote {output}, {}", human(bytes)))?;
        }
        Ok(())
    }
}
