//! What natbpf does for the guests, shown step by step: each is one line with what was seen.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::Proxmox;
use lab::{Capture, Natbpf, Packet};
use serde_json::Value;

/// The lab, for people.
pub(super) const PICTURE: &str = "\
natbpf in the lab: one public address, many VMs

  cli   198.51.100.2 ─┐                                        ┌ vm1 172.22.161.170
                      ├─ isp ─ 19.19.8.10 (vmbr0) host (vmbr1) ┤
  srv2  198.51.100.4 ─┘                      natbpf            └ vm2 172.22.161.171
";

/// The forwarded web server of vm1, as everybody reaches it.
pub(super) const WEB: SocketAddrV4 = SocketAddrV4::new(Proxmox::PUBLIC, 10080);
const WEB_PORT: &str = "0.0.0.0:10080";
/// The forwarded UDP service of vm2.
const DNS: SocketAddrV4 = SocketAddrV4::new(Proxmox::PUBLIC, 10053);

/// A running lab with natbpf, and servers in it.
pub(super) struct Proof<'a> {
    net: &'a Proxmox,
    natbpf: &'a Natbpf,
    uplink: Capture,
    before: Value,
    _services: [Service; 3],
}

/// The description of a step, and its check, which returns what it saw.
type Step = (&'static str, fn(&Proof<'_>) -> Result<String>);

const STEPS: [Step; 9] = [
    ("a guest pings the internet", guest_pings_out),
    ("a guest reads a page in the internet", guest_reads_outside),
    (
        "the internet reads a page of a guest, by a forwarded port",
        outside_reads_guest,
    ),
    (
        "the internet asks another guest, by UDP",
        outside_asks_guest,
    ),
    (
        "a ping from the internet reaches a guest",
        outside_pings_guest,
    ),
    (
        "a guest reads another guest's page by the public address",
        guest_reads_guest,
    ),
    (
        "a guest reads its own page by the public address",
        guest_reads_itself,
    ),
    (
        "no inside address, no wrong checksum on the uplink",
        uplink_is_clean,
    ),
    ("every rule has counted", counters_moved),
];

impl<'a> Proof<'a> {
    pub(super) fn new(net: &'a Proxmox, natbpf: &'a Natbpf) -> Result<Self> {
        let services = [
            Service::http(&net.vm1, WEB_PORT)?,
            Service::http(&net.srv2, "198.51.100.4:80")?,
            Service::udp_mirror(&net.vm2, "0.0.0.0:10053")?,
        ];
        let uplink = net.isp.capture(Proxmox::WAN)?;
        Ok(Self {
            net,
            natbpf,
            uplink,
            before: natbpf.stats()?,
            _services: services,
        })
    }

    /// Shows every step; returns how many failed.
    pub(super) fn show(&self) -> usize {
        let mut failed = 0;
        for (what, check) in STEPS {
            match check(self) {
                Ok(seen) => println!("ok      {what}: {seen}"),
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {what}: {error:#}");
                }
            }
        }
        if failed > 0 {
            println!("\nnatbpf says:\n{}", self.natbpf.log());
        }
        failed
    }

    /// A page that must come from `server` to a client that it sees at `seen`.
    fn page(
        &self,
        client: &lab::Host,
        url: SocketAddrV4,
        server: &str,
        seen: Ipv4Addr,
    ) -> Result<String> {
        let page = service::http_get(client, url)?;
        let should = format!("{server} sees {seen}:");
        ensure!(
            page.starts_with(&should),
            "{page:?} should begin with {should:?}"
        );
        Ok(format!("{} reads \"{page}\" at {url}", client.name()))
    }
}

