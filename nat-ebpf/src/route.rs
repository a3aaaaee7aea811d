//! Where the kernel's routes send a packet.

use core::{ffi::c_void, mem::size_of};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNSUPP_LWT,
        bpf_fib_lookup,
    },
    helpers::generated,
    macros::map,
    maps::PerCpuArray,
};
use nat_common::tables::routes::target;

use crate::family::{self, Addr};

/// The query to the kernel and its answer: too large for the stack.
#[map]
static ROUTE: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// The route of a packet that came in by an interface: the index of another interface, or a
/// [`target`].
///
/// Routing policy rules for a packet's mark do not see the mark.
#[inline(always)]
pub(crate) fn route_lookup(
    ctx: *mut c_void,
    interface: u32,
    source: Addr,
    destination: Addr,
) -> u32 {
    let Some(route) = ROUTE.get_ptr_mut(0) else {
        return target::NOWHERE;
    };
    // SAFETY: the slot is this CPU's own, and nothing else uses it while this program runs. Zeroes
    // are a valid value of all fields.
    unsafe {
        *route = core::mem::zeroed();
        (*route).ifindex = interface;
        family::set_route(&mut *route, source, destination);
    }
    // SAFETY: context and question are valid for as long as the call takes.
    let result =
        unsafe { generated::bpf_fib_lookup(ctx, route, size_of::<bpf_fib_lookup>() as i32, 0) };
    match result as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the kernel has written the interface.
            unsafe { (*route).ifindex }
        }
        // Without forwarding, the packet can only be for the host.
        BPF_FIB_LKUP_RET_NOT_FWDED | BPF_FIB_LKUP_RET_FWD_DISABLED => target::HOST,
        BPF_FIB_LKUP_RET_UNSUPP_LWT => target::TUNNEL,
        _ => target::NOWHERE,
    }
}

/// Whether there is an interface of this index. (Only this part of the helper's answer counts.)
#[inline(always)]
pub(crate) fn is_there(ctx: *mut c_void, interface: u32) -> bool {
    const ENODEV: i64 = -19;
    let mut mtu = 0_u32;
    // SAFETY: context and length are valid for as long as the call takes.
    let result = unsafe { generated::bpf_check_mtu(ctx, interface, &raw mut mtu, 0, 0) };
    result != ENODEV
}
