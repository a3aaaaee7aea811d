//! What the kernel has left to a device for a packet, which it stores beside the packet and shows
//! to no program.
//!
//! It is read from the kernel's own record of the packet (`struct sk_buff`, `linux/skbuff.h`). The
//! loader knows the offsets of the fields from the kernel's type information (BTF).

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel, macros::map, maps::PerCpuArray,
};
use nat_common::wire::offload::{FIELDS, Offload, RECORD_CALL, Record, WINDOW, field};

/// The offsets of the fields; see [`field`]. All 0 if they are unknown.
#[unsafe(no_mangle)]
static SKB_FIELDS: [u16; FIELDS] = [0; FIELDS];

/// A copy of the record's window, if a program cannot read the record in place.
#[map]
static RECORD: PerCpuArray<[u16; WINDOW / 2]> = PerCpuArray::with_max_entries(1, 0);

/// The window in the record itself.
struct InPlace(*const u8);

impl Record for InPlace {
    #[inline(always)]
    fn byte(&self, place: usize) -> u8 {
        // SAFETY: the loader took the place from the kernel's BTF, and the verifier checks it.
        unsafe { self.0.add(place).read() }
    }

    #[inline(always)]
    fn word(&self, place: usize) -> u16 {
        // SAFETY: as above.
        unsafe { self.0.add(place).cast::<u16>().read() }
    }
}

/// The kernel's record of a packet, readable in place; null before Linux 6.2, where programs can
/// only copy it.
#[inline(always)]
fn record(skb: *mut __sk_buff) -> *const u8 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: whatever the loader puts there changes nothing but these registers.
    unsafe {
        let record;
        core::arch::asm!(
            "call {call}",
            call = const RECORD_CALL,
            inlateout("r1") skb => _,
            lateout("r0") record,
            lateout("r2") _, lateout("r3") _, lateout("r4") _, lateout("r5") _,
            options(nostack, readonly, pure),
        );
        record
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = (skb, RECORD_CALL);
        core::ptr::null()
    }
}

#[inline(always)]
fn place_of(field: usize) -> usize {
    // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know that
    // the loader may have written another.
    usize::from(unsafe {
        (&raw const SKB_FIELDS)
            .cast::<u16>()
            .add(field)
            .read_volatile()
    })
}

/// What is left to a device for a packet. (A separate function, because the verifier would check it
/// in each caller.)
#[inline(never)]
pub(crate) fn of(skb: *mut __sk_buff) -> Offload {
    here(skb)
}

/// The same without a call.
#[inline(always)]
pub(crate) fn here(skb: *mut __sk_buff) -> Offload {
    let start = place_of(field::WINDOW);
    if start == 0 {
        return Offload::UNKNOWN;
    }
    let record = record(skb);
    if !record.is_null() {
        // SAFETY: the window lies within the record.
        return Offload::read(&InPlace(unsafe { record.add(start) }), place_of);
    }
    copied(skb, start)
}

/// The same from a copy, which needs calls.
#[inline(always)]
fn copied(skb: *mut __sk_buff, start: usize) -> Offload {
    let Some(record) = RECORD.get_ptr_mut(0) else {
        return Offload::UNKNOWN;
    };
    // SAFETY: the slot is this CPU's own and has that length. The helper reads any memory; a
    // program's context is the kernel's record of the packet.
    let result = unsafe {
        let from = skb.cast::<u8>().add(start);
        bpf_probe_read_kernel(record.cast(), WINDOW as u32, from.cast())
    };
    if result != 0 {
        return Offload::UNKNOWN;
    }
    // SAFETY: the slot is this CPU's own, and there is no writer now.
    Offload::read(unsafe { &*record }, place_of)
}
