//! The capabilities that the daemon needs.

use std::fs;

use anyhow::{Context as _, Result, bail};

/// Capabilities with their numbers (`include/uapi/linux/capability.h`) and what needs them.
const NEEDED: &[(u32, &str, &str)] = &[
    (
        12,
        "CAP_NET_ADMIN",
        "sets up interfaces and attaches programs",
    ),
    (39, "CAP_BPF", "makes maps and loads programs"),
    (
        38,
        "CAP_PERFMON",
        "lets programs use packet pointers at full speed and read what the kernel knows about a \
         packet",
    ),
];
/// Before capabilities were split, this one included CAP_BPF and CAP_PERFMON.
const CAP_SYS_ADMIN: u32 = 21;

/// Checks that the process has the capabilities that a data plane needs.
///
/// # Errors
///
/// When one is missing; the error names it.
pub fn check() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .context("no CapEff in /proc/self/status")?;
    match missing(effective) {
        missing if missing.is_empty() => Ok(()),
        missing => bail!("natbpf needs root or {}", missing.join(", ")),
    }
}

fn missing(effective: u64) -> Vec<String> {
    let has = |number: u32| effective & (1 << number) != 0;
    NEEDED
        .iter()
        .filter(|(number, ..)| !(has(*number) || *number > 32 && has(CAP_SYS_ADMIN)))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_misses_nothing() {
        assert!(missing(u64::MAX).is_empty());
    }

    #[test]
    fn sys_admin_includes_the_newer_capabilities() {
        assert!(missing(1 << 12 | 1 << CAP_SYS_ADMIN).is_empty());
    }

    #[test]
    fn a_missing_capability_is_named() {
        let missing = missing(1 << 12 | 1 << 39);
        assert_eq!(missing.len(), 1);
        assert!(missing[0].starts_with("CAP_PERFMON"));
    }
}
