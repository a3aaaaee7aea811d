//! DHCP and DNS for the guests, and rules that follow them by their leases.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::service::{self, Service};
use lab::topology::Proxmox;
use lab::{Background, Host, Lab, Natbpf};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::following::soon;
use tests::{at, exchange, hears};

/// What the DHCP client does with what it is told.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig) ip address flush dev "$interface" ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface"
    echo "$ip" "$router" "$dns" "$domain" "$lease" >"$0.$hostname_told"
    ;;
esac
"#;

const RULES: &str = r#"
[[snat]]
name = "lan-out"
network = "lan"
uplink = "wan"
to = "masquerade"

[[forward]]
name = "web"
uplink = "wan"
protocol = ["tcp", "udp"]
ports = 8000
to = "web1"
"#;

const DHCP: &str = r#"
[network.lan.dhcp]
range = "172.22.161.10-172.22.161.100"
lease_time_s = 600
domain = "guests.test"

[network.lan.dns]
forwarders = ["198.51.100.4"]
"#;

fn config(net: &Proxmox, more: &str) -> String {
    format!("{}{DHCP}{RULES}{more}", net.config_head())
}

/// A network whose guests have no addresses as yet.
fn network() -> Result<Proxmox> {
    let net = Proxmox::new()?;
    for guest in [&net.vm1, &net.vm2] {
        guest.ip("address flush dev eth0")?;
    }
    Ok(net)
}

/// What a guest was told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) address: Ipv4Addr,
    /// Gateway, name servers, domain and time of the lease in seconds, as the client has them.
    pub(super) rest: String,
}

fn lease(net: &Proxmox, guest: &Host, name: &str) -> Result<Told> {
    lease_in(net.lab(), guest, name)
}

/// A guest asks for an address under a name, with Debian's DHCP client.
pub(super) fn lease_in(lab: &Lab, guest: &Host, name: &str) -> Result<Told> {
    let script = lab.folder().join(format!("udhcpc-{}", guest.name()));
    fs::write(&script, SCRIPT).context("write the client's script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("its mode")?;
    let script = script.display().to_string();
    let mut command = guest.command("udhcpc");
    command
        .args(["-f", "-q", "-n", "-i", "eth0", "-t", "8", "-T", "1"])
        .args(["-s", &script, "-x", &format!("hostname:{name}")])
        .env("hostname_told", name);
    let output = command.output().context("run udhcpc")?;
    ensure!(
        output.status.success(),
        "no lease: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told = fs::read_to_string(format!("{script}.{name}")).context("what it was told")?;
    let (address, rest) = told.trim().split_once(' ').context("told too little")?;
    Ok(Told {
        address: address.parse().context("its address")?,
        rest: rest.to_owned(),
    })
}

fn resolve(guest: &Host, name: &str) -> Result<Option<Ipv4Addr>> {
    resolve_at(Proxmox::GATEWAY, guest, name)
}

/// Asks a network's name server; `None` if it knows of none.
pub(super) fn resolve_at(gateway: Ipv4Addr, guest: &Host, name: &str) -> Result<Option<Ipv4Addr>> {
    let gateway = gateway.to_string();
    let output = guest.run(["busybox", "nslookup", "-type=a", name, &gateway])?;
    let answer = output.stdout.split("Name:").nth(1);
    let address = answer.and_then(|text| text.split("Address:").nth(1));
    let address = address.and_then(|text| text.split_whitespace().next());
    address
        .map(|text| text.parse().context(text.to_owned()))
        .transpose()
}

/// Another's name server, who knows `outside.test`.
fn name_server(net: &Proxmox) -> Result<Background> {
    let records = [
        "--address=/outside.test/192.0.2.99",
        "--address=/rebound.test/172.22.161.171",
    ];
    name_server_of(net, &records, ("outside.test", "192.0.2.99"))
}

/// Another's name server at 198.51.100.4 with these options, when it knows a name's address.
pub(super) fn name_server_of(
    net: &Proxmox,
    records: &[&str],
    (name, address): (&str, &str),
) -> Result<Background> {
    let words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=198.51.100.4",
        "--pid-file",
    ];
    let server = net.srv2.spawn(words.iter().chain(records))?;
    soon("the name server outside", || {
        let output = net
            .srv2
            .run(["busybox", "nslookup", name, "198.51.100.4"])?;
        Ok(output.stdout.contains(address))
    })?;
    Ok(server)
}

fn leases(natbpf: &Natbpf) -> Result<Vec<Value>> {
    let text = natbpf.cli(&["leases", "--json"])?.expect_ok()?;
    let leases: Value = serde_json::from_str(&text).context("leases")?;
    leases.as_array().cloned().context("a list of leases")
}

fn folder(natbpf: &Natbpf) -> PathBuf {
    natbpf.run_dir().join("dhcp")
}

/// The dnsmasq of the network, if it runs.
fn dnsmasq(natbpf: &Natbpf) -> Option<i32> {
    let pid = fs::read_to_string(folder(natbpf).join("vmbr1.pid")).ok()?;
    let pid: i32 = pid.trim().parse().ok()?;
    is_running(pid).then_some(pid)
}

fn is_running(pid: i32) -> bool {
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.contains("vmbr1.conf")
}

/// How many there are on this host, independent of the files.
fn count_of_dnsmasqs(natbpf: &Natbpf) -> usize {
    let argument = format!(
        "--conf-file={}",
        folder(natbpf).join("vmbr1.conf").display()
    );
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let has_it = |path: PathBuf| {
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|one| one == argument.as_bytes())
    };
    processes.filter(|entry| has_it(entry.path())).count()
}

