//! The tokenizer of a folder without `tokenizer.json`: made from `tokenizer.model` (SentencePiece)
//! or from `vocab.json` and `merges.txt` (BPE over bytes), with the tokens that the documents
//! beside them add.

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::limits::HEADER_BYTES;
use cart_format::{SpecialTokens, json};
use serde_json::{Value as Json, json};

use crate::import::error::ImportError;
use crate::import::folder::Folder;
use crate::import::gguf_tokenizer::check_merges;
use crate::import::hf_tokenizer::RoleDocuments;
use crate::import::model_file::OpenFile;
use crate::import::pre_tokenizers;
use crate::import::sentencepiece::{Prefix, SentencePiece};
use crate::import::sentencepiece_file::{self, Roles};
use crate::import::tokenizer_document::TokenizerDocument;

/// A tokenizer that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) document: Vec<u8>,
    pub(crate) vocab_size: u64,
    pub(crate) special: SpecialTokens,
}

/// The tokenizer, if the folder has the files of one.
pub(crate) fn make(
    folder: &Folder,
    roles: &RoleDocuments,
    warnings: &mut Vec<String>,
) -> Result<Option<Made>, ImportError> {
    if let Some(file) = folder.kept.get("tokenizer.model") {
        return of_sentence_piece(folder, file, roles, warnings).map(Some);
    }
    match (folder.document("vocab.json")?, folder.kept.get("merges.txt")) {
        (Some(vocab), Some(merges)) => of_byte_level(folder, &vocab, merges, roles).map(Some),
        _ => Ok(None),
    }
}

fn of_sentence_piece(
    folder: &Folder,
    file: &OpenFile,
    roles: &RoleDocuments,
    warnings: &mut Vec<String>,
) -> Result<Made, ImportError> {
    let bytes = file.read(HEADER_BYTES)?;
    let (mut model, own) = sentencepiece_file::parse(&bytes)
        .map_err(|source| ImportError::SentencePiece { path: file.path().to_path_buf(), source })?;
    // Since 2023 `legacy: false` puts the space before a text alone, not before each part of it
    // that follows a special token.
    let first_only = roles.stated("legacy") == Some(false) && model.prefix == Prefix::EachPart;
    if first_only {
        model.prefix = Prefix::First;
    }
    if roles.stated("add_prefix_space") == Some(false) {
        model.prefix = Prefix::Never;
    }
    let mut document = model.document(warnings);
    add_tokens(&mut document, added_tokens(folder, roles)?);
    let mut made = finish(&document, file.path(), roles)?;
    own_roles(&mut made.special, &model, own);
    made.special.add_bos =
        roles.stated("add_bos_token").unwrap_or(true) && made.special.bos.is_some();
    Ok(made)
}

/// The model's own roles, where no document has named any.
fn own_roles(special: &mut SpecialTokens, model: &SentencePiece, own: Roles) {
    let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < model.pieces.len());
    special.bos = special.bos.or_else(|| id(own.bos));
    special.pad = special.pad.or_else(|| id(own.pad));
    special.unk = special.unk.or_else(|| id(own.unk));
    if special.eos.is_empty() {
        special.eos.extend(id(own.eos));
    }
}

fn of_byte_level(
    folder: &Folder,
    vocab: &Json,
    merges: &OpenFile,
    roles: &RoleDocuments,
) -> Result<Made, ImportError> {
    let path = merges.path();
    let bytes = merges.read(HEADER_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| ImportError::MergesEncoding { path: path.to_path_buf() })?;
    let lines = text.lines().enumerate();
    let merges: Vec<String> = lines
        .filter(|(index, line)| !line.is_empty() && (*index > 0 || !line.starts_with("#version")))
        .map(|(_, line)| line.to_owned())
        .collect();
    let known =
        ids(vocab).ok_or_else(|| ImportError::Vocabulary { path: folder.path("vocab.json") })?;
    check_merges(&merges, &known)?;
    let class = roles.tokenizer_config.as_ref().and_then(|config| config.get("tokenizer_class"));
    let rules = match class.and_then(Json::as_str) {
        Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => "qwen2",
        _ => "gpt-2",
    };
    let rules = pre_tokenizers::named(rules).expect("both names are in the table");
    let mut pre_tokenizer = rules.rules;
    if let Some(prefix) = roles.stated("add_prefix_space")
        && pre_tokenizer.get("add_prefix_space").is_some()
    {
        pre_tokenizer["add_prefix_space"] = json!(prefix);
    }
    let mut added = added_tokens(folder, roles)?;
    if added.is_empty() {
        let named = roles.named_tokens().into_iter().chain(["<|endoftext|>".to_owned()]);
        let known = named.filter_map(|name| Some((*known.get(name.as_str())? as u64, name)));
        added = known.map(|(id, name)| (id, json!({"content": name, "special": true}))).collect();
    }
    let mut document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": rules.normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": pre_tokenizers::byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rules.ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    add_tokens(&mut document, added);
    finish(&document, path, roles)
}

fn ids(vocab: &Json) -> Option<BTreeMap<&str, usize>> {
    let id = |id: &Json| id.as_u64().and_then(|id| usize::try_from(id).ok());
    vocab.as_object()?.iter().map(|(token, found)| Some((token.as_str(), id(found)?))).collect()
}

/// What the documents beside the model add: `added_tokens.json`, then `tokenizer_config.json`.
fn added_tokens(
    folder: &Folder,
    roles: &RoleDocuments,
) -> Result<BTreeMap<u64, Json>, ImportError> {
    let mut added = BTreeMap::new();
    let listed = folder.document("added_tokens.json")?;
    for (text, id) in listed.as_ref().and_then(Json::as_object).into_iter().flatten() {
        if let Some(id) = id.as_u64() {
            added.insert(id, json!({"content": text, "special": true}));
        }
    }
    let decoder =
        roles.tokenizer_config.as_ref().and_then(|config| config.get("added_tokens_decoder"));
    for (id, token) in decoder.and_then(Json::as_object).into_iter().flatten() {
        if let Ok(id) = id.parse() {
            added.insert(id, token.clone());
        }
    }
    Ok(added)
}

/// Puts tokens into the document in place of those of the same id.
fn add_tokens(document: &mut Json, added: BTreeMap<u64, Json>) {
    let listed = document["added_tokens"].as_array_mut().expect("it was made as an array");
    for (id, token) in added {
        let flag = |name: &str| token.get(name).and_then(Json::as_bool).unwrap_or(false);
        let Some(content) = token.get("content").and_then(Json::as_str) else { continue };
        let mut entry = json!({
            "id": id, "content": content, "single_word": flag("single_word"),
            "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "normalized": false,
            "special": flag("special"),
        });
        match listed.iter_mut().find(|listed| listed["id"] == id) {
            Some(listed) => {
                entry["normalized"] = listed["normalized"].take();
                *listed = entry;
            }
            None => listed.push(entry),
        }
    }
    listed.sort_by_key(|token| token["id"].as_u64());
}

fn finish(document: &Json, path: &Path, roles: &RoleDocuments) -> Result<Made, ImportError> {
    let bytes = json::to_canonical(document).map_err(ImportError::Document)?;
    let document = TokenizerDocument::parse(&bytes)
        .map_err(|source| ImportError::Tokenizer { path: path.to_path_buf(), source })?;
    Ok(Made {
        vocab_size: document.vocab_size(),
        special: roles.special(&document)?,
        document: bytes,
    })
}
