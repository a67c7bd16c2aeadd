//! What every worker shares: request queue, generation engine, ready callback.