fn warnings(natbpf: &Natbpf) -> Result<Vec<String>> {
    let status = natbpf.status()?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    let text = |warning: &Value| warning.as_str().map(str::to_owned);
    Ok(warnings.iter().filter_map(text).collect())
}

fn has_warning(natbpf: &Natbpf, part: &str) -> Result<bool> {
    Ok(warnings(natbpf)?.iter().any(|line| line.contains(part)))
}

/// A page of the guest that the internet reads by the forward.
fn page(net: &Proxmox) -> Result<String> {
    service::http_get(&net.cli, at(Proxmox::PUBLIC, 8000))
}

#[test]
fn a_guest_gets_address_and_names_and_goes_out() -> Result<()> {
    let net = network()?;
    let _outside = name_server(&net)?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    let told = lease(&net, &net.vm1, "web1")?;
    ensure!((10..=100).contains(&told.address.octets()[3]), "{told:?}");
    ensure!(
        told.rest == "172.22.161.254 172.22.161.254 guests.test 600",
        "{told:?}"
    );
    // The names of leases, with and without domain; other names; unknown names.
    for (name, expected) in [
        ("web1", Some(told.address)),
        ("web1.guests.test", Some(told.address)),
        ("outside.test", Some(Ipv4Addr::new(192, 0, 2, 99))),
        ("nobody.guests.test", None),
    ] {
        let found = resolve(&net.vm1, name)?;
        ensure!(found == expected, "{name} is {found:?}");
    }
    let _web = Service::http(&net.cli, "0.0.0.0:80")?;
    let page = service::http_get(&net.vm1, at(Proxmox::CLI, 80))?;
    ensure!(page.starts_with("cli sees 19.19.8.10:"), "{page}");
    let leases = leases(&natbpf)?;
    let mac = net
        .vm1
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    ensure!(leases.len() == 1, "{leases:?}");
    ensure!(leases[0]["network"] == "lan", "{leases:?}");
    ensure!(
        leases[0]["address"] == told.address.to_string(),
        "{leases:?}"
    );
    ensure!(leases[0]["mac"] == mac, "{leases:?}");
    ensure!(leases[0]["name"] == "web1", "{leases:?}");
    let expires_s = leases[0]["expires_s"].as_u64().context("no end")?;
    ensure!((1..=600).contains(&expires_s), "{leases:?}");
    let table = natbpf.cli(&["leases"])?.expect_ok()?;
    ensure!(table.contains("web1") && table.contains(&mac), "{table}");
    Ok(())
}

