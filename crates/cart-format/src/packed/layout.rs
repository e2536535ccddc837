//! Where things are in a packed file, and the header that says so.

use std::ops::Range;

use super::{DATA_START, PACKED_FORMAT, PACKED_VERSION};
use crate::digest::{BlobId, CommitId, ManifestId};
use crate::safetensors::LENGTH_BYTES;

/// What a packed file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// What it unpacks to.
    pub manifest: ManifestId,
    /// What it needs for that; nothing if absent.
    pub base: Option<ManifestId>,
    /// The commit that goes along.
    pub commit: Option<CommitId>,
    /// SHA-256 of the index.
    pub index: BlobId,
}

/// Bytes of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// The chunks together.
    pub data: u64,
    /// The index.
    pub index: u64,
    /// The packed manifest.
    pub manifest: u64,
    /// The commit; 0 if there is none.
    pub commit: u64,
}

/// A packed file but for its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What it is about.
    pub ids: Ids,
    /// How long its parts are.
    pub lengths: Lengths,
}

/// A part of the file: its tensor's name, and where it is.
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) range: Range<u64>,
}

pub(super) const DATA: &str = "cart.packed.data";
pub(super) const INDEX: &str = "cart.packed.index";
pub(super) const MANIFEST: &str = "cart.packed.manifest";
pub(super) const COMMIT: &str = "cart.packed.commit";

impl Layout {
    /// The parts, in order, counted from the start of the file.
    pub(super) fn places(&self) -> Vec<Place> {
        let Lengths { data, index, manifest, commit } = self.lengths;
        let mut end = DATA_START;
        let mut place = |name, len| {
            end += len;
            Place { name, range: end - len..end }
        };
        let mut places = vec![place(DATA, data), place(INDEX, index), place(MANIFEST, manifest)];
        if self.ids.commit.is_some() {
            places.push(place(COMMIT, commit));
        }
        places
    }

    fn range(&self, name: &str) -> Range<u64> {
        let places = self.places();
        places.into_iter().find(|place| place.name == name).map_or(0..0, |place| place.range)
    }

    /// Where the chunks are.
    pub fn data(&self) -> Range<u64> {
        self.range(DATA)
    }

    /// Where the index is.
    pub fn index(&self) -> Range<u64> {
        self.range(INDEX)
    }

    /// Where the packed manifest is.
    pub fn manifest(&self) -> Range<u64> {
        self.range(MANIFEST)
    }

    /// Where the commit is.
    pub fn commit(&self) -> Option<Range<u64>> {
        self.ids.commit.map(|_| self.range(COMMIT))
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        self.places().last().map_or(DATA_START, |place| place.range.end)
    }

    /// Never: there is a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The file's bytes before the chunks.
    pub fn header(&self) -> Vec<u8> {
        use std::fmt::Write as _;
        let Ids { manifest, base, commit, index } = self.ids;
        let mut fields = vec![
            ("format", PACKED_FORMAT.to_owned()),
            ("version", PACKED_VERSION.to_string()),
            ("manifest", manifest.hex()),
        ];
        fields.extend(base.map(|base| ("base", base.hex())));
        fields.extend(commit.map(|commit| ("commit", commit.hex())));
        fields.push(("index", index.hex()));
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        let mut text = format!("{{\"__metadata__\":{{{}}}", fields.join(","));
        for Place { name, range } in self.places() {
            let (start, end) = (range.start - DATA_START, range.end - DATA_START);
            let len = end - start;
            write!(
                text,
                ",\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[{start},{end}]}}"
            )
            .expect("writing to a string does not fail");
        }
        text.push('}');
        let mut bytes = (DATA_START - LENGTH_BYTES).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(DATA_START as usize, b' ');
        bytes
    }
}
