//! Unsolicited neighbour advertisements on an uplink: this host has an IPv6 address (RFC 4861
//! section 7.2.6).

use std::{
    io, mem,
    net::Ipv6Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Length of the headers of Ethernet and IPv6, and of an advertisement with one option, in bytes.
const FRAME: usize = 14 + 40 + 32;
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// The sender forwards, and its Ethernet address replaces another one (section 4.4). Nobody has
/// asked.
const FLAGS: u8 = 0x80 | 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// All nodes of the link (RFC 4291 section 2.7.1), and their Ethernet address (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A socket for advertisements on one interface. It receives nothing.
#[derive(Debug)]
pub struct Advertiser {
    socket: OwnedFd,
    ifindex: u32,
    mac: [u8; 6],
}

impl Advertiser {
    /// Opens a socket for an interface with this Ethernet address, in the calling thread's network
    /// namespace. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(ifindex: u32, mac: [u8; 6]) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed. Protocol 0: nothing is received.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            socket,
            ifindex,
            mac,
        })
    }

    /// Whether it is for an interface of that index and Ethernet address.
    #[must_use]
    pub fn is_for(&self, ifindex: u32, mac: [u8; 6]) -> bool {
        (self.ifindex, self.mac) == (ifindex, mac)
    }

    /// Announces to all nodes of the link that an address is at this host.
    ///
    /// # Errors
    /// When the frame cannot be sent.
    pub fn announce(&self, address: Ipv6Addr) -> io::Result<()> {
        let frame = frame(self.mac, address);
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IPV6 as u16).to_be(),
            sll_ifindex: self.ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = mem::size_of_val(&to) as libc::socklen_t;
        // SAFETY: the frame is a live array of that length, which is only read; the address is a
        // `sockaddr_ll` of that length and outlives the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        match sent < 0 {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }
}

/// An advertisement whose source is the address itself: some providers drop those of link-local
/// ones.
fn frame(mac: [u8; 6], address: Ipv6Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let (header, message) = frame[14..].split_at_mut(40);
    header[0] = 0x60;
    header[5] = message.len() as u8;
    header[6] = ICMPV6;
    header[7] = 255;
    header[8..24].copy_from_slice(&address.octets());
    header[24..].copy_from_slice(&ALL_NODES.octets());
    message[0] = ADVERTISEMENT;
    message[4] = FLAGS;
    message[8..24].copy_from_slice(&address.octets());
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message[26..].copy_from_slice(&mac);
    // RFC 8200 section 8.1. Neither length nor protocol is larger than a byte.
    let pseudo = [0, header[5], 0, ICMPV6];
    let sum = !sum(&[&header[8..], &pseudo, message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The sum of all words (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nat_sys::testing::{in_namespace, ip};
    use nix::net::if_::if_nametoindex;

    use super::*;

    #[test]
    fn a_neighbour_learns_the_ethernet_address_that_an_advertisement_names() {
        in_namespace(async || {
            ip("link add near type veth peer name far");
            for name in ["near", "far"] {
                ip(&format!("link set {name} up"));
            }
            ip("addr add 2001:db8::1/64 dev far nodad");
            ip("neigh add 2001:db8::10 lladdr 02:00:00:00:00:07 nud reachable dev far");
            let mac = [2, 0, 0, 0, 0, 9];
            let near = Advertiser::open(if_nametoindex("near").unwrap(), mac).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            // The queue of the pair may not be active yet.
            while !ip("-6 neigh show dev far").contains("lladdr 02:00:00:00:00:09 router") {
                assert!(Instant::now() < deadline, "{}", ip("-6 neigh show dev far"));
                near.announce("2001:db8::10".parse().unwrap()).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    }
}
