//! The BPF object and its loading.

use std::{
    fs,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{CgroupSockAddr, SchedClassifier, Xdp},
};
use nat_config::model::{Config, Limits};

use super::{Pins, layout, record::SkBuff, signals::with_signals_blocked};
use crate::clock;

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nat-ebpf.o"));

/// The compiled programs of IPv6.
pub static OBJECT_6: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nat-ebpf6.o"));

/// The program of the XDP hook.
pub(super) const XDP_PROGRAM: &str = "nat_early";
/// That of IPv6, which the other one calls.
pub(super) const XDP_PROGRAM_6: &str = "nat6_early";

/// The programs of control groups, each at the hook that its section in the object names.
pub(super) const LOCAL_PROGRAMS: &[&str] = &[
    "local_connect",
    "local_connect_6",
    "local_send",
    "local_receive",
    "local_receive_6",
    "local_peer",
    "local_peer_6",
];

/// Those of IPv6.
pub(super) const LOCAL_PROGRAMS_6: &[&str] = &[
    "local6_connect",
    "local6_send",
    "local6_receive",
    "local6_peer",
];

/// aya-log's levels: 0 leaves all messages out when the programs are verified, so that they cost
/// nothing; 5 is everything.
const LOG_NOTHING: u8 = 0;
const LOG_ALL: u8 = 5;

/// The recorded flows of the host may take one in this many places of the session table.
const HOST_SHARE: u32 = 4;

/// How many entries the tables of a new data plane have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Sessions.
    pub sessions: u32,
    /// Rules that can be counted.
    pub rules: u32,
    /// Sessions of IPv6; `None` if natbpf does not carry it.
    pub sessions_ipv6: Option<u32>,
}

impl Sizes {
    /// The fewest rules that there is room for, so that a few can be added later.
    const FEWEST_RULES: u32 = 1024;

    /// Room for 500 networks, each with a prefix that may arrive by any of them.
    const SOURCE_PREFIXES: u32 = 1 << 20;

    /// How many entries a table has, if that depends on these.
    pub(super) fn of(&self, table: &str) -> Option<u32> {
        let (table, sessions) = match table.strip_suffix('6') {
            Some(table) => (table, self.sessions_ipv6?),
            None => (table, self.sessions),
        };
        match table {
            "SESSIONS" => Some(sessions.saturating_mul(2)),
            "MAPPINGS" | "PORTS" | "PERMITS" | "GUESTS" => Some(sessions),
            "COUNTERS" | "RULES" => Some(self.rules),
            // It has each prefix once for each network, and twice during a reload. (Its memory
            // depends on its content.)
            "SNATS" => Some(Self::SOURCE_PREFIXES),
            _ => None,
        }
    }

    /// For a configuration of this many rules, with room to grow.
    #[must_use]
    pub fn new(sessions: u32, rules: usize) -> Self {
        let rules = u32::try_from(rules).unwrap_or(u32::MAX / 4);
        Self {
            sessions,
            rules: (2 * (rules + 1))
                .next_power_of_two()
                .max(Self::FEWEST_RULES),
            sessions_ipv6: None,
        }
    }

    /// For a configuration, with room for so many rules.
    #[must_use]
    pub fn of_config(config: &Config, rules: usize) -> Self {
        let Limits {
            sessions,
            sessions_ipv6,
            ..
        } = config.limits;
        let ipv6 = config.ipv6.as_ref().map(|_| sessions_ipv6);
        Self::new(sessions, rules).with_ipv6(ipv6)
    }

    /// With tables of IPv6 for so many sessions, or without.
    #[must_use]
    pub fn with_ipv6(self, sessions_ipv6: Option<u32>) -> Self {
        Self {
            sessions_ipv6,
            ..self
        }
    }
}

/// Exists if the kernel supports IPsec.
const XFRM_SYSCTL: &str = "/proc/sys/net/core/xfrm_acq_expires";

