//! The manual as it is printed: a change of a flag is a change of these pages.

use super::Cli;
use clap::CommandFactory;

fn help(path: &[&str]) -> String {
    // The same width and values wherever the tests run.
    let mut command = Cli::command().term_width(100);
    command.build();
    let found = path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).expect("it exists"));
    let found = found.clone().mut_args(|argument| argument.hide_env_values(true));
    let mut found = found.term_width(100);
    let text = found.render_help().to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_of_rbee() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn help_of_image_generate() {
    insta::assert_snapshot!(help(&["image", "generate"]));
}

#[test]
fn help_of_image_inpaint() {
    insta::assert_snapshot!(help(&["image", "inpaint"]));
}

#[test]
fn help_of_job() {
    insta::assert_snapshot!(help(&["job"]));
}

#[test]
fn help_of_queen() {
    insta::assert_snapshot!(help(&["queen"]));
}

#[test]
fn every_flag_of_a_daemon_reads_a_variable_of_its_name() {
    for path in [&["queen"][..], &["hive"], &["worker", "sd"]] {
        let command = Cli::command();
        let command = path.iter().fold(&command, |command, name| command.find_subcommand(name).expect("it exists"));
        for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let long = argument.get_long().unwrap_or_default();
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(format!("RBEE_{}", long.replace('-', "_").to_uppercase())), "{path:?} --{long}");
        }
    }
}
