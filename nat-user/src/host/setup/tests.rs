mod ipv6;

use std::{path::Path, task::Poll, time::Duration};

use nat_sys::{
    netlink::Link,
    sysctl::Key,
    testing::{HostState, bridge, in_namespace, ip},
};

use super::{bridge::random_mac, *};
use crate::{
    clock::thread_cpu_time,
    host::change::{self, Change},
};

fn uplink(interface: &str) -> Uplink {
    Uplink {
        name: "wan".to_owned(),
        interface: interface.to_owned(),
        addresses: Vec::new(),
        answered: Vec::new(),
        needs_xdp: false,
    }
}

fn network(name: &str, interface: &str, address: &str) -> Network {
    Network {
        name: name.to_owned(),
        interface: interface.to_owned(),
        addresses: vec![address.parse().unwrap()],
        ndp: None,
        guests: Vec::new(),
        is_nat64: false,
        create: true,
        ports: Vec::new(),
        isolated: false,
    }
}

fn plan(networks: &[Network]) -> Plan {
    Plan {
        uplinks: vec![uplink("vmbr0")],
        networks: networks.to_vec(),
        routes: Vec::new(),
        has_ipv6: false,
        has_fast_path: false,
        served_networks: 0,
    }
}

fn lan() -> Network {
    Network {
        ports: vec!["tap1".to_owned(), "tap2".to_owned()],
        ..network("lan", "vmbr1", "172.22.161.254/24")
    }
}

fn dmz() -> Network {
    network("dmz", "vmbr2", "10.7.0.1/16")
}

/// A host with an uplink bridge, two guests' ports and forwarding off; and a directory for the
/// journal.
struct Host {
    netlink: Netlink,
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        sysctl("ip_forward", "0");
        ip("link set lo up");
        ip("link add vmbr0 type bridge");
        ip("addr add 19.19.8.10/24 dev vmbr0");
        ip("link set vmbr0 up");
        for guest in [1, 2] {
            ip(&format!(
                "link add tap{guest} type veth peer name guest{guest}"
            ));
            ip(&format!("link set guest{guest} up"));
        }
        Self {
            netlink: Netlink::connect().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// As a daemon that has just started would.
    fn journal(&self) -> Journal {
        Journal::open(self.directory.path()).unwrap()
    }

    async fn apply(&self, plan: &Plan) -> Result<Report> {
        apply(&self.netlink, &mut self.journal(), plan, Step::Whole).await
    }

    async fn undo(&self) -> Report {
        undo(&self.netlink, &mut self.journal()).await.unwrap()
    }

    async fn link(&self, name: &str) -> Link {
        self.netlink.link(name).await.unwrap().expect(name)
    }

    fn has_record(&self) -> bool {
        self.directory.path().join("host.json").exists()
    }
}

/// Sets `net/ipv4/KEY`.
#[track_caller]
fn sysctl(key: &str, value: &str) {
    std::fs::write(Path::new("/proc/sys/net/ipv4").join(key), value).unwrap();
}

#[track_caller]
fn sysctl_is(key: &str, value: &str) {
    let now = std::fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(key)).unwrap();
    assert_eq!(now.trim(), value, "{key}");
}

/// What undoing says where the host did not forward before.
const FORWARDING_STAYS: &str = "net/ipv4/ip_forward stays 1 (it was 0): other software may rely on \
    it; sysctl -w net/ipv4/ip_forward=0 sets it back";

#[test]
fn apply_then_undo_leaves_the_host_as_it_was() {
    in_namespace(async || {
        let host = Host::new();
        sysctl("conf/guest1/forwarding", "1");
        sysctl("conf/default/forwarding", "1");
        let before = HostState::read();
        let report = host.apply(&plan(&[lan(), dmz()])).await.unwrap();
        assert_eq!(
            report.done,
            [
                "created bridge vmbr1",
                "created bridge vmbr2",
                "set net/ipv4/conf/all/send_redirects to 0 (was 1)",
                "set net/ipv4/conf/vmbr1/send_redirects to 0 (was 1)",
                "set net/ipv4/conf/vmbr2/send_redirects to 0 (was 1)",
                "added 172.22.161.254/24 to vmbr1",
                "set tap1 up",
                "attached tap1 to vmbr1",
                "set tap2 up",
                "attached tap2 to vmbr1",
                "set vmbr1 up",
                "added 10.7.0.1/16 to vmbr2",
                "set vmbr2 up",
                "set net/ipv4/ip_forward to 1 (was 0)",
            ]
        );
        assert_eq!((report.notes.len(), report.failed.len()), (0, 0));
        sysctl_is("conf/vmbr0/forwarding", "1");
        sysctl_is("conf/all/accept_redirects", "0");
        // A guest becomes no gateway of the host by IPv6.
        let taken = std::fs::read_to_string("/proc/sys/net/ipv6/conf/vmbr1/accept_ra");
        assert!(taken.is_err() || taken.is_ok_and(|taken| taken.trim() == "0"));
        let (bridge, port) = (host.link("vmbr1").await, host.link("tap2").await);
        assert_eq!(port.master, Some(bridge.index));
        assert!(bridge.up && port.up);
        assert!(ip("-4 route").contains("172.22.161.0/24 dev vmbr1"));

        let report = host.undo().await;
        before.assert_unchanged_but_forwarding();
        assert_eq!(report.notes, [FORWARDING_STAYS]);
        assert_eq!(report.failed, [""; 0]);
        sysctl_is("ip_forward", "1");
        assert_eq!(report.done.last().unwrap(), "deleted bridge vmbr1");
        assert!(!host.has_record());
    });
}

