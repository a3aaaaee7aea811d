//! Programs as filters of the `clsact` qdisc, where the kernel has no links for them (before Linux
//! 6.6). A filter persists until [`detach`] or the end of the interface removes it.
//!
//! The kernel stores what must be remembered about an interface, in the number of natbpf's filters.
//! natbpf finds them again even if the daemon and its files are lost.

use std::io;

use anyhow::{Context as _, Result};
use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
};
use nat_sys::exchange::Exchange;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle as Handle, TcHeader, TcMessage},
};
use nix::net::if_::{if_indextoname, if_nametoindex};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NetlinkSerializable as _},
    sys::protocols::NETLINK_ROUTE,
};

/// Priority of natbpf's filters: before those of others that chose none.
pub(super) const PRIORITY: u16 = 100;
/// That of IPv6's filters. They are for packets of every protocol, as the others: the kernel takes
/// the tag of a packet with a priority tag for its protocol (`skb_protocol` in
/// `include/linux/if_vlan.h`).
pub(super) const PRIORITY_IPV6: u16 = 101;
/// That of the filter that answers IPv6 neighbours, behind the one that lets their messages pass.
pub(super) const PRIORITY_NEIGHBOURS: u16 = 102;
/// That of NAT64's filter, behind those of its device as a network.
pub(super) const PRIORITY_NAT64: u16 = 103;
/// Those of the filters for prefixes, in front of all others at ingress and behind them at egress.
pub(super) const PRIORITY_FROM_PREFIX: u16 = 99;
pub(super) const PRIORITY_TO_PREFIX: u16 = 104;
/// All of natbpf's.
const PRIORITIES: [u16; 6] = [
    PRIORITY,
    PRIORITY_IPV6,
    PRIORITY_NEIGHBOURS,
    PRIORITY_NAT64,
    PRIORITY_FROM_PREFIX,
    PRIORITY_TO_PREFIX,
];
/// Number of natbpf's filters if it has created the qdisc, which is removed with them if no other
/// filter uses it.
const IN_OWN_QDISC: u32 = 0x006e_6274;
/// Number of natbpf's filters if the qdisc existed before.
const IN_OTHERS_QDISC: u32 = 0x006e_6275;

const SIDES: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// A filter of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Filter {
    side: TcAttachType,
    priority: u16,
    number: u32,
}

impl Filter {
    fn is_own(&self) -> bool {
        PRIORITIES.contains(&self.priority)
            && [IN_OWN_QDISC, IN_OTHERS_QDISC].contains(&self.number)
    }

    fn remove(&self, interface: &str) -> Result<()> {
        let handle = TcHandle::from(self.number);
        let (side, priority) = (self.side, self.priority);
        let link = SchedClassifierLink::attached(interface, side, priority, handle, None)?;
        // Dropping it detaches.
        drop(link);
        Ok(())
    }
}

/// Attaches a program to a side of an interface. An existing filter of natbpf with this priority
/// gets the new program in place, so no packet bypasses it.
///
/// # Errors
/// When the kernel refuses it.
pub(super) fn attach_filter(
    program: &mut SchedClassifier,
    interface: &str,
    side: TcAttachType,
    priority: u16,
) -> Result<()> {
    let index = if_nametoindex(interface).context("no such interface")?;
    let own = filters(index)?.into_iter().filter(Filter::is_own);
    let own: Vec<Filter> = own.collect();
    let is_it = |filter: &&Filter| filter.side == side && filter.priority == priority;
    let id = match own.iter().find(is_it) {
        Some(filter) => {
            let handle = TcHandle::from(filter.number);
            let link = SchedClassifierLink::attached(interface, side, priority, handle, None)?;
            program.attach_to_link(link)?
        }
        None => {
            let number = match own.first() {
                Some(other) => other.number,
                None if make_qdisc(index)? => IN_OWN_QDISC,
                None => IN_OTHERS_QDISC,
            };
            let options = TcAttachOptions::Netlink(NlOptions {
                priority,
                handle: number.into(),
                classid: None,
            });
            program.attach_with_options(interface, side, options)?
        }
    };
    forget(program, id)
}

/// Removes natbpf's filters from an interface, except those at these sides with these priorities.
///
/// # Errors
/// When the kernel refuses it.
pub(super) fn keep(interface: &str, wanted: &[(TcAttachType, u16)]) -> Result<()> {
    let index = if_nametoindex(interface).context("no such interface")?;
    let is_wanted = |filter: &Filter| wanted.contains(&(filter.side, filter.priority));
    let mut own = filters(index)?.into_iter().filter(Filter::is_own);
    own.try_for_each(|filter| match is_wanted(&filter) {
        true => Ok(()),
        false => filter.remove(interface),
    })
}

/// Keeps the filter when the link is dropped.
fn forget(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<()> {
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes natbpf's filters from an interface, and the qdisc if natbpf has created it and no other
/// filter uses it. An interface that is gone has neither.
///
/// # Errors
/// When the kernel refuses it.
pub(super) fn detach(index: u32) -> Result<()> {
    let Ok(interface) = if_indextoname(index) else {
        return Ok(());
    };
    let interface = interface.to_str().context("an interface's name")?;
    let (own, others): (Vec<_>, Vec<_>) = filters(index)?.into_iter().partition(Filter::is_own);
    own.iter().try_for_each(|filter| filter.remove(interface))?;
    let has_made_qdisc = own.iter().any(|filter| filter.number == IN_OWN_QDISC);
    if has_made_qdisc && others.is_empty() {
        remove_qdisc(index).context("remove the clsact qdisc")?;
    }
    Ok(())
}

/// Creates the qdisc; `false` if there is one.
fn make_qdisc(index: u32) -> Result<bool> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match exchange(message, flags, |_| ()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error).context("add a clsact qdisc; needs the module sch_ingress"),
    }
}

