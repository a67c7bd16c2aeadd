//! One on each machine: spawns and watches worker processes.
