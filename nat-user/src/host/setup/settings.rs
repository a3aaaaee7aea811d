//! The settings of the kernel that a plan relies on.

use anyhow::Result;
use nat_sys::sysctl::Key;

use super::plan::Plan;
use crate::host::change::Change;

/// The settings of the kernel that a plan relies on, each with the value that it needs, as far as
/// the kernel does not report their changes. `made` is what natbpf did to the host.
///
/// # Errors
/// When the name of an interface cannot be the name of a file.
pub fn settings(plan: &Plan, made: &[Change]) -> Result<Vec<(Key, &'static str)>> {
    let mut settings = vec![
        (Key::ip_forward()?, "1"),
        (Key::ipv4_conf("all", "send_redirects")?, "0"),
    ];
    if plan.has_ipv6 {
        settings.push((Key::ipv6_conf("all", "forwarding")?, "1"));
        for uplink in &plan.uplinks {
            let key = Key::ipv6_conf(&uplink.interface, "accept_ra")?;
            let is_ours =
                |change: &Change| matches!(change, Change::Sysctl { key: set, .. } if *set == key);
            if made.iter().any(is_ours) {
                settings.push((key, "2"));
            }
        }
    }
    if plan.has_fast_path {
        settings.extend(tracking()?.map(|key| (key, "1")));
    }
    for network in &plan.networks {
        let key = Key::ipv4_conf(&network.interface, "send_redirects")?;
        settings.push((key, "0"));
    }
    Ok(settings)
}

/// Settings of connection tracking, where it is in use: it must accept packets whose sequence
/// numbers it has missed.
pub(super) fn tracking() -> Result<[Key; 2]> {
    let key = |setting| Key::new(&["net", "netfilter", setting]);
    Ok([
        key("nf_conntrack_tcp_be_liberal")?,
        // From Linux 5.14 on.
        key("nf_conntrack_tcp_ignore_invalid_rst")?,
    ])
}
