use crate::HiveError;
use broker::WorkKind;
use operations_contract::WorkerKind;
use std::path::{Path, PathBuf};

/// How a worker process is started: a program and what comes before the worker's own flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProgram {
    /// The executable.
    pub program: PathBuf,
    /// `worker sd`, where the executable is `rbee` itself.
    pub arguments: Vec<String>,
}

/// Where a hive looks for programs.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// This executable is an image worker for the CPU itself, when it is started with these arguments.
    pub own_sd_cpu: Option<Vec<String>>,
}

impl Programs {
    /// The worker that serves this kind of work on this kind of device.
    ///
    /// # Errors
    /// [`HiveError::NoProgram`] with how to get it.
    pub fn worker(&self, serves: WorkKind, kind: WorkerKind) -> Result<WorkerProgram, HiveError> {
        match serves {
            WorkKind::Infer => Self::llm_worker(kind),
            WorkKind::Image | WorkKind::Hive => self.sd_worker(kind),
        }
    }

    /// The language worker needs a C++ build and so is a program of its own.
    fn llm_worker(kind: WorkerKind) -> Result<WorkerProgram, HiveError> {
        let how = match kind {
            WorkerKind::Cpu => "build it: cargo build --release -p llm-worker-rbee --features cpu",
            WorkerKind::Cuda => "build it: cargo build --release -p llm-worker-rbee --features cuda",
            WorkerKind::Metal => "build it: cargo build --release -p llm-worker-rbee --features metal",
        };
        find_program(&format!("llm-worker-{}", kind.as_str()), how)
    }

    /// The image worker for a kind of device.
    ///
    /// # Errors
    /// [`HiveError::NoProgram`] with how to get it.
    pub fn sd_worker(&self, kind: WorkerKind) -> Result<WorkerProgram, HiveError> {
        if let (WorkerKind::Cpu, Some(arguments)) = (kind, &self.own_sd_cpu)
            && let Ok(program) = own_executable()
        {
            return Ok(WorkerProgram { program, arguments: arguments.clone() });
        }
        let how = match kind {
            WorkerKind::Cpu => "build it: cargo build --release --bin sd-worker-cpu",
            WorkerKind::Cuda => "build it: cargo build --release --bin sd-worker-cuda --features cuda",
            WorkerKind::Metal => "build it: cargo build --release --bin sd-worker-metal --features metal",
        };
        find_program(&format!("sd-worker-{}", kind.as_str()), how)
    }
}

/// Finds an executable beside our own one, or on `PATH`.
///
/// # Errors
/// [`HiveError::NoProgram`], with `how` to get it.
pub fn find_program(name: &str, how: &'static str) -> Result<WorkerProgram, HiveError> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let own = own_executable().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new(".")).to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(beside.clone())
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(&file))
        .find(|candidate| is_executable(candidate));
    match found {
        Some(program) => Ok(WorkerProgram { program, arguments: Vec::new() }),
        None => Err(HiveError::NoProgram { program: name.to_owned(), beside, how }),
    }
}

/// The program that runs now. Linux adds " (deleted)" to the path of one that was replaced while it ran, as an upgrade
/// does; the one that lies there now is meant.
///
/// # Errors
/// The system does not tell.
pub fn own_executable() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    match own.to_str().and_then(|own| own.strip_suffix(" (deleted)")) {
        Some(replaced) => Ok(PathBuf::from(replaced)),
        None => Ok(own),
    }
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_how_to_get() {
        let error = Programs::default().sd_worker(WorkerKind::Metal).unwrap_err().to_string();
        assert!(error.contains("sd-worker-metal"), "{error}");
        assert!(error.contains("--features metal"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn programs_on_the_path_are_found() {
        assert!(find_program("sh", "").unwrap().program.is_absolute());
    }
}
