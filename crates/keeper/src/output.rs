//! Where pictures go: names that overwrite nothing, patterns, and files that appear whole or not at all.

use crate::failure::{Exit, Failure};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Characters of a prompt that make it into a file's name.
const STEM_CHARS: usize = 60;
/// Names that are tried until one is free.
const TRIES: u32 = 10_000;

/// Where the pictures of one job go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into this folder, under a name made of prompt and seed; nothing is overwritten.
    Folder(PathBuf),
    /// To this file, in which `{index}` and `{seed}` are replaced; a file of that name is replaced too.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

impl Output {
    /// Reads `--output`, and finds out now whether the folder takes files: not when the picture is painted.
    pub(crate) fn parse(given: Option<&Path>, count: u32) -> Result<Self, Failure> {
        let output = match given {
            None => Self::Folder(PathBuf::from(".")),
            Some(path) if path == Path::new("-") => Self::Stdout,
            Some(path) if path.is_dir() || path.to_string_lossy().ends_with(['/', '\\']) => {
                Self::Folder(path.to_path_buf())
            }
            Some(path) => Self::File(path.to_path_buf()),
        };
        match &output {
            Self::Stdout if count > 1 => {
                let message = format!("--output - takes one picture, and --count is {count}");
                return Err(Failure::new(Exit::Usage, message).hint("give a folder or a pattern like out-{index}.png"));
            }
            Self::Stdout => {}
            Self::Folder(folder) => {
                // A name that ends with a slash can mean nothing but a folder.
                if !folder.is_dir() {
                    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
                }
                check_folder(folder)?;
            }
            Self::File(path) => {
                let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
                if matches!(extension.as_deref(), Some("jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff")) {
                    let message = format!("pictures are written as PNG, and {} says otherwise", path.display());
                    return Err(Failure::new(Exit::Usage, message).hint("give a name that ends in .png"));
                }
                check_folder(parent(path))?;
            }
        }
        Ok(output)
    }

    /// Writes one picture, and returns where it lies; `None` for standard output.
    pub(crate) fn write(&self, png: &[u8], picture: &Picture<'_>) -> Result<Option<PathBuf>, Failure> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(png).and_then(|()| stdout.flush());
                written.map_err(|error| cannot_write(Path::new("standard output"), &error))?;
                Ok(None)
            }
            Self::File(pattern) => {
                let path = picture.fill(pattern);
                let temporary = temporary(parent(&path), png).map_err(|error| cannot_write(&path, &error))?;
                temporary.persist(&path).map_err(|error| cannot_write(&path, &error.error))?;
                Ok(Some(path))
            }
            Self::Folder(folder) => {
                let mut file = temporary(folder, png).map_err(|error| cannot_write(folder, &error))?;
                let stem = picture.stem();
                for number in 1..=TRIES {
                    let name = if number == 1 { format!("{stem}.png") } else { format!("{stem}-{number}.png") };
                    let path = if folder == Path::new(".") { PathBuf::from(name) } else { folder.join(name) };
                    match file.persist_noclobber(&path) {
                        Ok(_) => return Ok(Some(path)),
                        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
                        Err(error) => return Err(cannot_write(&path, &error.error)),
                    }
                }
                let message = format!("{} holds {TRIES} pictures of that name already", folder.display());
                Err(Failure::new(Exit::Failed, message).hint("name the file: --output FILE.png"))
            }
        }
    }
}

