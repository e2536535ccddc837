//! `cart export`.

use std::path::PathBuf;

use cart_store::export::{self, ExportForm, ExportOptions};
use clap::{Args, ValueEnum, ValueHint};
use serde::Serialize;

use crate::bytes::human;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::Bar;
use crate::report;

/// Write a cartridge as files.
///
/// The form that a cartridge was imported from comes back byte for byte, checked by digest, or the
/// export fails and leaves nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  cart export smol -o smol.cart
  cart export smol -o smol.cart --compress
  cart export smol --as gguf -o smol.gguf
  cart export mine --as hf -o ./mine/")]
pub(crate) struct ExportArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The file or folder to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    output: PathBuf,
    /// The form
    #[arg(long = "as", value_name = "FORM", default_value = "cart")]
    form: Form,
    /// Pack the .cart file: smaller, and to be unpacked by `cart pack` before it can be mapped
    #[arg(long)]
    compress: bool,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Cart,
    Hf,
    Gguf,
    Safetensors,
}

#[derive(Serialize)]
struct ExportReport {
    manifest: String,
    output: String,
    form: &'static str,
    files: u64,
    bytes: u64,
    exact: bool,
}

pub(crate) fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let cartridge = history::open(context, &args.reference)?;
    let manifest = cartridge.manifest_id().hex();
    let output = args.output.display().to_string();
    if args.compress && args.form != Form::Cart {
        return Err(Failure::arguments("--compress goes with --as cart"));
    }
    let body = match args.form.origin() {
        None if args.compress => {
            history::refuse_existing(&args.output, args.force)?;
            let verified = history::verify(context, cartridge)?;
            let bar = Bar::new(context, "packing");
            let packed = verified.write_packed(None, &args.output, &bar);
            let bytes = packed.map_err(Failure::refused)?.file_bytes;
            ExportReport { manifest, output, form: "packed", files: 1, bytes, exact: true }
        }
        None => {
            history::refuse_existing(&args.output, args.force)?;
            let bytes = history::write_cart(context, cartridge, &args.output)?;
            ExportReport { manifest, output, form: "cart", files: 1, bytes, exact: true }
        }
        Some(form) => {
            let bar = Bar::new(context, "exporting");
            let options = ExportOptions { force: args.force };
            let done = export::export(&cartridge, &args.output, form, &options, &bar)
                .map_err(Failure::refused)?;
            ExportReport {
                manifest,
                output,
                form: args.form.name(),
                files: done.files,
                bytes: done.bytes,
                exact: done.exact,
            }
        }
    };
    if context.json {
        return report::print("export", &body);
    }
    let exact = if body.exact { ", byte for byte as imported" } else { "" };
    let exact = if ["cart", "packed"].contains(&body.form) { "" } else { exact };
    report::line(&format!("wrote {}  {}{exact}", body.output, human(body.bytes)))
}

impl Form {
    fn origin(self) -> Option<ExportForm> {
        match self {
            Self::Cart => None,
            Self::Hf => Some(ExportForm::Hf),
            Self::Gguf => Some(ExportForm::Gguf),
            Self::Safetensors => Some(ExportForm::Safetensors),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cart => "cart",
            Self::Hf => "hf",
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
        }
    }
}
