//! An uplink whose packets arrive with a sum that the kernel keeps (`CHECKSUM_COMPLETE`): VXLAN
//! with a checksum of its own, which the kernel has computed over all that is inside.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patience::patience;
use lab::topology::{Ipv6, Options, Proxmox, Uplink};
use lab::{Natbpf, Offload};
use tests::exchange;
use tests::kernel_sum::{LEN, Probe, Sum};

/// Addresses of one family.
struct Family {
    guest: IpAddr,
    public: IpAddr,
    outside: IpAddr,
    /// Length of the IP header.
    header: usize,
}

impl Family {
    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.outside, 7000)
    }

    fn forward(&self) -> SocketAddr {
        SocketAddr::new(self.public, 10000)
    }
}

/// Length of a header of UDP, of an echo and of an ICMP error.
const HEADER: usize = 8;

const IPV4: Family = Family {
    guest: IpAddr::V4(Proxmox::VM1),
    public: IpAddr::V4(Proxmox::PUBLIC),
    outside: IpAddr::V4(Proxmox::CLI),
    header: 20,
};

const IPV6: Family = Family {
    guest: IpAddr::V6(Ipv6::LOCAL_VM1),
    public: IpAddr::V6(Ipv6::ROUTED.public),
    outside: IpAddr::V6(Ipv6::CLI),
    header: 40,
};

const HEAD: &str = r#"
[uplink.wan]
interface = "vx"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]
"#;

const PORTS: &str = r#"
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
[[forward]]
name = "ipv4"
uplink = "wan"
protocol = "udp"
ports = 10000
to = "172.22.161.170"
to_ports = 8000
[[forward]]
name = "ipv6"
uplink = "wan"
protocol = "udp"
ports = 10000
to = "fd00:18::170"
to_ports = 8000
"#;

const PREFIXES: &str = r#"
[[nat]]
name = "lan6"
uplink = "wan"
address = "2001:db8:0:150::/64"
to = "fd00:18::/64"
"#;

/// A host whose uplink is a VXLAN device, and natbpf on it.
fn started(tables: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ipv6: Some(Ipv6::ROUTED),
        ..Options::default()
    })?;
    // What the sender leaves to no device is summed up where it arrives.
    net.isp
        .set_offload(Proxmox::WAN, Offload::Checksum, false)?;
    for (host, wire, own, other) in [
        (&net.host, net.wire, "10.99.0.2", "10.99.0.1"),
        (&net.isp, Proxmox::WAN, "10.99.0.1", "10.99.0.2"),
    ] {
        host.ip(&format!(
            "address flush dev {wire} scope global\naddress add {own}/24 dev {wire}\n\
             link add vx type vxlan id 7 remote {other} dstport 4789 udpcsum\nlink set vx up"
        ))?;
    }
    let (ipv4, ipv6) = (Proxmox::PUBLIC, Ipv6::ROUTED.public);
    let router = Ipv6::ROUTER;
    net.isp.ip(&format!(
        "address del {router}/64 dev {wan}\naddress add {router}/64 dev vx nodad\n\
         address add {}/24 dev vx\nroute add {ipv6}/128 dev vx\n\
         route replace 2001:db8:0:100::/56 via {ipv6} dev vx",
        Proxmox::ISP,
        wan = Proxmox::WAN
    ))?;
    net.host.ip(&format!(
        "address add {ipv4}/24 dev vx\naddress add {ipv6}/64 dev vx nodad\n\
         route replace default via {} dev vx\nroute del default via {router} dev {wire}\n\
         route add default via {router} dev vx",
        Proxmox::ISP,
        wire = net.wire
    ))?;
    let natbpf = net.natbpf(&format!("{HEAD}{tables}"))?;
    Ok((net, natbpf))
}

