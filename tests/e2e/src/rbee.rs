//! The program `rbee`, built again for the tests beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    rbee_keeper::main()
}
