/// Ends this process when its parent, which is to be `parent`, has gone: a worker outlives its hive for half a second.
///
/// Asking who the parent is works on every Unix. Linux' parent-death signal would come at once, but also when only the
/// thread ends that started the worker, which in an asynchronous hive is any thread of a pool.
#[cfg(unix)]
pub fn die_with_parent(parent: u32) -> std::io::Result<()> {
    use std::os::unix::process::parent_id;
    use std::time::Duration;

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
