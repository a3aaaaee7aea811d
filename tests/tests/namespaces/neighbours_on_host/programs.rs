//! BPF programs of others at the hooks that natbpf uses.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Natbpf, Output};
use tests::foreign_program::{ForeignProgram, Hook, Verdict};
use tests::{at, exchange};

use super::{Pages, back_in, both_pass, finding, findings, no_findings};

/// Datagrams in each direction of the checked session.
const MANY: u64 = 60;
/// How many of these may go through the kernel.
const FEW: u64 = 12;

/// A session by a forward, with datagrams going to and fro.
struct Session(UdpSocket, UdpSocket);

impl Session {
    fn open(net: &Proxmox) -> Result<Self> {
        let session = Self(
            net.cli.udp("198.51.100.2:6000")?,
            net.vm2.udp("0.0.0.0:10000")?,
        );
        session.talk(4)?;
        // The daemon sees where everybody is, and the session learns it.
        thread::sleep(Duration::from_secs(1));
        session.talk(4)?;
        Ok(session)
    }

    fn talk(&self, times: u64) -> Result<()> {
        for _ in 0..times {
            exchange(&self.0, at(Proxmox::PUBLIC, 10000), &self.1, b"to and fro")?;
        }
        Ok(())
    }
}

fn foreign_program(net: &Proxmox, interface: &str, hook: Hook) -> Result<ForeignProgram> {
    ForeignProgram::attach(&net.host, interface, hook, "accounting", Verdict::Next)
}

/// What each of these programs sees of so many datagrams each way.
fn seen(session: &Session, strangers: &[&ForeignProgram]) -> Result<Vec<u64>> {
    let before: Vec<u64> = strangers
        .iter()
        .map(|one| one.seen())
        .collect::<Result<_>>()?;
    session.talk(MANY)?;
    let all = strangers.iter().zip(before);
    all.map(|(one, before)| Ok(one.seen()? - before)).collect()
}

#[test]
fn foreign_programs_stay_and_bypassed_ones_are_reported() -> Result<()> {
    let net = Proxmox::new()?;
    let uplink_in = foreign_program(&net, "vmbr0", Hook::TcIngress)?;
    let uplink_out = foreign_program(&net, "vmbr0", Hook::TcEgress)?;
    let port_in = foreign_program(&net, "tap2", Hook::TcIngress)?;
    let port_out = foreign_program(&net, "tap2", Hook::TcEgress)?;
    let wire_in = foreign_program(&net, "eno1", Hook::TcIngress)?;
    let wire_out = foreign_program(&net, "eno1", Hook::TcEgress)?;
    let mut natbpf = net.natbpf(&net.config())?;
    let session = Session::open(&net)?;
    // All of them have seen packets that went through the kernel.
    let all = [
        &uplink_in,
        &uplink_out,
        &port_in,
        &port_out,
        &wire_in,
        &wire_out,
    ];
    for one in all {
        ensure!(one.seen()? >= 4, "{} packets", one.seen()?);
    }
    // Those of an established session pass by what comes after natbpf, and bridges; a port's own
    // way out they do not.
    let counts = seen(&session, &all)?;
    let (passed_by, not) = counts.split_at(3);
    ensure!(passed_by.iter().all(|count| *count <= FEW), "{counts:?}");
    ensure!(not.iter().all(|count| *count >= MANY), "{counts:?}");
    // The findings say the same.
    let found = findings(&natbpf, "bpf-program")?;
    for (program, place) in [
        (&uplink_in, "vmbr0 (tc ingress)"),
        (&uplink_out, "vmbr0 (tc egress)"),
        (&port_in, "tap2 (tc ingress)"),
    ] {
        let what = format!(
            "program accounting (id {}) does not see the packets of established sessions",
            program.id()?
        );
        let is_it = |one: &&serde_json::Value| one["place"] == place && one["what"] == what;
        ensure!(found.iter().any(|one| is_it(&one)), "{place}: {found:#?}");
    }
    ensure!(found.len() == 3, "{found:#?}");
    // After natbpf has gone they are still there, and see everything again.
    natbpf.down()?;
    let _pages = Pages::open(&net)?;
    let before = uplink_in.seen()?;
    net.cli
        .check(["ping", "-c", "3", "-W", "2", &Proxmox::PUBLIC.to_string()])?;
    ensure!(uplink_in.seen()? >= before + 3, "it is gone");
    Ok(())
}