#[test]
fn interfaces_that_were_there_are_completed_and_given_back() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add inner type veth peer name tenant");
        ip("link add vmbr1 type bridge");
        ip("link set vmbr1 up");
        ip("addr add 172.22.161.254/24 dev vmbr1");
        let before = HostState::read();
        let snat = network("tenant", "inner", "1.1.1.3/24");
        let report = host.apply(&plan(&[lan(), snat])).await.unwrap();
        assert_eq!(
            report.notes,
            ["vmbr1 was there before: its ports are left as they are"]
        );
        assert!(
            report
                .done
                .contains(&"added 1.1.1.3/24 to inner".to_owned())
        );
        assert!(report.done.contains(&"set inner up".to_owned()));
        assert!(
            !report
                .done
                .iter()
                .any(|line| line.contains("172.22.161.254")),
            "{report}"
        );
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn applying_again_changes_and_writes_nothing() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&plan(&[lan()])).await.unwrap();
        let (state, file) = (HostState::read(), host.directory.path().join("host.json"));
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        let report = host.apply(&plan(&[lan()])).await.unwrap();
        assert!(report.is_empty(), "{report}");
        state.assert_unchanged();
        assert_eq!(
            std::fs::metadata(&file).unwrap().modified().unwrap(),
            written
        );
    });
}

#[test]
fn a_restarted_daemon_restores_the_original_values() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        host.apply(&plan(&[lan()])).await.unwrap();
        host.apply(&plan(&[lan(), dmz()])).await.unwrap();
        // Something else turns it off; the next start turns it on again.
        sysctl("ip_forward", "0");
        let report = host.apply(&plan(&[lan(), dmz()])).await.unwrap();
        assert_eq!(
            report.done,
            [
                "set net/ipv4/conf/vmbr1/forwarding to 1 again",
                "set net/ipv4/conf/vmbr2/forwarding to 1 again",
                "set net/ipv4/ip_forward to 1 again",
            ]
        );
        assert_eq!(report.reset.len(), 3);
        assert!(report.reset.iter().all(|(_, meanwhile)| meanwhile == "0"));
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn a_plan_that_does_not_fit_changes_nothing() {
    in_namespace(async || {
        let host = Host::new();
        // The network card where the bridge above it is meant.
        ip("link set tap1 master vmbr0");
        ip("link set tap2 master vmbr0");
        let before = HostState::read();
        let mut wrong = plan(&[dmz(), network("lan", "tap2", "172.22.161.254/24")]);
        wrong.uplinks[0].interface = "tap1".to_owned();
        let error = host.apply(&wrong).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface \"tap1\" of uplink \"wan\" is a port of vmbr0; name vmbr0\n\
             interface \"tap2\" of network \"lan\" is a port of vmbr0; name vmbr0"
        );
        let Problems(problems) = error.downcast_ref().unwrap();
        assert_eq!(problems[1].key, ["network", "lan", "interface"]);
        before.assert_unchanged();
        assert!(!host.has_record());
    });
}

#[test]
fn a_missing_interface_is_waited_for_and_the_rest_is_made() {
    in_namespace(async || {
        let host = Host::new();
        let missing = Network {
            create: false,
            ..network("far", "vmbr9", "10.9.0.1/24")
        };
        let mut late = plan(&[lan(), missing]);
        late.uplinks.push(uplink("ppp0"));
        let report = host.apply(&late).await.unwrap();
        assert_eq!(
            report.awaited,
            [
                "interface \"ppp0\" of uplink \"wan\" does not exist: its rules are inactive until \
                 it appears (create it or name another)",
                "interface \"vmbr9\" of network \"far\" does not exist: its rules are inactive \
                 until it appears (create it or set create = true)",
            ]
        );
        assert!(host.link("vmbr1").await.up);
        ip("link add ppp0 type veth peer name provider");
        ip("link add vmbr9 type bridge");
        ip("addr add 10.9.0.1/24 dev vmbr9");
        sysctl("conf/ppp0/forwarding", "0");
        let report = host.apply(&late).await.unwrap();
        assert_eq!(report.awaited, [""; 0]);
        sysctl_is("conf/ppp0/forwarding", "1");
        sysctl_is("conf/vmbr9/send_redirects", "0");
        // Gone again: what was done to it is not undone, since the plan still has it.
        ip("link del ppp0");
        let report = host.apply(&late).await.unwrap();
        assert_eq!(
            (report.awaited.len(), report.failed.len()),
            (1, 0),
            "{report}"
        );
    });
}

