//! Operations whose answer is a result: asked, followed, drawn.

use crate::cli;
use crate::daemon;
use crate::failure::{Exit, Failure};
use crate::follow::{Interrupts, Manner, follow};
use crate::progress::Progress;
use job_server::client::Client;
use operations_contract::{Completion, Operation};
use serde_json::Value;
use std::io::Read;

/// The queen of this machine, started where none answers, or the one that is named.
pub(super) async fn queen(args: &cli::Client) -> Result<Client, Failure> {
    daemon::connect(args, &|text| eprintln!("{text}")).await
}

/// The queen that runs; none is started only to be told that she knows nothing.
pub(super) async fn running_queen(args: &cli::Client) -> Result<Client, Failure> {
    daemon::existing(args)
        .await?
        .ok_or_else(|| Failure::new(Exit::Unavailable, "no queen runs on this machine").hint("start one: rbee up"))
}

/// Runs an operation to its end and gives its result. Ctrl-C cancels it; `quiet` draws nothing on the way.
pub(super) async fn result(client: &Client, operation: Operation, quiet: bool) -> Result<Value, Failure> {
    let mut interrupts = Interrupts::catch();
    let mut progress = Progress::new(quiet, 1);
    let operation = operation.validate()?;
    let completion = async {
        let job_id = client.create_job(&operation).await?.job_id;
        let manner = Manner { cancel_on_interrupt: true, prints_events: false };
        follow(client, &job_id, &mut interrupts, &mut progress, manner, |_, _, _| Ok(())).await
    }
    .await;
    progress.clear();
    match completion? {
        Completion::Result { result } => Ok(result),
        Completion::Image(_) | Completion::Text(_) => {
            Err(Failure::new(Exit::Failed, format!("{} was answered with something else", client.url())))
        }
    }
}

/// The prompt as argument or flag; `-` as the argument reads it from standard input.
pub(super) fn prompt(argument: Option<&str>, flag: Option<&str>) -> Result<String, Failure> {
    if argument != Some("-") {
        return Ok(argument.or(flag).unwrap_or_default().to_owned());
    }
    let mut text = String::new();
    // One byte more than is allowed is enough to know.
    let most = operations_contract::PROMPT_BYTES as u64 + 1;
    std::io::stdin()
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read the prompt from standard input: {error}")))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// What stands in a cell of a table: text as it is, nothing for what is absent.
pub(super) fn cell(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The array under `key`, or nothing.
pub(super) fn rows<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        assert_eq!([0, 1023, 1024, 1_600_000_000].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
    }

    #[test]
    fn absent_cells_are_empty() {
        let row = json!({"name": "x", "pid": 7, "log": null});
        assert_eq!(["name", "pid", "log", "url"].map(|key| cell(&row, key)), ["x", "7", "", ""]);
    }
}
