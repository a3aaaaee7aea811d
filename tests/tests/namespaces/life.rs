//! What packets notice of the daemon's life and of the host's changes: L1 to L8.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use lab::patience::patience;
use lab::topology::Proxmox;
use lab::{Host, Natbpf};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::bulk::{Sender, transfer};
use tests::following::{FOLLOWED, soon_seen};
use tests::{Load, at, exchange, hears};

/// Long enough for a TCP connection to be in the middle of something.
const BULK: usize = 300_000_000;

/// One stream of datagrams by masquerade and one by a forward.
struct Loads([Load; 2]);

impl Loads {
    fn start(net: &Proxmox) -> Result<Self> {
        let out = Load::start(&net.vm1, at(Proxmox::CLI, 7100), &net.cli, 7100)?;
        let back = Load::start(&net.cli, at(Proxmox::PUBLIC, 10100), &net.vm2, 10100)?;
        Ok(Self([out, back]))
    }

    /// Nothing was lost, and neither client has become another. Gives how many packets each has
    /// sent.
    fn finish(self) -> Result<[u32; 2]> {
        let [out, back] = self.0;
        let (seen, sent_out) = out.finish().context("by masquerade")?;
        ensure!(seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
        let (seen, sent_back) = back.finish().context("by a forward")?;
        ensure!(seen.ip() == Proxmox::CLI, "seen as {seen}");
        Ok([sent_out, sent_back])
    }
}

/// The configuration with one more forward.
fn with_another_rule(net: &Proxmox) -> String {
    format!(
        "{}[[forward]]\nname = \"added\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 2000\n\
         to = \"{}\"\n",
        net.config(),
        Proxmox::VM1
    )
}

#[test]
fn l1_a_rule_that_comes_and_goes_costs_other_flows_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    let (added, client) = (
        net.vm1.udp("0.0.0.0:2000")?,
        net.cli.udp("198.51.100.2:7000")?,
    );
    for _ in 0..5 {
        natbpf.reload(&with_another_rule(&net))?;
        exchange(
            &client,
            at(Proxmox::PUBLIC, 2000),
            &added,
            b"the rule is there",
        )?;
        natbpf.reload(&net.config())?;
        client.send_to(b"the rule is gone", at(Proxmox::PUBLIC, 2000))?;
        ensure!(hears(&added)?.is_none(), "forwarded without a rule");
    }
    loads.finish()?;
    Ok(())
}

#[test]
fn l2_a_hundred_reloads_under_load_lose_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    thread::scope(|scope| {
        // A connection that is reset or stalls does not come to its end.
        let bulk = scope.spawn(|| {
            let to = at(Proxmox::PUBLIC, 10001);
            transfer(&net.cli, to, &net.vm1, 10001, Sender::Server, BULK)
        });
        for n in 0..100 {
            let config = if n % 2 == 0 {
                with_another_rule(&net)
            } else {
                net.config()
            };
            natbpf
                .reload(&config)
                .with_context(|| format!("reload {n}"))?;
        }
        bulk.join().expect("no panic").context("TCP meanwhile")
    })?;
    loads.finish()?;
    Ok(())
}

#[test]
fn l9_tables_of_other_sizes_cost_no_session_anything() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            let to = at(Proxmox::PUBLIC, 10001);
            transfer(&net.cli, to, &net.vm1, 10001, Sender::Server, BULK)
        });
        for sessions in [1000, 300_000, 2000, 65_536, 1000, 262_144] {
            let changed = natbpf.reload(&format!(
                "{}[limits]\nsessions = {sessions}\n",
                net.config()
            ))?;
            ensure!(changed.contains("; 0 sessions ended"), "{changed}");
            let max = &natbpf.status()?["sessions"]["max"];
            ensure!(*max == sessions, "room for {max}, not {sessions}");
        }
        bulk.join().expect("no panic").context("TCP meanwhile")
    })?;
    let sent = loads.finish()?;
    let stats = natbpf.stats()?;
    for (rule, sent) in ["lan-out", "vm2-udp"].into_iter().zip(sent) {
        let rules = stats["rules"].as_array().context("no rules")?;
        let counted = rules.iter().find(|one| one["name"] == rule);
        let counted = counted.context("no such rule")?;
        let is_exact = counted["packets_in"] == sent && counted["packets_out"] == sent;
        ensure!(is_exact, "{sent} packets each way, and {counted}");
    }
    Ok(())
}