#[test]
fn with_forwarding_by_the_kernel_programs_of_others_see_everything() -> Result<()> {
    let net = Proxmox::new()?;
    let uplink_in = foreign_program(&net, "vmbr0", Hook::TcIngress)?;
    let uplink_out = foreign_program(&net, "vmbr0", Hook::TcEgress)?;
    let config = format!("forwarding = \"kernel\"\n{}", net.config());
    let natbpf = net.natbpf(&config)?;
    let session = Session::open(&net)?;
    let counts = seen(&session, &[&uplink_in, &uplink_out])?;
    ensure!(counts.iter().all(|count| *count >= MANY), "{counts:?}");
    no_findings(&natbpf)
}

#[test]
fn on_a_card_programs_of_others_at_egress_see_everything() -> Result<()> {
    let net = card()?;
    let after = foreign_program(&net, "eno1", Hook::TcIngress)?;
    let natbpf = net.natbpf(&net.config())?;
    let before = foreign_program(&net, "eno1", Hook::TcIngressFirst)?;
    let out = foreign_program(&net, "eno1", Hook::TcEgress)?;
    let session = Session::open(&net)?;
    let counts = seen(&session, &[&after, &before, &out])?;
    ensure!(
        counts[0] <= FEW && counts[1] >= MANY && counts[2] >= MANY,
        "{counts:?}"
    );
    let found = findings(&natbpf, "bpf-program")?;
    let says = |id: u32, what: &str| {
        let text = format!("program accounting (id {id}) {what}");
        found.iter().any(|one| one["what"] == text)
    };
    ensure!(
        found.len() == 2
            && says(
                after.id()?,
                "does not see the packets of established sessions"
            )
            && says(before.id()?, "runs before natbpf's"),
        "{found:#?}"
    );
    Ok(())
}

#[test]
fn a_program_that_keeps_packets_from_natbpf_is_named() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    let greedy = ForeignProgram::attach(
        &net.host,
        "vmbr0",
        Hook::TcIngressFirst,
        "greedy",
        Verdict::Pass,
    )?;
    ensure!(back_in(&net).is_err(), "natbpf sees packets all the same");
    let found = finding(&natbpf, "bpf-program")?;
    let what = format!("program greedy (id {}) runs before natbpf's", greedy.id()?);
    ensure!(found["what"] == what.as_str(), "{found:#}");
    drop(greedy);
    no_findings(&natbpf)?;
    both_pass(&net)
}

/// A card as the uplink.
fn card() -> Result<Proxmox> {
    Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })
}

#[test]
fn an_xdp_program_of_others_is_left_and_named() -> Result<()> {
    let net = card()?;
    let filter =
        ForeignProgram::attach(&net.host, "eno1", Hook::Xdp, "ddos_filter", Verdict::Pass)?;
    let natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    let found = finding(&natbpf, "bpf-program")?;
    let what = format!("program ddos_filter (id {}) is attached", filter.id()?);
    ensure!(
        found["what"] == what.as_str() && found["place"] == "eno1 (XDP)",
        "{found:#}"
    );
    let status = natbpf.status()?;
    let hooks = status["interfaces"][0]["hooks"].to_string();
    ensure!(!hooks.contains("xdp"), "{hooks}");
    Ok(())
}

#[test]
fn xdp_that_others_hold_is_refused_where_it_is_asked_for_and_stays_theirs() -> Result<()> {
    let net = card()?;
    let filter =
        ForeignProgram::attach(&net.host, "eno1", Hook::Xdp, "ddos_filter", Verdict::Pass)?;
    let with_xdp = net
        .config()
        .replace("[network.lan]", "mode = \"xdp\"\n[network.lan]");
    let Err(error) = net.natbpf(&with_xdp) else {
        anyhow::bail!("natbpf took the hook");
    };
    let said = format!("{error:#}");
    let named = format!("eno1: XDP program ddos_filter (id {})", filter.id()?);
    ensure!(
        said.contains(&named) && said.contains("mode = \"tc\""),
        "{said}"
    );
    // At a reload too, and the existing data plane continues.
    let natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    let refused = natbpf.reload(&with_xdp);
    ensure!(
        refused.is_err_and(|error| format!("{error:#}").contains(&named)),
        "the reload took it"
    );
    both_pass(&net)?;
    let before = filter.seen()?;
    both_pass(&net)?;
    ensure!(filter.seen()? > before, "it is gone");
    Ok(())
}