#[test]
fn the_owner_of_a_bridge_adds_its_address() {
    in_namespace(async || {
        let host = Host::new();
        let owned = Network {
            create: false,
            ..network("lan", "vmbr1", "172.22.161.254/24")
        };
        let plan = plan(&[owned]);
        ip("link add vmbr1 type bridge");
        for _ in 0..2 {
            let report = host.apply(&plan).await.unwrap();
            assert_eq!(report.awaited.len(), 1, "{report}");
            let start = "vmbr1 does not have 172.22.161.254/24: natbpf waits for its owner";
            assert!(report.awaited[0].starts_with(start), "{report:?}");
            assert!(!host.link("vmbr1").await.up);
        }
        // What would fail if natbpf had been first.
        ip("addr add 172.22.161.254/24 dev vmbr1");
        ip("link set vmbr1 up");
        let report = host.apply(&plan).await.unwrap();
        assert_eq!(report.awaited, [""; 0]);
        host.undo().await;
        assert!(ip("-4 addr show dev vmbr1").contains("172.22.161.254/24"));
    });
}

#[test]
fn a_plain_interface_gets_its_address() {
    in_namespace(async || {
        let host = Host::new();
        let plain = Network {
            create: false,
            ..network("lan", "vmbr1", "172.22.161.254/24")
        };
        ip("link add vmbr1 type veth peer name far");
        let report = host.apply(&plan(&[plain])).await.unwrap();
        assert_eq!(report.awaited, [""; 0]);
        assert!(host.link("vmbr1").await.up);
        assert!(ip("-4 addr show dev vmbr1").contains("172.22.161.254/24"));
        host.undo().await;
        assert!(!ip("-4 addr show dev vmbr1").contains("172.22.161.254/24"));
    });
}

#[test]
fn a_change_that_fails_midway_undoes_the_ones_before_it() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        // The kernel takes no loopback into a bridge.
        let mut wrong = lan();
        wrong.ports.push("lo".to_owned());
        let error = host.apply(&plan(&[dmz(), wrong])).await.unwrap_err();
        assert!(
            format!("{error:#}").starts_with("attach lo to vmbr1: "),
            "{error:#}"
        );
        before.assert_unchanged();
        assert!(!host.has_record());

        let too_long = network("long", "a-name-too-long-for-linux", "10.8.0.1/24");
        let error = host.apply(&plan(&[dmz(), too_long])).await.unwrap_err();
        assert!(
            format!("{error:#}").starts_with("create bridge a-name-too-long"),
            "{error:#}"
        );
        before.assert_unchanged();
        assert!(!host.has_record());
    });
}

#[test]
fn a_failed_reload_keeps_earlier_changes() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        host.apply(&plan(&[lan()])).await.unwrap();
        let (running, record) = (HostState::read(), host.journal().changes().to_vec());
        // tap1 moves to the new bridge before the failure.
        let mut with_tap1 = dmz();
        with_tap1.ports = vec!["tap1".to_owned(), "lo".to_owned()];
        let mut without_tap1 = lan();
        without_tap1.ports.remove(0);
        host.apply(&plan(&[without_tap1, with_tap1]))
            .await
            .unwrap_err();
        running.assert_unchanged();
        assert_eq!(host.journal().changes(), record);
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn a_reload_makes_and_undoes_the_difference_only() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        host.apply(&plan(&[lan(), dmz()])).await.unwrap();
        let mut wider = lan();
        wider.addresses = vec!["172.22.161.254/23".parse().unwrap()];
        wider.ports.pop();
        let report = host.apply(&plan(&[wider])).await.unwrap();
        assert_eq!(
            report.done,
            [
                "added 172.22.161.254/23 to vmbr1",
                "released tap2 from vmbr1",
                "set tap2 down again",
                "removed 172.22.161.254/24 from vmbr1",
                "deleted bridge vmbr2",
            ]
        );
        assert!(ip("-4 route").contains("172.22.160.0/23 dev vmbr1"));
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn values_changed_by_others_are_kept() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&plan(&[lan()])).await.unwrap();
        ip("link add fwbr0 type bridge");
        ip("link set tap1 master fwbr0");
        sysctl("conf/all/send_redirects", "2");
        sysctl("conf/guest1/forwarding", "0");
        sysctl("conf/guest2/forwarding", "2");
        ip("link set tap2 down");
        let report = host.undo().await;
        assert_eq!(
            report.notes,
            [
                FORWARDING_STAYS,
                "tap1 is in fwbr0, not in vmbr1 to which natbpf attached it: left there",
                "tap1 is in fwbr0 now: left up",
                "net/ipv4/conf/all/send_redirects is 2, not 0 as natbpf set it: left as it is",
            ]
        );
        assert_eq!(report.failed, [""; 0]);
        assert_eq!(
            host.link("tap1").await.master,
            Some(host.link("fwbr0").await.index)
        );
        sysctl_is("conf/all/send_redirects", "2");
        sysctl_is("conf/guest1/forwarding", "0");
        sysctl_is("conf/guest2/forwarding", "2");
        assert!(!host.has_record());
    });
}

