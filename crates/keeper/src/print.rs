//! Standard output: what other programs read.

use crate::failure::{Exit, Failure};
use std::io::Write;

/// Prints one line. Standard output that was closed (`rbee … | head`) ends the command, not by a panic.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_ref().as_bytes()).and_then(|()| stdout.write_all(b"\n"));
    written
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write to standard output: {error}")))
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?)
}

/// Columns as wide as what is in them, two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let format = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = format(&mut header.iter().copied());
    let body = rows.iter().map(|row| format(&mut row.iter().map(String::as_str)));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["job-1".to_owned(), "running".to_owned()], vec!["j".to_owned(), String::new()]];
        assert_eq!(table(&["JOB", "STATE"], &rows), "JOB    STATE\njob-1  running\nj");
    }
}
