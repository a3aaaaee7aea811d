//! The configuration of a dnsmasq.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
};

use anyhow::{Context as _, Result};
use nat_config::model::{
    Config, Dhcp, Dns, Forwarders, Guest, GuestAddress, Network, NetworkId, mac_text,
};
use nix::unistd::User;

use super::files::Files;

/// The user that Debian's package creates for it.
const USER: &str = "dnsmasq";

/// Prefixes to which no name of the internet may resolve. (dnsmasq's own `stop-dns-rebind` also
/// refuses the prefixes for documentation, and 127.0.0.0/8, by which lists that mail servers ask
/// answer.)
const PRIVATE: [&str; 7] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// A dnsmasq's configuration, without paths, which are on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conf {
    /// The host's address in the network.
    pub(super) address: Option<Ipv4Addr>,
    options: String,
    /// Names that need no lease, as in `/etc/hosts`.
    hosts: String,
}

/// The networks that have DHCP or DNS.
pub(super) fn served(config: &Config) -> impl Iterator<Item = &Network> {
    let networks = config.networks.iter();
    networks.filter(|network| network.dhcp.is_some() || network.dns.is_some())
}

impl Conf {
    /// For a network on the interface with this index. Another index is another interface, to which
    /// a dnsmasq must bind again.
    pub(super) fn new(config: &Config, network: &Network, index: u32) -> Self {
        let own = config.networks.iter().position(|other| other == network);
        let is_here = |guest: &&Guest| Some(guest.network) == own.map(NetworkId);
        let guests: Vec<&Guest> = config.guests.iter().filter(is_here).collect();
        let has_user = User::from_name(USER).is_ok_and(|user| user.is_some());
        Self {
            address: network.address.map(|own| own.addr()),
            options: options(network, index, &guests, has_user),
            hosts: hosts(&guests),
        }
    }

    /// Whether the files say the same.
    pub(super) fn is_written(&self, files: &Files) -> bool {
        let is = |path, text: &str| fs::read_to_string(path).is_ok_and(|written| written == text);
        is(&files.conf, &self.options) && is(&files.hosts, &self.hosts)
    }

    pub(super) fn write(&self, files: &Files) -> Result<()> {
        files.make_folder()?;
        for (path, text) in [(&files.conf, &self.options), (&files.hosts, &self.hosts)] {
            // (dnsmasq reads them as another user, whatever the umask of this process is.)
            fs::write(path, text)
                .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o644)))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

fn options(network: &Network, index: u32, guests: &[&Guest], has_user: bool) -> String {
    let mut text = format!(
        "# Written by natbpf for network {:?}; changes are lost.\n\
         # The interface has the index {index}.\n\
         interface={}\n\
         except-interface=lo\n\
         bind-dynamic\n",
        network.name, network.interface
    );
    if has_user {
        text += &format!("user={USER}\n");
    }
    let domain = network
        .dhcp
        .as_ref()
        .and_then(|dhcp| dhcp.domain.as_deref());
    match &network.dns {
        Some(dns) => name_options(&mut text, dns, domain),
        None => text += "port=0\n",
    }
    if let Some(dhcp) = &network.dhcp {
        lease_options(&mut text, network, dhcp, guests);
    }
    text
}

/// Names without a dot belong to guests, and no other server is asked for them.
fn name_options(text: &mut String, dns: &Dns, domain: Option<&str>) {
    *text += "no-hosts\ndomain-needed\n";
    if !dns.private_answers {
        for prefix in PRIVATE {
            line(text, format_args!("bogus-nxdomain={prefix}"));
        }
    }
    if let Forwarders::Fixed(forwarders) = &dns.forwarders {
        *text += "no-resolv\n";
        for forwarder in forwarders {
            line(text, format_args!("server={forwarder}"));
        }
    }
    if let Some(domain) = domain {
        line(text, format_args!("local=/{domain}/"));
        *text += "expand-hosts\n";
    }
}

