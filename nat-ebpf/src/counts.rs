//! Taking over what the former programs have counted, on behalf of the daemon: see
//! [`nat_common::session::adoption`].

use aya_ebpf::programs::TcContext;
use nat_common::{
    session::adoption::{ADOPT_OFFSET, COUNTED_BATCH, Counted, counted},
    tables::environment::Environment,
};

use crate::family::Room;
use crate::maps::{COUNTERS, DROPS, Maps, add_at_once};

/// Adds the counts in the packet and returns how many there were.
#[inline(always)]
pub(crate) fn add_all(ctx: &TcContext) -> i32 {
    let Ok(count) = ctx.load::<u32>(0) else {
        return 0;
    };
    let maps = Maps::new(core::ptr::null_mut(), Room);
    let mut added = 0;
    maps.repeat(count.min(COUNTED_BATCH), |index| {
        let offset = ADOPT_OFFSET + index as usize * size_of::<Counted>();
        let Ok(counted) = ctx.load::<Counted>(offset) else {
            return false;
        };
        added += i32::from(add_counted(&counted));
        true
    });
    added
}

/// Adds to what was counted on this CPU.
#[inline(always)]
fn add_counted(counted: &Counted) -> bool {
    let [packets_in, bytes_in, packets_out, bytes_out, opened, closed] = counted.words;
    if counted.table == counted::DROPS {
        let Some(count) = DROPS.get_ptr_mut(counted.number) else {
            return false;
        };
        // SAFETY: the slot is a valid one of this CPU. A packet may interrupt this program and
        // count there, so each count is one instruction.
        unsafe { add_at_once(count, packets_in) };
        return true;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(counted.number) else {
        return false;
    };
    // SAFETY: as above.
    unsafe {
        add_at_once(&raw mut (*counters).packets_in, packets_in);
        add_at_once(&raw mut (*counters).bytes_in, bytes_in);
        add_at_once(&raw mut (*counters).packets_out, packets_out);
        add_at_once(&raw mut (*counters).bytes_out, bytes_out);
        add_at_once(&raw mut (*counters).opened, opened);
        add_at_once(&raw mut (*counters).closed, closed);
    }
    true
}
