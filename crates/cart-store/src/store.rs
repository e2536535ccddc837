//! A store: a folder of a known version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::Version;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::layout::Layout;
use crate::lock::{Lock, StoreGuard};
use crate::publish::Publisher;

/// The version of the store's layout that this crate writes.
pub const STORE_VERSION: Version = Version { major: 1, minor: 0 };

/// Why a folder can't be used as a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no store.
    #[error("there is no store at {}; `cart pack MODEL -t NAME` makes one", path.display())]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with other things in it.
    #[error(
        "{} is not a store and not empty: it has no cart-store.json; choose another folder with --store",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The marker can't be read.
    #[error("{} is damaged: {source}; it should read {{\"version\":\"{STORE_VERSION}\"}}", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// A store of the future.
    #[error(
        "the store at {} has version {found}; this cart reads up to {}.x: update cart",
        path.display(),
        STORE_VERSION.major
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The platform has no data folder.
    #[error("can't tell where data belongs: $HOME is not set; name a folder with --store")]
    NoHome,
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A folder of blobs, commits and refs. Cheap to clone; used from any number of threads and
/// processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) layout: Arc<Layout>,
    pub(crate) publisher: Publisher,
}

/// `cart-store.json`.
#[derive(Serialize, Deserialize)]
struct Marker {
    version: Version,
}

impl Store {
    /// Opens a store that exists. Needs no right to write.
    ///
    /// # Errors
    /// There is none, or it is of a newer version.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, OpenError> {
        let store = Self::at(root.as_ref(), Publisher::default());
        store.check_marker()?;
        Ok(store)
    }

    /// Opens a store, making it first where there is nothing or an empty folder.
    ///
    /// # Errors
    /// The folder has other things in it, is of a newer version, or can't be written.
    pub fn open_or_create(root: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_or_create_with(root.as_ref(), Publisher::default())
    }

    pub(crate) fn open_or_create_with(
        root: &Path,
        publisher: Publisher,
    ) -> Result<Self, OpenError> {
        let store = Self::at(root, publisher);
        match store.check_marker() {
            Err(OpenError::Absent { .. }) => store.create()?,
            checked => checked?,
        }
        Ok(store)
    }

    /// Where a store lies when nobody says: `cart` in the platform's data folder
    /// (`$XDG_DATA_HOME`, else `~/.local/share`, on macOS `~/Library/Application Support`).
    ///
    /// # Errors
    /// `$HOME` is not set.
    pub fn default_root() -> Result<PathBuf, OpenError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        if let Some(data) = absolute("XDG_DATA_HOME") {
            return Ok(data.join("cart"));
        }
        let home = absolute("HOME").ok_or(OpenError::NoHome)?;
        let data = if cfg!(target_os = "macos") {
            home.join("Library/Application Support")
        } else {
            home.join(".local/share")
        };
        Ok(data.join("cart"))
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Keeps gc away: hold it while packing.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn hold(&self) -> Result<StoreGuard, FileError> {
        Ok(StoreGuard::new(Lock::shared(&self.layout.store_lock())?))
    }

    fn at(root: &Path, publisher: Publisher) -> Self {
        Self { layout: Arc::new(Layout::new(root.to_path_buf())), publisher }
    }

    fn check_marker(&self) -> Result<(), OpenError> {
        let path = self.layout.marker();
        let bytes = match std::fs::read(&path).at("read", &path) {
            Err(error) if error.is_missing() => match self.unmarked()? {
                Some(why) => return Err(why),
                None => std::fs::read(&path).at("read", &path)?,
            },
            read => read?,
        };
        let marker: Marker = serde_json::from_slice(&bytes)
            .map_err(|source| OpenError::Marker { path: path.clone(), source })?;
        if marker.version.major > STORE_VERSION.major {
            let path = self.root().to_path_buf();
            return Err(OpenError::Newer { path, found: marker.version });
        }
        Ok(())
    }

    /// What a folder without a marker is; none where another process has just put one there. One in which
    /// only our own folders are was left by a crash while it was made.
    fn unmarked(&self) -> Result<Option<OpenError>, FileError> {
        let path = self.root().to_path_buf();
        let entries = match std::fs::read_dir(&path).at("read", &path) {
            Err(error) if error.is_missing() => return Ok(Some(OpenError::Absent { path })),
            entries => entries?,
        };
        let ours = ["blobs", "commits", "shallow", "refs", "logs", "tmp", "trash", "locks"];
        for entry in entries {
            let name = entry.at("read", &path)?.file_name();
            if self.layout.marker().file_name() == Some(name.as_os_str()) {
                return Ok(None);
            }
            if !ours.iter().any(|known| name == *known) {
                return Ok(Some(OpenError::Foreign { path }));
            }
        }
        Ok(Some(OpenError::Absent { path }))
    }

    /// The marker comes last: a store that has one is complete.
    fn create(&self) -> Result<(), OpenError> {
        for folder in self.layout.folders() {
            self.publisher.make_folder(&folder)?;
        }
        let marker = serde_json::to_vec(&Marker { version: STORE_VERSION })
            .expect("a version has a JSON form");
        let path = self.layout.marker();
        self.publisher.publish(&self.layout.tmp(), &path, &marker)?;
        Ok(())
    }
}