/// natbpf with its own directories beside the lab's, with the capabilities of its service.
fn second(net: &Proxmox, natbpf: &Natbpf, command: &str) -> Result<Output> {
    let path = |name: &str| net.lab().folder().join(name).display().to_string();
    net.host.run([
        "setpriv".to_owned(),
        "--bounding-set".to_owned(),
        // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF by their numbers, which old tools know too.
        "-all,+cap_12,+cap_38,+cap_39".to_owned(),
        Natbpf::binary()?.display().to_string(),
        "--config".to_owned(),
        natbpf.config_file().display().to_string(),
        "--run-dir".to_owned(),
        path("second-run"),
        "--bpffs".to_owned(),
        net.lab().bpffs().join("second").display().to_string(),
        command.to_owned(),
    ])
}

#[test]
fn a_second_natbpf_at_the_same_interfaces_is_refused() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    let refused = second(&net, &natbpf, "run")?;
    ensure!(
        !refused.ok() && refused.stderr.contains("of another natbpf is attached"),
        "{}",
        refused.stderr
    );
    let remedy = format!("natbpf down with --bpffs {}", natbpf.bpffs().display());
    ensure!(
        refused.stderr.contains("vmbr0 (tc ingress)") && refused.stderr.contains(&remedy),
        "{}",
        refused.stderr
    );
    let checked = second(&net, &natbpf, "check")?;
    ensure!(
        checked.ok() && checked.stderr.contains("of another natbpf is attached"),
        "{}",
        checked.stderr
    );
    // The first has not noticed.
    no_findings(&natbpf)?;
    both_pass(&net)?;
    // Restarted, it knows its own.
    natbpf.kill()?;
    natbpf.launch()?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn another_nat_in_ebpf_is_named() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let _other = ForeignProgram::attach(
        &net.host,
        "vmbr0",
        Hook::TcEgress,
        "egress_snat",
        Verdict::Next,
    )?;
    let found = finding(&natbpf, "bpf-program")?;
    let what = found["what"].as_str().context("nothing")?;
    ensure!(
        what.contains("program egress_snat") && what.contains("of another NAT"),
        "{what}"
    );
    Ok(())
}

/// Attaches a program by a filter of `tc`, as everybody did before Linux 6.6.
fn filter(net: &Proxmox, interface: &str, side: &str, preference: u32) -> Result<ForeignProgram> {
    let pin = net.lab().bpffs().join(format!("filter-{preference}"));
    let program = ForeignProgram::pinned(&pin, "shaping")?;
    let command = format!(
        "filter add dev {interface} {side} pref {preference} bpf direct-action object-pinned {}",
        pin.display()
    );
    net.host
        .check(std::iter::once("tc").chain(command.split(' ')))?;
    Ok(program)
}

#[test]
fn filters_of_tc_see_every_packet_and_status_reports_the_slow_path() -> Result<()> {
    let net = Proxmox::new()?;
    net.host
        .check(["tc", "qdisc", "add", "dev", "vmbr0", "clsact"])?;
    let ingress = filter(&net, "vmbr0", "ingress", 7)?;
    let egress = filter(&net, "vmbr0", "egress", 8)?;
    let mut natbpf = net.natbpf(&net.config())?;
    let session = Session::open(&net)?;
    for one in [&ingress, &egress] {
        ensure!(one.seen()? >= 4, "{} packets", one.seen()?);
    }
    let counts = seen(&session, &[&ingress, &egress])?;
    ensure!(counts.iter().all(|count| *count >= MANY), "{counts:?}");
    let found = findings(&natbpf, "bpf-program")?;
    ensure!(found.is_empty(), "{found:#?}");
    let status = natbpf.status()?;
    let fast_path = status["interfaces"][0]["fast_path"].as_str();
    let fast_path = fast_path.unwrap_or_default();
    for side in ["ingress", "egress"] {
        let why = format!("filter of tc at {side} of vmbr0");
        ensure!(fast_path.contains(&why), "{status}");
    }
    natbpf.down()?;
    let before = ingress.seen()?;
    net.cli
        .check(["ping", "-c", "3", "-W", "2", &Proxmox::PUBLIC.to_string()])?;
    ensure!(ingress.seen()? >= before + 3, "it is gone");
    Ok(())
}
