//! The last router advertisement on an interface (RFC 4861 section 6.2.5): guests give up the host
//! as a router, and addresses of prefixes that go, at once. dnsmasq ends without a word.

use std::{
    fs, io, mem,
    net::Ipv6Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use ipnet::Ipv6Net;
use nix::net::if_::if_nametoindex;

/// The addresses of all interfaces of this network namespace, a line each (`if6_seq_show` in
/// `net/ipv6/addrconf.c`): address, index, length of the prefix, scope, flags, interface.
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
const GLOBAL_SCOPE: &str = "00";

/// All hosts of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Receivers drop anything less: it has come through a router.
const HOP_LIMIT: libc::c_int = 255;

const ROUTER_ADVERTISEMENT: u8 = 134;
const PREFIX_INFORMATION: u8 = 3;
/// In units of eight bytes.
const PREFIX_INFORMATION_LEN: u8 = 4;
/// Guests make addresses of the prefix by themselves. Without the other flag, nothing is said about
/// who is on the link.
const AUTONOMOUS: u8 = 0x40;

/// Tells the hosts behind an interface that this host is no router any more. Without the interface,
/// there are none.
pub(super) fn say_all(interface: &str) {
    let said = if_nametoindex(interface).map_err(io::Error::from);
    let said = said.and_then(|index| say(index, 0, &prefixes_on(interface)));
    if let Err(error) = said {
        log::debug!("last router advertisement on {interface}: {error}");
    }
}

/// The prefixes of the interface in which guests make addresses.
fn prefixes_on(interface: &str) -> Vec<Ipv6Net> {
    let text = fs::read_to_string(ADDRESSES).unwrap_or_default();
    let prefix = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, length, GLOBAL_SCOPE, _, name] = words[..] else {
            return None;
        };
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let net = Ipv6Net::new(address, u8::from_str_radix(length, 16).ok()?).ok()?;
        (name == interface && net.prefix_len() == 64).then(|| net.trunc())
    };
    text.lines().filter_map(prefix).collect()
}

/// Tells the hosts behind an interface, given by its index, that `gone` are deprecated, and for how
/// long this host stays their router.
///
/// # Errors
/// When the interface has no link-local address, or is down.
pub(super) fn say(ifindex: u32, lifetime_s: u16, gone: &[Ipv6Net]) -> io::Result<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let hop_limit = HOP_LIMIT;
    // SAFETY: the value is a `c_int` of that length and outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MULTICAST_HOPS,
            (&raw const hop_limit).cast(),
            mem::size_of_val(&hop_limit) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    let packet = packet(lifetime_s, gone);
    let to = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr {
            s6_addr: ALL_NODES.octets(),
        },
        sin6_scope_id: ifindex,
    };
    // SAFETY: packet and address are valid for their lengths and outlive the call. (The kernel
    // writes the checksum.)
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            mem::size_of_val(&to) as libc::socklen_t,
        )
    };
    match sent < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// The message, without its checksum.
fn packet(lifetime_s: u16, gone: &[Ipv6Net]) -> Vec<u8> {
    let mut packet = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0];
    packet.extend(lifetime_s.to_be_bytes());
    // Reachable time and retransmission timer: unspecified.
    packet.extend([0; 8]);
    for prefix in gone {
        let length = prefix.prefix_len();
        packet.extend([
            PREFIX_INFORMATION,
            PREFIX_INFORMATION_LEN,
            length,
            AUTONOMOUS,
        ]);
        // Neither valid nor preferred: a valid time of 0 makes no new address, and leaves the
        // others two hours (RFC 4862 section 5.5.3).
        packet.extend([0; 12]);
        packet.extend(prefix.network().octets());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_goes_is_deprecated() {
        let prefix: Ipv6Net = "2001:db8:0:1::/64".parse().unwrap();
        let packet = packet(0, &[prefix]);
        assert_eq!(packet.len(), 16 + 32);
        assert_eq!((packet[0], &packet[6..8]), (134, &[0, 0][..]));
        assert_eq!(packet[16..20], [3, 4, 64, 0x40]);
        assert_eq!(packet[20..28], [0; 8]);
        assert_eq!(packet[32..], prefix.network().octets());
    }
}