fn guest_pings_out(proof: &Proof<'_>) -> Result<String> {
    let vm1 = &proof.net.vm1;
    let said = vm1.run(["ping", "-n", "-c3", "-i0.2", "-W2", "198.51.100.2"])?;
    ensure!(
        said.stdout.contains(" 3 received"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    let (_, request) = proof
        .uplink
        .wait_for(|frame, packet| !frame.outgoing && packet.icmp() == Some((8, 0)))?;
    ensure!(
        request.source == Proxmox::PUBLIC,
        "seen as {}",
        request.source
    );
    Ok(format!(
        "vm1 pings 198.51.100.2, 3 of 3 answered; outside sees {}",
        request.source
    ))
}

fn guest_reads_outside(proof: &Proof<'_>) -> Result<String> {
    let url = SocketAddrV4::new(Proxmox::SRV2, 80);
    proof.page(&proof.net.vm2, url, "srv2", Proxmox::PUBLIC)
}

fn outside_reads_guest(proof: &Proof<'_>) -> Result<String> {
    proof.page(&proof.net.cli, WEB, "vm1", Proxmox::CLI)
}

fn outside_asks_guest(proof: &Proof<'_>) -> Result<String> {
    let socket = proof.net.cli.udp("198.51.100.2:0")?;
    let seen = service::seen_at(&socket, DNS)?;
    ensure!(*seen.ip() == Proxmox::CLI, "seen as {seen}");
    Ok(format!("cli asks {DNS}, vm2 sees {seen}"))
}

fn outside_pings_guest(proof: &Proof<'_>) -> Result<String> {
    let guest = proof.net.vm1.capture("eth0")?;
    let said = proof
        .net
        .cli
        .run(["ping", "-n", "-c1", "-W2", "19.19.8.10"])?;
    ensure!(said.ok(), "{}{}", said.stdout, said.stderr);
    let (_, got) =
        guest.wait_for(|frame, packet| !frame.outgoing && packet.icmp() == Some((8, 0)))?;
    Ok(format!(
        "cli pings 19.19.8.10, vm1 sees it from {} and answers",
        got.source
    ))
}

fn guest_reads_guest(proof: &Proof<'_>) -> Result<String> {
    proof.page(&proof.net.vm2, WEB, "vm1", Proxmox::PUBLIC)
}

fn guest_reads_itself(proof: &Proof<'_>) -> Result<String> {
    proof.page(&proof.net.vm1, WEB, "vm1", Proxmox::PUBLIC)
}

fn uplink_is_clean(proof: &Proof<'_>) -> Result<String> {
    let mut count = 0;
    for (frame, packet) in proof.uplink.packets() {
        if frame.outgoing {
            continue;
        }
        let quoted = packet.quoted().and_then(Packet::parse);
        for shown in [Some(&packet), quoted.as_ref()].into_iter().flatten() {
            let inside = [shown.source, shown.destination]
                .into_iter()
                .find(is_inside);
            ensure!(inside.is_none(), "{packet}");
        }
        frame.checksums().with_context(|| packet.to_string())?;
        count += 1;
    }
    ensure!(count > 0, "no packet at all");
    Ok(format!(
        "{count} packets left, all from {}",
        Proxmox::PUBLIC
    ))
}

fn is_inside(address: &Ipv4Addr) -> bool {
    address.octets()[..3] == Proxmox::GATEWAY.octets()[..3]
}

fn counters_moved(proof: &Proof<'_>) -> Result<String> {
    let after = proof.natbpf.stats()?;
    let mut shown = Vec::new();
    for rule in after["rules"]
        .as_array()
        .context("no rules in natbpf stats --json")?
    {
        let name = rule["name"].as_str().context("a rule without name")?;
        let old = proof.before["rules"].as_array().into_iter().flatten();
        let old = old.clone().find(|old| old["name"] == name);
        let moved = |key: &str| {
            let before = old.and_then(|old| old[key].as_u64()).unwrap_or(0);
            rule[key].as_u64().unwrap_or(0).saturating_sub(before)
        };
        let (inward, outward) = (moved("packets_in"), moved("packets_out"));
        ensure!(
            inward > 0 && outward > 0,
            "{name} counts {inward} in, {outward} out"
        );
        shown.push(format!("{name} {inward} in {outward} out"));
    }
    ensure!(!shown.is_empty(), "no rules in natbpf stats --json");
    Ok(shown.join(", "))
}
