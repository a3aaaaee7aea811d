//! Shapers and policers at an interface also apply to established sessions, and a port that no
//! longer accepts frames from XDP gets them by traffic control.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::patience::patience;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Host, Natbpf, Offload};
use tests::at;

use super::refresh::Stream;

/// How long a change may take to be followed, on a machine that does other things as well.
const FOLLOWED: Duration = Duration::from_secs(5);
/// Streams send some hundred packets in this time.
const QUIET: Duration = Duration::from_millis(300);

/// A stream from a guest and one to another.
struct World {
    out: Stream,
    into: Stream,
    natbpf: Natbpf,
    net: Proxmox,
}

/// Something at an interface that stops one of the streams.
struct Guard {
    stops: Way,
    add: &'static str,
    remove: &'static str,
    /// What `status` says.
    said: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Into,
}

impl World {
    fn new(mode: &str) -> Result<Self> {
        let net = Proxmox::with(&Options {
            uplink: match mode {
                "xdp" => Uplink::Nic,
                _ => Options::default().uplink,
            },
            ..Options::default()
        })?;
        for vm in [&net.vm1, &net.vm2] {
            vm.set_offload("eth0", Offload::Gro, true)?;
        }
        let mode = format!("mode = \"{mode}\"\n[network.lan]");
        let natbpf = net.natbpf(&net.config().replace("[network.lan]", &mode))?;
        let out = Stream::udp(
            net.vm1.udp("0.0.0.0:5000")?,
            at(Proxmox::CLI, 7000),
            net.cli.udp("198.51.100.2:7000")?,
        )?;
        let into = Stream::udp(
            net.cli.udp("198.51.100.2:6000")?,
            at(Proxmox::PUBLIC, 10000),
            net.vm2.udp("0.0.0.0:10000")?,
        )?;
        let world = Self {
            out,
            into,
            natbpf,
            net,
        };
        world.flow()?;
        Ok(world)
    }

    fn stream(&self, way: Way) -> &Stream {
        match way {
            Way::Out => &self.out,
            Way::Into => &self.into,
        }
    }

    /// How many packets come in a while.
    fn arriving(&self, way: Way) -> u64 {
        let before = self.stream(way).received();
        thread::sleep(QUIET);
        self.stream(way).received() - before
    }

    /// Both streams arrive, past the kernel's routing.
    fn flow(&self) -> Result<()> {
        until("both streams go on, and on the fast path", || {
            let before = forwarded(&self.net.host)?;
            let arrived = self.arriving(Way::Out).min(self.arriving(Way::Into));
            let slow = forwarded(&self.net.host)? - before;
            Ok(arrived > 20 && slow < arrived / 2)
        })
    }

    fn fast_path(&self) -> Result<String> {
        Ok(self.natbpf.status()?["interfaces"].to_string())
    }

    fn try_guard(&self, guard: &Guard) -> Result<()> {
        shell(&self.net.host, guard.add)?;
        let what = guard.said;
        until(&format!("{what} is said"), || {
            Ok(self.fast_path()?.contains(what))
        })?;
        until(&format!("{what} stops the stream"), || {
            Ok(self.arriving(guard.stops) == 0)
        })?;
        shell(&self.net.host, guard.remove)?;
        until(&format!("{what} is no longer said"), || {
            Ok(!self.fast_path()?.contains(what))
        })?;
        self.flow()
    }
}

fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience(FOLLOWED);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn shell(host: &Host, script: &str) -> Result<()> {
    host.check(["sh", "-ec", script])?;
    Ok(())
}

/// How many packets the kernel has forwarded.
fn forwarded(host: &Host) -> Result<u64> {
    let text = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let line = lines.nth(1).unwrap_or_default();
    let count = line.split(' ').nth(6).and_then(|word| word.parse().ok());
    Ok(count.unwrap_or(0))
}

