//! What the system could still give: asked before large allocations, because Linux promises memory that it does not have
//! and later kills the process that believed it.

use std::fs::read_to_string;
use std::path::Path;

use crate::{Error, Result};

/// Left to the rest of the machine.
const RESERVE: u64 = 128 << 20;

/// Refuses what does not fit, before it is allocated.
///
/// # Errors
/// [`Error::OutOfMemory`] with both numbers. Where the system does not tell how much there is, nothing is refused.
pub(crate) fn ensure(needed: u64) -> Result<()> {
    match available() {
        Some(available) if needed > available.saturating_sub(RESERVE) => Err(Error::OutOfMemory { needed, available }),
        _ => Ok(()),
    }
}

/// Bytes that this process can hold in all: what it holds, and what could still be had.
pub(crate) fn obtainable() -> Option<u64> {
    let resident = meminfo(&read_to_string("/proc/self/status").ok()?, "VmRSS:")?;
    Some(resident + available()?.saturating_sub(RESERVE))
}

/// Bytes that could still be had: the machine's, or fewer where a control group has a limit.
pub(crate) fn available() -> Option<u64> {
    let machine = meminfo(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let group = read_to_string("/proc/self/cgroup").ok().and_then(|text| control_group(&text));
    Some(group.map_or(machine, |group| machine.min(group)))
}

/// Bytes that the machine has.
pub(crate) fn total() -> Option<u64> {
    meminfo(&read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the nearest limits of control groups above this process leave; pages of files count as free.
fn control_group(text: &str) -> Option<u64> {
    let fields = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let left = fields.filter_map(|(controllers, own)| match controllers {
        "" => left(Path::new("/sys/fs/cgroup"), own, ["memory.max", "memory.current", "inactive_file "]),
        _ if controllers.split(',').any(|name| name == "memory") => left(
            Path::new("/sys/fs/cgroup/memory"),
            own,
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "],
        ),
        _ => None,
    });
    left.min()
}

/// The files are those of a limit and of what is used, then the field of `memory.stat`: version 2 and 1 call them differently.
fn left(root: &Path, own: &str, [limit, used, inactive]: [&str; 3]) -> Option<u64> {
    let number = |path: &Path, file: &str| read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok();
    let left = |path: &Path| {
        let files = read_to_string(path.join("memory.stat")).ok()?;
        let files = files.lines().find_map(|line| line.strip_prefix(inactive))?.trim().parse::<u64>().ok()?;
        Some(number(path, limit)?.saturating_add(files).saturating_sub(number(path, used)?))
    };
    let own = root.join(own.trim_start_matches('/'));
    own.ancestors().take_while(|path| path.starts_with(root)).filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        assert_eq!(meminfo("MemTotal: 10 kB\nMemAvailable:    2048 kB\n", "MemAvailable:"), Some(2 << 20));
        assert_eq!(meminfo("MemTotal: 10 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn the_tightest_limit_above_a_control_group_counts_less_what_is_used_there() {
        let root = tempfile::tempdir().unwrap();
        let write = |folder: &str, limit: &str| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("memory.max"), limit).unwrap();
            std::fs::write(folder.join("memory.current"), "700\n").unwrap();
            std::fs::write(folder.join("memory.stat"), "active_file 5\ninactive_file 50\n").unwrap();
        };
        write("above", "1000\n");
        write("above/own", "max\n");
        let files = ["memory.max", "memory.current", "inactive_file "];
        assert_eq!(left(root.path(), "/above/own", files), Some(350));
        write("above/own", "800\n");
        assert_eq!(left(root.path(), "/above/own", files), Some(150));
        assert_eq!(left(root.path(), "/elsewhere", files), None);
    }

    #[test]
    fn what_no_machine_has_is_refused_with_both_numbers() {
        if available().is_none() {
            return;
        }
        assert!(
            matches!(ensure(1 << 60), Err(Error::OutOfMemory { needed, available }) if needed == 1 << 60 && available > 0)
        );
        assert!(ensure(0).is_ok());
    }
}
