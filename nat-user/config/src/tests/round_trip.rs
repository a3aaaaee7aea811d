//! Any text yields a configuration or errors; a configuration that is written and read again is
//! unchanged.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr, num::NonZeroU32, path::Path};

use ipnet::Ipv4Net;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, subsequence},
};

use super::{
    super::{
        model::{
            Action, Claim, Config, Dhcp, Dns, FilteringBehaviour, ForwardMatch, ForwardProtocol,
            ForwardRule, Forwarders, Forwarding, Guest, HostService, Inbound, Limits,
            MappingBehaviour, Mode, MssClamp, NatRule, Network, NetworkId, PolicyEnd, PolicyRule,
            PortForward, PortRange, SnatRule, SnatSource, SnatTarget, Timeouts, Uplink,
            UplinkAddresses, UplinkId,
        },
        parse,
    },
    BASE,
};

/// A piece of a configuration, right or wrong.
fn scrap() -> impl Strategy<Value = String> {
    let words = [
        "[uplink.wan]",
        "[network.lan]",
        "[[snat]]",
        "[[forward]]",
        "[[nat]]",
        "[[guest]]",
        "[network.lan.dhcp]",
        "range = ",
        "domain = ",
        "mac = ",
        "\"52:54:00:12:34:56\"",
        "[limits]",
        "[timeouts]",
        "interface = ",
        "address = ",
        "addresses = ",
        "ports = ",
        "to_ports = ",
        "to = ",
        "protocol = ",
        "uplink = ",
        "network = ",
        "source = ",
        "sessions = ",
        "keep = ",
        "udp = ",
        "name = ",
        "\"wan\"",
        "\"lan\"",
        "\"tcp\"",
        "\"10.0.0.1/8\"",
        "\"10.0.0.1\"",
        "\"10.0.0.9-10.0.0.1\"",
        "\"80-90\"",
        "[\"tcp\", \"all\"]",
        "[80, \"70-90\"]",
        "80",
        "0",
        "-1",
        "true",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'''",
        "=",
        ".",
        ",",
        "#",
        "\n",
        "\r\n",
        "\u{feff}",
        "ü",
        "\0",
    ];
    prop_oneof![
        4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => ".{0,4}",
    ]
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_says_one_line(text in "(?s).{0,200}") {
        if let Err(error) = parse(&text, Path::new("n.toml")) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn text_that_is_nearly_a_configuration_never_panics(
        scraps in vec(scrap(), 0..40),
        separator in prop::sample::select(vec!["", "\n", " "]),
        after_base: bool,
    ) {
        let text = scraps.join(separator);
        let text = if after_base { format!("{BASE}{text}") } else { text };
        if let Err(error) = parse(&text, Path::new("n.toml")) {
            let lines = text.split('\n').count();
            for one in error.all() {
                let line = one.to_string();
                prop_assert!(line.lines().count() == 1 && line.contains("; "), "{}", line);
                let place = one.position.expect("a text has places");
                prop_assert!((1..=lines).contains(&place.line), "{}", line);
            }
        }
    }

    #[test]
    fn a_valid_configuration_round_trips(config in configs()) {
        let text = written(&config);
        match parse(&text, Path::new("n.toml")) {
            Ok(loaded) => prop_assert_eq!(loaded.config, config, "{}", text),
            Err(error) => prop_assert!(false, "{}\n{}", error, text),
        }
    }
}

fn names() -> impl Strategy<Value = String> {
    "[a-z0-9._ \"\\\\äß-]{1,12}"
}

fn host() -> impl Strategy<Value = Ipv4Addr> {
    (1_u8..=223, any::<[u8; 3]>())
        .prop_filter("loopback", |(first, _)| *first != 127)
        .prop_map(|(first, [a, b, c])| Ipv4Addr::new(first, a, b, c))
}

fn hosts() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    vec(host(), 1..4).prop_map(|hosts| BTreeSet::from_iter(hosts).into_iter().collect())
}

fn prefix() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 0_u8..=32).prop_map(|(address, length)| {
        Ipv4Net::new(address.into(), length)
            .expect("the length is right")
            .trunc()
    })
}

fn prefixes() -> impl Strategy<Value = Vec<Ipv4Net>> {
    vec(prefix(), 0..3).prop_map(|nets| BTreeSet::from_iter(nets).into_iter().collect())
}

fn range() -> impl Strategy<Value = PortRange> {
    (1_u16.., 1_u16..).prop_map(|(a, b)| PortRange {
        first: a.min(b),
        last: a.max(b),
    })
}

fn uplink() -> impl Strategy<Value = Uplink> {
    let addresses = prop_oneof![
        Just(UplinkAddresses::Interface),
        hosts().prop_map(UplinkAddresses::Fixed),
    ];
    let mode = prop_oneof![Just(Mode::Auto), Just(Mode::Tc), Just(Mode::Xdp)];
    let protocol = prop_oneof![Just(ForwardProtocol::Tcp), Just(ForwardProtocol::Udp)];
    let keep = prop::collection::btree_set((protocol, 1_u16..), 0..3);
    let mss_clamp = prop_oneof![
        Just(MssClamp::Auto),
        Just(MssClamp::Off),
        (MssClamp::LEAST..=MssClamp::MOST).prop_map(MssClamp::Bytes),
    ];
    let claim = prop_oneof![Just(Claim::Arp), Just(Claim::Add), Just(Claim::None)];
    (names(), addresses, mode, keep, mss_clamp, claim).prop_map(
        |(name, addresses, mode, keep, mss_clamp, claim)| Uplink {
            name,
            interface: String::new(),
            addresses,
            addresses6: UplinkAddresses::Interface,
            mode,
            reserved_ports: keep.into_iter().collect(),
            mss_clamp,
            claim,
        },
    )
}

fn snat_rule() -> impl Strategy<Value = (SnatRule, Index, Index)> {
    let source = prop_oneof![
        Just(SnatSource::Network(NetworkId(0))),
        prefix().prop_map(SnatSource::Prefix),
    ];
    let pool = (host(), 0_u32..65536).prop_map(|(first, more)| {
        let last = Ipv4Addr::from(u32::from(first) + more);
        let last = if last.is_multicast() || last.is_loopback() {
            first
        } else {
            last
        };
        SnatTarget::Pool { first, last }
    });
    let to = prop_oneof![Just(SnatTarget::Masquerade), pool];
    let behaviours = (0..2_usize, 0..3_usize).prop_map(|(mapping, filtering)| {
        let mapping = [
            MappingBehaviour::EndpointIndependent,
            MappingBehaviour::AddressAndPortDependent,
        ][mapping];
        (mapping, FILTERING[filtering].0)
    });
    let rule = (
        names(),
        source,
        to,
        range(),
        behaviours,
        prefixes(),
        forwarding(),
    );
    (rule, any::<Index>(), any::<Index>()).prop_map(|(rule, uplink, network)| {
        let (name, source, to, ports, (mapping, filtering), exclude, forwarding) = rule;
        let uplink_id = UplinkId(0);
        let rule = SnatRule {
            name,
            source,
            uplink: uplink_id,
            to,
            ports,
            mapping,
            filtering,
            exclude,
            forwarding,
        };
        (rule, uplink, network)
    })
}

const FILTERING: [(FilteringBehaviour, &str); 3] = [
    (
        FilteringBehaviour::EndpointIndependent,
        "endpoint-independent",
    ),
    (FilteringBehaviour::AddressDependent, "address-dependent"),
    (
        FilteringBehaviour::AddressAndPortDependent,
        "address-and-port-dependent",
    ),
];

/// What the ports of a generated rule go to.
#[derive(Debug, Clone, Copy)]
enum Target {
    Same,
    Shifted,
    OnePort(u16),
}

/// A forward whose ports are in a block that [`settle`] reserves for it.
fn forward_rule() -> impl Strategy<Value = (ForwardRule, Vec<(u16, u16)>, Target, Index)> {
    let tcp_udp = vec![
        ForwardProtocol::Tcp,
        ForwardProtocol::Udp,
        ForwardProtocol::Icmp,
    ];
    let protocols = subsequence(tcp_udp, 1..=3);
    let target = prop_oneof![
        Just(Target::Same),
        Just(Target::Shifted),
        (1_u16..).prop_map(Target::OnePort),
    ];
    let pieces = vec((0_u16..8, 0_u16..2), 1..4);
    let rule = (
        names(),
        protocols,
        prop::option::of(host()),
        1_u8..200,
        any::<[bool; 2]>(),
        forwarding(),
    );
    (rule, pieces, target, any::<Index>()).prop_map(|(rule, pieces, target, uplink)| {
        let (name, protocols, address, to, [hairpin, local], forwarding) = rule;
        let has_ports = protocols != [ForwardProtocol::Icmp];
        let rule = ForwardRule {
            name,
            uplink: UplinkId(0),
            matches: ForwardMatch {
                protocols,
                ports: Vec::new(),
            },
            address,
            to: Ipv4Addr::new(172, 30, 0, to).into(),
            hairpin,
            local: local && has_ports,
            forwarding,
        };
        (rule, pieces, target, uplink)
    })
}

/// A rule whose addresses [`settle`] makes unlike those of others.
fn nat_rule() -> impl Strategy<Value = (NatRule, Index)> {
    let parts = (names(), any::<bool>(), forwarding(), any::<Index>());
    parts.prop_map(|(name, hairpin, forwarding, uplink)| {
        let rule = NatRule {
            name,
            uplink: UplinkId(0),
            address: Ipv4Addr::new(172, 31, 0, 0),
            to: Ipv4Addr::new(172, 30, 1, 0).into(),
            hairpin,
            forwarding,
        };
        (rule, uplink)
    })
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    prop_oneof![Just(Forwarding::Fast), Just(Forwarding::Kernel)]
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    prop::array::uniform7(1_u32..=1 << 31).prop_map(|[a, b, c, d, e, f, g]| Timeouts {
        udp_s: a,
        tcp_opening_s: b,
        tcp_established_s: c,
        tcp_closing_s: d,
        icmp_s: e,
        other_s: f,
        fragment_s: g,
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let number = 1_u32..=4_194_304;
    let per_guest = || prop::option::of(number.clone().prop_map(NonZeroU32::new));
    (number.clone(), per_guest(), per_guest()).prop_map(|(sessions, of_guest, ports)| Limits {
        sessions,
        sessions_ipv6: Limits::default().sessions_ipv6,
        sessions_per_guest: of_guest.flatten(),
        ports_per_guest: ports.flatten(),
    })
}

fn configs() -> impl Strategy<Value = Config> {
    let network_parts = (names(), any::<[bool; 2]>(), 0..3_usize, 20_u8..=32);
    let networks = vec(network_parts, 0..4);
    let tables = (
        forwarding(),
        vec(uplink(), 1..4),
        networks,
        limits(),
        timeouts(),
    );
    let rules = (
        vec(snat_rule(), 0..5),
        vec(forward_rule(), 0..12),
        vec(nat_rule(), 0..4),
        vec((names(), any::<Index>()), 0..4),
        vec(policy_rule(), 0..5),
    );
    (tables, rules).prop_map(
        |(
            (forwarding, uplinks, networks, limits, timeouts),
            (snat, forwards, nats, guests, policies),
        )| {
            let mut config = Config {
                forwarding,
                uplinks,
                networks: (0..).zip(networks).map(network).collect(),
                guests: Vec::new(),
                routes: Vec::new(),
                snat: Vec::new(),
                forwards: Vec::new(),
                nats: Vec::new(),
                policies: Vec::new(),
                ipv6: None,
                limits,
                timeouts,
            };
            for (mut rule, uplink, network) in snat {
                rule.uplink = UplinkId(uplink.index(config.uplinks.len()));
                if let SnatSource::Network(id) = &mut rule.source {
                    let Some(last) = config.networks.len().checked_sub(1) else {
                        continue;
                    };
                    *id = NetworkId(network.index(last + 1));
                }
                config.snat.push(rule);
            }
            for (index, (mut rule, pieces, target, uplink)) in (0_u16..).zip(forwards) {
                rule.uplink = UplinkId(uplink.index(config.uplinks.len()));
                rule.matches.ports = port_forwards(index * 1000 + 100, &pieces, target);
                config.forwards.push(rule);
            }
            for (mut rule, uplink) in nats {
                rule.uplink = UplinkId(uplink.index(config.uplinks.len()));
                config.nats.push(rule);
            }
            for (index, (name, network)) in (0_u8..).zip(guests) {
                config.guests.extend(guest(&config, index, name, network));
            }
            for (mut rule, uplink, network) in policies {
                rule.from = vec![match config.networks.is_empty() {
                    true => PolicyEnd::Uplink(UplinkId(uplink.index(config.uplinks.len()))),
                    false => PolicyEnd::Network(NetworkId(network.index(config.networks.len()))),
                }];
                config.policies.push(rule);
            }
            settle(config)
        },
    )
}

/// A guest of one of the networks that have room for it.
fn guest(config: &Config, index: u8, name: String, network: Index) -> Option<Guest> {
    let networks = config.networks.iter().enumerate();
    let roomy: Vec<usize> = networks
        .filter(|(_, network)| network.dhcp.is_none())
        .filter(|(_, network)| network.address.is_some_and(|own| own.prefix_len() < 29))
        .map(|(id, _)| id)
        .collect();
    let id = *roomy.get(network.index(roomy.len().max(1)))?;
    let [a, b, c, _] = config.networks[id].address?.addr().octets();
    Some(Guest {
        name,
        network: NetworkId(id),
        address: Some(Ipv4Addr::new(a, b, c, 2 + index).into()),
        addresses6: Vec::new(),
        mac: [0x52, 0x54, 0, 0xAB, 0, index],
        duid: None,
        port: index.is_multiple_of(2).then(|| format!("tap{index}")),
    })
}

/// A policy without its first end, and what that is taken from.
fn policy_rule() -> impl Strategy<Value = (PolicyRule, Index, Index)> {
    let to = subsequence(
        vec![
            PolicyEnd::Host,
            PolicyEnd::Prefix("192.0.2.0/24".parse().expect("a prefix")),
            PolicyEnd::Guest(Ipv4Addr::new(198, 51, 100, 7).into()),
        ],
        0..=3,
    );
    let parts = (names(), to, any::<[bool; 3]>(), any::<[Index; 2]>());
    parts.prop_map(
        |(name, to, [is_tcp, has_ports, accepts], [uplink, network])| {
            let rule = PolicyRule {
                name,
                from: Vec::new(),
                to: if to.is_empty() {
                    vec![PolicyEnd::Any]
                } else {
                    to
                },
                protocols: match is_tcp {
                    true => vec![ForwardProtocol::Tcp, ForwardProtocol::Udp],
                    false => vec![ForwardProtocol::All],
                },
                ports: match is_tcp && has_ports {
                    true => vec![
                        PortRange {
                            first: 80,
                            last: 81,
                        },
                        PortRange {
                            first: 443,
                            last: 443,
                        },
                    ],
                    false => Vec::new(),
                },
                action: if accepts {
                    Action::Accept
                } else {
                    Action::Drop
                },
            };
            (rule, uplink, network)
        },
    )
}

type NetworkParts = (String, [bool; 2], usize, u8);

fn network((index, (name, [create, anti_spoof], ports, length)): (u8, NetworkParts)) -> Network {
    let is_served = ports == 1 && length < 29;
    Network {
        name,
        interface: format!("br{index}"),
        address: Ipv4Net::new(Ipv4Addr::new(10, index, 0, 1), length).ok(),
        addresses6: Vec::new(),
        ndp: None,
        follow: false,
        followed: 0,
        create,
        is_nat64: false,
        ports: (0..ports)
            .map(|port| format!("tap{index}.{port}"))
            .collect(),
        anti_spoof,
        isolated: create != anti_spoof,
        policy: if create { Action::Drop } else { Action::Accept },
        inbound: Inbound::default(),
        host: (ports != 1).then(|| {
            vec![
                HostService::Ping,
                HostService::Port(ForwardProtocol::Udp, 123),
            ]
        }),
        dhcp: is_served.then(|| Dhcp {
            first: Ipv4Addr::new(10, index, 0, 2),
            last: Ipv4Addr::new(10, index, 0, 5),
            lease_time_s: 120 + u32::from(index),
            gateway: Ipv4Addr::new(10, index, 0, 6),
            dns: vec![Ipv4Addr::new(192, 0, 2, 53); usize::from(create)],
            domain: anti_spoof.then(|| "guests.lan".to_owned()),
        }),
        dhcp6: None,
        ra: None,
        dns: is_served.then(|| Dns {
            forwarders: match create {
                true => Forwarders::Host,
                false => Forwarders::Fixed(vec![Ipv4Addr::new(192, 0, 2, 54).into()]),
            },
            private_answers: anti_spoof,
            dns64: false,
        }),
    }
}

/// Ranges one behind the other from `start`, with gaps; single ports where the length is 0.
fn port_forwards(start: u16, pieces: &[(u16, u16)], target: Target) -> Vec<PortForward> {
    let mut first = start;
    let pieces = pieces.iter().map(|(more, gap)| {
        let external = PortRange {
            first,
            last: first + more,
        };
        first = external.last + 1 + gap;
        let internal = match target {
            Target::Same => external,
            Target::Shifted => PortRange {
                first: external.first + 7,
                last: external.last + 7,
            },
            Target::OnePort(port) => PortRange {
                first: port,
                last: port,
            },
        };
        PortForward { external, internal }
    });
    pieces.collect()
}

/// Makes names and interfaces unique, and leaves out ports where no protocol has any.
fn settle(mut config: Config) -> Config {
    for (index, uplink) in config.uplinks.iter_mut().enumerate() {
        uplink.interface = format!("eth{index}");
        write!(uplink.name, "-{index}").expect("a text takes all");
    }
    for (index, network) in config.networks.iter_mut().enumerate() {
        write!(network.name, "-{index}").expect("a text takes all");
    }
    for (index, guest) in config.guests.iter_mut().enumerate() {
        write!(guest.name, "-{index}").expect("a text takes all");
    }
    for (index, rule) in config.snat.iter_mut().enumerate() {
        write!(rule.name, "-{index}").expect("a text takes all");
        // No interface takes as many addresses.
        if let SnatTarget::Pool { first, last } = rule.to
            && u32::from(last) - u32::from(first) >= 256
        {
            config.uplinks[rule.uplink.0].claim = Claim::Arp;
        }
    }
    for (index, rule) in config.policies.iter_mut().enumerate() {
        write!(rule.name, "-{index}").expect("a text takes all");
    }
    for (index, rule) in (0_u8..).zip(&mut config.nats) {
        write!(rule.name, "-{index}").expect("a text takes all");
        rule.address = Ipv4Addr::new(172, 31, 0, index);
        rule.to = Ipv4Addr::new(172, 30, 1, index).into();
    }
    let mut seen = BTreeSet::new();
    config.forwards.retain_mut(|rule| {
        write!(rule.name, "-{}", seen.len()).expect("a text takes all");
        if rule.matches.protocols == [ForwardProtocol::Icmp] {
            rule.matches.ports.clear();
        }
        let ports: Vec<_> = rule
            .matches
            .ports
            .iter()
            .map(|ports| ports.external)
            .collect();
        let is_new = seen.insert((rule.uplink, ports.clone()));
        is_new || !ports.is_empty()
    });
    config
}

/// The configuration as a file.
fn written(config: &Config) -> String {
    let mut text = forwarding_text(config.forwarding);
    for uplink in &config.uplinks {
        write_uplink(&mut text, uplink);
    }
    for network in &config.networks {
        write_network(&mut text, network);
    }
    for guest in &config.guests {
        write_guest(&mut text, config, guest);
    }
    for rule in &config.snat {
        write_snat(&mut text, config, rule);
    }
    for rule in &config.forwards {
        write_forward(&mut text, config, rule);
    }
    for rule in &config.nats {
        write_nat(&mut text, config, rule);
    }
    for rule in &config.policies {
        write_policy(&mut text, config, rule);
    }
    let t = &config.timeouts;
    text += &format!(
        "{}[timeouts]\nudp = {}\n",
        limits_text(&config.limits),
        t.udp_s
    );
    text += &format!(
        "tcp_opening = {}\ntcp_established = {}\n",
        t.tcp_opening_s, t.tcp_established_s
    );
    text += &format!("tcp_closing = {}\nicmp = {}\n", t.tcp_closing_s, t.icmp_s);
    text + &format!("other = {}\nfragment = {}\n", t.other_s, t.fragment_s)
}

fn write_network(text: &mut String, network: &Network) {
    let Network {
        name,
        interface,
        address,
        addresses6: _,
        ndp: _,
        follow: _,
        followed: _,
        create,
        is_nat64: _,
        ports,
        anti_spoof,
        isolated,
        policy,
        inbound: _,
        host,
        dhcp,
        dhcp6: _,
        ra: _,
        dns,
    } = network;
    let ports = list(ports.iter());
    let address = address.expect("a network of IPv4");
    *text += &format!(
        "[network.{}]\ninterface = {interface:?}\naddress = \"{address}\"\n\
         create = {create}\nports = {ports}\nanti_spoof = {anti_spoof}\nisolated = {isolated}\n",
        quoted(name)
    );
    *text += &format!("policy = \"{}\"\n", action_text(*policy));
    *text += &match host {
        Some(services) => format!("host = {}\n", list(services.iter().map(service_text))),
        None => "host = \"all\"\n".to_owned(),
    };
    if let Some(dhcp) = dhcp {
        *text += &format!("[network.{}.dhcp]\n", quoted(name));
        *text += &format!("range = \"{}-{}\"\n", dhcp.first, dhcp.last);
        *text += &format!("lease_time_s = {}\n", dhcp.lease_time_s);
        *text += &format!("gateway = \"{}\"\n", dhcp.gateway);
        *text += &format!("dns = {}\n", list(dhcp.dns.iter()));
        let domain = dhcp.domain.iter();
        domain.for_each(|domain| *text += &format!("domain = {domain:?}\n"));
    }
    if let Some(dns) = dns {
        *text += &format!("[network.{}.dns]\n", quoted(name));
        if let Forwarders::Fixed(forwarders) = &dns.forwarders {
            *text += &format!("forwarders = {}\n", list(forwarders.iter()));
        }
        *text += &format!("private_answers = {}\n", dns.private_answers);
    }
}

fn write_guest(text: &mut String, config: &Config, guest: &Guest) {
    let (name, network) = (
        quoted(&guest.name),
        quoted(&config.networks[guest.network.0].name),
    );
    let [a, b, c, d, e, f] = guest.mac;
    *text += &format!("[[guest]]\nname = {name}\nnetwork = {network}\n");
    if let Some(address) = &guest.address {
        *text += &format!("address = \"{address}\"\n");
    }
    *text += &format!("mac = \"{a:02x}:{b:02x}:{c:02X}:{d:02X}:{e:02x}:{f:02x}\"\n");
    if let Some(port) = &guest.port {
        *text += &format!("port = \"{port}\"\n");
    }
}

fn write_nat(text: &mut String, config: &Config, rule: &NatRule) {
    let (name, uplink) = (
        quoted(&rule.name),
        quoted(&config.uplinks[rule.uplink.0].name),
    );
    *text += &format!("[[nat]]\nname = {name}\nuplink = {uplink}\n");
    *text += &format!(
        "address = \"{}\"\nto = \"{}\"\nhairpin = {}\n",
        rule.address, rule.to, rule.hairpin
    );
    *text += &forwarding_text(rule.forwarding);
}

fn action_text(action: Action) -> &'static str {
    match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
    }
}

fn service_text(service: &HostService) -> String {
    match service {
        HostService::Dhcp => "dhcp".to_owned(),
        HostService::Dns => "dns".to_owned(),
        HostService::Ping => "ping".to_owned(),
        HostService::Port(ForwardProtocol::Udp, port) => format!("udp/{port}"),
        HostService::Port(_, port) => format!("tcp/{port}"),
    }
}

/// Names with their kind before them, as they must be where two kinds share one.
fn end_text(config: &Config, end: &PolicyEnd) -> String {
    match end {
        PolicyEnd::Any => "any".to_owned(),
        PolicyEnd::Host => "host".to_owned(),
        PolicyEnd::Uplink(id) => format!("uplink.{}", config.uplinks[id.0].name),
        PolicyEnd::Network(id) => format!("network.{}", config.networks[id.0].name),
        PolicyEnd::Prefix(prefix) => prefix.to_string(),
        PolicyEnd::Guest(address) => address.to_string(),
    }
}

fn write_policy(text: &mut String, config: &Config, rule: &PolicyRule) {
    let ends = |ends: &[PolicyEnd]| list(ends.iter().map(|end| end_text(config, end)));
    let protocols = rule.protocols.iter().map(|protocol| match protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
        ForwardProtocol::Icmp => "icmp",
        ForwardProtocol::All => "all",
    });
    *text += &format!(
        "[[policy]]\nname = {}\nfrom = {}\nto = {}\nprotocol = {}\naction = \"{}\"\n",
        quoted(&rule.name),
        ends(&rule.from),
        ends(&rule.to),
        list(protocols),
        action_text(rule.action)
    );
    if !rule.ports.is_empty() {
        let ports: Vec<_> = rule.ports.iter().map(|ports| ports_text(*ports)).collect();
        *text += &format!("ports = [{}]\n", ports.join(", "));
    }
}

fn limits_text(limits: &Limits) -> String {
    let mut text = format!("[limits]\nsessions = {}\n", limits.sessions);
    if let Some(limit) = limits.sessions_per_guest {
        text += &format!("sessions_per_guest = {limit}\n");
    }
    if let Some(limit) = limits.ports_per_guest {
        text += &format!("ports_per_guest = {limit}\n");
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<_> = items.map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn ports_text(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("\"{}-{}\"", range.first, range.last)
    }
}

fn write_uplink(text: &mut String, uplink: &Uplink) {
    let mode = match uplink.mode {
        Mode::Auto => "auto",
        Mode::Tc => "tc",
        Mode::Xdp => "xdp",
    };
    let keep = uplink
        .reserved_ports
        .iter()
        .map(|(protocol, port)| match protocol {
            ForwardProtocol::Udp => format!("udp/{port}"),
            _ => format!("tcp/{port}"),
        });
    let (name, interface) = (quoted(&uplink.name), &uplink.interface);
    *text += &format!("[uplink.{name}]\ninterface = {interface:?}\nmode = {mode:?}\n");
    *text += &format!("keep = {}\n", list(keep));
    let clamp = match uplink.mss_clamp {
        MssClamp::Auto => "\"auto\"".to_owned(),
        MssClamp::Off => "\"off\"".to_owned(),
        MssClamp::Bytes(bytes) => bytes.to_string(),
    };
    *text += &format!("mss_clamp = {clamp}\n");
    let claim = match uplink.claim {
        Claim::Arp => "arp",
        Claim::Add => "add",
        Claim::None => "none",
    };
    *text += &format!("claim = {claim:?}\n");
    if let UplinkAddresses::Fixed(addresses) = &uplink.addresses {
        *text += &format!("addresses = {}\n", list(addresses.iter()));
    }
}

fn write_snat(text: &mut String, config: &Config, rule: &SnatRule) {
    let source = match rule.source {
        SnatSource::Network(id) => format!("network = {}", quoted(&config.networks[id.0].name)),
        SnatSource::Prefix(prefix) => format!("source = \"{prefix}\""),
    };
    let to = match rule.to {
        SnatTarget::Masquerade => "masquerade".to_owned(),
        SnatTarget::Pool { first, last } if first == last => first.to_string(),
        SnatTarget::Pool { first, last } => format!("{first}-{last}"),
    };
    let mapping = match rule.mapping {
        MappingBehaviour::EndpointIndependent => "endpoint-independent",
        MappingBehaviour::AddressAndPortDependent => "address-and-port-dependent",
    };
    let filtering = FILTERING
        .iter()
        .find(|(one, _)| *one == rule.filtering)
        .expect("all are there")
        .1;
    let (name, uplink) = (
        quoted(&rule.name),
        quoted(&config.uplinks[rule.uplink.0].name),
    );
    *text += &format!("[[snat]]\nname = {name}\nuplink = {uplink}\n{source}\nto = \"{to}\"\n");
    *text += &format!(
        "ports = {}\nmapping = \"{mapping}\"\n",
        ports_text(rule.ports)
    );
    *text += &format!(
        "filtering = \"{filtering}\"\nexclude = {}\n",
        list(rule.exclude.iter())
    );
    *text += &forwarding_text(rule.forwarding);
}

fn forwarding_text(forwarding: Forwarding) -> String {
    let word = match forwarding {
        Forwarding::Fast => "fast",
        Forwarding::Kernel => "kernel",
    };
    format!("forwarding = \"{word}\"\n")
}

fn write_forward(text: &mut String, config: &Config, rule: &ForwardRule) {
    let protocols = rule
        .matches
        .protocols
        .iter()
        .map(|protocol| match protocol {
            ForwardProtocol::Tcp => "tcp",
            ForwardProtocol::Udp => "udp",
            ForwardProtocol::Icmp => "icmp",
            ForwardProtocol::All => "all",
        });
    let (name, uplink) = (
        quoted(&rule.name),
        quoted(&config.uplinks[rule.uplink.0].name),
    );
    *text += &format!("[[forward]]\nname = {name}\nuplink = {uplink}\n");
    *text += &format!(
        "protocol = {}\nto = \"{}\"\nhairpin = {}\nlocal = {}\n",
        list(protocols),
        rule.to,
        rule.hairpin,
        rule.local
    );
    *text += &forwarding_text(rule.forwarding);
    if let Some(address) = rule.address {
        *text += &format!("address = \"{address}\"\n");
    }
    let ports = &rule.matches.ports;
    if !ports.is_empty() {
        let external: Vec<_> = ports
            .iter()
            .map(|ports| ports_text(ports.external))
            .collect();
        let internal: Vec<_> = ports
            .iter()
            .map(|ports| ports_text(ports.internal))
            .collect();
        *text += &format!("ports = [{}]\n", external.join(", "));
        *text += &format!("to_ports = [{}]\n", internal.join(", "));
    }
}