#[test]
fn l3_without_its_daemon_packets_are_translated_as_before() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    natbpf.kill()?;
    // New sessions work too.
    for port in 5000..5020 {
        let server = net.cli.udp(&at(Proxmox::CLI, port).to_string())?;
        let guest = net.vm1.udp(&format!("0.0.0.0:{port}"))?;
        let seen = exchange(&guest, at(Proxmox::CLI, port), &server, b"out")?;
        ensure!(seen == at(Proxmox::PUBLIC, port), "seen as {seen}");
        let service = net.vm2.udp(&format!("0.0.0.0:{}", 5000 + port))?;
        exchange(&server, at(Proxmox::PUBLIC, 5000 + port), &service, b"in")?;
    }
    transfer(
        &net.vm1,
        at(Proxmox::CLI, 7000),
        &net.cli,
        7000,
        Sender::Client,
        1_000_000,
    )?;
    loads.finish()?;
    Ok(())
}

/// The sessions of a protocol as the daemon lists them, without what time changes.
fn sessions(natbpf: &Natbpf) -> Result<Vec<String>> {
    let fixed = |session: &Value| {
        let fields = [
            "protocol", "internal", "external", "remote", "rule", "state",
        ];
        fields.map(|field| session[field].to_string()).join(" ")
    };
    let mut sessions: Vec<String> = natbpf.conntrack(&[])?.iter().map(fixed).collect();
    sessions.sort();
    Ok(sessions)
}

#[test]
fn l4_a_daemon_that_starts_again_finds_everything_as_it_was() -> Result<()> {
    let net = Proxmox::new()?;
    // Longer than starting again takes.
    let timeout = patience(Duration::from_secs(10));
    let timeouts = format!("[timeouts]\nudp = {}\n", timeout.as_secs());
    let mut natbpf = net.natbpf(&(net.config() + &timeouts))?;
    let (server, service) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    for _ in 0..10 {
        exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
        exchange(&server, at(Proxmox::PUBLIC, 10000), &service, b"in")?;
    }
    let (before, rules) = (sessions(&natbpf)?, natbpf.stats()?["rules"].clone());
    ensure!(before.len() == 2, "{before:?}");
    natbpf.kill()?;
    natbpf.launch()?;
    let (after, rules_after) = (sessions(&natbpf)?, natbpf.stats()?["rules"].clone());
    ensure!(after == before, "{after:?}, before {before:?}");
    ensure!(rules_after == rules, "{rules_after}, before {rules}");
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"it goes on")?;
    thread::sleep(timeout + patience(Duration::from_millis(2500)));
    let left = sessions(&natbpf)?;
    ensure!(left.is_empty(), "not expired: {left:?}");
    Ok(())
}

/// A copy of the binary, after `change`; run as the natbpf of the same host.
fn another_binary(net: &Proxmox, name: &str, change: impl FnOnce(&mut [u8])) -> Result<Natbpf> {
    let mut bytes = fs::read(Natbpf::binary()?)?;
    change(&mut bytes);
    let path: PathBuf = net.lab().folder().join(name);
    let image = path.with_extension("image");
    fs::write(&image, bytes)?;
    fs::set_permissions(&image, fs::Permissions::from_mode(0o755))?;
    // A process that another test starts at the same time holds files that this one has open for
    // writing until it executes its program, and until then the kernel refuses to execute them: so
    // a child writes the file.
    let copied = Command::new("cp").arg(&image).arg(&path).status()?;
    ensure!(copied.success(), "cp to {}: {copied}", path.display());
    Ok(Natbpf::find(&net.host, net.lab().place(), path))
}

/// The kernel's numbers of the programs that are attached to a side of an interface by links.
fn links_of(host: &Host, interface: &str, side: TcAttachType) -> Result<Vec<u32>> {
    let attached = host.enter(|| SchedClassifier::query_tcx(interface, side))?;
    let (_, attached) = attached.with_context(|| format!("{side:?} of {interface}"))?;
    Ok(attached
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect())
}

