//! Ending sessions on behalf of the daemon.
//!
//! The daemon finds the sessions that may end, and this program decides. Only in the kernel is this
//! possible without losing a packet that arrives at the same moment.

use aya_ebpf::programs::TcContext;
use nat_common::{
    session::ending::{self, END_BATCH, END_KEYS_OFFSET, EndMode, Fate},
    tables::{
        environment::Environment,
        sessions::{SessionKey, Sessions},
        settings::CurrentSettings,
    },
};

use crate::{family::Addr, maps::Maps};

/// Ends the sessions that the packet names and returns how many have ended.
#[inline(always)]
pub(crate) fn end_all(ctx: &TcContext, maps: &Maps) -> i32 {
    let Ok(mode) = ctx.load::<u32>(0) else {
        return 0;
    };
    let Ok(count) = ctx.load::<u32>(4) else {
        return 0;
    };
    let Some(settings) = maps.settings() else {
        return 0;
    };
    let now_s = ending::judged_s(maps.now_s());
    let mut ended = 0;
    maps.repeat(if count < END_BATCH { count } else { END_BATCH }, |index| {
        let offset = END_KEYS_OFFSET + index as usize * size_of::<SessionKey<Addr>>();
        let Ok(key) = ctx.load::<SessionKey<Addr>>(offset) else {
            return false;
        };
        let Some(session) = maps.session(&key) else {
            answer(ctx, offset, Fate::Ended);
            return true;
        };
        let fate = if mode != EndMode::Now as u32 {
            ending::expire(maps, settings, now_s, &key, session)
        } else if ending::end(maps, &key, session) {
            Fate::Ended
        } else {
            Fate::Kept(now_s)
        };
        ended += i32::from(fate == Fate::Ended);
        answer(ctx, offset, fate);
        true
    });
    ended
}

/// Overwrites a key with the time to check its session again.
#[inline(always)]
fn answer(ctx: &TcContext, offset: usize, fate: Fate) {
    let ask_again_s = match fate {
        Fate::Kept(until_s) => until_s,
        Fate::Ended | Fate::NotPrimary => 0,
    };
    // The key was read from there.
    let _always_succeeds = ctx.store(offset, &ask_again_s, 0);
}
