//! The budgets of the programs: a program may exceed its budget only in a commit that raises the
//! budget and says why.
//!
//! Instructions are the same on every machine, however busy it is; what they cost in time
//! `cargo xtask bench` shows.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapType;

use super::harness::Plane;

/// Programs with the number of instructions that the verifier may process for each: a quarter more
/// than on Linux 6.18, since kernels count a little differently, or what Linux 6.1 counts and a
/// little more where that is larger.
const VERIFIER_BUDGET: &[(&str, u32)] = &[
    ("nat_inbound", 76_500),
    ("nat_inbound_l3", 52_600),
    ("nat_outbound", 80_600),
    ("nat_outbound_l3", 79_000),
    ("nat_from_guest", 153_700),
    ("nat_from_guest_l3", 128_500),
    ("nat_to_guest", 28_400),
    ("nat_to_guest_l3", 28_200),
    ("nat_from_port", 26_200),
    ("nat_from_guarded_port", 35_000),
    ("nat_early", 3_900),
    ("end_sessions", 10_000),
    ("expire_fragments", 300),
    ("local_connect", 1_000),
    ("local_connect_6", 1_000),
    ("local_send", 1_000),
    ("local_receive", 60),
    ("local_receive_6", 60),
    ("local_peer", 60),
    ("local_peer_6", 60),
    ("local6_connect", 2_900),
    ("local6_send", 3_700),
    ("local6_receive", 100),
    ("local6_peer", 100),
    ("nat6_inbound", 118_500),
    ("nat6_inbound_l3", 80_800),
    ("nat6_outbound", 181_000),
    ("nat6_outbound_l3", 182_000),
    ("nat6_from_guest", 146_300),
    ("nat6_from_guest_l3", 140_200),
    ("nat6_to_guest", 85_800),
    ("nat6_to_guest_l3", 85_500),
    ("nat6_from_port", 24_800),
    ("nat6_from_guarded_port", 52_000),
    ("nat6_early", 4_300),
    ("nat6_neighbours", 11_000),
    ("nat64_translate", 33_000),
    ("nat6_from_prefix", 10_600),
    ("nat6_from_prefix_l3", 10_300),
    ("nat6_to_prefix", 10_900),
    ("nat6_to_prefix_l3", 10_700),
    ("end_sessions6", 14_800),
    ("adopt_sessions6", 76_500),
    ("expire_fragments6", 320),
];

/// Programs of the fast path alone with the number of instructions that each may have: a twentieth
/// more than on Linux 6.18. The same functions are the fast path of the other programs.
const SIZE_BUDGET: &[(&str, u32)] = &[
    ("nat_from_port", 1_670),
    ("nat_early", 1_225),
    ("nat6_from_port", 1_885),
    ("nat6_early", 1_390),
];

/// The kernel takes every program, and finds it no more complex than it was.
#[test]
fn every_program_passes_the_verifier_within_its_budget() -> Result<()> {
    let mut plane = Plane::with_ipv6()?;
    let mut over = Vec::new();
    for &(name, budget) in VERIFIER_BUDGET {
        let instructions = plane.programs.verified_instructions(name)?;
        println!("{name}: {instructions} of {budget}");
        if instructions > budget {
            over.push(format!("{name}: {instructions} of {budget}"));
        }
    }
    ensure!(
        over.is_empty(),
        "the verifier processed more instructions than the budget allows: look for a loop that was \
         unrolled or for state that paths carry along\n{}",
        over.join("\n")
    );
    Ok(())
}

/// What the daemon runs by `BPF_PROG_TEST_RUN` may be interrupted by packets on the same CPU before
/// Linux 6.3 (`bpf_test_run`, `net/bpf/test_run.c`). Its state in a per-CPU area would be theirs
/// too.
#[test]
fn programs_of_the_daemon_share_no_work_area_with_packets() -> Result<()> {
    const OF_THE_DAEMON: [&str; 7] = [
        "adopt_sessions",
        "adopt_sessions6",
        "add_counts",
        "end_sessions",
        "end_sessions6",
        "expire_fragments",
        "expire_fragments6",
    ];
    /// What a program at a hook has at least one of.
    const AREAS_OF_PACKETS: [&str; 2] = ["WORK", "ROOM_OF_PACKETS"];
    /// Each count is one instruction.
    const COUNTS: [&str; 2] = ["COUNTERS", "DROPS"];
    let mut plane = Plane::with_ipv6()?;
    let mut areas = |program: &str| -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for map in plane.programs.maps(program)? {
            let name = map.name_as_str().context("a map without a name")?;
            if map.map_type()? == MapType::PerCpuArray && !COUNTS.contains(&name) {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    };
    ensure!(areas("adopt_sessions")?.contains("ADOPTING"));
    for &(program, _) in VERIFIER_BUDGET {
        if OF_THE_DAEMON.contains(&program) || program.starts_with("local") {
            continue;
        }
        let of_packets = areas(program)?;
        let has_area = AREAS_OF_PACKETS
            .iter()
            .any(|area| of_packets.contains(*area));
        ensure!(has_area, "{program}: {of_packets:?}");
        for run in OF_THE_DAEMON {
            let shared: Vec<_> = areas(run)?.intersection(&of_packets).cloned().collect();
            ensure!(shared.is_empty(), "{run} shares {shared:?} with {program}");
        }
    }
    Ok(())
}

/// Every packet of an established session goes through these.
#[test]
fn the_fast_path_has_no_more_instructions_than_its_budget() -> Result<()> {
    let mut plane = Plane::with_ipv6()?;
    for &(name, budget) in SIZE_BUDGET {
        let instructions = plane.programs.instructions(name)?;
        println!("{name}: {instructions} of {budget}");
        ensure!(
            instructions <= budget,
            "{name} has {instructions} instructions, the budget is {budget}: what was added is \
             paid \
             by every packet. Look whether the slow path can do it; if not, measure it with \
             `cargo xtask bench --only inbound,outbound` and raise the budget"
        );
    }
    Ok(())
}