#[test]
fn guests_that_keep_to_their_addresses_get_them_by_dhcp() -> Result<()> {
    let net = network()?;
    let mac = |guest: &Host| -> Result<String> {
        Ok(guest
            .mac("eth0")?
            .map(|byte| format!("{byte:02x}"))
            .join(":"))
    };
    let guests = format!(
        "[[guest]]\nname = \"web1\"\nnetwork = \"lan\"\naddress = \"172.22.161.170\"\nmac = \
         \"{}\"\n\
         [[guest]]\nname = \"db\"\nnetwork = \"lan\"\nmac = \"{}\"\n",
        mac(&net.vm1)?,
        mac(&net.vm2)?
    );
    let config = config(&net, &guests).replace("/24\"\n", "/24\"\nanti_spoof = true\n");
    let _natbpf = net.natbpf(&config)?;
    // Whatever they call themselves.
    let told = lease(&net, &net.vm1, "mallory")?;
    ensure!(told.address == Proxmox::VM1, "{told:?}");
    let told = lease(&net, &net.vm2, "mallory")?;
    for (name, address) in [("web1", Proxmox::VM1), ("db", told.address)] {
        let found = resolve(&net.vm2, name)?;
        ensure!(found == Some(address), "{name} is {found:?}");
    }
    let _web = Service::http(&net.vm1, "0.0.0.0:8000")?;
    let page = page(&net)?;
    ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    Ok(())
}

/// By forged Ethernet addresses, or as a rogue server, which would become the gateway of others.
#[test]
fn a_guest_takes_no_foreign_leases_and_serves_no_dhcp() -> Result<()> {
    let net = network()?;
    let config = config(&net, "").replace("/24\"\n", "/24\"\nanti_spoof = true\n");
    let natbpf = net.natbpf(&config)?;
    let client = net.vm2.udp("0.0.0.0:68")?;
    let answer = Ip::new(Proxmox::VM1, Ipv4Addr::BROADCAST).udp(67, 68, &[0; 240])?;
    let frame = [&[0xff; 6][..], &[6, 0, 0, 0, 0, 1], &[8, 0], &answer].concat();
    net.vm1.inject("eth0", &frame)?;
    ensure!(hears(&client)?.is_none(), "a guest serves DHCP");
    drop(client);
    for number in 0..100 {
        let source = [6, 0, 0, 0, 0, number];
        let frame = [&[0xff; 6][..], &source, &[0x88, 0xb5], &[0; 46]].concat();
        net.vm1.inject("eth0", &frame)?;
    }
    let learned = net.host.check(["bridge", "fdb", "show", "dev", "tap1"])?;
    let forged = learned.lines().filter(|line| line.starts_with("06:00:00"));
    let forged = forged.count();
    ensure!((20..=32).contains(&forged), "{forged}: {learned}");
    let spoofed = natbpf.stats()?["drops"]["spoofed"].as_u64();
    ensure!(spoofed >= Some(69), "{spoofed:?} counted as spoofed");
    lease(&net, &net.vm2, "another").map(drop)
}