/// The same where the kernel has no links for them, and they are filters.
fn filters_of(host: &Host, interface: &str, side: TcAttachType) -> Result<Vec<u32>> {
    let side = match side {
        TcAttachType::Ingress => "ingress",
        _ => "egress",
    };
    let said = host.check(["tc", "filter", "show", "dev", interface, side])?;
    // … nat_inbound direct-action not_in_hw id 23 name nat_inbound tag …
    let words: Vec<&str> = said.split_whitespace().collect();
    let ids = words.windows(2).filter(|pair| pair[0] == "id");
    ids.map(|pair| pair[1].parse().with_context(|| said.clone()))
        .collect()
}

/// The kernel's numbers of the programs that are attached to a side of an interface.
fn attached_to(host: &Host, interface: &str, side: TcAttachType) -> Result<Vec<u32>> {
    match KernelVersion::current()? >= KernelVersion::new(6, 6, 0) {
        true => links_of(host, interface, side),
        false => filters_of(host, interface, side),
    }
}

/// The kernel's numbers of the programs that are attached to the host's bridges.
fn attached_programs(net: &Proxmox) -> Result<Vec<u32>> {
    let mut programs = Vec::new();
    for interface in ["vmbr0", "vmbr1"] {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            programs.extend(attached_to(&net.host, interface, side)?);
        }
    }
    ensure!(programs.len() == 4, "not four programs: {programs:?}");
    Ok(programs)
}

#[test]
fn l5_a_newer_build_takes_over_without_a_gap() -> Result<()> {
    let net = Proxmox::new()?;
    let mut old = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    let new = thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            let to = at(Proxmox::PUBLIC, 10001);
            transfer(&net.cli, to, &net.vm1, 10001, Sender::Server, BULK)
        });
        let before = attached_programs(&net)?;
        old.stop()?;
        let mut new = another_binary(&net, "newer", |_| ())?;
        new.launch()?;
        let after = attached_programs(&net)?;
        let kept = after.iter().any(|program| before.contains(program));
        ensure!(!kept, "not all were replaced: {after:?}, before {before:?}");
        bulk.join().expect("no panic").context("TCP meanwhile")?;
        Ok(new)
    })?;
    loads.finish()?;
    // Only now: this undoes everything.
    drop(new);
    Ok(())
}

#[test]
fn l6_sessions_follow_the_external_address() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"before")?;
    let other = Ipv4Addr::new(19, 19, 8, 11);
    net.exchange_address(Proxmox::PUBLIC, other)?;
    // The guest continues from the same port.
    let is_other = |seen| seen == at(other, 5000).into();
    let seen = soon_seen(&guest, at(Proxmox::CLI, 7000), &server, is_other)?;
    server.send_to(b"answer", seen)?;
    guest.recv(&mut [0; 16]).context("no answer")?;
    let sessions = natbpf.conntrack(&[])?;
    ensure!(
        sessions.len() == 1 && sessions[0]["external"]["address"] == other.to_string(),
        "{sessions:?}"
    );
    Ok(())
}

/// Packets pass both hooks of both interfaces again, within 1 s.
fn works_again(net: &Proxmox) -> Result<()> {
    thread::sleep(patience(FOLLOWED));
    let (server, service) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out").context("masquerade")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    exchange(&server, at(Proxmox::PUBLIC, 10000), &service, b"in").context("forward")?;
    exchange(&guest, at(Proxmox::PUBLIC, 10000), &service, b"hairpin").context("hairpin")?;
    Ok(())
}

/// Gives the uplink what the kernel takes from an interface that goes down or away.
fn restore_uplink(net: &Proxmox) -> Result<()> {
    let (public, isp) = (Proxmox::PUBLIC, Proxmox::ISP);
    net.host.ip(&format!(
        "link set vmbr0 up\naddress replace {public}/24 dev vmbr0\n\
         route replace default via {isp} dev vmbr0"
    ))
}

