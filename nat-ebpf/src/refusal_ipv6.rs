//! Turning a refused packet into the ICMPv6 error that tells its sender.

use core::{mem::size_of, ptr};

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_csum_diff, bpf_skb_load_bytes},
    macros::map,
    maps::PerCpuArray,
};
use nat_common::{
    pipeline::refusal,
    verifier::unknown,
    wire::{
        address::Addr6,
        checksum::fold,
        packet::Packet as _,
        protocol::TCP,
        unreachable_ipv6::{self, MAX_LEN, max_quote, quote_at},
    },
    work::Work,
};

use network_types::ip::Ipv6Hdr;

use crate::{maps::Maps, reply, skb::Skb};

/// Family of IPv6 addresses in the kernel (`AF_INET6`).
const AF_INET6: u32 = 10;

/// The most that `bpf_csum_diff` sums up at once in bytes (`MAX_BPF_STACK`).
const CHUNK: usize = 512;

/// Room for a refusal, aligned for its words.
#[repr(C, align(8))]
struct Room([u8; MAX_LEN]);

/// The refusal: too large for the stack.
#[map]
static REFUSAL: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// Sends an ICMPv6 error to the sender of the refused packet, if it may receive one, and returns
/// the code for the kernel. The packet itself is dropped in any case.
#[inline(never)]
pub(crate) fn answer(skb: &Skb, maps: &Maps, work: &mut Work<Addr6>, l3: usize) -> i32 {
    let interfaces = [skb.ingress_interface(), skb.interface()];
    let Some(to) = refusal::recipient(maps, &work.parsed, interfaces) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: the slot is this CPU's own, and nothing else uses it while this program runs.
    let Some(bytes) = REFUSAL.get_ptr_mut(0).map(|room| unsafe { &mut (*room).0 }) else {
        return TC_ACT_SHOT;
    };
    clear(bytes);
    let protocol = work.parsed.header.protocol;
    let total_len = work.parsed.header.total_len;
    let quoted = match protocol {
        TCP => quote::<TCP>(skb, bytes, total_len, l3),
        _ => quote::<0>(skb, bytes, total_len, l3),
    };
    let Some(quoted) = quoted else {
        return TC_ACT_SHOT;
    };
    let sum = sum(bytes);
    let len = unreachable_ipv6::write(bytes, protocol, &to, quoted, sum);
    let mut hop = bpf_redir_neigh {
        nh_family: AF_INET6,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: to.guest.words(),
        },
    };
    reply::send(skb, bytes, len as u32, l3, to.interface, &mut hop).unwrap_or(TC_ACT_SHOT)
}

/// Removes what an earlier refusal has left. (The compiler would make a call of it that no BPF
/// program has.)
#[inline(always)]
fn clear(bytes: &mut [u8; MAX_LEN]) {
    let words = bytes.as_mut_ptr().cast::<u64>();
    for word in 0..MAX_LEN / size_of::<u64>() {
        // SAFETY: the word lies within the room, which is aligned for it.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Copies as much of the packet to its place as has room; returns how many bytes.
#[inline(always)]
fn quote<const PROTOCOL: u8>(
    skb: &Skb,
    bytes: &mut [u8; MAX_LEN],
    total_len: usize,
    l3: usize,
) -> Option<usize> {
    let room = max_quote(PROTOCOL);
    // Two comparisons: see `packet_len` of packets.
    let len = unknown(total_len as u64);
    let len = if len < room as u64 { len } else { room as u64 };
    let len = unknown(len);
    if len < Ipv6Hdr::LEN as u64 {
        return None;
    }
    let place = &mut bytes[quote_at(PROTOCOL)..];
    // SAFETY: the context is valid, and the place has room for so many bytes.
    let result = unsafe {
        bpf_skb_load_bytes(
            skb.skb.cast(),
            l3 as u32,
            place.as_mut_ptr().cast(),
            len as u32,
        )
    };
    (result == 0).then_some(len as usize)
}

/// The sum of the words in the room.
#[inline(always)]
fn sum(bytes: &mut [u8; MAX_LEN]) -> u16 {
    let mut sum = 0;
    let mut at = 0;
    while at < MAX_LEN {
        let len = if MAX_LEN - at < CHUNK {
            MAX_LEN - at
        } else {
            CHUNK
        };
        let chunk = bytes[at..].as_mut_ptr().cast();
        // SAFETY: the chunk lies within the room, and nothing is subtracted.
        sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, chunk, len as u32, sum) } as u32;
        at += CHUNK;
    }
    fold(sum)
}
