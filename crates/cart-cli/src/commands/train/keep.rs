//! What came of a run as a commit.

use cart_format::{CommitId, ManifestId};
use cart_store::{RefName, Store};
use serde_json::Value;

use crate::failure::Failure;

/// The kind of recipe that training leaves.
pub(super) const RECIPE: &str = "train";

/// What a name points to, if the run of this recipe made it. The commit of a run that was killed
/// before it noted its step down is found again so.
pub(super) fn of_run(
    store: &Store,
    name: &RefName,
    recipe: &Value,
) -> Result<Option<(CommitId, ManifestId)>, Failure> {
    let Some(current) = store.read_ref(name).map_err(Failure::refused)? else {
        return Ok(None);
    };
    let commit = store.commit(&current).map_err(Failure::refused)?;
    // A commit keeps canonical numbers, in which 1.0 is 1.
    let canonical = |recipe: &Value| cart_format::json::to_canonical(recipe).ok();
    let found = commit.recipe.details.get("run").and_then(canonical);
    let is_ours = commit.recipe.kind == RECIPE && found.is_some() && found == canonical(recipe);
    Ok(is_ours.then_some((current, commit.manifest)))
}
