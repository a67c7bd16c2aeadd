use crate::select::Listed;
use crate::source::is_safe_path;
use std::fs;
use std::io;
use std::path::Path;

/// Deeper and more than any model.
const DEPTH: usize = 6;
const FILES: usize = 10_000;

/// The files in a folder and below it, links followed, in order. Names that are no plain text are passed over.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    walk(folder, "", 0, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Listed>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        // A link that leads nowhere is no file.
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        if about.is_dir() && depth < DEPTH {
            walk(&entry.path(), &path, depth + 1, files)?;
        } else if about.is_file() && is_safe_path(&path) {
            if files.len() == FILES {
                return Err(io::Error::other(format!("more than {FILES} files")));
            }
            files.push(Listed { path, size: about.len(), digest: None });
        }
    }
    Ok(())
}
