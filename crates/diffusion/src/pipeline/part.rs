//! A network that is in memory, or, with little memory, only while it is used.

use crate::Result;

type Loader<T> = Box<dyn Fn() -> Result<T> + Send>;

/// One network of a model. It is loaded when it is first asked for.
pub(super) struct Part<T> {
    loader: Loader<T>,
    value: Option<T>,
    keep: bool,
}

impl<T> Part<T> {
    /// `keep`: stays in memory after [`Part::release`].
    pub(super) fn new(keep: bool, loader: impl Fn() -> Result<T> + Send + 'static) -> Self {
        Self { loader: Box::new(loader), value: None, keep }
    }

    /// The network, loaded now if it is not in memory.
    pub(super) fn get(&mut self) -> Result<&T> {
        if self.value.is_none() {
            self.value = Some((self.loader)()?);
        }
        Ok(self.value.as_ref().expect("was set above"))
    }

    /// Says that the network is not needed for a while.
    pub(super) fn release(&mut self) {
        if !self.keep {
            self.value = None;
        }
    }
}
