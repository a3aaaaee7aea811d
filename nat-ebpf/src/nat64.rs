//! NAT64: the device between both families, where each packet becomes one of the other family and
//! is received again.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_INGRESS, BPF_F_NO_PREALLOC, BPF_NOEXIST, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
    },
    helpers::{
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use nat_common::{
    drop_reason::DropReason,
    nat64::{
        Counterpart, Counterparts, Job, MAX_START, Nat64Settings, Plan, Prefix, Reshape, Version,
        apply, to_ipv4, to_ipv6,
    },
    tables::environment::Environment as _,
    verifier::verifier_barrier,
    wire::{
        address::{Addr4, Addr6, Address as _},
        packet::Packet,
    },
};
use network_types::eth::EtherType;

use crate::{
    family::Room,
    hooks::{ETHERNET, NEXT},
    maps::{Maps, count_drop},
    skb::{Skb, packet_len},
};

/// Guests at most; the pool is smaller, and memory follows use.
const GUESTS: u32 = 65_536;

/// Addresses that are tried for a guest before the pool counts as used up.
const TRIES: u32 = 32;

/// Bytes that are made readable: the headers of an error and of the packet that it quotes, with
/// options and extension headers.
const HEADERS: usize = ETHERNET + 256;

/// How much shorter an IPv4 header is in bytes.
const DIFFERENCE: i32 = 20;

/// How long a guest's clock may be late in seconds.
const PRECISION_S: u32 = 16;

/// Where the configuration is, if it has NAT64.
#[map]
static NAT64: Array<Nat64Settings> = Array::pinned(1, 0);
/// The IPv4 addresses of guests.
#[map]
static NAT64_GUESTS: HashMap<Addr6, Counterpart> = HashMap::pinned(GUESTS, BPF_F_NO_PREALLOC);
/// The guests that have them.
#[map]
static NAT64_ADDRESSES: HashMap<Addr4, Addr6> = HashMap::pinned(GUESTS, BPF_F_NO_PREALLOC);
/// The work area of this CPU's packet.
#[map]
static NAT64_JOB: PerCpuArray<Job> = PerCpuArray::with_max_entries(1, 0);

/// The device, egress: translates the packet and receives it again. Returns the code for the
/// kernel.
#[inline(always)]
pub(crate) fn translate(ctx: &TcContext) -> i32 {
    let mut skb = Skb::new(ctx);
    // SAFETY: the kernel passes a valid context to every program.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    let is_ipv6 = protocol == u32::from(EtherType::Ipv6 as u16);
    if !is_ipv6 && protocol != u32::from(EtherType::Ipv4 as u16) {
        return NEXT;
    }
    let (Some(settings), Some(job)) = (NAT64.get(0), NAT64_JOB.get_ptr_mut(0)) else {
        return TC_ACT_SHOT;
    };
    skb.make_readable(HEADERS);
    // SAFETY: the slot is this CPU's own, one program at a time runs on it, and there is no other
    // borrow. Zeroes are a valid value, and so is what a packet before left behind.
    let job = unsafe { &mut *job };
    let Some(room) = Room::of_packets() else {
        return TC_ACT_SHOT;
    };
    let maps = Maps::new(ctx.as_ptr(), room);
    let pool = Pool { settings, maps };
    let planned = if is_ipv6 {
        to_ipv4(&skb, ETHERNET, &pool, job)
    } else {
        to_ipv6(&skb, ETHERNET, &pool, job)
    };
    verifier_barrier(job);
    let done = planned
        .and_then(|()| apply(&mut skb, ETHERNET, &job.plan).ok_or(DropReason::RewriteFailed));
    match done {
        // SAFETY: the context is valid.
        Ok(()) => unsafe { bpf_redirect(skb.interface(), u64::from(BPF_F_INGRESS)) as i32 },
        Err(reason) => {
            // The kernel's own messages to the link, which has no other node.
            if !is_ipv6 || !is_to_group(&skb) {
                count_drop(reason);
            }
            TC_ACT_SHOT
        }
    }
}

/// Whether an IPv6 packet is for a group.
#[inline(always)]
fn is_to_group(skb: &Skb) -> bool {
    const DESTINATION: usize = ETHERNET + 24;
    const GROUPS: u8 = 0xff;
    skb.read::<2>(DESTINATION)
        .is_some_and(|[first, _]| first == GROUPS)
}

/// The addresses of guests.
struct Pool<'a> {
    settings: &'a Nat64Settings,
    maps: Maps,
}