#[test]
fn an_interface_made_again_by_others_is_not_ours() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&plan(&[lan()])).await.unwrap();
        ip("link del vmbr1");
        ip("link add vmbr1 type bridge");
        ip("addr add 172.22.161.254/24 dev vmbr1");
        ip("link set vmbr1 up");
        let report = host.apply(&plan(&[lan()])).await.unwrap();
        let line = "set net/ipv4/conf/vmbr1/send_redirects to 0 again";
        let note = "vmbr1 was there before: its ports are left as they are";
        let down = ["set tap2 down again", "set tap1 down again"];
        assert_eq!(
            report.lines().collect::<Vec<_>>(),
            [line, down[0], down[1], note]
        );
        let forgotten = |change: &Change| matches!(change, Change::Sysctl { .. });
        assert!(host.journal().changes().iter().all(forgotten));
        let report = host.undo().await;
        assert_eq!(report.failed, [""; 0]);
        assert!(ip("addr show vmbr1").contains("172.22.161.254/24"));
        assert!(host.link("vmbr1").await.up);
        assert!(!host.has_record());
    });
}

#[test]
fn a_bridge_that_vanished_is_made_again() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        host.apply(&plan(&[lan()])).await.unwrap();
        ip("link del vmbr1");
        ip("link set tap1 down");
        host.apply(&plan(&[lan()])).await.unwrap();
        assert!(ip("addr show vmbr1").contains("172.22.161.254/24"));
        assert_eq!(
            host.link("tap1").await.master,
            Some(host.link("vmbr1").await.index)
        );
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn addresses_of_others_outlive_ours() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add vmbr1 type bridge");
        host.apply(&plan(&[lan()])).await.unwrap();
        ip("addr add 172.22.161.253/24 dev vmbr1");
        sysctl("conf/vmbr1/promote_secondaries", "0");
        host.undo().await;
        let addresses = ip("-4 addr show vmbr1");
        assert!(addresses.contains("172.22.161.253/24"), "{addresses}");
        assert!(!addresses.contains("172.22.161.254"), "{addresses}");
        sysctl_is("conf/vmbr1/promote_secondaries", "0");
    });
}

#[test]
fn a_daemon_killed_before_its_first_change_has_nothing_to_undo() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let vmbr0 = host.link("vmbr0").await;
        let mut journal = host.journal();
        let forward = Key::new(&["net", "ipv4", "ip_forward"]).unwrap();
        for change in [
            change::make::forwarding_on(forward, "0".to_owned()).unwrap(),
            Change::Bridge {
                name: "vmbr1".to_owned(),
                mac: random_mac().unwrap(),
                ifindex: None,
                nat64: false,
            },
            Change::Address {
                interface: "vmbr0".to_owned(),
                ifindex: vmbr0.index,
                address: "172.22.161.254/24".parse().unwrap(),
            },
            Change::Port {
                port: "tap1".to_owned(),
                ifindex: host.link("tap1").await.index,
                bridge: "vmbr1".to_owned(),
                previous: None,
                isolated: false,
            },
            Change::LinkUp {
                name: "tap1".to_owned(),
                ifindex: host.link("tap1").await.index,
                master: None,
            },
        ] {
            journal.record(change);
        }
        journal.save().unwrap();
        let report = host.undo().await;
        assert!(report.is_empty(), "{report}");
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn a_daemon_killed_at_any_point_leaves_nothing_behind() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let mut finished = false;
        let mut steps = 0;
        while !finished {
            let mut journal = host.journal();
            let plan = plan(&[lan(), dmz()]);
            let run = apply(&host.netlink, &mut journal, &plan, Step::Whole);
            finished = stop_after(steps, run).await.is_some();
            // The request that was under way is answered before this one.
            host.netlink.links().await.unwrap();
            // Every other time the daemon starts again before it is told to undo all.
            if steps % 2 == 0 {
                host.apply(&plan).await.unwrap();
            }
            let report = host.undo().await;
            let notes = report.notes.iter().filter(|note| *note != FORWARDING_STAYS);
            assert_eq!(
                (notes.count(), &report.failed[..]),
                (0, &[][..]),
                "{report}"
            );
            sysctl("ip_forward", "0");
            before.assert_unchanged_but_forwarding();
            assert!(!host.has_record());
            steps += 1;
        }
        assert!(steps > 20, "{steps} steps");
    });
}

