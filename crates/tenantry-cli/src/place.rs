//! Where the store is, and opening it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tenantry::{ErrorKind, Store};

use crate::failure::{Exit, Failure};

/// The data directory that the command works on.
pub(crate) struct Place {
    data_dir: PathBuf,
}

impl Place {
    /// The directory that was named, or else the first that the environment names. An empty variable names none.
    pub(crate) fn find(named: Option<PathBuf>) -> Result<Self, Failure> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // systemd separates several by colons.
        let of_service = || variable("STATE_DIRECTORY").and_then(|dirs| env::split_paths(&dirs).next());
        let of_person = || {
            let data_home = variable("XDG_DATA_HOME").filter(|dir| dir.is_absolute());
            data_home.or_else(|| Some(variable("HOME")?.join(".local/share"))).map(|dir| dir.join("tenantry"))
        };
        named
            .or_else(|| variable("TENANTRY_DATA_DIR"))
            .or_else(of_service)
            .or_else(of_person)
            .map(|data_dir| Self { data_dir })
            .ok_or_else(|| Failure::new(Exit::Usage, "no home directory: name the data directory with --data-dir"))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory as it is named within `storage/`, also if it was named with its whole path, as shells complete it.
    pub(crate) fn within_storage<'d>(&self, dir: &'d str) -> &'d str {
        let storage = self.data_dir.join("storage");
        let within = storage.to_str().and_then(|storage| dir.strip_prefix(storage)?.strip_prefix('/')).unwrap_or(dir);
        within.strip_suffix('/').unwrap_or(within)
    }

    /// Whether a path is that of one of the store's own files.
    pub(crate) fn is_of_store(&self, path: &Path) -> bool {
        let is_in_data_dir = match (path.parent().map(fs::canonicalize), fs::canonicalize(&self.data_dir)) {
            (Some(Ok(dir)), Ok(data_dir)) => dir == data_dir,
            _ => false,
        };
        is_in_data_dir && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tenantry."))
    }

    /// Opens the store that is there.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        let opened = Store::builder(&self.data_dir).create_if_missing(false).open().await;
        opened.map_err(|error| self.explain(error))
    }

    /// Opens the store, and creates it and says so if there is none.
    pub(crate) async fn open_or_create(&self) -> Result<Store, Failure> {
        let store = Store::open(&self.data_dir).await.map_err(|error| self.explain(error))?;
        if store.was_created() {
            anstream::eprintln!("created a new store in {}", self.data_dir.display());
        }
        Ok(store)
    }

    /// An error at opening, with the place.
    pub(crate) fn explain(&self, error: tenantry::Error) -> Failure {
        let dir = self.data_dir.display();
        if error.kind() == ErrorKind::StoreMissing {
            return Failure::new(
                Exit::NotFound,
                format!(
                    "there is no store in {dir}; `tenantry user create EMAIL` creates one, --data-dir names another"
                ),
            );
        }
        let Failure::Told { exit, message } = error.into() else { return Failure::BrokenPipe };
        Failure::Told { exit, message: format!("{dir}: {message}") }
    }
}