#[test]
fn a_forward_follows_the_lease_of_its_guest() -> Result<()> {
    let net = network()?;
    let mut natbpf = net.natbpf(&config(&net, ""))?;
    let inactive = "forward web: inactive, as web1 has no lease";
    soon("the warning", || has_warning(&natbpf, inactive))?;
    let first = lease(&net, &net.vm1, "web1")?.address;
    let _web = Service::http(&net.vm1, "0.0.0.0:8000")?;
    soon("the forward to the lease", || Ok(page(&net).is_ok()))?;
    // The rules come first, then what is said of them.
    soon("no warning", || Ok(!has_warning(&natbpf, inactive)?))?;
    // A session to the address that will be another's.
    let client = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:8000")?;
    exchange(&client, at(Proxmox::PUBLIC, 8000), &guest, b"first")?;
    // Another machine takes the name over.
    let second = lease(&net, &net.vm2, "web1")?.address;
    ensure!(first != second, "both have {first}");
    let _other = Service::http(&net.vm2, "0.0.0.0:8000")?;
    soon("the forward to the other machine", || {
        Ok(page(&net).is_ok_and(|page| page.starts_with("vm2 sees 198.51.100.2:")))
    })?;
    // The rules come first, then sessions end: a packet in between still goes the old way.
    soon("the end of sessions", || {
        Ok(natbpf.log().matches("followed a change of leases").count() == 2)
    })?;
    let other = net.vm2.udp("0.0.0.0:8000")?;
    exchange(&client, at(Proxmox::PUBLIC, 8000), &other, b"second").context("moved")?;
    ensure!(hears(&guest)?.is_none(), "the session to {first} goes on");
    // It stays so after a reload, and after a restart.
    natbpf.reload(&config(&net, ""))?;
    exchange(&client, at(Proxmox::PUBLIC, 8000), &other, b"reloaded").context("reloaded")?;
    natbpf.kill()?;
    natbpf.launch()?;
    exchange(&client, at(Proxmox::PUBLIC, 8000), &other, b"started").context("started anew")?;
    let has_moved = natbpf.log().contains("followed a change of leases");
    ensure!(
        !has_moved,
        "the new daemon did not know the leases: {}",
        natbpf.log()
    );
    Ok(())
}

#[test]
fn a_dnsmasq_that_is_killed_comes_again() -> Result<()> {
    let net = network()?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    let told = lease(&net, &net.vm1, "web1")?;
    let killed = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    kill(Pid::from_raw(killed), Signal::SIGKILL).context("kill dnsmasq")?;
    soon("another dnsmasq", || {
        Ok(dnsmasq(&natbpf).is_some_and(|pid| pid != killed))
    })?;
    ensure!(natbpf.log().contains("has ended"), "{}", natbpf.log());
    ensure!(
        resolve(&net.vm1, "web1")? == Some(told.address),
        "its leases are lost"
    );
    let again = lease(&net, &net.vm1, "web1")?;
    ensure!(again.address == told.address, "{told:?}, then {again:?}");
    Ok(())
}

/// Stopped it neither answers nor ends by itself.
#[test]
fn a_dnsmasq_that_hangs_is_ended_and_comes_again() -> Result<()> {
    let net = network()?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    let told = lease(&net, &net.vm1, "web1")?;
    let stopped = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    kill(Pid::from_raw(stopped), Signal::SIGSTOP).context("stop dnsmasq")?;
    soon("another dnsmasq", || {
        Ok(dnsmasq(&natbpf).is_some_and(|pid| pid != stopped))
    })?;
    ensure!(natbpf.log().contains("hangs"), "{}", natbpf.log());
    ensure!(
        resolve(&net.vm1, "web1")? == Some(told.address),
        "its leases are lost"
    );
    Ok(())
}

/// A name of the internet that resolves to a guest's neighbour is refused, unless the configuration
/// allows such names.
#[test]
fn private_answers_of_forwarders_are_refused_by_default() -> Result<()> {
    let net = network()?;
    let _outside = name_server(&net)?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    lease(&net, &net.vm1, "web1")?;
    ensure!(resolve(&net.vm1, "rebound.test")?.is_none());
    ensure!(resolve(&net.vm1, "outside.test")?.is_some());
    let wanted = config(&net, "").replace("forwarders =", "private_answers = true\nforwarders =");
    natbpf.reload(&wanted)?;
    let neighbour = Some(Ipv4Addr::new(172, 22, 161, 171));
    soon("the private answer", || {
        Ok(resolve(&net.vm1, "rebound.test")? == neighbour)
    })
}

