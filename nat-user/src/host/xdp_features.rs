//! XDP features of interfaces, as their drivers report them (the generic netlink family `netdev`,
//! from Linux 6.3 on; `Documentation/netlink/specs/netdev.yaml`).

use std::{collections::BTreeMap, io};

use bitflags::bitflags;
use nat_sys::exchange::{Attributes, Exchange, HEADER, attributes_of};
use rtnetlink::{
    packet_core::NLM_F_DUMP,
    sys::{Socket, protocols::NETLINK_GENERIC},
};

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

/// The multicast group for interfaces (`NETDEV_MCGRP_MGMT`).
const GROUP: &[u8] = b"mgmt\0";

/// Number of the family that lists the others (`GENL_ID_CTRL`).
const CONTROL: u16 = 16;
/// Length of `struct genlmsghdr` in bytes.
const GENERIC_HEADER: usize = 4;

bitflags! {
    /// What an interface's driver can do (`enum netdev_xdp_act` in `include/uapi/linux/netdev.h`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct XdpFeatures: u64 {
        /// It runs programs on received frames.
        const BASIC = 1 << 0;
        /// It can redirect a received frame.
        const REDIRECT = 1 << 1;
        /// It sends frames that other drivers have received.
        const NDO_XMIT = 1 << 2;
    }
}

impl XdpFeatures {
    /// Whether it runs programs on received frames.
    #[must_use]
    pub fn receives(self) -> bool {
        self.contains(Self::BASIC)
    }

    /// Whether it can redirect received frames.
    #[must_use]
    pub fn redirects(self) -> bool {
        self.contains(Self::BASIC | Self::REDIRECT)
    }

    /// Whether it accepts frames that another driver has received.
    #[must_use]
    pub fn takes_frames(self) -> bool {
        self.contains(Self::NDO_XMIT)
    }
}

/// What the interfaces of the calling thread's network namespace can do, by index; empty if the
/// kernel does not report it.
///
/// # Errors
/// When the kernel gives no socket or does not answer as its interface says.
pub fn xdp_features() -> io::Result<BTreeMap<u32, XdpFeatures>> {
    let mut kernel = Exchange::open(NETLINK_GENERIC)?;
    let mut features = BTreeMap::new();
    let Some(Family { number: family, .. }) = Family::find(&mut kernel)? else {
        return Ok(features);
    };
    ask(
        &mut kernel,
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
                features.insert(index, XdpFeatures::from_bits_retain(value));
            }
        },
    )?;
    Ok(features)
}

/// A socket that is notified when that changes; none if the kernel does not report it.
///
/// # Errors
/// As for [`xdp_features`].
pub(super) fn subscribe() -> io::Result<Option<Socket>> {
    let mut kernel = Exchange::open(NETLINK_GENERIC)?;
    let group = Family::find(&mut kernel)?.and_then(|family| family.group);
    let socket = kernel.into_socket();
    group
        .map(|group| socket.add_membership(group))
        .transpose()?;
    Ok(group.map(|_| socket))
}

/// Whether a message to such a socket reports a change.
pub(super) fn is_change(message: &[u8]) -> bool {
    message.get(HEADER) == Some(&NETDEV_CMD_DEV_CHANGE_NTF)
}

/// The family `netdev`.
struct Family {
    number: u16,
    group: Option<u32>,
}

impl Family {
    fn find(kernel: &mut Exchange) -> io::Result<Option<Self>> {
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
        match ask(kernel, CONTROL, CTRL_CMD_GETFAMILY, 0, &name, take) {
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

/// Sends a request and returns the attributes of each message of the answer.
fn ask(
    kernel: &mut Exchange,
    family: u16,
    command: u8,
    flags: u16,
    attributes: &[u8],
    mut take: impl FnMut(&Attributes),
) -> io::Result<()> {
    let request = [&[command, 1, 0, 0], attributes].concat();
    kernel.ask(family, flags, &request, |body| {
        take(&attributes_of(
            body.get(GENERIC_HEADER..).unwrap_or_default(),
        ));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use nat_sys::testing::{in_namespace, ip};

    use super::*;

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
