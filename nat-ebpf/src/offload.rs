//! What the kernel has put off of a packet: what it keeps beside it, and shows to no program.
//!
//! It is read from the kernel's own record of the packet (`struct sk_buff`, `linux/skbuff.h`).
//! Where the fields stand in it the loader knows from the kernel's description of its types (BTF).

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel, macros::map, maps::PerCpuArray,
};
use nat_common::offload::{FIELDS, Offload, WINDOW, field};

/// Where the fields stand; see [`field`]. All 0 where that is not known.
#[unsafe(no_mangle)]
static SKB_FIELDS: [u16; FIELDS] = [0; FIELDS];

/// The part of the record that is read.
#[map]
static RECORD: PerCpuArray<[u16; WINDOW]> = PerCpuArray::with_max_entries(1, 0);

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

/// What has been put off of a packet. (Apart from its callers, which the verifier looks at one by one.)
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
    let Some(record) = RECORD.get_ptr_mut(0) else {
        return Offload::UNKNOWN;
    };
    // SAFETY: the slot is this CPU's own and has that length. The helper reads whatever is there; a
    // program's context is the kernel's record of the packet itself.
    let result = unsafe {
        let from = skb.cast::<u8>().add(start);
        bpf_probe_read_kernel(
            record.cast(),
            size_of::<[u16; WINDOW]>() as u32,
            from.cast(),
        )
    };
    if result != 0 {
        return Offload::UNKNOWN;
    }
    // SAFETY: the slot is this CPU's own, and nobody writes to it now.
    Offload::read(unsafe { &*record }, place_of)
}
