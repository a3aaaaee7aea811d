//! What interfaces can do with XDP, as their drivers say (the generic netlink family `netdev`, from
//! Linux 6.3 on; `Documentation/netlink/specs/netdev.yaml`).

use std::collections::BTreeMap;
use std::io;

use rtnetlink::packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NlasIterator,
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

/// The driver runs programs on what it receives (`NETDEV_XDP_ACT_BASIC`), and can send a frame on
/// from there (`NETDEV_XDP_ACT_REDIRECT`).
const RECEIVES: u64 = 1 << 0 | 1 << 1;
/// The driver sends frames that others have received (`NETDEV_XDP_ACT_NDO_XMIT`).
const SENDS: u64 = 1 << 2;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_CHANGE_NTF: u8 = 4;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// The group that hears of interfaces (`NETDEV_MCGRP_MGMT`).
const GROUP: &[u8] = b"mgmt\0";

/// Number of the family that knows of the others (`GENL_ID_CTRL`).
const CONTROL: u16 = 16;
/// Length of `struct nlmsghdr` and of `struct genlmsghdr` in bytes.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// Messages of a dump are put together up to this many bytes (`NLMSG_GOODSIZE` and more).
const DATAGRAM: usize = 64 << 10;

/// What an interface's driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Of a driver that can do it all.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self(RECEIVES | SENDS)
    }

    /// Whether it runs programs on what it receives.
    #[must_use]
    pub fn receives(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it can send frames on that it receives.
    #[must_use]
    pub fn redirects(self) -> bool {
        self.0 & RECEIVES == RECEIVES
    }

    /// Whether it takes frames that another has received.
    #[must_use]
    pub fn takes_frames(self) -> bool {
        self.0 & SENDS != 0
    }
}

/// What the interfaces of the calling thread's network namespace can do, by index; nothing where
/// the kernel does not say.
///
/// # Errors
/// When the kernel gives no socket or does not answer as its interface says.
pub fn xdp_features() -> io::Result<BTreeMap<u32, XdpFeatures>> {
    let socket = connect()?;
    let mut features = BTreeMap::new();
    let Some(Family { number: family, .. }) = Family::find(&socket)? else {
        return Ok(features);
    };
    exchange(
        &socket,
        family,
        NETDEV_CMD_DEV_GET,
        NLM_F_DUMP,
        &[],
        |attributes| {
            let index = number(attributes, NETDEV_A_DEV_IFINDEX);
            let value = attributes.get(&NETDEV_A_DEV_XDP_FEATURES);
            let value =
                value.and_then(|value| Some(u64::from_ne_bytes(value[..].try_into().ok()?)));
            if let (Some(index), Some(value)) = (index, value) {
                features.insert(index, XdpFeatures(value));
            }
        },
    )?;
    Ok(features)
}

/// A socket that hears when that changes; none where the kernel does not say.
///
/// # Errors
/// As for [`xdp_features`].
pub(super) fn subscribe() -> io::Result<Option<Socket>> {
    let socket = connect()?;
    let group = Family::find(&socket)?.and_then(|family| family.group);
    group
        .map(|group| socket.add_membership(group))
        .transpose()?;
    Ok(group.map(|_| socket))
}

/// Whether a message to such a socket tells of a change.
pub(super) fn is_change(message: &[u8]) -> bool {
    message.get(HEADER) == Some(&NETDEV_CMD_DEV_CHANGE_NTF)
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The family `netdev`.
struct Family {
    number: u16,
    group: Option<u32>,
}

impl Family {
    fn find(socket: &Socket) -> io::Result<Option<Self>> {
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let mut family = None;
        let take = |attributes: &Attributes| {
            let id = attributes.get(&CTRL_ATTR_FAMILY_ID);
            let id = id.and_then(|id| Some(u16::from_ne_bytes(id[..].try_into().ok()?)));
            let groups = attributes.get(&CTRL_ATTR_MCAST_GROUPS);
            let group = groups.and_then(|groups| {
                // (The attributes of the list are groups, numbered from 1 on.)
                let groups = attributes_of(groups).into_values();
                let mut groups = groups.map(|group| attributes_of(&group));
                groups.find_map(|group| {
                    let is_it = group.get(&CTRL_ATTR_MCAST_GRP_NAME)? == GROUP;
                    number(&group, CTRL_ATTR_MCAST_GRP_ID).filter(|_| is_it)
                })
            });
            family = id.map(|number| Self { number, group });
        };
        match exchange(socket, CONTROL, CTRL_CMD_GETFAMILY, 0, &name, take) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            result => result.map(|()| family),
        }
    }
}

fn number(attributes: &Attributes, kind: u16) -> Option<u32> {
    let value = attributes.get(&kind)?;
    Some(u32::from_ne_bytes(value[..].try_into().ok()?))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request and takes the attributes of each message of the answer.
fn exchange(
    socket: &Socket,
    family: u16,
    command: u8,
    flags: u16,
    attributes: &[u8],
    mut take: impl FnMut(&Attributes),
) -> io::Result<()> {
    let length = HEADER + GENERIC_HEADER + attributes.len();
    let mut header = NetlinkHeader::default();
    header.length = length as u32;
    header.message_type = family;
    header.flags = NLM_F_REQUEST | flags;
    let mut request = vec![0; HEADER];
    header.emit(&mut request);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        socket.recv(&mut datagram, 0)?;
        let mut take = |body: &[u8]| {
            take(&attributes_of(
                body.get(GENERIC_HEADER..).unwrap_or_default(),
            ));
        };
        if read_messages(&datagram, &mut take)? || flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

/// Attributes by their number.
pub(super) type Attributes = BTreeMap<u16, Vec<u8>>;

/// Takes the bodies of the messages of a datagram; `true` if no more will come.
pub(super) fn read_messages(datagram: &[u8], take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match i32::from(u16::from_ne_bytes([t0, t1])) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            _ => take(body),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

pub(super) fn attributes_of(bytes: &[u8]) -> Attributes {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_namespace, ip};

    #[test]
    fn taps_take_frames_and_bridges_and_ends_that_do_not_poll_take_none() {
        in_namespace(async || {
            ip("tuntap add tap1 mode tap");
            ip("link add vmbr1 type bridge");
            ip("link add veth1 type veth peer name guest");
            let features = xdp_features().expect("the kernel answers");
            let of = |name: &str| {
                let index = ip(&format!("-o link show {name}"));
                let index = index.split(':').next().expect("a number").parse();
                features[&index.expect("a number")]
            };
            assert!(of("tap1").takes_frames() && of("tap1").redirects());
            assert!(!of("vmbr1").takes_frames() && !of("vmbr1").redirects());
            assert!(!of("veth1").takes_frames() && of("veth1").redirects());
        });
    }
}
