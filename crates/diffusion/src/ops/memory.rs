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

/// Bytes that could still be had: the machine's, or fewer where a control group has a limit.
pub(crate) fn available() -> Option<u64> {
    let machine = meminfo(&read_to_string("/proc/meminfo").ok()?)?;
    let group = read_to_string("/proc/self/cgroup").ok().and_then(|text| control_group(&text));
    Some(group.map_or(machine, |group| machine.min(group)))
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the nearest limits of control groups (version 2) above this process leave; pages of files count as free.
fn control_group(text: &str) -> Option<u64> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let number = |path: &Path, file: &str| read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok();
    let left = |path: &Path| {
        let files = read_to_string(path.join("memory.stat")).ok()?;
        let files = files.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>().ok()?;
        Some((number(path, "memory.max")? + files).saturating_sub(number(path, "memory.current")?))
    };
    root.join(own).ancestors().take_while(|path| path.starts_with(root)).filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        assert_eq!(meminfo("MemTotal: 10 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(meminfo("MemTotal: 10 kB\n"), None);
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
