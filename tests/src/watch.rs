//! The wire between the VM host and the provider, watched for what must never be on it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use lab::topology::{Proxmox, Snat};
use lab::{Capture, Frame, Packet};

/// Records everything on the uplink's wire, at the provider's end.
#[derive(Debug)]
pub struct Watch {
    capture: Capture,
    inside: [u8; 3],
}

impl Watch {
    /// Watches the uplink of scenario `proxmox`.
    ///
    /// # Errors
    /// When the capture cannot be started.
    pub fn proxmox(net: &Proxmox) -> Result<Self> {
        Ok(Self {
            capture: net.isp.capture(Proxmox::WAN)?,
            inside: [172, 22, 161],
        })
    }

    /// Watches the uplink of scenario `snat`.
    ///
    /// # Errors
    /// When the capture cannot be started.
    pub fn snat(net: &Snat) -> Result<Self> {
        Ok(Self {
            capture: net.gw.capture("wan0")?,
            inside: [1, 1, 1],
        })
    }

    /// The first packet from the VM host that fits; waits up to 3 s for it.
    ///
    /// # Errors
    /// When there is none.
    pub fn sent(&self, fits: impl Fn(&Packet) -> bool) -> Result<Packet> {
        let (_, packet) = self
            .capture
            .wait_for(|frame, packet| !frame.outgoing && fits(packet))?;
        Ok(packet)
    }

    /// Ends the recording, and judges what the VM host sent: checksums must be right, and no
    /// inside address may show, not even in a packet that an ICMP error quotes. Gives the packets
    /// that the VM host sent.
    ///
    /// # Errors
    /// When something was on the wire that must not be.
    pub fn finish(self) -> Result<Vec<(Frame, Packet)>> {
        let mut sent = Vec::new();
        let is_inside = |address: &Ipv4Addr| address.octets()[..3] == self.inside;
        for frame in self.capture.stop() {
            let Some(packet) = frame.packet() else {
                continue;
            };
            if frame.outgoing {
                continue;
            }
            frame
                .checksums()
                .with_context(|| format!("on the uplink: {packet}"))?;
            let quoted = packet.quoted().and_then(Packet::parse);
            let outer = [packet.source, packet.destination];
            let inner = quoted
                .iter()
                .flat_map(|inner| [inner.source, inner.destination]);
            if let Some(address) = outer.into_iter().chain(inner).find(is_inside) {
                bail!("inside address {address} on the uplink: {packet}");
            }
            sent.push((frame, packet));
        }
        ensure!(!sent.is_empty(), "nothing at all was sent on the uplink");
        Ok(sent)
    }
}
