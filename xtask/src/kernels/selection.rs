//! Which tests run on older kernels.

use std::fmt::Write as _;

use lab::patience;

use super::guest::DONE;
use super::image::{HOST_TESTS, NATBPF, PROGRAM_TESTS};

/// Tests that prove nothing there: without hardware virtualisation a processor is a tenth as fast
/// as it is, and the machine has just been booted.
const LEFT_OUT: &[&str] = &[
    // Measures time, with a million sessions.
    "a_pass_over_a_million_sessions_costs_at_most_150_ms",
];

/// Tests of programs that are left out unless all are wanted.
const LONG: &[&str] = &[
    // Waits until the machine has been up for ten minutes.
    "a_packet_that_got_through_keeps_its_session_whenever_it_comes",
];

/// Tests of hosts that never run there: they need files of the source tree or of its target
/// directory.
const OF_THE_TREE: &[&str] = &[
    "libvirts_hook_attaches_interfaces_that_libvirt_does_not",
    "proxmoxs_hookscript_isolates_the_guests_ports_alone",
    "libvirts_default_network_starts_every_time_beside_natbpf",
    "libvirts_open_network_starts_every_time_beside_natbpf",
    "ifupdowns_bridge_comes_up_every_time_beside_natbpf",
];

/// Tests of hosts that run every time: each hook, each way of attaching and of taking over, and
/// what the kernel itself has the most part in.
const CHOSEN: &[&str] = &[
    "down_restores_everything",
    "reload_adds_and_removes_a_rule",
    "status_shows_interfaces_and_hooks",
    "a_guest_that_moves_to_another_port_is_followed",
    "established_sessions_go_past_the_kernel_and_are_counted",
    "established_ipv6_sessions_bypass_the_kernel",
    "xdp_takes_inbound_datagrams_and_they_stay_right",
    "xdp_takes_inbound_datagrams_of_ipv6_and_they_stay_right",
    "f2_reversed_fragments_arrive",
    "i1_two_guests_ping_with_the_same_identifier",
    "i4_an_error_about_a_hairpinned_flow_reaches_its_sender",
    "l3_without_its_daemon_packets_are_translated_as_before",
    "l4_a_daemon_that_starts_again_finds_everything_as_it_was",
    "l5_a_newer_build_takes_over_without_a_gap",
    "l7_an_interface_that_is_made_again_works_again",
    "l7_a_port_that_leaves_while_the_daemon_is_away_keeps_no_program",
    "m1_a_guest_with_an_address_of_its_own_is_reached_by_every_protocol",
    "m6_4_forwards_lead_to_a_guest_from_outside_and_from_inside",
    "m5_the_host_reaches_a_guest_by_tcp",
    "m5_the_host_reaches_a_guest_by_udp_and_sees_the_named_peer",
    "m5_the_hosts_access_outlives_the_daemon_and_changes_of_the_tables",
    "s6_a_service_of_the_host_keeps_its_port",
    "scenario_proxmox_on_a_bridge_that_natbpf_makes",
    "scenario_proxmox_while_netfilter_sees_the_bridges",
    "scenario_snat_by_masquerade",
    "t10_hairpin_connects_from_another_guest_and_from_the_server_itself",
    "f9_a_guest_learns_the_mtu_of_the_uplink",
    "u2_one_external_port_for_all_remotes",
    "accepted_flows_and_their_answers_pass",
    "guests_reach_only_the_networks_services_of_the_host",
    "routed_guests_reach_all_and_are_reached_by_their_own_addresses",
    "an_uplink_without_ethernet_header_works",
    "o2_a_checksum_left_to_the_device_is_right_on_the_wire",
];

/// What is waited for may take so many times as long as elsewhere.
const PATIENCE: u32 = 5;

/// What the guest runs: the test programs, one after the other.
pub(super) fn script(all: bool, filters: &[String]) -> String {
    let mut programs = PROGRAM_TESTS.to_owned();
    let mut hosts = HOST_TESTS.to_owned();
    for filter in filters {
        let _ = write!(programs, " '{filter}'");
        let _ = write!(hosts, " '{filter}'");
    }
    if filters.is_empty() && !all {
        for name in CHOSEN {
            let _ = write!(hosts, " {name}");
        }
    }
    for name in OF_THE_TREE {
        let _ = write!(hosts, " --skip {name}");
    }
    let long = if all { &[][..] } else { LONG };
    for name in LEFT_OUT.iter().chain(long) {
        let _ = write!(programs, " --skip {name}");
    }
    format!(
        "export NATBPF_BIN=/usr/bin/{NATBPF} {}={PATIENCE}\n\
         {programs} --test-threads=2\n\
         {hosts} --test-threads=2\n\
         echo '{DONE}'\n",
        patience::VARIABLE
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_named_test_exists() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        for (folder, names) in [
            (HOST_TESTS, vec![CHOSEN, OF_THE_TREE]),
            (PROGRAM_TESTS, vec![LEFT_OUT, LONG]),
        ] {
            let sources = sources_below(&tests.join(folder));
            for name in names.concat() {
                let definition = format!("#[test]\nfn {name}()");
                assert!(sources.contains(&definition), "{name} is not in {folder}");
            }
        }
    }

    fn sources_below(folder: &Path) -> String {
        let paths = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        paths
            .map(|path| match path.is_dir() {
                true => sources_below(&path),
                false => fs::read_to_string(path).unwrap(),
            })
            .collect()
    }

    #[test]
    fn a_part_of_a_name_replaces_the_default_selection() {
        let filters = ["l5".to_owned()];
        assert!(script(false, &filters).contains("\nnamespaces 'l5' --skip "));
        assert!(script(true, &[]).contains("\nnamespaces --skip "));
        assert!(script(false, &[]).contains(&format!(" {} ", CHOSEN[0])));
        assert!(script(false, &[]).contains(LONG[0]) && !script(true, &[]).contains(LONG[0]));
    }
}
