//! ARP on an uplink: probing for an address, and announcing that this host has it (RFC 826, RFC
//! 5227).
//!
//! Received frames are untrusted: a frame is read in full or not at all, and only a limited number
//! at a time.

use std::{
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use super::link_socket;

/// Length of an Ethernet header and an ARP packet for IPv4 in bytes.
const FRAME: usize = 14 + 28;
/// Ethernet and IPv4 addresses of six and four bytes (RFC 826).
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Further frames wait for the next call.
const AT_ONCE: usize = 256;

/// What an ARP packet says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The sender's Ethernet address.
    pub mac: [u8; 6],
    /// The address that it claims; unspecified in a probe (RFC 5227 section 1.1).
    pub sender: Ipv4Addr,
    /// The address that the packet is about.
    pub target: Ipv4Addr,
}

/// A socket for ARP on one interface.
#[derive(Debug)]
pub struct Arp {
    socket: OwnedFd,
    ifindex: u32,
    mac: [u8; 6],
}

impl Arp {
    /// Listens on an interface with this Ethernet address, in the calling thread's network
    /// namespace. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(ifindex: u32, mac: [u8; 6]) -> io::Result<Self> {
        let socket = link_socket::open()?;
        let address = link_socket::address(ifindex, libc::ETH_P_ARP);
        let length = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is a `sockaddr_ll` of that length and outlives the call.
        let bound = unsafe {
            let fd = socket.as_raw_fd();
            libc::bind(fd, (&raw const address).cast(), length)
        };
        match bound {
            0 => Ok(Self {
                socket,
                ifindex,
                mac,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether it is for an interface of that index and Ethernet address.
    #[must_use]
    pub fn is_for(&self, ifindex: u32, mac: [u8; 6]) -> bool {
        (self.ifindex, self.mac) == (ifindex, mac)
    }

    /// Probes for an address without claiming it (RFC 5227 section 2.1.1).
    ///
    /// # Errors
    /// When the frame cannot be sent.
    pub fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send(&frame(self.mac, Ipv4Addr::UNSPECIFIED, address))
    }

    /// Announces that this host has an address (RFC 5227 section 2.3).
    ///
    /// # Errors
    /// When the frame cannot be sent.
    pub fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send(&frame(self.mac, address, address))
    }

    /// The packets since the last call, the oldest first; of a flood only a part.
    ///
    /// # Errors
    /// When the socket fails, as it does once when its interface goes down.
    pub fn heard(&self) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        let mut buffer = [0; 64];
        for _ in 0..AT_ONCE {
            let fd = self.socket.as_raw_fd();
            // SAFETY: pointer and length are those of a live array, which the kernel fills.
            let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if length < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            let frame = buffer.get(..length as usize).unwrap_or(&buffer);
            heard.extend(read(frame).filter(|one| one.mac != self.mac));
        }
        Ok(heard)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: pointer and length are those of a live slice, which is only read.
        let sent = unsafe { libc::send(fd, frame.as_ptr().cast(), frame.len(), 0) };
        match sent < 0 {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }
}

/// A request to all.
fn frame(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame[14..20].copy_from_slice(&KINDS);
    frame[21] = 1;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// What a frame says, if it is ARP about IPv4 in Ethernet. The Ethernet address is that in the ARP
/// packet: other hosts use that one.
fn read(frame: &[u8]) -> Option<Heard> {
    let frame: &[u8; FRAME] = frame.first_chunk()?;
    if frame[12..14] != [0x08, 0x06] || frame[14..20] != KINDS {
        return None;
    }
    let octets =
        |at: usize| Ipv4Addr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    Some(Heard {
        mac: frame[22..28].try_into().ok()?,
        sender: octets(28),
        target: octets(38),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nat_sys::testing::{in_namespace, ip, without_ipv6};
    use nix::net::if_::if_nametoindex;

    use super::*;

    fn open(name: &str, mac: [u8; 6]) -> Arp {
        Arp::open(if_nametoindex(name).unwrap(), mac).unwrap()
    }

    /// Waits until the kernel has activated a device's queue: before that, it drops frames
    /// silently.
    fn wait_until_up(name: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !ip(&format!("link show {name}")).contains("state UP") {
            assert!(Instant::now() < deadline, "{name} does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn next(arp: &Arp) -> Heard {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(heard) = arp.heard().unwrap().first() {
                return *heard;
            }
            assert!(Instant::now() < deadline, "nothing is heard");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_message_reaches_the_other_end() {
        in_namespace(async || {
            without_ipv6();
            ip(
                "link add near address 02:00:00:00:00:01 type veth peer name far address \
                 02:00:00:00:00:02",
            );
            ip("link set near up");
            ip("link set far up");
            wait_until_up("near");
            wait_until_up("far");
            let (near, far) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let (one, other) = (open("near", near), open("far", far));
            let address: Ipv4Addr = "198.51.100.77".parse().unwrap();
            one.probe(address).unwrap();
            let probe = Heard {
                mac: near,
                sender: Ipv4Addr::UNSPECIFIED,
                target: address,
            };
            assert_eq!(next(&other), probe);
            other.announce(address).unwrap();
            let announcement = Heard {
                mac: far,
                sender: address,
                target: address,
            };
            assert_eq!(next(&one), announcement);
            assert_eq!(one.heard().unwrap(), [], "not what it says itself");
        });
    }

    #[test]
    fn the_kernel_answers_for_an_address_that_it_has() {
        in_namespace(async || {
            without_ipv6();
            ip("link add near address 02:00:00:00:00:01 type veth peer name far");
            ip("link set near up");
            ip("link add br0 type bridge");
            ip("link set far master br0 up");
            ip("link set br0 up");
            ip("addr add 198.51.100.77/24 dev br0");
            let arp = open("near", [2, 0, 0, 0, 0, 1]);
            let address: Ipv4Addr = "198.51.100.77".parse().unwrap();
            // Both ends belong to one host, which answers probes by any interface.
            let deadline = Instant::now() + Duration::from_secs(5);
            loop {
                arp.probe(address).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                if arp.heard().unwrap().iter().any(|one| one.sender == address) {
                    return;
                }
                assert!(Instant::now() < deadline, "no host answers");
            }
        });
    }

    #[test]
    fn other_frames_than_arp_for_ipv4_are_ignored() {
        let whole = frame(
            [2, 0, 0, 0, 0, 1],
            [192, 0, 2, 1].into(),
            [192, 0, 2, 2].into(),
        );
        assert!(read(&whole).is_some());
        for length in 0..FRAME {
            assert_eq!(read(&whole[..length]), None, "{length} bytes");
        }
        for at in 12..20 {
            let mut other = whole;
            other[at] ^= 1;
            assert_eq!(read(&other), None, "byte {at}");
        }
    }
}
