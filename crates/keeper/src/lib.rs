//! The command line of rbee.
//!
//! [`main`] is the whole program: it parses, connects to a queen (and starts one where none answers), and draws what
//! she tells. Standard output is for results alone; what people want to know besides goes to standard error.

mod cli;
mod commands;
mod daemon;
mod events;
mod failure;
mod follow;
mod output;
mod print;
mod progress;
mod show;

use clap::Parser;
use cli::Cli;
use failure::{Exit, Failure};
use std::process::ExitCode;

/// The program `rbee`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.wants_json();
    daemon::detach_if_asked();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::new(Exit::Failed, format!("cannot start: {error}")), json),
    };
    let result = runtime.block_on(commands::run(cli));
    // A blocked thread (a prompt that is read from a terminal) is no reason to stay.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, json),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if json && !failure.told {
        // Standard output may be what is broken.
        let _ = print::json(&failure.to_json());
    }
    match failure.exit {
        Exit::Interrupted => eprintln!("{failure}"),
        Exit::Failed | Exit::Usage | Exit::Unavailable => eprintln!("error: {failure}"),
    }
    ExitCode::from(failure.exit as u8)
}
