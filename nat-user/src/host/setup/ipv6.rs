//! Settings of IPv6.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use nat_sys::{netlink::LinkRoute, sysctl::Key};

use super::{
    links::named,
    plan::{Network, Plan, Uplink},
    run::Run,
};
use crate::host::change::Change;

impl Run<'_> {
    /// Turns on forwarding of IPv6 in the kernel.
    pub(super) async fn make_ipv6_forwarding(&mut self, plan: &Plan) -> Result<()> {
        if Key::ipv6_conf("all", "forwarding")?.read()?.is_none() {
            let text =
                "IPv6 is not in this kernel, or off (ipv6.disable=1): IPv6 rules are inactive";
            self.report.awaited.push(text.to_owned());
            return Ok(());
        }
        self.plan_advertisements(plan).await?;
        // While the kernel forwards and this is not set, it deletes the routes that it has from
        // advertisements.
        self.make_planned().await?;
        for network in &plan.networks {
            self.plan_forwarding(Key::ipv6_conf(&network.interface, "forwarding")?)?;
        }
        self.plan_sysctl(Key::ipv6_conf("all", "forwarding")?, "1")?;
        self.make_planned().await?;
        // `bpf_fib_lookup` asks for the setting of the interface by which a packet came, although
        // the kernel forwards without it.
        for uplink in &plan.uplinks {
            self.plan_forwarding(Key::ipv6_conf(&uplink.interface, "forwarding")?)?;
        }
        self.make_planned().await?;
        Ok(())
    }

    /// Plans that an uplink takes router advertisements although the host forwards, where it has
    /// taken them before (`accept_ra` 1). A network manager that handles them itself has set it
    /// to 0.
    async fn plan_advertisements(&mut self, plan: &Plan) -> Result<()> {
        let mut accepting = Vec::new();
        for uplink in &plan.uplinks {
            let key = Key::ipv6_conf(&uplink.interface, "accept_ra")?;
            let now = key.read()?;
            let change = Change::sysctl(key, now.clone().unwrap_or_default(), "2");
            match now.as_deref() {
                Some("1") => accepting.push((uplink, change)),
                Some("2") => self.want(change, true, &[]),
                _ => {}
            }
        }
        if accepting.is_empty() {
            return Ok(());
        }
        let links = self.netlink.links().await?;
        let routes: Vec<LinkRoute<Ipv6Addr>> = self.netlink.main_routes().await?;
        for (uplink, change) in accepting {
            let device = named(&links, &uplink.interface).map(|link| link.index);
            let has_route =
                (routes.iter()).any(|route| route.is_advertised && route.device == device);
            let is_ours = self.journal.find(&change).is_some();
            if is_ours || has_route || takes_advertisements(uplink)? {
                self.want(change, false, &[]);
            }
        }
        Ok(())
    }

    /// The addresses of a network that its interface can have.
    pub(super) fn possible(&mut self, network: &Network) -> Result<Vec<IpNet>> {
        let name = &network.interface;
        let has_ipv6 = network.addresses.iter().any(|net| net.addr().is_ipv6());
        let key = Key::ipv6_conf(name, "disable_ipv6")?;
        let is_off = has_ipv6 && key.read()?.is_none_or(|now| now != "0");
        let is_made = self
            .kept
            .iter()
            .any(|change| matches!(change, Change::Bridge { name: bridge, .. } if bridge == name));
        if is_off && is_made && key.read()?.is_some() {
            // The kernel's default for new interfaces, on a bridge of natbpf's own.
            key.write("0").context("IPv6 on a new bridge")?;
        } else if is_off {
            self.report.awaited.push(format!(
                "{name} has no IPv6 ({key} is not 0): its IPv6 addresses are missing and IPv6 \
                 rules are inactive there (sysctl -w {key}=0)"
            ));
            let ipv4 = network.addresses.iter().filter(|net| net.addr().is_ipv4());
            return Ok(ipv4.copied().collect());
        }
        Ok(network.addresses.clone())
    }
}

/// Whether the kernel takes router advertisements on an uplink now: those who forward do not
/// (`ipv6_accept_ra()` in `include/net/ipv6.h`).
fn takes_advertisements(uplink: &Uplink) -> Result<bool> {
    let forwards = Key::ipv6_conf(&uplink.interface, "forwarding")?.read()?;
    Ok(forwards.is_none_or(|now| now == "0"))
}
