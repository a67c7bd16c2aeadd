/// Ends this process when its parent, which is to be `parent`, has gone.
///
/// Linux does so at once: its parent-death signal comes when the thread ends that started the worker, and a hive starts
/// its workers from one that lives as long as itself. It is asked for before the parent is looked at, so that one which
/// died in between is noticed too. Elsewhere a worker outlives its hive for half a second.
///
/// # Errors
/// The system gives no thread.
#[cfg(unix)]
pub fn die_with_parent(parent: u32) -> std::io::Result<()> {
    use std::os::unix::process::parent_id;
    use std::time::Duration;

    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        tracing::warn!("the end of this worker's hive is noticed half a second late: {error}");
    }
    let watch = move || {
        while parent_id() == parent {
            std::thread::sleep(Duration::from_millis(500));
        }
        tracing::warn!("the process {parent} that started this worker is gone, and so goes the worker");
        std::process::exit(0);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch).map(drop)
}

/// Elsewhere processes have no parent that could be watched.
#[cfg(not(unix))]
pub fn die_with_parent(_parent: u32) -> std::io::Result<()> {
    Ok(())
}