/// Drives a future until it has waited so many times, then drops it.
async fn stop_after<F: Future>(waits: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = waits;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

#[test]
fn a_bridge_is_known_as_ours_after_a_kill_between_making_and_recording_it() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let made = async || {
            let mut journal = host.journal();
            let mac = random_mac().unwrap();
            journal.record(Change::Bridge {
                name: "vmbr1".to_owned(),
                mac,
                ifindex: None,
                nat64: false,
            });
            journal.save().unwrap();
            host.netlink.create_bridge("vmbr1", mac).await.unwrap();
        };
        made().await;
        host.undo().await;
        before.assert_unchanged_but_forwarding();

        made().await;
        host.apply(&plan(&[lan()])).await.unwrap();
        let index = host.link("vmbr1").await.index;
        let recorded = host.journal().changes().iter().any(|change| {
            matches!(change, Change::Bridge { ifindex: Some(known), .. } if *known == index)
        });
        assert!(recorded, "adopted, with its index");
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn forwarding_of_an_uplink_stays_and_that_of_a_network_does_not() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add vmbr1 type bridge");
        sysctl("ip_forward", "1");
        sysctl("conf/vmbr0/forwarding", "0");
        sysctl("conf/vmbr1/forwarding", "0");
        let before = HostState::read();
        let report = host.apply(&plan(&[lan()])).await.unwrap();
        for name in ["vmbr0", "vmbr1"] {
            let line = format!("set net/ipv4/conf/{name}/forwarding to 1 (was 0)");
            assert!(report.done.contains(&line), "{report}");
        }
        assert!(!report.done.iter().any(|line| line.contains("ip_forward")));
        let report = host.undo().await;
        let stays = "net/ipv4/conf/vmbr0/forwarding stays 1 (it was 0)";
        assert!(report.notes[0].starts_with(stays), "{report}");
        sysctl_is("conf/vmbr0/forwarding", "1");
        sysctl_is("conf/vmbr1/forwarding", "0");
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn networks_forward_no_longer_than_before_wherever_ip_forward_came_from() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add vmbr1 type bridge");
        host.apply(&plan(&[lan()])).await.unwrap();
        sysctl_is("conf/vmbr1/forwarding", "1");
        // A bridge that came later has the kernel's default, which ip_forward has changed.
        ip("link add vmbr2 type bridge");
        sysctl_is("conf/vmbr2/forwarding", "1");
        // Other software turns it off, and the next run turns it on again.
        sysctl("ip_forward", "0");
        host.apply(&plan(&[lan(), dmz()])).await.unwrap();
        let networks = || ["vmbr1", "vmbr2"].map(|name| format!("conf/{name}/forwarding"));
        networks().iter().for_each(|key| sysctl_is(key, "1"));
        // One that is no network any more stops before its programs go.
        let (lan, mut journal) = (plan(&[lan()]), host.journal());
        let step = Step::BeforePrograms;
        apply(&host.netlink, &mut journal, &lan, step)
            .await
            .unwrap();
        sysctl_is("conf/vmbr2/forwarding", "0");
        host.undo().await;
        networks().iter().for_each(|key| sysctl_is(key, "0"));
        sysctl_is("ip_forward", "1");
        sysctl_is("conf/vmbr0/forwarding", "1");
    });
}

#[test]
fn before_the_programs_are_there_nothing_is_set_up_by_which_packets_pass() {
    in_namespace(async || {
        let host = Host::new();
        let (both, mut journal) = (plan(&[lan(), dmz()]), host.journal());
        let step = Step::BeforePrograms;
        let report = apply(&host.netlink, &mut journal, &both, step)
            .await
            .unwrap();
        assert_eq!(
            report.done,
            ["created bridge vmbr1", "created bridge vmbr2"]
        );
        assert!(!host.link("vmbr1").await.up && !host.link("vmbr2").await.up);
        sysctl_is("ip_forward", "0");
        host.apply(&both).await.unwrap();
        let one = plan(&[lan()]);
        journal = host.journal();
        let report = apply(&host.netlink, &mut journal, &one, step).await;
        assert_eq!(report.unwrap().done, ["deleted bridge vmbr2"]);
        sysctl_is("ip_forward", "1");
        assert!(host.link("vmbr1").await.up);
    });
}

#[test]
fn a_port_that_comes_later_is_attached_then() {
    in_namespace(async || {
        let host = Host::new();
        let mut later = lan();
        later.ports.push("tap3".to_owned());
        let report = host.apply(&plan(&[later.clone()])).await.unwrap();
        assert_eq!(report.notes, ["there is no tap3 to attach to vmbr1 yet"]);
        ip("link add tap3 type veth peer name guest3");
        let before = HostState::read();
        let report = host.apply(&plan(&[later])).await.unwrap();
        assert_eq!(report.done, ["set tap3 up", "attached tap3 to vmbr1"]);
        host.apply(&plan(&[lan()])).await.unwrap();
        before.assert_unchanged();
    });
}

#[test]
fn a_port_is_given_back_to_the_bridge_that_it_was_in() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add virbr0 type bridge");
        ip("link set tap1 master virbr0");
        let before = HostState::read();
        host.apply(&plan(&[lan()])).await.unwrap();
        let report = host.undo().await;
        assert!(
            report
                .done
                .contains(&"moved tap1 back to virbr0".to_owned()),
            "{report}"
        );
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn a_failed_undo_is_reported_and_the_rest_continues() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&plan(&[lan()])).await.unwrap();
        // A setting that takes no such value stands for one that refuses.
        let mut journal = host.journal();
        let changes = journal
            .changes()
            .iter()
            .cloned()
            .map(|change| match change {
                Change::Sysctl { key, set, .. }
                    if key.to_string().ends_with("all/send_redirects") =>
                {
                    Change::Sysctl {
                        key,
                        set,
                        before: "no number".to_owned(),
                        followers: Vec::new(),
                        stays: false,
                    }
                }
                other => other,
            });
        let changes = changes.collect();
        journal.replace(changes);
        journal.save().unwrap();
        let report = host.undo().await;
        assert_eq!(report.failed.len(), 1);
        let start = "set sysctl net/ipv4/conf/all/send_redirects to no number: Invalid argument";
        assert!(report.failed[0].starts_with(start), "{report}");
        assert_eq!(host.netlink.link("vmbr1").await.unwrap(), None);
        assert_eq!(host.journal().changes().len(), 1, "kept for another try");
    });
}

