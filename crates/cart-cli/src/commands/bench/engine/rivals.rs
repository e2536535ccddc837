//! The engines that `scripts/install-rivals` put into a folder.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// An engine with a driver: `DIR/NAME/run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    pub(crate) name: String,
    /// The driver; `scripts/rivals/README.md` says how it is called and what it prints.
    pub(crate) run: PathBuf,
}

/// The rivals of a folder, in the order of their names.
///
/// * `only`: these and no others, if not empty
pub(crate) fn find(folder: Option<&Path>, only: &[String]) -> Result<Vec<Rival>, Failure> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let hint = "run `scripts/install-rivals DIR` and give the same DIR";
    let entries = std::fs::read_dir(folder).map_err(|source| {
        Failure::refused_with(format!("{} can't be read: {source}", folder.display()), hint)
    })?;
    let mut rivals = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Failure::refused)?;
        let (name, run) =
            (entry.file_name().to_string_lossy().into_owned(), entry.path().join("run"));
        if run.is_file() && (only.is_empty() || only.contains(&name)) {
            rivals.push(Rival { name, run });
        }
    }
    rivals.sort_by(|a, b| a.name.cmp(&b.name));
    let missing = only.iter().find(|name| rivals.iter().all(|rival| rival.name != **name));
    if let Some(name) = missing {
        let place = folder.display();
        return Err(Failure::refused_with(format!("there is no {name}/run in {place}"), hint));
    }
    if rivals.is_empty() {
        let place = folder.display();
        return Err(Failure::refused_with(format!("there is no NAME/run in {place}"), hint));
    }
    Ok(rivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_driver_is_a_rival() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("run"), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("cache")).unwrap();
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let found = find(Some(folder.path()), &only);
            found.map(|rivals| rivals.into_iter().map(|rival| rival.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["b"]).unwrap(), ["b"]);
        assert!(names(&["cache"]).is_err());
        assert_eq!(find(None, &[]).unwrap(), []);
    }
}
