//! The jobs of one process: registry, event log, the /v1/jobs routes, Server-Sent Events with replay.