fn lease_options(text: &mut String, network: &Network, dhcp: &Dhcp, guests: &[&Guest]) {
    let Dhcp {
        first,
        last,
        lease_time_s,
        gateway,
        dns,
        domain,
    } = dhcp;
    let mask = network.address.map(|own| format!(",{}", own.netmask()));
    let mask = mask.unwrap_or_default();
    line(
        text,
        format_args!("dhcp-range={first},{last}{mask},{lease_time_s}"),
    );
    // Without it, a guest with a lease unknown to this server waits long.
    *text += "dhcp-authoritative\n";
    // The Ethernet address identifies a guest: any guest can claim an identifier.
    *text += "dhcp-ignore-clid\n";
    let addresses = u64::from(u32::from(*last) - u32::from(*first)) + 1;
    line(
        text,
        format_args!("dhcp-lease-max={}", addresses + guests.len() as u64),
    );
    line(text, format_args!("dhcp-option=option:router,{gateway}"));
    let dns: Vec<String> = dns.iter().map(|server| format!(",{server}")).collect();
    // Without a value, guests receive none.
    line(
        text,
        format_args!("dhcp-option=option:dns-server{}", dns.concat()),
    );
    if let Some(domain) = domain {
        line(text, format_args!("domain={domain}"));
    }
    for guest in guests {
        let mac = mac_text(guest.mac);
        let address = guest.address.as_ref().and_then(GuestAddress::fixed);
        let address = address.map(|address| format!(",{address}"));
        let address = address.unwrap_or_default();
        line(
            text,
            format_args!("dhcp-host={mac}{address},{}", guest.name),
        );
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// Guests with fixed addresses are known before they have leases.
fn hosts(guests: &[&Guest]) -> String {
    let fixed = guests
        .iter()
        .filter_map(|guest| Some((guest.address.as_ref()?.fixed()?, &guest.name)));
    fixed
        .map(|(address, name)| format!("{address} {name}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LAN: &str = "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = \"vmbr1\"\n\
                       address = \"172.22.161.254/24\"\n";

    fn conf(lines: &str) -> Conf {
        let loaded = nat_config::parse(&format!("{LAN}{lines}"), Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        Conf::new(&config, &config.networks[0], 7)
    }

    fn lines(lines: &str) -> Vec<String> {
        let conf = conf(lines);
        let lines = conf.options.lines().skip(2);
        let lines = lines.filter(|line| !line.starts_with("user="));
        lines.map(str::to_owned).collect()
    }

    const RANGE: &str = "[network.lan.dhcp]\nrange = \"172.22.161.10-172.22.161.19\"\n";

    #[test]
    fn a_range_alone_serves_both() {
        assert_eq!(
            lines(RANGE),
            [
                "interface=vmbr1",
                "except-interface=lo",
                "bind-dynamic",
                "no-hosts",
                "domain-needed",
                "bogus-nxdomain=10.0.0.0/8",
                "bogus-nxdomain=172.16.0.0/12",
                "bogus-nxdomain=192.168.0.0/16",
                "bogus-nxdomain=100.64.0.0/10",
                "bogus-nxdomain=169.254.0.0/16",
                "bogus-nxdomain=fc00::/7",
                "bogus-nxdomain=fe80::/10",
                "dhcp-range=172.22.161.10,172.22.161.19,255.255.255.0,3600",
                "dhcp-authoritative",
                "dhcp-ignore-clid",
                "dhcp-lease-max=10",
                "dhcp-option=option:router,172.22.161.254",
                "dhcp-option=option:dns-server,172.22.161.254",
            ]
        );
    }

    #[test]
    fn reports_list_every_change() {
        let more = "lease_time_s = 600\ngateway = \"172.22.161.1\"\ndomain = \"lan\"\n\
                    dns = [\"192.0.2.1\", \"192.0.2.2\"]\n\
                    [network.lan.dns]\nforwarders = [\"192.0.2.3\"]\n";
        let lines = lines(&format!("{RANGE}{more}"));
        for line in [
            "no-resolv",
            "server=192.0.2.3",
            "local=/lan/",
            "expand-hosts",
            "dhcp-range=172.22.161.10,172.22.161.19,255.255.255.0,600",
            "dhcp-option=option:router,172.22.161.1",
            "dhcp-option=option:dns-server,192.0.2.1,192.0.2.2",
            "domain=lan",
        ] {
            assert!(lines.iter().any(|other| other == line), "{line}: {lines:?}");
        }
    }

    #[test]
    fn private_answers_from_outside_are_refused_unless_they_are_wanted() {
        let is_refused = |more: &str| {
            lines(more)
                .iter()
                .any(|line| line.starts_with("bogus-nxdomain="))
        };
        assert!(is_refused("[network.lan.dns]\n"));
        assert!(is_refused("[network.lan.dns]\nprivate_answers = false\n"));
        assert!(!is_refused("[network.lan.dns]\nprivate_answers = true\n"));
    }

    #[test]
    fn one_of_both_is_served_alone() {
        let dhcp = lines(&format!("{RANGE}dns = []\n"));
        assert!(dhcp.contains(&"port=0".to_owned()), "{dhcp:?}");
        assert!(dhcp.contains(&"dhcp-option=option:dns-server".to_owned()));
        let dns = lines("[network.lan.dns]\n");
        assert!(
            !dns.iter()
                .any(|line| line.starts_with("dhcp") || line == "port=0"),
            "{dns:?}"
        );
    }

    #[test]
    fn guests_have_their_addresses_and_names() {
        let guest = |name: &str, mac: u8, address: &str| {
            format!(
                "[[guest]]\nname = \"{name}\"\nnetwork = \"lan\"\nmac = \
                 \"52:54:00:00:00:{mac:02}\"\n\
                 {address}\n"
            )
        };
        let guests = guest("web1", 1, "address = \"172.22.161.170\"") + &guest("db", 2, "");
        let conf = conf(&format!("{RANGE}{guests}"));
        assert!(conf.options.contains("\ndhcp-lease-max=12\n"));
        let told = "\ndhcp-host=52:54:00:00:00:01,172.22.161.170,web1\n\
                    dhcp-host=52:54:00:00:00:02,db\n";
        assert!(conf.options.ends_with(told), "{}", conf.options);
        assert_eq!(conf.hosts, "172.22.161.170 web1\n");
    }

    #[test]
    fn another_interface_of_the_same_name_is_another_configuration() {
        let loaded = nat_config::parse(&format!("{LAN}{RANGE}"), Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let with = |index| Conf::new(&config, &config.networks[0], index);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }
}