#[test]
fn two_hundred_networks_are_set_up_in_time() {
    in_namespace(async || {
        let host = Host::new();
        let networks: Vec<_> = (0..200)
            .map(|number| network("n", &format!("br{number}"), &format!("10.9.{number}.1/24")))
            .collect();
        let start = thread_cpu_time();
        host.apply(&plan(&networks)).await.unwrap();
        let first = thread_cpu_time();
        let took = first - start;
        assert!(took < Duration::from_secs(3), "{took:?}");
        let report = host.apply(&plan(&networks)).await.unwrap();
        assert!(report.is_empty());
        let took = thread_cpu_time() - first;
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn ports_of_bridges_and_other_prefixes_are_problems() {
    in_namespace(async || {
        let host = Host::new();
        ip("link set guest1 master vmbr0");
        ip("link add vmbr1 type bridge");
        ip("addr add 172.22.161.254/16 dev vmbr1");
        ip("link add inner type veth peer name tenant");
        let mut wrong = plan(&[
            lan(),
            Network {
                ports: vec!["tap1".to_owned()],
                ..network("tenant", "inner", "1.1.1.3/24")
            },
        ]);
        wrong.uplinks[0].interface = "guest1".to_owned();
        let problems = problems(&host.netlink, &wrong, &[]).await.unwrap();
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "interface \"guest1\" of uplink \"wan\" is a port of vmbr0; name vmbr0",
                "vmbr1 has 172.22.161.254/16, not 172.22.161.254/24; make the prefixes the same",
                "interface \"inner\" of network \"tenant\" is not a bridge; remove ports or name \
                 a bridge",
            ]
        );
    });
}

#[test]
fn ports_are_isolated_while_the_network_is_isolated() {
    in_namespace(async || {
        let host = Host::new();
        let isolated = async |name: &str| host.link(name).await.port.map(|port| port.isolated);
        let plan_with = |isolated| plan(&[Network { isolated, ..lan() }]);
        host.apply(&plan_with(true)).await.unwrap();
        assert_eq!(isolated("tap1").await, Some(true));
        assert!(host.apply(&plan_with(true)).await.unwrap().is_empty());
        host.apply(&plan_with(false)).await.unwrap();
        assert_eq!(isolated("tap1").await, Some(false));
        // A port that other software has isolated stays so.
        bridge("link set dev tap2 isolated on");
        assert!(host.apply(&plan_with(false)).await.unwrap().is_empty());
        assert_eq!(isolated("tap2").await, Some(true));
        host.undo().await;
        assert_eq!(isolated("tap1").await, None);
    });
}

#[test]
fn a_random_mac_is_unicast_and_locally_administered() {
    let (first, second) = (random_mac().unwrap(), random_mac().unwrap());
    assert_ne!(first, second);
    for mac in [first, second] {
        assert_eq!(mac[0] & 0x03, 0x02, "{mac:02x?}");
    }
}

#[test]
fn the_plan_is_taken_from_the_configuration() {
    let text = r#"
        [uplink.wan]
        interface = "vmbr0"

        [network.lan]
        interface = "vmbr1"
        address = "172.22.161.254/24"
        create = true
        ports = ["tap1", "tap2"]
    "#;
    let config = nat_config::parse(text, Path::new("natbpf.toml"))
        .unwrap()
        .config;
    let expected = Plan {
        has_fast_path: true,
        ..plan(&[lan()])
    };
    assert_eq!(Plan::from_config(&config), expected);
}

#[test]
fn the_reverse_path_filter_is_not_touched() {
    in_namespace(async || {
        let host = Host::new();
        let filters = || {
            ["all", "default", "vmbr0", "tap1"].map(|interface| {
                let key = Key::ipv4_conf(interface, "rp_filter").unwrap();
                key.read().unwrap().unwrap()
            })
        };
        let before = filters();
        host.apply(&plan(&[lan()])).await.unwrap();
        assert_eq!(filters(), before);
    });
}

/// A route to the guests of [`lan`].
fn route(prefixes: &[&str]) -> Route {
    Route {
        name: "public".to_owned(),
        interface: "vmbr1".to_owned(),
        prefixes: prefixes.iter().map(|text| text.parse().unwrap()).collect(),
        uplink: "vmbr0".to_owned(),
        uplink_addresses: Vec::new(),
        gateway: None,
        proxy_arp: false,
        arp: false,
    }
}

fn plan_with(routes: &[Route]) -> Plan {
    Plan {
        routes: routes.to_vec(),
        ..plan(&[lan()])
    }
}

/// The route that the host has to a prefix, in `ip`'s words.
fn route_to(prefix: &str) -> String {
    let line = ip(&format!("-4 route show {prefix}"));
    line.replace(" linkdown", "").trim().to_owned()
}

#[test]
fn routes_are_made_followed_and_undone() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let all = Route {
            gateway: Some("19.19.8.10".parse().unwrap()),
            proxy_arp: true,
            arp: true,
            ..route(&["192.0.2.112/29", "198.51.100.7/32"])
        };
        let report = host
            .apply(&plan_with(std::slice::from_ref(&all)))
            .await
            .unwrap();
        let lines = report.done.join("\n");
        for line in [
            "added 19.19.8.10/32 to vmbr1",
            "routed 192.0.2.112/29 to vmbr1",
            "set net/ipv4/conf/vmbr1/proxy_arp to 1 (was 0)",
            "answered ARP for 192.0.2.119 on vmbr0",
        ] {
            assert!(lines.contains(line), "{line} is not in\n{lines}");
        }
        let to_subnet = "192.0.2.112/29 dev vmbr1 proto static scope link src 19.19.8.10";
        assert_eq!(route_to("192.0.2.112/29"), to_subnet);
        assert_eq!(ip("neigh show proxy").lines().count(), 9);
        let again = host
            .apply(&plan_with(std::slice::from_ref(&all)))
            .await
            .unwrap();
        assert!(again.is_empty(), "{again}");
        // One address less, and another way to the host.
        ip("addr add 203.0.113.1/24 dev vmbr0");
        let less = Route {
            uplink_addresses: vec!["203.0.113.1".parse().unwrap()],
            ..route(&["192.0.2.112/29"])
        };
        host.apply(&plan_with(&[less])).await.unwrap();
        let to_subnet = "192.0.2.112/29 dev vmbr1 proto static scope link src 203.0.113.1";
        assert_eq!(route_to("192.0.2.112/29"), to_subnet);
        assert_eq!(route_to("198.51.100.7"), "");
        assert_eq!(ip("neigh show proxy"), "");
        sysctl_is("conf/vmbr1/proxy_arp", "0");
        ip("addr del 203.0.113.1/24 dev vmbr0");
        host.undo().await;
        before.assert_unchanged_but_forwarding();
        assert!(!host.has_record());
    });
}

