use crate::catalogue::Catalogue;
use crate::download::{Download, Flight};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::local;
use crate::lock::FileLock;
use crate::options::StoreOptions;
use crate::source::Source;
use operations_contract::{ModelEntry, WellKnownModel, well_known};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// The models of this machine. Clones are the same store, and processes that open the same folder share it.
#[derive(Debug, Clone)]
pub struct ModelStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) catalogue: Catalogue,
    pub(crate) options: StoreOptions,
    /// Made with the first download: it reads the system's certificates.
    hub: OnceLock<Hub>,
    /// Downloads that somebody waits for, by the model's id.
    flights: Mutex<HashMap<String, Weak<Flight>>>,
}

/// What a name means on this machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// A model that ships inside the program.
    BuiltIn(&'static WellKnownModel),
    /// It is here, at the entry's path: in the catalogue, in the Hugging Face cache, or where the name says.
    Found(Box<ModelEntry>),
    /// It is not here, and [`ModelStore::download`] knows where it may be.
    Downloadable(Source),
    /// Nothing by that name is known.
    Unknown,
}

/// Keeps a model from being deleted, by this process or another, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    entry: ModelEntry,
    _lock: FileLock,
}

impl ModelStore {
    /// The store in `folder`, which [`crate::models_dir`] tells; made where there is none. What the environment says of
    /// the hub is followed.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made, and those of [`StoreOptions::from_env`].
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(folder, StoreOptions::from_env()?)
    }

    /// The store in `folder`, with options of its own.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made.
    pub fn open_with(folder: impl Into<PathBuf>, options: StoreOptions) -> Result<Self> {
        let folder = folder.into();
        let folder = std::path::absolute(&folder).map_err(|source| Error::io(&folder, source))?;
        let catalogue = Catalogue::open(folder)?;
        let shared = Shared { catalogue, options, hub: OnceLock::new(), flights: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Every model in the catalogue, the oldest first.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn list(&self) -> Result<Vec<ModelEntry>> {
        self.shared.catalogue.list()
    }

    /// The model `id` of the catalogue.
    ///
    /// # Errors
    /// [`Error::NoEntry`] for what is no id of the catalogue, a path for example.
    pub fn get(&self, id: &str) -> Result<ModelEntry> {
        self.shared.catalogue.get(id)
    }

    /// Deletes the model `id` from the catalogue and, where they are its own, its files from the disk.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::InUse`] while any process holds a [`Lease`] on it.
    pub fn delete(&self, id: &str) -> Result<ModelEntry> {
        let entry = self.get(id)?;
        let _alone = self.shared.catalogue.lock_use(id)?.ok_or_else(|| Error::InUse(id.to_owned()))?;
        self.shared.catalogue.discard(id)?;
        Ok(entry)
    }

    /// Keeps the model `id` from being deleted.
    ///
    /// # Errors
    /// [`Error::NoEntry`], also where it is being deleted right now.
    pub fn lease(&self, id: &str) -> Result<Lease> {
        self.get(id)?;
        let lock = self.shared.catalogue.share_use(id)?.ok_or_else(|| Error::NoEntry(id.to_owned()))?;
        // It may have been deleted between the two.
        Ok(Lease { entry: self.get(id)?, _lock: lock })
    }

    /// Whether any process holds a [`Lease`] on the model `id`.
    ///
    /// # Errors
    /// [`Error::NoEntry`]
    pub fn in_use(&self, id: &str) -> Result<bool> {
        self.get(id)?;
        Ok(self.shared.catalogue.lock_use(id)?.is_none())
    }

    /// What `name` means: an id, a name or a source of the catalogue, a well-known name or its repository, which are the
    /// same model, one file of a repository, a URL, or an absolute path. Nothing goes over the network.
    ///
    /// # Errors
    /// [`Error::NotAModel`] for a path where no model lies, [`Error::Unusable`] for a file that is no model's.
    pub fn resolve(&self, name: &str) -> Result<Resolution> {
        if let Some(model) = well_known(name).filter(|model| model.repository.is_none()) {
            return Ok(Resolution::BuiltIn(model));
        }
        let source = match Source::parse(name) {
            Ok(source) => Some(source),
            Err(Error::Unknown(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(entry) = self.find(name, source.as_ref())? {
            return Ok(Resolution::Found(Box::new(entry)));
        }
        match source {
            None => Ok(Resolution::Unknown),
            Some(Source::Path(path)) => Ok(Resolution::Found(Box::new(local::describe(&path)?))),
            Some(source) => Ok(match self.shared.cached(&source) {
                Some(entry) => Resolution::Found(Box::new(entry)),
                None => Resolution::Downloadable(source),
            }),
        }
    }

    /// Brings a model into the catalogue: downloads it, or takes it from the Hugging Face cache or from where it lies. One
    /// that is there already is there at once, and several who ask for the same one wait for the same download. Must be
    /// called inside a tokio runtime.
    pub fn download(&self, source: Source) -> Download {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let id = source.id();
        if let Some(flight) = flights.get(&id).and_then(Weak::upgrade).filter(|flight| !flight.is_over()) {
            return Download::new(flight);
        }
        let flight = Arc::new(Flight::start(Arc::clone(&self.shared), source));
        flights.insert(id, Arc::downgrade(&flight));
        Download::new(flight)
    }

    /// Whether nothing may be downloaded.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.shared.options.offline
    }

    /// An entry by any of its names. One whose files are gone counts as none.
    fn find(&self, name: &str, source: Option<&Source>) -> Result<Option<ModelEntry>> {
        let canonical = source.map(Source::to_string);
        let entries: Vec<ModelEntry> = self.list()?.into_iter().filter(is_there).collect();
        let by = |matches: &dyn Fn(&ModelEntry) -> bool| entries.iter().find(|entry| matches(entry)).cloned();
        Ok(by(&|entry| entry.id == name)
            .or_else(|| by(&|entry| Some(&entry.source) == canonical.as_ref()))
            .or_else(|| by(&|entry| entry.path == name))
            // A folder that somebody called like a well-known model is not that model.
            .or_else(|| by(&|entry| canonical.is_none() && entry.name.eq_ignore_ascii_case(name))))
    }
}

impl Shared {
    /// The entry `id`, where its files are there.
    pub(crate) fn usable(&self, id: &str) -> Result<Option<ModelEntry>> {
        match self.catalogue.get(id) {
            Ok(entry) => Ok(is_there(&entry).then_some(entry)),
            Err(Error::NoEntry(_)) => Ok(None),
            Err(error) => {
                tracing::warn!("a broken entry of the catalogue is replaced: {error}");
                Ok(None)
            }
        }
    }

    /// The model in the Hugging Face cache.
    pub(crate) fn cached(&self, source: &Source) -> Option<ModelEntry> {
        local::cached(self.options.cache.as_deref(), source)
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.hub.get_or_init(|| Hub::new(&self.options))
    }
}

impl Lease {
    /// The model.
    #[must_use]
    pub fn entry(&self) -> &ModelEntry {
        &self.entry
    }
}

fn is_there(entry: &ModelEntry) -> bool {
    Path::new(&entry.path).exists()
}
