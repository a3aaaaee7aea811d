//! Taking over from the former programs, on behalf of the daemon: see
//! [`nat_common::session::adoption`].

use core::ptr;

use aya_ebpf::{EbpfContext as _, helpers::bpf_skb_load_bytes, programs::TcContext};
use nat_common::{
    session::adoption::{ADOPT_BATCH, ADOPT_OFFSET, Adopted, adopt},
    tables::environment::Environment,
};

use crate::{
    family::Addr,
    maps::{Adopting, Maps, adopting},
};

/// Adds the sessions in the packet and returns how many could not be added.
#[inline(always)]
pub(crate) fn adopt_all(ctx: &TcContext, maps: &Maps) -> i32 {
    // SAFETY: this is the one program, which the daemon runs one at a time.
    let (Ok(count), Some(adopting)) = (ctx.load::<u32>(0), unsafe { adopting() }) else {
        return 0;
    };
    let Adopting { adopted, work } = adopting;
    let mut refused = 0;
    maps.repeat(count.min(ADOPT_BATCH), |index| {
        let offset = ADOPT_OFFSET + index as usize * size_of::<Adopted<Addr>>();
        if !load(ctx, offset, adopted) {
            return false;
        }
        refused += i32::from(!adopt(maps, adopted, &mut work.opening));
        true
    });
    refused
}

/// Reads a session from the packet into its buffer: it is too large for the stack.
#[inline(always)]
fn load(ctx: &TcContext, offset: usize, to: &mut Adopted<Addr>) -> bool {
    let len = size_of::<Adopted<Addr>>() as u32;
    // SAFETY: `to` has room for `len` bytes, any of which are valid there.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr().cast(),
            offset as u32,
            ptr::from_mut(to).cast(),
            len,
        )
    };
    result == 0
}