macro_rules! chain {
    ($hook:literal, $device:literal) => {
        concat!(
            "nft 'add table netdev guard; add chain netdev guard c { type filter hook ",
            $hook,
            " device ",
            $device,
            " priority 0; }; add rule netdev guard c ip protocol udp drop'"
        )
    };
}

const NO_CHAIN: &str = "nft delete table netdev guard";

#[test]
fn guards_at_an_interface_stop_established_sessions_and_let_them_on_again() -> Result<()> {
    let world = World::new("tc")?;
    for guard in [
        Guard {
            stops: Way::Out,
            add: chain!("ingress", "tap1"),
            remove: NO_CHAIN,
            said: "off for packets from tap1: nftables chain guard c at ingress of tap1",
        },
        Guard {
            stops: Way::Out,
            add: "tc qdisc add dev tap1 clsact
                  tc filter add dev tap1 ingress protocol ip bpf da bytecode '1,6 0 0 2'",
            remove: "tc qdisc del dev tap1 clsact",
            said: "off for packets from tap1: filter of tc at ingress of tap1",
        },
        Guard {
            stops: Way::Out,
            add: chain!("ingress", "vmbr1"),
            remove: NO_CHAIN,
            said: "off for packets from tap1: nftables chain guard c at ingress of vmbr1",
        },
        Guard {
            stops: Way::Out,
            add: chain!("egress", "vmbr0"),
            remove: NO_CHAIN,
            said: "off for packets to vmbr0: nftables chain guard c at egress of vmbr0",
        },
        Guard {
            stops: Way::Into,
            add: chain!("ingress", "vmbr0"),
            remove: NO_CHAIN,
            said: "off for packets to vmbr1: nftables chain guard c at ingress of vmbr0",
        },
        Guard {
            stops: Way::Into,
            add: chain!("egress", "vmbr1"),
            remove: NO_CHAIN,
            said: "off for packets to vmbr1: nftables chain guard c at egress of vmbr1",
        },
        Guard {
            stops: Way::Into,
            add: chain!("egress", "tap2"),
            remove: NO_CHAIN,
            said: "off for packets to tap2: nftables chain guard c at egress of tap2",
        },
        Guard {
            stops: Way::Out,
            add: chain!("egress", "eno1"),
            remove: NO_CHAIN,
            said: "off for packets to eno1: nftables chain guard c at egress of eno1",
        },
    ] {
        world.try_guard(&guard)?;
    }
    Ok(())
}

#[test]
fn xdp_sends_nothing_past_the_queue_and_the_egress_of_a_port() -> Result<()> {
    let world = World::new("xdp")?;
    world.try_guard(&Guard {
        stops: Way::Into,
        add: "tc qdisc add dev tap2 clsact
              tc filter add dev tap2 egress protocol ip bpf da bytecode '1,6 0 0 2'",
        remove: "tc qdisc del dev tap2 clsact",
        said: "off for packets by xdp to tap2: filter of tc at egress of tap2",
    })?;
    let host = &world.net.host;
    // A packet takes longer through this than the stream's pace: it drops most of them.
    let slow = "tc qdisc add dev tap2 root tbf rate 8kbit burst 1600 limit 1600";
    shell(host, slow)?;
    until("the queue holds most of them back", || {
        let said = "off for packets by xdp to tap2: queue tbf of tap2";
        Ok(world.fast_path()?.contains(said) && world.arriving(Way::Into) < 30)
    })?;
    shell(host, "tc qdisc del dev tap2 root")?;
    world.flow()
}

#[test]
fn a_port_that_stops_taking_frames_gets_packets_all_the_same() -> Result<()> {
    let world = World::new("xdp")?;
    for (change, back) in [
        ("ethtool -K eth0 gro off", "ethtool -K eth0 gro on"),
        (
            "ip link set eth0 down; ip link set eth0 up",
            "ip route replace default via 172.22.161.254",
        ),
    ] {
        for command in [change, back] {
            shell(&world.net.vm2, command)?;
            until(command, || Ok(world.arriving(Way::Into) > 20))?;
        }
    }
    Ok(())
}
