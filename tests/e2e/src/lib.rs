//! Real processes over real sockets: what the tests in `tests/` share.