#[test]
fn a_route_on_a_foreign_bridge_is_removed_again() {
    in_namespace(async || {
        let host = Host::new();
        ip("link add vmbr1 type bridge");
        ip("link set vmbr1 up");
        ip("addr add 172.22.161.254/24 dev vmbr1");
        // It was there before, and is as good.
        ip("route add 198.51.100.7 dev vmbr1");
        let before = HostState::read();
        let plan = plan_with(&[route(&["192.0.2.112/29", "198.51.100.7/32"])]);
        host.apply(&plan).await.unwrap();
        assert!(route_to("192.0.2.112/29").ends_with("src 19.19.8.10"));
        host.undo().await;
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn a_route_that_leads_elsewhere_is_not_replaced() {
    in_namespace(async || {
        let host = Host::new();
        ip("route add 198.51.100.7 dev vmbr0");
        let before = HostState::read();
        let wrong = plan_with(&[route(&["198.51.100.7/32", "19.19.8.10/32"])]);
        let error = host.apply(&wrong).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "the host already has a route to 198.51.100.7/32 by vmbr0; remove it (ip route del \
             198.51.100.7/32), or this one\n19.19.8.10 is the host's own address, on vmbr0; remove \
             it from vmbr0, because the guest needs it"
        );
        before.assert_unchanged();
        // One with a larger metric is no obstacle.
        ip("route del 198.51.100.7");
        ip("route add 198.51.100.7 dev vmbr0 metric 100");
        host.apply(&plan_with(&[route(&["198.51.100.7/32"])]))
            .await
            .unwrap();
        host.undo().await;
        assert_eq!(
            route_to("198.51.100.7"),
            "198.51.100.7 dev vmbr0 scope link metric 100"
        );
    });
}

#[test]
fn a_route_does_not_take_the_hosts_router_to_the_guests() {
    in_namespace(async || {
        let host = Host::new();
        ip("route add 203.0.113.0/24 via 19.19.8.1");
        for prefix in ["19.19.8.1/32", "19.19.8.0/29"] {
            let error = host.apply(&plan_with(&[route(&[prefix])])).await;
            let error = error.unwrap_err().to_string();
            let router =
                "holds 19.19.8.1, the router of the host's route to 203.0.113.0/24 by vmbr0";
            assert!(error.contains(router), "{error}");
        }
        // A part of the link without it.
        host.apply(&plan_with(&[route(&["19.19.8.128/25"])]))
            .await
            .unwrap();
        host.undo().await;
    });
}

#[test]
fn a_gateway_of_another_machine_is_refused() {
    in_namespace(async || {
        let host = Host::new();
        let with = |gateway: &str| {
            plan_with(&[Route {
                gateway: Some(gateway.parse().unwrap()),
                ..route(&["192.0.2.112/29"])
            }])
        };
        // The provider's router, and any other host.
        for gateway in ["19.19.8.1", "8.8.8.8"] {
            let error = host.apply(&with(gateway)).await.unwrap_err().to_string();
            assert!(error.contains("another machine's address"), "{error}");
            assert!(error.ends_with("such as 19.19.8.10 of vmbr0"), "{error}");
        }
        // The host's own, and of the network's subnet.
        for gateway in ["19.19.8.10", "172.22.161.1"] {
            host.apply(&with(gateway)).await.unwrap();
            assert!(ip("-4 addr show vmbr1").contains(&format!("{gateway}/32")));
        }
        // An uplink that waits for its address may get this one.
        ip("addr del 19.19.8.10/24 dev vmbr0");
        host.apply(&with("203.0.113.9")).await.unwrap();
        ip("addr add 19.19.8.10/24 dev vmbr0");
        let error = host
            .apply(&with("203.0.113.9"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("203.0.113.9 is neither"), "{error}");
        host.undo().await;
    });
}

#[test]
fn a_route_moves_to_another_network_and_back_when_that_fails() {
    in_namespace(async || {
        let host = Host::new();
        let to = |interface: &str, name: &str| Plan {
            routes: vec![Route {
                interface: interface.to_owned(),
                ..route(&["198.51.100.7/32"])
            }],
            ..plan(&[lan(), network("n", name, "10.7.0.1/16")])
        };
        host.apply(&to("vmbr1", "vmbr2")).await.unwrap();
        let report = host.apply(&to("vmbr2", "vmbr2")).await.unwrap();
        assert_eq!(report.done, ["routed 198.51.100.7/32 to vmbr2"]);
        assert!(route_to("198.51.100.7").starts_with("198.51.100.7 dev vmbr2"));
        let mut bad = to("vmbr1", "vmbr2");
        // A prefix that the kernel refuses.
        bad.routes.push(Route {
            prefixes: vec!["255.255.255.255/8".parse().unwrap()],
            ..route(&[])
        });
        host.apply(&bad).await.unwrap_err();
        assert!(route_to("198.51.100.7").starts_with("198.51.100.7 dev vmbr2"));
    });
}

#[test]
fn a_bridge_that_comes_back_has_its_address_and_routes() {
    in_namespace(async || {
        let host = Host::new();
        let plan = plan_with(&[route(&["192.0.2.112/29"])]);
        host.apply(&plan).await.unwrap();
        let mac = host.link("vmbr1").await.mac;
        ip("link del vmbr1");
        host.apply(&plan).await.unwrap();
        assert_eq!(host.link("vmbr1").await.mac, mac);
        assert!(route_to("192.0.2.112/29").contains("dev vmbr1"));
    });
}

#[test]
fn many_bridges_go_at_once_and_nothing_else_with_them() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let networks =
            [1, 2, 3, 4].map(|n| network("n", &format!("br{n}"), &format!("10.9.{n}.1/24")));
        host.apply(&plan(&networks)).await.unwrap();
        // Somebody has given others the group that is asked for first.
        ip("link add other type bridge");
        ip("link set other group 1851916288");
        let report = host.undo().await;
        let deleted = report
            .done
            .iter()
            .filter(|line| line.starts_with("deleted bridge br"));
        assert_eq!((deleted.count(), &report.failed), (4, &Vec::new()));
        assert_eq!(host.link("other").await.name, "other");
        ip("link del other");
        before.assert_unchanged_but_forwarding();
    });
}

