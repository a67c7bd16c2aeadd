use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::EnvFilter;

/// Sends what is logged to standard error. `RBEE_LOG` says how much, as `RUST_LOG` does elsewhere (`debug`,
/// `info,worker_engine=trace`); without it `default` does. Where something has set up logging already, that stays.
pub fn init_tracing(default: &str) {
    let filter = match std::env::var("RBEE_LOG") {
        Ok(text) => EnvFilter::builder().parse_lossy(text),
        Err(_) => EnvFilter::new(default),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let _ = subscriber.with_ansi(stderr().is_terminal()).try_init();
}