/// What a picture's name is made of.
pub(crate) struct Picture<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) seed: u64,
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl Picture<'_> {
    /// `a-beautiful-sunset-42`
    fn stem(&self) -> String {
        let mut stem = String::new();
        for word in self.prompt.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let chars = stem.chars().count() + usize::from(!stem.is_empty()) + word.chars().count();
            if chars > STEM_CHARS {
                break;
            }
            if !stem.is_empty() {
                stem.push('-');
            }
            stem.extend(word.chars().flat_map(char::to_lowercase));
        }
        // A name has at most 255 bytes nearly everywhere, and 60 characters may be 240.
        if stem.is_empty() || stem.len() > 200 {
            stem = "picture".to_owned();
        }
        format!("{stem}-{}", self.seed)
    }

    /// Several pictures need several names: where the pattern has no placeholder, the index goes before the extension.
    fn fill(&self, pattern: &Path) -> PathBuf {
        let name = pattern.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let filled = if name.contains("{index}") || name.contains("{seed}") {
            name.replace("{index}", &self.index.to_string()).replace("{seed}", &self.seed.to_string())
        } else if self.count > 1 {
            match name.rsplit_once('.') {
                Some((stem, extension)) if !stem.is_empty() => format!("{stem}-{}.{extension}", self.index),
                _ => format!("{name}-{}", self.index),
            }
        } else {
            return pattern.to_path_buf();
        };
        pattern.with_file_name(filled)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_folder(folder: &Path) -> Result<(), Failure> {
    if !folder.is_dir() {
        let message = format!("the folder {} does not exist", folder.display());
        return Err(Failure::new(Exit::Usage, message).hint(format!("make it: mkdir -p {}", folder.display())));
    }
    tempfile::Builder::new()
        .prefix(".rbee-")
        .tempfile_in(folder)
        .map(drop)
        .map_err(|error| cannot_write(folder, &error))
}

/// In the same folder, so that renaming it is one step; with the rights that a new file has, not a private one's.
fn temporary(folder: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rbee-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("cannot write to {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::StorageFull => failure.hint("make room on the disk, or choose another place with --output"),
        _ => failure.hint("choose another place with --output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(prompt: &str) -> Picture<'_> {
        Picture { prompt, seed: 42, index: 1, count: 1 }
    }

    #[test]
    fn a_name_is_made_of_prompt_and_seed() {
        let check = |prompt: &str, expected: &str| assert_eq!(picture(prompt).stem(), expected);
        check("A beautiful sunset, over mountains!", "a-beautiful-sunset-over-mountains-42");
        check("../../etc/passwd", "etc-passwd-42");
        check("", "picture-42");
        check("Über Straße", "über-straße-42");
        check(&"word ".repeat(40), &format!("{}-42", ["word"; 12].join("-")));
        check(&"界".repeat(70), "picture-42");
    }

    #[test]
    fn nothing_is_overwritten_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::parse(Some(folder.path()), 1).unwrap();
        let first = output.write(b"one", &picture("a cat")).unwrap().unwrap();
        let second = output.write(b"two", &picture("a cat")).unwrap().unwrap();
        assert_eq!(first, folder.path().join("a-cat-42.png"));
        assert_eq!(second, folder.path().join("a-cat-42-2.png"));
        assert_eq!(std::fs::read(first).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn a_named_file_is_replaced_and_several_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        let output = Output::parse(Some(&path), 1).unwrap();
        output.write(b"old", &picture("")).unwrap();
        output.write(b"new", &picture("")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");

        let several = Picture { count: 3, ..picture("") };
        assert_eq!(several.fill(&path), folder.path().join("out-1.png"));
        assert_eq!(several.fill(Path::new("{seed}_{index}.png")), Path::new("42_1.png"));
        assert_eq!(several.fill(Path::new("bare")), Path::new("bare-1"));
    }

    #[test]
    fn a_name_that_ends_with_a_slash_is_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new/");
        let output = Output::parse(Some(&new), 1).unwrap();
        assert_eq!(output.write(b"one", &picture("a cat")).unwrap(), Some(new.join("a-cat-42.png")));
    }

    #[test]
    fn what_cannot_be_written_is_told_before_anything_is_painted() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, count| Output::parse(Some(path), count).unwrap_err().to_string();
        assert!(refused(&folder.path().join("no/out.png"), 1).contains("does not exist"));
        assert!(refused(&folder.path().join("out.jpg"), 1).contains("PNG"));
        assert!(refused(Path::new("-"), 2).contains("--count is 2"));
    }
}
