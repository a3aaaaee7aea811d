//! The configuration of a dnsmasq.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
};

use anyhow::{Context as _, Result};
use nat_config::model::{
    Address as _, Config, Dhcp, Dns, Forwarders, Guest, GuestAddress, Network, NetworkId, mac_text,
};
use nix::unistd::User;

use super::{
    conf6, dns64,
    files::{Files, Program},
    router::Router,
};

/// The user that Debian's package creates for it.
const USER: &str = "dnsmasq";

/// The configuration of a program, without paths, which are on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conf {
    /// The index of the interface.
    pub(super) index: u32,
    /// The host's address in the network.
    pub(super) address: Option<Ipv4Addr>,
    /// What the host is to guests as a router of IPv6, if it is one. dnsmasq follows the prefixes
    /// by itself.
    pub(super) router: Option<Router>,
    options: String,
    /// Names that need no lease, as in `/etc/hosts`.
    hosts: String,
}

/// The networks that have DHCP or DNS.
pub(super) fn served(config: &Config) -> impl Iterator<Item = &Network> {
    let networks = config.networks.iter();
    networks.filter(|network| network.is_served())
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
            index,
            address: network.address.map(|own| own.addr()),
            router: Router::of(network, index),
            options: options(network, index, &guests, has_user),
            hosts: hosts(&guests),
        }
    }

    /// That of the network's DNS64, if it has one; `servers` are those of the host.
    pub(super) fn of_dns64(
        config: &Config,
        network: &Network,
        index: u32,
        servers: &[IpAddr],
    ) -> Option<Self> {
        let dns = network.dns.as_ref().filter(|dns| dns.dns64)?;
        let nat64 = config.ipv6.as_ref()?.nat64.as_ref()?;
        let forwarders = match &dns.forwarders {
            Forwarders::Host => servers,
            Forwarders::Fixed(forwarders) => forwarders,
        };
        Some(Self {
            index,
            address: None,
            router: None,
            options: dns64::options(&network.name, nat64, dns, index, forwarders),
            hosts: String::new(),
        })
    }

    /// Whether a program with the other configuration serves this one too.
    pub(super) fn serves(&self, other: &Self) -> bool {
        let of = |conf: &Self| (conf.address, conf.options.clone(), conf.hosts.clone());
        of(self) == of(other)
    }

    /// Whether the files say the same.
    pub(super) fn is_written(&self, files: &Files) -> bool {
        let is = |path, text: &str| fs::read_to_string(path).is_ok_and(|written| written == text);
        is(&files.conf, &self.options)
            && (files.program == Program::Unbound || is(&files.hosts, &self.hosts))
    }

    pub(super) fn write(&self, files: &Files) -> Result<()> {
        files.make_folder()?;
        let hosts = (files.program == Program::Dnsmasq).then_some((&files.hosts, &self.hosts));
        for (path, text) in [(&files.conf, &self.options)].into_iter().chain(hosts) {
            // (The programs read them as another user, whatever the umask of this process is.)
            fs::write(path, text)
                .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o644)))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a written configuration makes the host a router of IPv6.
pub(super) fn is_router(files: &Files) -> bool {
    let text = fs::read_to_string(&files.conf).unwrap_or_default();
    text.lines().any(|line| line == conf6::ENABLE_RA)
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
    match &network.dns {
        Some(dns) => {
            let resolver = dns.dns64.then(|| dns64::address(index));
            name_options(&mut text, dns, network.domain(), resolver);
            looked_up_options(&mut text, network);
        }
        None => text += "port=0\n",
    }
    if let Some(dhcp) = &network.dhcp {
        ipv4_options(&mut text, network, dhcp);
    }
    conf6::options(&mut text, network);
    if network.dhcp.is_some() || network.dhcp6.is_some() || conf6::is_managed(network) {
        lease_options(&mut text, network, guests);
    }
    text
}

