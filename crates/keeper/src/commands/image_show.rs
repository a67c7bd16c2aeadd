use crate::cli::ShowArgs;
use crate::failure::{Exit, Failure};
use crate::print;
use crate::show::Terminal;
use serde_json::json;

pub(super) fn run(args: &ShowArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let bytes = std::fs::read(&args.file)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read {shown}: {error}")))?;
    let parameters = sd_worker_rbee::png_info::parameters(&bytes);
    if args.json {
        return print::json(&json!({ "file": args.file, "parameters": parameters }));
    }
    if args.show {
        match Terminal::detect() {
            Some(terminal) => terminal
                .draw(&bytes, &mut std::io::stdout().lock())
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
            None => eprintln!("this terminal cannot draw pictures (kitty, iTerm2 and sixel can)"),
        }
    }
    match parameters {
        Some(parameters) => print::line(printable(&parameters)),
        None => Err(Failure::new(Exit::Failed, format!("{shown} does not say how it was painted"))
            .hint("only pictures with a text chunk \"parameters\" do: rbee's, and those of AUTOMATIC1111's web UI")),
    }
}

/// A file from elsewhere may hold what would move the cursor or worse.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() && char != '\n' && char != '\t' { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_command_the_terminal_is_replaced() {
        assert_eq!(printable("a cat\n\tSteps: 20\x1b[2J\x07"), "a cat\n\tSteps: 20\u{fffd}[2J\u{fffd}");
    }
}