#[test]
fn many_dnsmasqs_may_watch_files() {
    in_namespace(async || {
        let host = Host::new();
        let key = Key::new(&["fs", "inotify", "max_user_instances"]).unwrap();
        let before = key.read().unwrap().unwrap();
        let plan = Plan {
            served_networks: 100_000,
            ..plan(&[lan()])
        };
        host.apply(&plan).await.unwrap();
        let now = key.read().unwrap().unwrap();
        host.undo().await;
        assert_eq!(now, "100128");
        assert_eq!(key.read().unwrap().unwrap(), before);
    });
}

#[test]
fn a_route_that_would_cut_the_host_off_is_a_problem() {
    in_namespace(async || {
        let host = Host::new();
        ip("route add 198.51.100.64/28 dev vmbr0");
        for (prefix, problem) in [
            // The host has 19.19.8.10/24 on vmbr0.
            (
                "19.19.8.0/25",
                "19.19.8.0/25 holds 19.19.8.10, which is the host's own, on vmbr0",
            ),
            (
                "19.19.0.0/16",
                "19.19.0.0/16 holds 19.19.8.10, which is the host's own, on vmbr0",
            ),
            (
                "198.51.100.0/24",
                "the host already has a route to 198.51.100.64/28 by vmbr0",
            ),
        ] {
            let before = HostState::read();
            let error = host
                .apply(&plan_with(&[route(&[prefix])]))
                .await
                .unwrap_err();
            assert!(error.to_string().starts_with(problem), "{prefix}: {error}");
            before.assert_unchanged();
        }
        // A part of the uplink's subnet without the host's own address may be routed.
        host.apply(&plan_with(&[route(&["19.19.8.112/29"])]))
            .await
            .unwrap();
    });
}

#[test]
fn xdp_on_an_unsuitable_interface_names_the_key() {
    in_namespace(async || {
        let host = Host::new();
        let before = HostState::read();
        let mut wrong = plan(&[lan()]);
        wrong.uplinks[0].needs_xdp = true;
        let error = host.apply(&wrong).await.unwrap_err();
        let Problems(problems) = error.downcast_ref().unwrap();
        assert_eq!(problems[0].key, ["uplink", "wan", "mode"]);
        let problem = "interface \"vmbr0\" of uplink \"wan\" takes no XDP program";
        assert_eq!(problems[0].problem, problem);
        before.assert_unchanged();
        wrong.uplinks[0].interface = "tap1".to_owned();
        wrong.networks[0].ports.clear();
        host.apply(&wrong).await.unwrap();
    });
}