fn remove_qdisc(index: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(index));
    exchange(message, NLM_F_ACK, |_| ())
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: index.cast_signed(),
        handle: Handle {
            major: u16::MAX,
            minor: 0,
        },
        parent: Handle::CLSACT,
        ..TcHeader::default()
    };
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// All filters of an interface's `clsact` qdisc; none without one.
fn filters(index: u32) -> Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for side in SIDES {
        let mut message = TcMessage::default();
        message.header.index = index.cast_signed();
        message.header.parent = Handle {
            major: u16::MAX,
            minor: match side {
                TcAttachType::Egress => Handle::MIN_EGRESS,
                _ => Handle::MIN_INGRESS,
            },
        };
        let ask = RouteNetlinkMessage::GetTrafficFilter(message);
        exchange(ask, NLM_F_DUMP, |header| {
            let number = header.handle.into();
            // A priority's head has no number: it is not a filter itself.
            if number != 0 {
                filters.push(Filter {
                    side,
                    priority: (header.info >> 16) as u16,
                    number,
                });
            }
        })
        .context("read the filters")?;
    }
    Ok(filters)
}

/// The sides of an interface at which others have filters.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn foreign_filters(index: u32) -> Result<Vec<TcAttachType>> {
    let mut sides: Vec<TcAttachType> = (filters(index)?.iter())
        .filter(|filter| !filter.is_own())
        .map(|filter| filter.side)
        .collect();
    sides.dedup();
    Ok(sides)
}

/// Sends a request, and returns the header of each message of the answer. Of a filter only the
/// header is read: there are too many kinds of filters to know them all.
fn exchange(
    message: RouteNetlinkMessage,
    flags: u16,
    mut take: impl FnMut(&TcHeader),
) -> io::Result<()> {
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    let kind = message.message_type();
    Exchange::open(NETLINK_ROUTE)?.ask(kind, flags, &request, |body| {
        take(&TcHeader::parse(body).map_err(io::Error::other)?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use nat_sys::testing::{in_namespace, ip};

    use super::*;

    fn tc(arguments: &str) -> String {
        let mut command = std::process::Command::new("tc");
        // Words that belong together are joined by an underscore.
        let words = arguments.split(' ').map(|word| word.replace('_', " "));
        let output = command.args(words).output().expect("run tc");
        assert!(output.status.success(), "tc {arguments}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A filter that matches nothing.
    fn add(side: &str, priority: u16, handle: u32) {
        tc(&format!(
            "filter add dev d0 {side} pref {priority} handle {handle:#x} protocol all \
             bpf bytecode 1,6_0_0_0"
        ));
    }

    fn index() -> u32 {
        if_nametoindex("d0").expect("d0")
    }

    #[test]
    fn a_qdisc_is_made_once_and_removed() {
        in_namespace(async || {
            ip("link add d0 type bridge");
            assert!(make_qdisc(index()).expect("make it"));
            assert!(!make_qdisc(index()).expect("find it"));
            assert!(tc("qdisc show dev d0").contains("clsact"));
            remove_qdisc(index()).expect("remove it");
            assert!(!tc("qdisc show dev d0").contains("clsact"));
        });
    }

    #[test]
    fn filters_are_found_on_both_sides_whatever_their_kind() {
        in_namespace(async || {
            ip("link add d0 type bridge");
            assert_eq!(filters(index()).expect("none without a qdisc"), []);
            tc("qdisc add dev d0 clsact");
            assert_eq!(filters(index()).expect("none in a new one"), []);
            add("egress", 7, 9);
            add("ingress", PRIORITY, IN_OWN_QDISC);
            let found = filters(index()).expect("two");
            assert_eq!(found.len(), 2);
            assert!(found[0].is_own() && found[0].side == TcAttachType::Ingress);
            assert_eq!(
                found[1],
                Filter {
                    side: TcAttachType::Egress,
                    priority: 7,
                    number: 9
                }
            );
        });
    }

    #[test]
    fn filters_of_a_family_that_is_no_longer_wanted_go() {
        in_namespace(async || {
            ip("link add d0 type bridge");
            tc("qdisc add dev d0 clsact");
            for side in ["ingress", "egress"] {
                add(side, PRIORITY, IN_OWN_QDISC);
                add(side, PRIORITY_IPV6, IN_OWN_QDISC);
                add(side, 7, 9);
            }
            keep("d0", &SIDES.map(|side| (side, PRIORITY))).expect("keep two");
            let left = filters(index()).expect("what is left");
            assert!(left.len() == 4, "{left:?}");
            assert!(left.iter().all(|filter| filter.priority != PRIORITY_IPV6));
        });
    }

    #[test]
    fn an_own_qdisc_goes_with_the_last_filter_and_anothers_stays() {
        in_namespace(async || {
            ip("link add d0 type bridge");
            for (number, others, stays) in [
                (IN_OWN_QDISC, false, false),
                (IN_OWN_QDISC, true, true),
                (IN_OTHERS_QDISC, false, true),
            ] {
                tc("qdisc add dev d0 clsact");
                add("ingress", PRIORITY, number);
                add("egress", PRIORITY, number);
                if others {
                    add("egress", 7, 9);
                }
                detach(index()).expect("detach");
                let left = filters(index()).expect("what is left");
                assert_eq!(left.len(), usize::from(others), "{left:?}");
                assert_eq!(tc("qdisc show dev d0").contains("clsact"), stays);
                if stays {
                    tc("qdisc del dev d0 clsact");
                }
            }
            let gone = index();
            ip("link del d0");
            detach(gone).expect("an interface that is gone has nothing");
        });
    }
}