/// Loads all programs of IPv4. Maps that are pinned are taken over as they are, unchecked.
pub(super) fn load(pins: &Pins, sizes: &Sizes, log_packets: bool) -> Result<Ebpf> {
    load_object(OBJECT, pins, sizes, sizes.sessions, log_packets)
}

/// The same for IPv6. Both share the maps that hold no addresses.
pub(super) fn load_ipv6(pins: &Pins, sizes: &Sizes, log_packets: bool) -> Result<Ebpf> {
    let sessions = sizes.sessions_ipv6.unwrap_or_default();
    load_object(OBJECT_6, pins, sizes, sessions, log_packets)
}

fn load_object(
    object: &'static [u8],
    pins: &Pins,
    sizes: &Sizes,
    sessions: u32,
    log_packets: bool,
) -> Result<Ebpf> {
    let level = if log_packets { LOG_ALL } else { LOG_NOTHING };
    let netns_cookie = netns_cookie();
    let nanoseconds_per_second = clock::nanoseconds_per_second();
    let host_sessions = (sessions / HOST_SHARE).max(1);
    let has_xfrm = u32::from(Path::new(XFRM_SYSCTL).exists());
    let sk_buff = SkBuff::of_kernel();
    let object = sk_buff.give(object);
    let mut loader = EbpfLoader::new();
    loader
        .default_map_pin_directory(pins.directory())
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .override_global("AYA_LOG_LEVEL", &level, true)
        .override_global("SKB_FIELDS", &sk_buff.fields, true)
        .override_global("NETNS_COOKIE", &netns_cookie, false)
        .override_global("NANOSECONDS_PER_SECOND", &nanoseconds_per_second, true)
        .override_global("HOST_SESSIONS", &host_sessions, true)
        .override_global("HAS_XFRM", &has_xfrm, true);
    for table in layout::CURRENT.all_names() {
        if let Some(max_entries) = sizes.of(table) {
            loader.map_max_entries(table, max_entries);
        }
    }
    with_signals_blocked(|| loader.load(bytemuck::cast_slice(&object)))
        .context("load the BPF object")
}

/// A program by its name, loaded into the kernel when it is first asked for.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        with_signals_blocked(|| program.load()).with_context(|| {
            format!("load program {name}: refused by the kernel; is it older than Linux 6.1?")
        })?;
    }
    Ok(program)
}

/// A program of the XDP hook by its name, loaded into the kernel when it is first asked for.
pub(super) fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    if program.fd().is_err() {
        with_signals_blocked(|| program.load())
            .with_context(|| format!("load program {name}: refused by the kernel"))?;
    }
    Ok(program)
}

/// A program of control groups by its name, loaded into the kernel when it is first asked for.
pub(super) fn local_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program {name}"))?;
    let program: &mut CgroupSockAddr = program.try_into()?;
    if program.fd().is_err() {
        with_signals_blocked(|| program.load())
            .with_context(|| format!("load program {name}: refused by the kernel"))?;
    }
    Ok(program)
}

/// Pins a program that the daemon runs itself in place of an older one.
pub(super) fn pin_program(ebpf: &mut Ebpf, pins: &Pins, name: &str) -> Result<()> {
    let program = program(ebpf, name)?;
    let path = pins.program(name);
    // (A bpffs does not allow dots in names.)
    let fresh = pins.program(&format!("{name}-new"));
    if fresh.exists() {
        fs::remove_file(&fresh).with_context(|| format!("remove {}", fresh.display()))?;
    }
    program
        .pin(&fresh)
        .with_context(|| format!("pin program {}", fresh.display()))?;
    fs::rename(&fresh, &path).with_context(|| format!("pin program {}", path.display()))
}

/// The kernel's number of this network namespace (Linux 5.14), 0 if it has none: then no socket is
/// in it.
fn netns_cookie() -> u64 {
    let Ok(socket) = UnixDatagram::unbound() else {
        return 0;
    };
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are valid, and the length is the value's.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { cookie } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_network_namespace_has_a_number() {
        assert!(netns_cookie() != 0 && netns_cookie() == netns_cookie());
    }
}
