//! Bridges that natbpf creates.

use std::{fs::File, io::Read as _};

use anyhow::{Context as _, Result};
use nat_sys::netlink::Netlink;

use crate::host::{change::Change, journal::Journal};

/// Creates a bridge, and nothing else of a plan, when no daemon runs: the next daemon treats it as
/// its own.
///
/// # Errors
/// When the kernel refuses or the journal cannot be written.
pub(in crate::host) async fn make_bridge(
    netlink: &Netlink,
    journal: &mut Journal,
    name: &str,
) -> Result<()> {
    let mut bridge = Change::Bridge {
        name: name.to_owned(),
        mac: random_mac()?,
        ifindex: None,
        nat64: false,
    };
    journal.record(bridge.clone());
    journal.save()?;
    bridge.make(netlink).await?;
    journal.record(bridge);
    journal.save()
}

/// A unicast address of the locally administered kind (IEEE 802-2014 section 8.4).
pub(super) fn random_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut mac))
        .context("read /dev/urandom")?;
    mac[0] = (mac[0] & !0x01) | 0x02;
    Ok(mac)
}