/// Names without a dot belong to guests, and no other server is asked for them.
fn name_options(
    text: &mut String,
    dns: &Dns,
    domain: Option<&str>,
    resolver: Option<SocketAddrV4>,
) {
    *text += "no-hosts\ndomain-needed\n";
    // (With DNS64, unbound refuses them, before it makes addresses of its own.)
    if !dns.private_answers && resolver.is_none() {
        for prefix in dns64::PRIVATE {
            line(text, format_args!("bogus-nxdomain={prefix}"));
        }
    }
    if let Some(resolver) = resolver {
        *text += "no-resolv\n";
        line(
            text,
            format_args!("server={}#{}", resolver.ip(), resolver.port()),
        );
    } else if let Forwarders::Fixed(forwarders) = &dns.forwarders {
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

/// The guests' names are also in the domain in which guests look them up. Others may have names
/// there, for which the forwarders are asked.
fn looked_up_options(text: &mut String, network: &Network) {
    let looked_up = network.ra.as_ref().and_then(|ra| ra.domain.as_deref());
    if let Some(domain) = looked_up.filter(|_| network.domain().is_none()) {
        line(text, format_args!("domain={domain}"));
        *text += "expand-hosts\n";
    }
}

fn ipv4_options(text: &mut String, network: &Network, dhcp: &Dhcp) {
    let Dhcp {
        first,
        last,
        lease_time_s,
        gateway,
        dns,
        domain: _,
    } = dhcp;
    let mask = network.address.map(|own| format!(",{}", own.netmask()));
    let mask = mask.unwrap_or_default();
    line(
        text,
        format_args!("dhcp-range={first},{last}{mask},{lease_time_s}"),
    );
    // The Ethernet address identifies a guest: any guest can claim an identifier.
    *text += "dhcp-ignore-clid\n";
    line(text, format_args!("dhcp-option=option:router,{gateway}"));
    let dns: Vec<String> = dns.iter().map(|server| format!(",{server}")).collect();
    // Without a value, guests receive none.
    line(
        text,
        format_args!("dhcp-option=option:dns-server{}", dns.concat()),
    );
}

/// What both families have.
fn lease_options(text: &mut String, network: &Network, guests: &[&Guest]) {
    // Without it, a guest with a lease unknown to this server waits long.
    *text += "dhcp-authoritative\n";
    let ipv4 = network.dhcp.as_ref();
    let ipv4 = ipv4.map_or(0, |dhcp| dhcp.first.count_to(dhcp.last));
    // (A guest may have an address of each family, beside those of the range.)
    let each = 1 + conf6::prefix_count(network);
    let most = ipv4 + conf6::lease_count(network) + guests.len() as u128 * each;
    line(text, format_args!("dhcp-lease-max={most}"));
    if let Some(domain) = network.domain() {
        line(text, format_args!("domain={domain}"));
    }
    for guest in guests {
        let address = guest.address.as_ref().and_then(GuestAddress::fixed);
        let address = address.map(|address| format!(",{address}"));
        let address = address.unwrap_or_default();
        let (duid, addresses6) = (conf6::duid(guest), conf6::addresses(network, guest));
        line(
            text,
            format_args!(
                "dhcp-host={}{duid}{address}{addresses6},{}",
                mac_text(guest.mac),
                guest.name
            ),
        );
    }
}

pub(super) fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// Guests with fixed addresses are known before they have leases.
fn hosts(guests: &[&Guest]) -> String {
    let lines = guests.iter().flat_map(|guest| {
        let ipv4 = guest.address.iter().filter_map(GuestAddress::fixed);
        let ipv6 = guest.addresses6.iter().filter_map(GuestAddress::fixed);
        let both = ipv4.map(IpAddr::V4).chain(ipv6.map(IpAddr::V6));
        both.map(|address| format!("{address} {}\n", guest.name))
    });
    lines.collect()
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
                "dhcp-ignore-clid",
                "dhcp-option=option:router,172.22.161.254",
                "dhcp-option=option:dns-server,172.22.161.254",
                "dhcp-authoritative",
                "dhcp-lease-max=10",
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

    const SIX: &str = "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = \"vmbr1\"\n\
                       address = [\"172.22.161.254/24\", \"2001:db8:0:1::1/64\", \
                       \"fd12::1/64\"]\n";

    fn conf6(lines: &str) -> Conf {
        let loaded = nat_config::parse(&format!("{SIX}{lines}"), Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        Conf::new(&config, &config.networks[0], 7)
    }

    fn lines6(lines: &str) -> Vec<String> {
        let conf = conf6(lines);
        let lines = conf.options.lines().skip(5);
        let is_about = |line: &&str| {
            ["ra", "dhcp", "enable", "port", "domain="]
                .iter()
                .any(|word| line.starts_with(word))
        };
        lines.filter(is_about).map(str::to_owned).collect()
    }

    #[test]
    fn guests_choose_addresses_in_the_prefixes_of_the_interface() {
        assert_eq!(
            lines6("[network.lan.ra]\n"),
            [
                "enable-ra",
                "ra-param=vmbr1,600,1800",
                "dhcp-range=::,constructor:vmbr1,ra-only,64,86400",
            ]
        );
        let more = "mode = \"stateless\"\ndns = [\"2001:db8::53\"]\ndomain = \"lan\"\nmtu = 1400\n\
                    lifetime_s = 900\npreference = \"high\"\n[network.lan.dns]\n";
        assert_eq!(
            lines6(&format!("[network.lan.ra]\n{more}")),
            [
                "domain=lan",
                "enable-ra",
                "ra-param=vmbr1,mtu:1400,high,300,900",
                "dhcp-range=::,constructor:vmbr1,ra-stateless,64,86400",
                "dhcp-option=option6:dns-server,[2001:db8::53]",
                "dhcp-option=option6:domain-search,lan",
            ]
        );
        let no_router = lines6("[network.lan.ra]\ndefault_route = false\ndns = []\n");
        assert!(no_router.contains(&"port=0".to_owned()), "nobody asks it");
        assert!(no_router.contains(&"ra-param=vmbr1,600,0".to_owned()));
        assert!(no_router.contains(&"dhcp-option=option6:dns-server".to_owned()));
    }

    #[test]
    fn addresses_are_leased_in_every_prefix() {
        let guest = "[[guest]]\nname = \"web1\"\nnetwork = \"lan\"\nmac = \"52:54:00:00:00:01\"\n\
                     duid = \"00:03:00:01:52:54:0:0:0:9\"\naddress = [\"172.22.161.9\", \"::9\"]\n";
        let range = "[network.lan.dhcp]\nrange6 = \"::100-::1ff\"\ndomain = \"lan\"\n";
        assert_eq!(
            lines6(&format!("{range}{guest}")),
            [
                "enable-ra",
                "ra-param=vmbr1,600,1800",
                "dhcp-range=::100,::1ff,constructor:vmbr1,64,3600",
                "dhcp-ignore-names=tag:dhcpv6",
                "dhcp-option=option6:domain-search,lan",
                "dhcp-authoritative",
                "dhcp-lease-max=515",
                "domain=lan",
                "dhcp-host=52:54:00:00:00:01,id:00:03:00:01:52:54:00:00:00:09,172.22.161.9,[::9],\
                 web1",
            ]
        );
        let both = lines6(&format!("{range}[network.lan.ra]\nmode = \"slaac\"\n"));
        let expected = "dhcp-range=::100,::1ff,constructor:vmbr1,slaac,64,3600";
        assert!(both.contains(&expected.to_owned()), "{both:?}");
        let whole = range.replace("::100-::1ff", "2001:db8:0:1::100-2001:db8:0:1::1ff");
        let expected = "dhcp-range=2001:db8:0:1::100,2001:db8:0:1::1ff,64,3600";
        assert!(lines6(&whole).contains(&expected.to_owned()));
        let silent = lines6(&format!("{range}[network.lan.ra]\nmode = \"off\"\n"));
        assert!(!silent.contains(&"enable-ra".to_owned()), "{silent:?}");
        let fixed = lines6(&format!("[network.lan.ra]\nmode = \"managed\"\n{guest}"));
        let expected = "dhcp-range=::,constructor:vmbr1,static,64,86400";
        assert!(fixed.contains(&expected.to_owned()), "{fixed:?}");
        assert!(fixed.last().unwrap().starts_with("dhcp-host="));
    }

    /// dnsmasq would forget the old one, and guests would keep it.
    #[test]
    fn another_prefix_restarts_nothing() {
        let guest = "[[guest]]\nname = \"web1\"\nnetwork = \"lan\"\nmac = \"52:54:00:00:00:01\"\n\
                     address = [\"172.22.161.9\", \"::9\"]\n";
        let lines = format!("[network.lan.ra]\n{guest}");
        let of = |prefix: &str| {
            let text = format!("{SIX}{lines}").replace("2001:db8:0:1:", prefix);
            let loaded = nat_config::parse(&text, Path::new("n.toml"));
            let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
            Conf::new(&config, &config.networks[0], 7)
        };
        let (old, new) = (of("2001:db8:0:1:"), of("2001:db8:0:2:"));
        assert_eq!(old.options, new.options);
        // Its name has another address.
        assert!(!old.serves(&new) && old.serves(&old.clone()));
        assert!(new.hosts.contains("2001:db8:0:2::9 web1\n"));
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
