//! The one API that clients talk to: admits jobs, routes them, streams their events.