/// The last packet at a probe, which must have seen one more than before.
fn expect(probe: &Probe, before: u64, what: &str) -> Result<()> {
    let deadline = Instant::now() + patience(Duration::from_secs(2));
    while probe.seen()? == before {
        ensure!(
            Instant::now() < deadline,
            "{what}: no packet of that length"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let sum = probe.last().context("the kernel's sum")?;
    ensure!(sum == Sum::Right, "{what}: {sum:?}");
    Ok(())
}

/// The sockets of a family: a guest's client, a guest's service behind the forward, a host outside.
struct Ends<'a> {
    family: &'a Family,
    guest: UdpSocket,
    behind: UdpSocket,
    outside: UdpSocket,
    /// Makes a datagram as long as a probe wants it; an echo too.
    payload: Vec<u8>,
}

impl<'a> Ends<'a> {
    fn open(net: &Proxmox, family: &'a Family) -> Result<Self> {
        let guest = |port| {
            net.vm1
                .udp(&SocketAddr::new(family.guest, port).to_string())
        };
        Ok(Self {
            family,
            guest: guest(5000)?,
            behind: guest(8000)?,
            outside: net.cli.udp(&family.server().to_string())?,
            payload: vec![0x5a; LEN - family.header - HEADER],
        })
    }

    /// What a probe behind natbpf sees on the uplink.
    fn translate(&self, net: &Proxmox, probe: &Probe) -> Result<()> {
        let Self {
            family, payload, ..
        } = self;
        let before = probe.seen()?;
        exchange(&self.guest, family.server(), &self.outside, payload)?;
        expect(probe, before, "an address")?;

        let before = probe.seen()?;
        exchange(&self.outside, family.forward(), &self.behind, payload)?;
        expect(probe, before, "address and port")?;

        let (from, to, len) = (family.guest, family.outside, payload.len());
        let ping = format!("ping -n -c1 -W2 -I {from} -s {len} {to}");
        let before = probe.seen()?;
        net.vm1.check(ping.split(' ').map(str::to_owned))?;
        expect(probe, before, "an echo")?;

        // Nothing listens there: the error quotes the whole datagram.
        let quoted = vec![0x5a; LEN - 2 * (family.header + HEADER)];
        let before = probe.seen()?;
        self.guest
            .send_to(&quoted, SocketAddr::new(family.outside, 9))?;
        expect(probe, before, "an error")
    }

    /// What arrives at the guest. Packets that the kernel forwards lose their sum: one that has it
    /// came past the kernel, with one hop less.
    fn go_past_the_kernel(&self, probe: &Probe) -> Result<()> {
        let talk =
            |payload: &[u8]| exchange(&self.outside, self.family.forward(), &self.behind, payload);
        for _ in 0..4 {
            talk(b"to and fro")?;
        }
        thread::sleep(patience(Duration::from_secs(1)));
        for _ in 0..4 {
            talk(b"to and fro")?;
        }
        let before = probe.seen()?;
        talk(&self.payload)?;
        expect(probe, before, "past the kernel")
    }
}

#[test]
fn c6_1_the_kernels_sum_of_a_packet_follows_what_is_translated() -> Result<()> {
    let (net, _natbpf) = started(PORTS)?;
    let translated = Probe::attach(&net.host, "vx")?;
    let arrived = Probe::attach(&net.vm1, "eth0")?;
    for (family, name) in [(&IPV4, "IPv4"), (&IPV6, "IPv6")] {
        let ends = Ends::open(&net, family)?;
        ends.translate(&net, &translated).context(name)?;
        ends.go_past_the_kernel(&arrived).context(name)?;
    }
    Ok(())
}

#[test]
fn c6_1_the_kernels_sum_stays_right_when_a_prefix_becomes_another() -> Result<()> {
    let (net, _natbpf) = started(PREFIXES)?;
    let translated = Probe::attach(&net.host, "vx")?;
    let payload = vec![0x5a; LEN - IPV6.header - HEADER];
    let guest = net
        .vm1
        .udp(&SocketAddr::new(IPV6.guest, 5000).to_string())?;
    let server = net.cli.udp(&IPV6.server().to_string())?;
    let before = translated.seen()?;
    let seen = exchange(&guest, IPV6.server(), &server, &payload)?;
    ensure!(
        seen.ip().to_string().starts_with("2001:db8:0:150:"),
        "seen as {seen}"
    );
    expect(&translated, before, "a prefix")
}
