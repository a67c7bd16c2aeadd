//! The program `rbee`.

use std::process::ExitCode;

fn main() -> ExitCode {
    rbee_keeper::main()
}
