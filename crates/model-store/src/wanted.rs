use crate::download::Progress;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::store::{Lease, ModelStore, Resolution};
use operations_contract::{ModelEntry, same_model};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The model that a program serves: it is here, or will be.
#[derive(Debug)]
pub struct Wanted {
    store: ModelStore,
    place: Place,
    names: Vec<String>,
}

#[derive(Debug)]
enum Place {
    /// On this machine; the lease keeps a model of the catalogue from being deleted.
    Here { entry: Box<ModelEntry>, _lease: Option<Lease> },
    /// To be downloaded.
    Away(Source),
}

impl ModelStore {
    /// The model that `given` names, to be served. Nothing goes over the network yet.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::BuiltIn`] for what ships inside a program, [`Error::Offline`] for what would have to be
    /// downloaded and may not be, and those of [`ModelStore::resolve`].
    pub fn want(&self, given: &str) -> Result<Wanted> {
        let (place, known) = match self.resolve(given)? {
            Resolution::BuiltIn(_) => return Err(Error::BuiltIn(given.to_owned())),
            Resolution::Unknown => return Err(Error::Unknown(given.to_owned())),
            Resolution::Found(entry) => {
                let names = vec![entry.id.clone(), entry.name.clone(), entry.source.clone(), entry.path.clone()];
                (Place::here(self, *entry)?, names)
            }
            Resolution::Downloadable(source) if self.is_offline() => return Err(Error::Offline(source.to_string())),
            Resolution::Downloadable(source) => {
                let names = vec![source.id(), source.name(), source.to_string()];
                (Place::Away(source), names)
            }
        };
        let known = known.into_iter().filter(|name| !same_model(name, given));
        let names = std::iter::once(given.to_owned()).chain(known).collect();
        Ok(Wanted { store: self.clone(), place, names })
    }
}

impl Wanted {
    /// The names by which requests may mean it; the first is the one that was given.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What it is, where it is here already.
    #[must_use]
    pub fn entry(&self) -> Option<&ModelEntry> {
        match &self.place {
            Place::Here { entry, .. } => Some(entry),
            Place::Away(_) => None,
        }
    }

    /// The model, which is downloaded first where it is not here; `tell` hears how far that is. It blocks, and so is for a
    /// thread outside `runtime`.
    ///
    /// # Errors
    /// Why it cannot be had; [`Error::Cancelled`] where the runtime ends before.
    pub fn obtain(&mut self, runtime: &Handle, mut tell: impl FnMut(Progress) + Send + 'static) -> Result<&ModelEntry> {
        if let Place::Away(source) = &self.place {
            tell(Progress::default());
            let (done, waiting) = oneshot::channel();
            let (store, source) = (self.store.clone(), source.clone());
            runtime.spawn(async move {
                let coming = store.download(source);
                let _ = done.send(coming.finish(tell).await);
            });
            let entry = waiting.blocking_recv().unwrap_or(Err(Error::Cancelled))?;
            self.place = Place::here(&self.store, entry)?;
        }
        self.entry().ok_or(Error::Cancelled)
    }
}

impl Place {
    fn here(store: &ModelStore, entry: ModelEntry) -> Result<Self> {
        // What lies in the Hugging Face cache and was never asked for has no entry that could be deleted.
        let lease = match store.lease(&entry.id) {
            Ok(lease) => Some(lease),
            Err(Error::NoEntry(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(Self::Here { entry: Box::new(entry), _lease: lease })
    }
}