#[test]
fn leases_go_on_without_the_daemon_and_the_next_one_takes_them_over() -> Result<()> {
    let net = network()?;
    let mut natbpf = net.natbpf(&config(&net, ""))?;
    let first = lease(&net, &net.vm1, "web1")?;
    let pid = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    natbpf.kill()?;
    let second = lease(&net, &net.vm2, "other")?;
    ensure!(
        resolve(&net.vm1, "other")? == Some(second.address),
        "no name"
    );
    natbpf.launch()?;
    ensure!(dnsmasq(&natbpf) == Some(pid), "another dnsmasq");
    ensure!(count_of_dnsmasqs(&natbpf) == 1, "two dnsmasqs");
    ensure!(leases(&natbpf)?.len() == 2, "{:?}", leases(&natbpf)?);
    // One that was taken over is watched as well.
    kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill dnsmasq")?;
    soon("another dnsmasq", || {
        Ok(dnsmasq(&natbpf).is_some_and(|other| other != pid))
    })?;
    let found = resolve(&net.vm2, "web1")?;
    ensure!(
        found == Some(first.address),
        "web1 is {found:?} after another start"
    );
    natbpf.stop()?;
    ensure!(count_of_dnsmasqs(&natbpf) == 1, "it ends with the daemon");
    // A new configuration at the start: the old process ends.
    let before = dnsmasq(&natbpf);
    natbpf.configure(&config(&net, "").replace("600", "700"))?;
    natbpf.launch()?;
    ensure!(dnsmasq(&natbpf) != before, "the old dnsmasq goes on");
    ensure!(count_of_dnsmasqs(&natbpf) == 1, "two dnsmasqs");
    let told = lease(&net, &net.vm1, "web1")?;
    ensure!(told.rest.ends_with(" 700"), "{told:?}");
    natbpf.down()?;
    ensure!(
        count_of_dnsmasqs(&natbpf) == 0,
        "it is still there after down"
    );
    ensure!(!folder(&natbpf).exists(), "its files are still there");
    Ok(())
}

#[test]
fn reload_changes_dhcp_service_and_a_mistake_changes_nothing() -> Result<()> {
    let net = network()?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    lease(&net, &net.vm1, "web1")?;
    let first = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    let wrong = config(&net, "").replace("172.22.161.10-", "172.22.162.10-");
    ensure!(natbpf.reload(&wrong).is_err(), "a range of another network");
    ensure!(
        dnsmasq(&natbpf) == Some(first),
        "a mistake has ended dnsmasq"
    );
    let said = natbpf.reload(&config(&net, "").replace("600", "700"))?;
    ensure!(said.contains("network lan: changed"), "{said}");
    let told = lease(&net, &net.vm1, "web1")?;
    ensure!(told.rest.ends_with(" 700"), "{told:?}");
    let without = format!("{}{RULES}", net.config_head()).replace("web1", "172.22.161.170");
    natbpf.reload(&without)?;
    ensure!(count_of_dnsmasqs(&natbpf) == 0, "it serves on");
    ensure!(leases(&natbpf)?.is_empty(), "{:?}", leases(&natbpf)?);
    natbpf.reload(&config(&net, ""))?;
    lease(&net, &net.vm1, "web1").map(drop)
}

#[test]
fn a_port_that_another_has_is_named_and_tried_again() -> Result<()> {
    let net = network()?;
    let taken = net.host.udp("0.0.0.0:67")?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    let held = "port 67 is held by";
    ensure!(has_warning(&natbpf, held)?, "{:?}", warnings(&natbpf)?);
    let own = format!("(pid {})", std::process::id());
    ensure!(has_warning(&natbpf, &own)?, "{:?}", warnings(&natbpf)?);
    // Packets are translated all the same.
    net.vm1
        .ip("address add 172.22.161.170/24 dev eth0\nroute add default via 172.22.161.254")?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
    drop(taken);
    soon("dnsmasq", || Ok(dnsmasq(&natbpf).is_some()))?;
    soon("no warning", || Ok(!has_warning(&natbpf, "port 67")?))?;
    lease(&net, &net.vm2, "web1").map(drop)
}