#[test]
fn l7_an_interface_that_goes_down_and_up_works_again() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    works_again(&net)?;
    net.host.ip("link set vmbr0 down\nlink set vmbr1 down")?;
    thread::sleep(Duration::from_millis(300));
    net.host.ip("link set vmbr1 up")?;
    restore_uplink(&net)?;
    works_again(&net)
}

#[test]
fn l7_an_interface_that_is_made_again_works_again() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    // Their owner recreates them, and adds their addresses.
    let (bridge, gateway) = ("type bridge forward_delay 0 stp_state 0", Proxmox::GATEWAY);
    net.host.ip("link del vmbr0\nlink del vmbr1")?;
    thread::sleep(Duration::from_millis(500));
    ensure!(natbpf.is_running(), "natbpf ended: {}", natbpf.log());
    net.host.ip(&format!(
        "link add vmbr1 {bridge}\nlink set vmbr1 up\naddress add {gateway}/24 dev vmbr1\n\
         link set tap1 master vmbr1\n\
         link set tap2 master vmbr1\nlink add vmbr0 {bridge}\nlink set eno1 master vmbr0"
    ))?;
    restore_uplink(&net)?;
    works_again(&net)
}

#[test]
fn l7_an_interface_that_gets_the_name_works() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    for name in ["vmbr0", "vmbr1"] {
        net.host
            .ip(&format!("link set {name} down\nlink set {name} name away"))?;
        thread::sleep(Duration::from_millis(300));
        net.host
            .ip(&format!("link set away name {name}\nlink set {name} up"))?;
        restore_uplink(&net)?;
        works_again(&net).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn l7_a_port_that_leaves_while_the_daemon_is_away_keeps_no_program() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let on_port = || attached_to(&net.host, "tap2", TcAttachType::Ingress);
    for starts_again in [true, false] {
        ensure!(on_port()?.len() == 1, "not one program: {:?}", on_port()?);
        natbpf.kill()?;
        net.host.ip("link set tap2 nomaster")?;
        match starts_again {
            true => natbpf.launch()?,
            false => natbpf.down()?,
        }
        ensure!(on_port()?.is_empty(), "left behind: {:?}", on_port()?);
        if starts_again {
            net.host.ip("link set tap2 master vmbr1")?;
            let deadline = Instant::now() + patience(5 * FOLLOWED);
            while on_port()?.is_empty() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

/// Spoils every program of the BPF object in a binary: no verifier knows this instruction.
fn spoil_programs(binary: &mut [u8]) {
    let object = nat_user::dataplane::OBJECT;
    let start = binary
        .windows(object.len())
        .position(|window| window == object)
        .expect("the binary holds the object that the tests were built with");
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    for instruction in binary[start..start + object.len()].chunks_exact_mut(8) {
        if instruction == exit {
            instruction[0] = 0xff;
        }
    }
}

/// While a signal waits for a process, the kernel's verifier gives up what it was asked for by it
/// (EAGAIN, `do_check` in `kernel/bpf/verifier.c`).
#[test]
fn l8_a_signal_is_no_refusal_of_the_verifier() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    net.host
        .ip("tuntap add dev tun7 mode tun\nlink set tun7 up\naddress add 192.0.2.1/24 dev tun7")?;
    // Programs for devices without Ethernet: not loaded so far.
    let config = net.config() + "[uplink.vpn]\ninterface = \"tun7\"\n";
    let id = natbpf.id().context("the daemon runs")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = kill(Pid::from_raw(id as i32), Signal::SIGHUP);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let reloaded = natbpf.reload(&config);
        done.store(true, Ordering::Relaxed);
        reloaded
    })?;
    let log = natbpf.log();
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

#[test]
fn l8_a_program_that_the_verifier_refuses_leaves_the_old_one_in_place() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let loads = Loads::start(&net)?;
    natbpf.stop()?;
    let before = attached_programs(&net)?;
    let mut bad = another_binary(&net, "refused", spoil_programs)?;
    let said = match bad.launch() {
        Ok(()) => bail!("the verifier took it"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(said.contains("refused by the kernel"), "{said}");
    let after = attached_programs(&net)?;
    ensure!(before == after, "{after:?}, before {before:?}");
    loads.finish()?;
    natbpf.launch().context("the good one starts again")?;
    works_again(&net)
}
