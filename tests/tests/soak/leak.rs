//! The provider's wire, on which no inside address may show.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use lab::RawSocket;
use lab::topology::Proxmox;

/// The guests' prefix.
const INSIDE: [u8; 3] = [172, 22, 161];
/// Offsets in an Ethernet frame: its type, the addresses of IPv4 and those of ARP.
const TYPE: u32 = 12;
const IPV4: (u32, [u32; 2]) = (0x0800, [26, 30]);
const ARP: (u32, [u32; 2]) = (0x0806, [28, 38]);

/// Receives frames with an inside address, and no others, however long it lasts.
#[derive(Debug)]
pub(crate) struct LeakWatch(RawSocket);

impl LeakWatch {
    pub(crate) fn start(net: &Proxmox) -> Result<Self> {
        let socket = net.isp.listen(Proxmox::WAN)?;
        socket.keep_only(&program())?;
        // What came before the filter did.
        while socket.receive()?.is_some() {}
        Ok(Self(socket))
    }

    /// Nothing was seen since it was last asked.
    pub(crate) fn is_clean(&self) -> Result<()> {
        // An interface that went down is reported once, and has shown nothing.
        let frame = match self.0.receive() {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame,
            Err(_) => return self.is_clean(),
        };
        match frame.packet() {
            Some(packet) => bail!("an inside address on the provider's wire: {packet}"),
            None => bail!(
                "an inside address on the provider's wire: {:02x?}",
                frame.bytes
            ),
        }
    }
}

/// Everything for frames with an inside address in their header, nothing for others.
fn program() -> Vec<libc::sock_filter> {
    let prefix = u32::from(Ipv4Addr::new(INSIDE[0], INSIDE[1], INSIDE[2], 0));
    let mut program = Vec::new();
    for (kind, addresses) in [IPV4, ARP] {
        program.push(instruction(
            libc::BPF_LD | libc::BPF_H | libc::BPF_ABS,
            TYPE,
            0,
        ));
        // Of another type: past both addresses.
        let skipped = 4 * addresses.len() as u8;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ, kind, skipped));
        for at in addresses {
            program.extend([
                instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0),
                instruction(libc::BPF_ALU | libc::BPF_AND, 0xffff_ff00, 0),
                instruction(libc::BPF_JMP | libc::BPF_JEQ, prefix, 1),
                instruction(libc::BPF_RET, u32::MAX, 0),
            ]);
        }
    }
    program.push(instruction(libc::BPF_RET, 0, 0));
    program
}

/// One instruction; a jump continues if it holds, and skips `otherwise` instructions if not.
fn instruction(code: u32, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: otherwise,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::kit::craft::Ip;

    #[test]
    fn an_inside_address_on_the_providers_wire_is_found() -> Result<()> {
        let net = Proxmox::new()?;
        let (leaks, wire) = (LeakWatch::start(&net)?, net.host.raw(net.wire)?);
        let send = |kind: u16, packet: &[u8]| {
            wire.send(&[&[0xff; 6][..], &[2; 6], &kind.to_be_bytes(), packet].concat())
        };
        let arp = |sender: Ipv4Addr, target: Ipv4Addr| -> Vec<u8> {
            let (head, macs) = ([0, 1, 8, 0, 6, 4, 0, 1], [0; 6]);
            let [sender, target] = [sender.octets(), target.octets()];
            [&head[..], &macs, &sender, &macs, &target].concat()
        };
        let (inside, outside) = (Proxmox::VM1, Proxmox::CLI);
        let udp = |from, to| Ip::new(from, to).udp(1, 2, b"leak");
        send(0x0800, &udp(Proxmox::PUBLIC, outside)?)?;
        send(0x0806, &arp(Proxmox::PUBLIC, Proxmox::ISP))?;
        leaks.is_clean()?;
        for (kind, packet) in [
            (0x0800, udp(inside, outside)?),
            (0x0800, udp(outside, inside)?),
            (0x0806, arp(inside, Proxmox::ISP)),
            (0x0806, arp(Proxmox::ISP, inside)),
        ] {
            send(kind, &packet)?;
            anyhow::ensure!(leaks.is_clean().is_err(), "{packet:02x?} went unseen");
        }
        Ok(())
    }
}