#[test]
fn a_recreated_bridge_is_served_again() -> Result<()> {
    let net = network()?;
    let natbpf = net.natbpf(&config(&net, ""))?;
    let first = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    net.host.ip("link del vmbr1")?;
    soon("word of it", || {
        has_warning(&natbpf, "DHCP and DNS wait for vmbr1")
    })?;
    net.host.ip(
        "link add vmbr1 type bridge forward_delay 0 stp_state 0\nlink set vmbr1 up\n\
         address add 172.22.161.254/24 dev vmbr1\n\
         link set tap1 master vmbr1\nlink set tap2 master vmbr1",
    )?;
    soon("dnsmasq on the new bridge", || {
        Ok(dnsmasq(&natbpf).is_some_and(|pid| pid != first))
    })?;
    lease(&net, &net.vm1, "web1").map(drop)
}

/// The capabilities that the systemd unit leaves, in setpriv's form.
fn capabilities_of_the_unit() -> Result<String> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/natbpf.service");
    let text = fs::read_to_string(unit).context("the unit")?;
    let lines = text.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = lines.flat_map(str::split_whitespace);
    let names = names.filter_map(|name| name.strip_prefix("CAP_"));
    let names: Vec<String> = names
        .map(|name| format!("+{}", name.to_lowercase()))
        .collect();
    ensure!(names.len() > 3, "no capabilities in the unit: {names:?}");
    Ok(format!("-all,{}", names.join(",")))
}

#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let net = network()?;
    let script = net.lab().folder().join("natbpf-as-unit");
    let text = format!(
        "#!/bin/sh\numask 0077\nexec setpriv --no-new-privs --bounding-set={} {} \"$@\"\n",
        capabilities_of_the_unit()?,
        Natbpf::binary()?.display()
    );
    fs::write(&script, text).context("write a script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("its mode")?;
    let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), script, &config(&net, ""))?;
    natbpf.launch()?;
    lease(&net, &net.vm1, "web1")?;
    let pid = dnsmasq(&natbpf).context("no dnsmasq runs")?;
    natbpf.stop()?;
    natbpf.launch()?;
    ensure!(
        dnsmasq(&natbpf) == Some(pid),
        "not taken over: {}",
        natbpf.log()
    );
    natbpf.reload(&config(&net, "").replace("600", "700"))?;
    ensure!(
        count_of_dnsmasqs(&natbpf) == 1 && !is_running(pid),
        "{}",
        natbpf.log()
    );
    let told = lease(&net, &net.vm1, "web1")?;
    ensure!(told.rest.ends_with(" 700"), "{told:?}");
    Ok(())
}

#[test]
fn without_dnsmasq_check_and_run_say_what_to_install() -> Result<()> {
    let net = network()?;
    let natbpf = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &config(&net, ""),
    )?;
    // In a separate mount namespace, dnsmasq is no program.
    let hide = "for f in /usr/sbin/dnsmasq /sbin/dnsmasq /usr/local/sbin/dnsmasq; do \
                [ ! -e $f ] || mount --bind /dev/null $f || exit 9; done; exec \"$@\"";
    let options = natbpf.options();
    let binary = Natbpf::binary()?.display().to_string();
    for word in ["check", "run"] {
        let words = ["unshare", "--mount", "sh", "-c", hide, "sh", &binary];
        let options = options.iter().map(String::as_str);
        let output = net
            .host
            .run(words.into_iter().chain(options).chain([word]))?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let expected = "network.lan.dhcp: is served by dnsmasq, which is not installed; \
                        install Debian's package dnsmasq-base";
        ensure!(output.stderr.contains(expected), "{output:?}");
    }
    Ok(())
}