impl Pool<'_> {
    /// The first of some addresses that no other guest has.
    #[inline(always)]
    fn claim(&self, guest: Addr6) -> Option<Addr4> {
        let count = self.settings.count;
        let start = guest.hash().checked_rem(count)?;
        let mut step = 0;
        while step < TRIES && step < count {
            let at = (start + step).checked_rem(count)?;
            let address = self.settings.first.offset_by(at);
            let flags = u64::from(BPF_NOEXIST);
            if NAT64_ADDRESSES.insert(address, guest, flags).is_ok() {
                return Some(address);
            }
            step += 1;
        }
        None
    }

    /// Gives a guest an address that no other has; unspecified if there is none. A separate
    /// function, since most packets are of guests that have one; what it returns fits into a
    /// register.
    #[inline(never)]
    fn assign(&self, guest: Addr6) -> Addr4 {
        let Some(address) = self.claim(guest) else {
            return Addr4::UNSPECIFIED;
        };
        let used_s = self.maps.now_s();
        let counterpart = Counterpart { address, used_s };
        if NAT64_GUESTS
            .insert(guest, counterpart, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            return address;
        }
        // Another CPU was faster with a packet of this guest.
        let _was_there = NAT64_ADDRESSES.remove(address);
        self.known_ipv4_of(guest).unwrap_or(Addr4::UNSPECIFIED)
    }
}

impl Counterparts for Pool<'_> {
    #[inline(always)]
    fn prefix(&self) -> Prefix {
        self.settings.prefix
    }

    #[inline(always)]
    fn ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        let Some(counterpart) = NAT64_GUESTS.get_ptr_mut(guest) else {
            let address = self.assign(guest);
            return (address != Addr4::UNSPECIFIED).then_some(address);
        };
        let now_s = self.maps.now_s();
        // SAFETY: entries are freed no earlier than the program ends. Several CPUs may write the
        // clock: all write the same time.
        unsafe {
            if now_s.wrapping_sub((*counterpart).used_s) > PRECISION_S {
                (*counterpart).used_s = now_s;
            }
            Some((*counterpart).address)
        }
    }

    #[inline(always)]
    fn known_ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        // SAFETY: as above; the address of an entry never changes.
        unsafe { NAT64_GUESTS.get(guest) }.map(|counterpart| counterpart.address)
    }

    #[inline(always)]
    fn ipv6_of(&self, address: Addr4) -> Option<Addr6> {
        // SAFETY: an entry never changes; freed ones hold an address until the program ends.
        unsafe { NAT64_ADDRESSES.get(address) }.copied()
    }

    #[inline(always)]
    fn ipv4_of_strangers(&self) -> Addr4 {
        self.settings.strangers
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        self.maps.random()
    }
}

impl Reshape for Skb {
    #[inline(always)]
    fn reshape(&mut self, l3: usize, plan: &Plan) -> Option<()> {
        let (protocol, difference) = match plan.version {
            Version::V4 => (EtherType::Ipv4, DIFFERENCE),
            Version::V6 => (EtherType::Ipv6, -DIFFERENCE),
        };
        let kept_len = (l3 + plan.kept_len) as u32;
        let more = plan.start_len as i32 - plan.replaced_len as i32 + difference;
        // SAFETY: the context is valid, the start has so many bytes, and all packet pointers are
        // derived again after this.
        unsafe {
            if kept_len < (*self.skb).len && bpf_skb_change_tail(self.skb, kept_len, 0) != 0 {
                return None;
            }
            if bpf_skb_change_proto(self.skb, protocol as u16, 0) != 0 {
                return None;
            }
            let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
            if more != 0 && bpf_skb_adjust_room(self.skb, more, BPF_ADJ_ROOM_NET, flags) != 0 {
                return None;
            }
            let start_len = packet_len(plan.start_len as u32, MAX_START as u32)?;
            let start = plan.start.as_ptr().cast();
            if bpf_skb_store_bytes(self.skb, l3 as u32, start, start_len, 0) != 0 {
                return None;
            }
        }
        // The kernel reads it when it receives the packet again.
        self.write(l3 - 2, (protocol as u16).to_ne_bytes())
    }
}
