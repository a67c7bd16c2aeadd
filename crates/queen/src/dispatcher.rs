use crate::queue::{Candidate, Place, Queue, Turn, Want};
use operations_contract::Priority;
use rbee_hive::{Hive, InUse, Model, WorkerHandle};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// Brings those who wait and the workers together: [`Queue`] behind a lock, with wake-ups.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    hive: Hive,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    tickets: HashMap<Place, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    grant: oneshot::Sender<Grant>,
    position: watch::Sender<u64>,
}

/// Whose turn it is gets one of these.
#[derive(Debug)]
pub(crate) enum Grant {
    /// A worker, alone, until the lease is dropped.
    Worker(Lease),
    /// The right to start a worker for the model.
    Start(StartPermit),
    /// The worker that was asked for has ended.
    Gone,
}

/// A worker that nobody else is given.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) worker: WorkerHandle,
    _in_use: InUse,
    dispatcher: Arc<Dispatcher>,
}

/// While it lives, nobody else starts a worker for the model.
#[derive(Debug)]
pub(crate) struct StartPermit {
    model: Model,
    dispatcher: Arc<Dispatcher>,
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    place: Place,
    grant: oneshot::Receiver<Grant>,
    position: watch::Receiver<u64>,
    dispatcher: Arc<Dispatcher>,
}

impl Dispatcher {
    pub(crate) fn new(hive: Hive) -> Arc<Self> {
        let dispatcher = Arc::new(Self { hive, state: Mutex::default() });
        let mut changes = dispatcher.hive.changes();
        let weak = Arc::downgrade(&dispatcher);
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(dispatcher) = weak.upgrade() else { return };
                dispatcher.assign();
            }
        });
        dispatcher
    }

    pub(crate) fn place(&self, priority: Priority) -> Place {
        self.state().queue.place(priority)
    }

    /// Stands in line; the first position is known at once.
    pub(crate) fn wait(self: &Arc<Self>, place: Place, want: Want) -> Ticket {
        let (grant, granted) = oneshot::channel();
        let (position, positions) = watch::channel(1);
        {
            let mut state = self.state();
            state.queue.wait(place, want);
            state.tickets.insert(place, Waiter { grant, position });
        }
        self.assign();
        Ticket { place, grant: granted, position: positions, dispatcher: self.clone() }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// Gives out what is free. What nobody takes any more comes back by being dropped, which must not happen under
    /// the lock.
    fn assign(self: &Arc<Self>) {
        let workers = self.hive.ready_workers();
        let granted: Vec<(Waiter, Grant)> = {
            let mut state = self.state();
            let candidates: Vec<Candidate<'_>> =
                workers.iter().map(|worker| Candidate { id: worker.id(), model: worker.model() }).collect();
            let turns = state.queue.assign(&candidates);
            let granted = turns.into_iter().filter_map(|(place, turn)| {
                let waiter = state.tickets.remove(&place)?;
                Some((waiter, turn))
            });
            let granted: Vec<(Waiter, Turn)> = granted.collect();
            for (place, position) in state.queue.positions() {
                if let Some(waiter) = state.tickets.get(&place) {
                    waiter.position.send_if_modified(|known| std::mem::replace(known, position) != position);
                }
            }
            granted.into_iter().map(|(waiter, turn)| (waiter, self.grant(turn, &workers))).collect()
        };
        for (waiter, grant) in granted {
            drop(waiter.grant.send(grant));
        }
    }

    fn grant(self: &Arc<Self>, turn: Turn, workers: &[WorkerHandle]) -> Grant {
        match turn {
            Turn::Worker(id) => match workers.iter().find(|worker| worker.id() == id) {
                Some(worker) => Grant::Worker(self.lease(worker.clone())),
                None => Grant::Gone,
            },
            Turn::Start(model) => Grant::Start(StartPermit { model, dispatcher: self.clone() }),
            Turn::Gone => Grant::Gone,
        }
    }

    fn lease(self: &Arc<Self>, worker: WorkerHandle) -> Lease {
        Lease { _in_use: worker.in_use(), worker, dispatcher: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The place in line now: 1 is the next one.
    pub(crate) fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits for the turn, and tells every new position to `moved`. `None` only when the dispatcher is gone.
    pub(crate) async fn turn(&mut self, mut moved: impl FnMut(u64)) -> Option<Grant> {
        loop {
            tokio::select! {
                biased;
                grant = &mut self.grant => return grant.ok(),
                Ok(()) = self.position.changed() => moved(*self.position.borrow_and_update()),
            }
        }
    }
}

impl StartPermit {
    /// The worker that was started belongs to the one who started it, unless another was quicker.
    pub(crate) fn into_lease(self, worker: WorkerHandle) -> Option<Lease> {
        let taken = self.dispatcher.state().queue.take(worker.id());
        taken.then(|| self.dispatcher.lease(worker))
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.dispatcher.state().queue.free(self.worker.id());
        self.dispatcher.assign();
    }
}

impl Drop for StartPermit {
    fn drop(&mut self) {
        self.dispatcher.state().queue.started(&self.model);
        self.dispatcher.assign();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        {
            let mut state = self.dispatcher.state();
            state.queue.leave(self.place);
            state.tickets.remove(&self.place);
        }
        // Those behind move up.
        self.dispatcher.assign();
    }
}
