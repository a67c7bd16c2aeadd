//! A conversation: every turn brings all that was said, and the worker reads only what is new.

use super::ask::queen;
use super::infer::{message, request, stream};
use crate::cli::ChatArgs;
use crate::failure::{Exit, Failure};
use crate::follow::Interrupts;
use operations_contract::{Message, Role};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};

pub(super) async fn run(args: ChatArgs) -> Result<(), Failure> {
    let client = queen(&args.client).await?;
    let mut lines = Lines::open()?;
    let mut said: Vec<Message> = args.system.into_iter().map(|system| message(Role::System, system)).collect();
    let kept = said.len();
    if let Lines::Terminal(_) = lines {
        eprintln!("/new forgets what was said, /quit or Ctrl-D ends");
    }
    loop {
        let (line, back) = tokio::task::spawn_blocking(move || {
            let line = lines.next();
            (line, lines)
        })
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read: {error}")))?;
        lines = back;
        match line?.as_deref().map(str::trim) {
            None | Some("/quit" | "/exit") => return Ok(()),
            Some("") => {}
            Some("/new") => said.truncate(kept),
            Some(text) => {
                said.push(message(Role::User, text.to_owned()));
                let turn =
                    operations_contract::InferRequest { messages: Some(said.clone()), ..request(&args.sampling) };
                // Ctrl-C ends this answer, not the conversation.
                let mut interrupts = Interrupts::catch();
                match stream(&client, turn, &mut interrupts, false, None).await {
                    Ok((_, completion)) => said.push(message(Role::Assistant, completion.text)),
                    Err(failure) => {
                        said.pop();
                        // A pipe has nobody to ask again.
                        if !matches!(lines, Lines::Terminal(_)) {
                            return Err(failure);
                        }
                        eprintln!("{failure}");
                    }
                }
            }
        }
    }
}

/// Where the lines come from: edited on a terminal, plain from a pipe.
enum Lines {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

impl Lines {
    fn open() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let editor = DefaultEditor::new()
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot read from the terminal: {error}")))?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        let cannot = |error: String| Failure::new(Exit::Failed, format!("cannot read what is said: {error}"));
        match self {
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
                Err(ReadlineError::Eof) => Ok(None),
                Err(error) => Err(cannot(error.to_string())),
            },
            Self::Pipe => {
                let mut line = String::new();
                match std::io::stdin().lock().read_line(&mut line) {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(line)),
                    Err(error) => Err(cannot(error.to_string())),
                }
            }
        }
    }
}
