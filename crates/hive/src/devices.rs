//! What this machine computes with: what there is, and what of it is free.

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

/// A device that workers can compute on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// `cpu`, `cuda` or `metal`.
    pub kind: &'static str,
    /// Which of that kind, as `--device` counts.
    pub index: u32,
    /// What its maker calls it.
    pub name: String,
    /// Bytes of memory that it has, or that this process may use of it.
    pub memory_total_bytes: u64,
    /// Bytes of memory that are free now.
    pub memory_free_bytes: u64,
    /// Processors that this process may use; of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<usize>,
    /// The newest vector instructions that kernels find on it; of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'static str>,
}

/// Memory that processes can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// Every device of this machine, the CPU first.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![cpu()];
    devices.extend(cuda());
    devices.extend(metal());
    devices
}

/// What the machine has, within the limits of the control group that this process is in (a container, a service).
pub(crate) fn memory() -> Memory {
    // Where the system tells nothing, nothing is refused for want of memory.
    let Ok(mut system) = System::new() else { return Memory { total: u64::MAX, free: u64::MAX } };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let whole = Memory { total: system.total_memory(), free: system.available_memory() };
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 => Memory {
            total: whole.total.min(limits.total_memory),
            free: whole.free.min(limits.total_memory.saturating_sub(limits.rss)),
        },
        _ => whole,
    }
}

fn cpu() -> Device {
    let brand = || {
        let mut system = System::new().ok()?;
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).filter(|name| !name.is_empty())
    };
    let memory = memory();
    Device {
        kind: "cpu",
        index: 0,
        name: brand().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory_total_bytes: memory.total,
        memory_free_bytes: memory.free,
        cores: Some(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        instructions: Some(instructions()),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "avx512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "avx2"
    } else {
        "sse2"
    }
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> &'static str {
    "neon"
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instructions() -> &'static str {
    "scalar"
}

/// The driver's own library is looked for at run time; a machine without it has no such device.
fn cuda() -> Vec<Device> {
    use nvml_wrapper::Nvml;
    let Ok(nvml) = Nvml::init() else { return Vec::new() };
    let count = nvml.device_count().unwrap_or(0);
    let device = |index| {
        let device = nvml.device_by_index(index).ok()?;
        let memory = device.memory_info().ok()?;
        Some(Device {
            kind: "cuda",
            index,
            name: device.name().unwrap_or_else(|_| "NVIDIA".to_owned()),
            memory_total_bytes: memory.total,
            memory_free_bytes: memory.free,
            cores: None,
            instructions: None,
        })
    };
    (0..count).filter_map(device).collect()
}

/// The GPU of an Apple chip shares the machine's memory.
#[cfg(target_os = "macos")]
fn metal() -> Option<Device> {
    (cfg!(target_arch = "aarch64")).then(|| Device { kind: "metal", cores: None, instructions: None, ..cpu() })
}

#[cfg(not(target_os = "macos"))]
fn metal() -> Option<Device> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_cpu_with_memory() {
        let devices = devices();
        assert_eq!((devices[0].kind, devices[0].index), ("cpu", 0));
        assert!(devices[0].cores.is_some_and(|cores| cores > 0));
        assert!(devices[0].memory_total_bytes > 1 << 28);
        assert!(devices[0].memory_free_bytes <= devices[0].memory_total_bytes);
    }
}
