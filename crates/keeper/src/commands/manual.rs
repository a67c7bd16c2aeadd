//! What a shell and `man` read.

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rbee", &mut script);
    write(&script)
}

/// One page for `rbee` and all its commands.
pub(super) fn page() -> Result<(), Failure> {
    let mut page = Vec::new();
    let cannot = |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot write the manual page: {error}"));
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(cannot)?;
    let mut below: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    while let Some(command) = below.pop() {
        if command.is_hide_set() {
            continue;
        }
        let title = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let mut roff = format!(".SH {}\n", title.to_uppercase()).into_bytes();
        let man = clap_mangen::Man::new(command.clone());
        man.render_description_section(&mut roff).map_err(cannot)?;
        man.render_synopsis_section(&mut roff).map_err(cannot)?;
        man.render_options_section(&mut roff).map_err(cannot)?;
        // Inside one page the sections of a command are subsections of it.
        let text = String::from_utf8_lossy(&roff).replacen(".SH DESCRIPTION", "", 1);
        page.extend(text.replace(".SH SYNOPSIS", ".SS Synopsis").replace(".SH OPTIONS", ".SS Options").into_bytes());
        below.extend(command.get_subcommands().cloned());
    }
    write(&page)
}

/// Standard output that was closed is no failure: whoever reads has seen enough.
fn write(bytes: &[u8]) -> Result<(), Failure> {
    let _ = std::io::stdout().lock().write_all(bytes);
    Ok(())
}
