//! A frame at an uplink's XDP hook.

use core::ptr;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{
        bpf_csum_diff, bpf_redirect,
        generated::{bpf_ktime_get_ns, bpf_xdp_load_bytes},
    },
    programs::XdpContext,
};
use nat_common::{
    pipeline::{self, Place, Verdict},
    tables::{
        fragments::FragmentKey,
        queued::{Busy, QueuedPacket},
        sessions::PASSED_NS,
    },
    verifier::unknown,
    wire::{
        address::Address,
        checksum::fold,
        offload::Offload,
        packet::{Frames, Packet},
    },
};

use crate::{
    ETHERNET,
    family::{Addr, ETHER_TYPE, Room},
    maps::{self, Maps, count_drop, work_area},
    memory,
};

/// Offset of the protocol in an Ethernet header.
const ETHER_TYPE_AT: usize = 12;

/// Whether a frame has a packet of the family.
#[inline(always)]
pub(crate) fn is_of_family(ctx: &XdpContext) -> bool {
    let frame = Frame { md: ctx.ctx };
    frame.read::<2>(ETHER_TYPE_AT) == Some((ETHER_TYPE as u16).to_ne_bytes())
}

/// The fast path of established sessions, for a packet of the family. Everything else passes
/// unchanged.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let mut frame = Frame { md: ctx.ctx };
    // SAFETY: this is a program at a hook, and asks once.
    let (Some(work), Some(room)) = (unsafe { work_area() }, Room::of_packets()) else {
        return xdp_action::XDP_PASS;
    };
    let place = Place {
        l3: ETHERNET,
        // SAFETY: the kernel passes a valid context to every program.
        interface: unsafe { (*ctx.ctx).ingress_ifindex },
        is_to_host: true,
    };
    let maps = Maps::new(ptr::null_mut(), room);
    match pipeline::early::<Addr, _, _>(&mut frame, &maps, place, work, fine_clock) {
        // SAFETY: only names an interface.
        Verdict::Forwarded => unsafe { bpf_redirect(work.redirect.port, 0) as u32 },
        Verdict::Dropped(reason) => {
            count_drop(reason);
            xdp_action::XDP_DROP
        }
        Verdict::Untouched
        | Verdict::Beyond
        | Verdict::Translated
        | Verdict::Opened
        | Verdict::ReceivedAnew
        | Verdict::Queued => xdp_action::XDP_PASS,
    }
}

/// A clock with a resolution below a second, in units of [`PASSED_NS`]; never 0.
#[inline(always)]
fn fine_clock() -> u32 {
    // SAFETY: reads a clock.
    let nanoseconds = unsafe { bpf_ktime_get_ns() };
    (nanoseconds / PASSED_NS) as u32 | 1
}

/// The longest message that is summed, in bytes, and how much of it at a time: the kernel's helper
/// accepts no more.
const MAX_SUMMED: usize = 2048;
const CHUNK: usize = 512;

/// A frame as it came from the wire: in one piece, with all checksums.
struct Frame {
    md: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { (*self.md).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { (*self.md).data_end as usize }
    }

    /// A pointer to `N` bytes that lie within the frame.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        memory::within(self.data(), self.data_end(), offset)
    }
}

/// What only the slow path needs is missing.
impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: the pointer was checked against the frame's end.
        self.at::<N>(offset)
            .map(|bytes| unsafe { memory::load(bytes) })
    }

    #[inline(always)]
    fn make_readable(&mut self, _end: usize) {}

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as above.
        self.at::<N>(offset)
            .map(|place| unsafe { memory::store(place, bytes) })
    }

    #[inline(always)]
    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        // SAFETY: this is a program at a hook, and it is borrowed no longer than this.
        let saved = unsafe { maps::saved_packet()? };
        // Two comparisons that the compiler does not merge, so that the verifier sees both bounds
        // of the same register. (On Linux 6.1, a value that is written to the stack and read twice
        // has only one of them.)
        let len = unknown((end - offset) as u64);
        if len > MAX_SUMMED as u64 {
            return None;
        }
        let len = unknown(len);
        if len < size_of::<u32>() as u64 {
            return None;
        }
        let bytes = saved.bytes.as_mut_ptr();
        // SAFETY: the context is valid; `bytes` has room for that and one more word.
        unsafe {
            if bpf_xdp_load_bytes(self.md, offset as u32, bytes.cast(), len as u32) != 0 {
                return None;
            }
            bytes
                .add(len as usize)
                .cast::<[u8; 4]>()
                .write_unaligned([0; 4]);
        }
        let mut sum = 0;
        for chunk in 0..MAX_SUMMED / CHUNK {
            let start = chunk * CHUNK;
            if len as usize <= start {
                break;
            }
            let rest = len as usize - start;
            let size = if rest < CHUNK {
                (rest + 3) & (CHUNK - 4)
            } else {
                CHUNK
            };
            // SAFETY: the bytes were loaded, and up to three more are zero.
            sum = unsafe {
                bpf_csum_diff(
                    ptr::null_mut(),
                    0,
                    bytes.add(start).cast(),
                    size as u32,
                    sum,
                ) as u32
            };
        }
        Some(u32::from(fold(sum)))
    }

    #[inline(always)]
    fn frames(&self) -> Frames {
        Frames { segment_len: 0 }
    }

    #[inline(always)]
    fn offload(&self) -> Offload {
        Offload::NOTHING
    }

    #[inline(always)]
    fn ingress_interface(&self) -> u32 {
        0
    }
}

impl QueuedPacket for Frame {
    #[inline(always)]
    fn was_queued(&mut self) -> bool {
        false
    }

    #[inline(always)]
    fn queue<A: Address>(&self, _slot: &mut Busy<'_, A>, _key: &FragmentKey<A>) -> Option<()> {
        None
    }

    #[inline(always)]
    fn save(&self) -> Option<()> {
        None
    }

    #[inline(always)]
    fn send_queued<A: Address>(&mut self, _slot: &Busy<'_, A>, _key: &FragmentKey<A>) -> bool {
        false
    }

    #[inline(always)]
    fn restore(&mut self) {}
}
