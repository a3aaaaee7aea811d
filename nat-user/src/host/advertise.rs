//! Unsolicited neighbour advertisements on an uplink: this host has an IPv6 address (RFC 4861
//! section 7.2.6).

use std::{
    io, mem,
    net::Ipv6Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use nat_common::{headers::neighbour::announcement, wire::address::Addr6};

use super::link_socket;

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
        Ok(Self {
            socket: link_socket::open()?,
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
        let frame = announcement(Addr6::new(address.octets()), self.mac);
        let to = link_socket::address(self.ifindex, libc::ETH_P_IPV6);
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
