//! What packets go through: each way to do the job, and the limits to compare with.

use std::fmt::Write as _;

use anyhow::Result;
use lab::{Host, Natbpf};

use crate::generator::Redirect;
use crate::net::{BRIDGE, Net, PORT, PUBLIC, TAP, Tools, UPLINK, VM1};

/// A way through the host in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// XDP that sends every frame on as it is.
    BareXdp,
    /// Traffic control that does.
    BareTc,
    /// The kernel's forwarding without translation.
    Kernel,
    /// nftables' NAT.
    Nftables,
    /// iptables' NAT.
    Iptables,
    /// natbpf without its fast path.
    NatbpfKernel,
    /// natbpf, traffic control.
    NatbpfTc,
    /// natbpf, XDP.
    NatbpfXdp,
}

impl Way {
    pub(crate) const ALL: [Self; 8] = [
        Self::BareXdp,
        Self::BareTc,
        Self::Kernel,
        Self::Nftables,
        Self::Iptables,
        Self::NatbpfKernel,
        Self::NatbpfTc,
        Self::NatbpfXdp,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BareXdp => "bare XDP redirect",
            Self::BareTc => "bare TC redirect",
            Self::Kernel => "kernel, no NAT",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::NatbpfKernel => "natbpf, forwarding = \"kernel\"",
            Self::NatbpfTc => "natbpf, tc",
            Self::NatbpfXdp => "natbpf, xdp",
        }
    }

    /// Whether addresses are translated on it.
    pub(crate) const fn translates(self) -> bool {
        !matches!(self, Self::BareXdp | Self::BareTc | Self::Kernel)
    }

    /// Sets it up; it is gone when the result is dropped.
    pub(crate) fn open<'n>(self, net: &'n Net, tools: &Tools) -> Result<Open<'n>> {
        let object = &tools.object;
        Ok(match self {
            Self::BareXdp => Open::Bare([
                Redirect::xdp(object, &net.host, UPLINK, TAP)?,
                Redirect::xdp(object, &net.host, TAP, UPLINK)?,
            ]),
            Self::BareTc => Open::Bare([
                Redirect::tc(object, &net.host, UPLINK, TAP)?,
                Redirect::tc(object, &net.host, TAP, UPLINK)?,
            ]),
            Self::Kernel => Open::Nothing,
            Self::Nftables => Open::Rules(Rules::nftables(&net.host)?),
            Self::Iptables => Open::Rules(Rules::iptables(&net.host, 1)?),
            Self::NatbpfKernel | Self::NatbpfTc | Self::NatbpfXdp => {
                Open::Natbpf(self.natbpf(net, tools, &forward("web", PORT))?)
            }
        })
    }

    /// natbpf with these forwards.
    pub(crate) fn natbpf(self, net: &Net, tools: &Tools, rules: &str) -> Result<Natbpf> {
        let config = self.config(rules);
        let place = net.lab.place();
        let mut natbpf = Natbpf::prepare(&net.host, place, tools.natbpf.clone(), &config)?;
        natbpf.launch()?;
        Ok(natbpf)
    }

    fn config(self, rules: &str) -> String {
        let forwarding = match self {
            Self::NatbpfKernel => "kernel",
            _ => "fast",
        };
        let mode = match self {
            Self::NatbpfXdp => "xdp",
            _ => "tc",
        };
        format!(
            "forwarding = \"{forwarding}\"\n[uplink.wan]\ninterface = \"{UPLINK}\"\n\
             mode = \"{mode}\"\n[network.lan]\ninterface = \"{BRIDGE}\"\n\
             address = \"172.22.161.254/24\"\n[[snat]]\nname = \"out\"\nnetwork = \"lan\"\n\
             uplink = \"wan\"\nto = \"masquerade\"\n{rules}"
        )
    }
}

/// A forward of a port to the same one of the guest.
pub(crate) fn forward(name: &str, port: u16) -> String {
    format!(
        "[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\nprotocol = [\"tcp\", \"udp\"]\n\
         ports = {port}\nto = \"{VM1}\"\n"
    )
}

/// A way that is set up.
pub(crate) enum Open<'n> {
    Nothing,
    Bare(#[expect(dead_code, reason = "they work as long as they live")] [Redirect; 2]),
    Rules(#[expect(dead_code, reason = "they stand as long as it lives")] Rules<'n>),
    Natbpf(#[expect(dead_code, reason = "it runs as long as it lives")] Natbpf),
}

/// Rules of netfilter's, gone when dropped.
pub(crate) struct Rules<'n> {
    host: &'n Host,
    undo: &'static [&'static [&'static str]],
}

impl<'n> Rules<'n> {
    pub(crate) fn nftables(host: &'n Host) -> Result<Self> {
        let rules = format!(
            "table ip bench {{\nchain before {{\ntype nat hook prerouting priority dstnat;\n\
             ip daddr {PUBLIC} tcp dport {PORT} dnat to {VM1}\n\
             ip daddr {PUBLIC} udp dport {PORT} dnat to {VM1}\n}}\n\
             chain after {{\ntype nat hook postrouting priority srcnat;\n\
             oifname \"{UPLINK}\" ip saddr 172.22.161.0/24 masquerade\n}}\n}}\n"
        );
        host.run_with_input(["nft", "-f", "-"], rules.as_bytes())?
            .expect_ok()?;
        Ok(Self {
            host,
            undo: &[&["nft", "flush", "ruleset"]],
        })
    }

    /// So many rules for the port's protocol, of which the last one matches.
    pub(crate) fn iptables(host: &'n Host, rules: u16) -> Result<Self> {
        let mut text = String::from("*nat\n");
        for port in (20_000..20_000 + rules - 1).chain([PORT]) {
            for protocol in ["tcp", "udp"] {
                // Writing to a string does not fail.
                let _ = writeln!(
                    text,
                    "-A PREROUTING -d {PUBLIC} -p {protocol} --dport {port} -j DNAT --to {VM1}"
                );
            }
        }
        text += &format!("-A POSTROUTING -s 172.22.161.0/24 -o {UPLINK} -j MASQUERADE\nCOMMIT\n");
        host.run_with_input(["iptables-legacy-restore"], text.as_bytes())?
            .expect_ok()?;
        Ok(Self {
            host,
            undo: &[&["iptables-legacy", "-t", "nat", "-F"]],
        })
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        for words in self.undo {
            if let Err(error) = self.host.check(words.iter().copied()) {
                eprintln!("{error:#}");
            }
        }
    }
}
