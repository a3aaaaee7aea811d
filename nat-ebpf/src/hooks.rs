//! Entry points, and what they share: the table of verdicts, and what every object must have.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use nat_common::{
    drop_reason::DropReason,
    headers::parsed::Parsed,
    pipeline::{Place, Verdict},
    work::Work,
};

use crate::{
    family::{self, Addr, Room},
    maps::{Maps, count_drop, work_area},
    skb::{Hook, Skb},
};

/// Length of an Ethernet header in bytes.
pub(crate) const ETHERNET: usize = 14;
/// Length of the link-layer header of a device that has none (PPP, WireGuard, TUN).
pub(crate) const NO_LINK_LAYER: usize = 0;

/// A packet that passes, changed or not, continues to the next program and then to the stack, so
/// other programs on the same hook also run.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;

/// The programs of a hook, with and without a link-layer header.
macro_rules! entry_points {
    ($($(#[$doc:meta])* $name:ident, $raw_name:ident, hook: $hook:ident => $function:path;)*) => {
        $(
            $(#[$doc])*
            #[classifier]
            pub(crate) fn $name(ctx: TcContext) -> i32 {
                let done = match Hook::$hook {
                    Hook::Egress => Skb::was_forwarded(&ctx).then_some(NEXT),
                    _ => Skb::received_anew(&ctx),
                };
                if let Some(verdict) = done {
                    return verdict;
                }
                run::<ETHERNET>(&ctx, Hook::$hook, |packet, maps, place, work| {
                    $function(packet, maps, place, work)
                })
            }

            $(#[$doc])*
            ///
            /// For devices without a link-layer header.
            #[classifier]
            pub(crate) fn $raw_name(ctx: TcContext) -> i32 {
                if Hook::$hook == Hook::Egress && Skb::was_forwarded(&ctx) {
                    return NEXT;
                }
                run::<NO_LINK_LAYER>(&ctx, Hook::$hook, |packet, maps, place, work| {
                    $function(packet, maps, place, work)
                })
            }
        )*
    };
}

pub(crate) use entry_points;

/// Runs a hook's decision on a packet of the family and turns the outcome into the code for the
/// kernel.
#[inline(always)]
pub(crate) fn run<const L3: usize>(
    ctx: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&mut Skb, &Maps, Place, &mut Work<Addr>) -> Verdict,
) -> i32 {
    let Some(mut skb) = Skb::of_family(ctx, L3, hook) else {
        if L3 == ETHERNET && hook == Hook::Ingress && Skb::is_hidden(ctx) {
            count_drop(DropReason::HiddenByTags);
            return TC_ACT_SHOT;
        }
        return NEXT;
    };
    // SAFETY: this is a program at a hook, and asks once.
    let (Some(work), Some(room)) = (unsafe { work_area() }, Room::of_packets()) else {
        return NEXT;
    };
    let place = Place {
        l3: L3,
        interface: skb.interface(),
        is_to_host: L3 == ETHERNET && skb.is_to_host(),
    };
    let maps = Maps::new(ctx.as_ptr(), room);
    match decide(&mut skb, &maps, place, work) {
        Verdict::Untouched | Verdict::Beyond | Verdict::Translated => NEXT,
        Verdict::Opened => {
            log_packet(ctx, place.interface, &work.parsed, "session opened");
            NEXT
        }
        Verdict::ReceivedAnew => {
            log_packet(ctx, place.interface, &work.parsed, "received anew");
            skb.receive_anew()
        }
        Verdict::Forwarded => skb.send(work.redirect),
        Verdict::Queued => TC_ACT_SHOT,
        Verdict::Dropped(reason) => {
            log_packet(ctx, place.interface, &work.parsed, reason.name());
            count_drop(reason);
            if reason.is_refusal() {
                family::refuse(&skb, &maps, work, L3)
            } else {
                TC_ACT_SHOT
            }
        }
    }
}

/// Writes a debug message, if the programs were loaded with them: otherwise the verifier removes
/// all of this.
#[inline(never)]
fn log_packet(ctx: &TcContext, interface: u32, parsed: &Parsed<Addr>, what: &str) {
    debug!(
        ctx,
        "interface {}: protocol {}, {:i}:{} to {:i}:{}: {}",
        interface,
        parsed.header.protocol,
        family::shown(parsed.header.source),
        parsed.source_port.number(),
        family::shown(parsed.header.destination),
        parsed.destination_port.number(),
        what
    );
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers some helpers only to programs with a GPL-compatible licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
