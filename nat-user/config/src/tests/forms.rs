//! The forms of values, and their defaults.

use std::{net::Ipv4Addr, num::NonZeroU32, path::Path, time::Duration};

use super::{
    super::{
        load as load_file,
        model::{
            Action, Claim, Config, FilteringBehaviour, ForwardProtocol, Forwarding, Limits,
            MappingBehaviour, Mode, MssClamp, NetworkId, PortForward, PortRange, SnatSource,
            SnatTarget, Timeouts, UplinkAddresses, UplinkId,
        },
        parse,
        tables::{
            dhcp, forward, guest, limits, nat, nat64, network, policy, ra, route, service, snat,
            uplink,
        },
    },
    BASE, config, forward as rule, guest as new_guest, load, snat as snat_rule, thread_cpu_time,
    warnings,
};

/// The example of the interface contract, word for word.
const CONTRACT: &str = r#"[uplink.wan]                     # the name is free
interface = "vmbr0"           # bridge, NIC, VLAN, bond, veth; L3-only devices (ppp, wireguard) too
addresses = ["19.19.8.10"]       # default: the interface's own addresses, followed as they change
mode = "auto"                    # auto | tc | xdp

[network.lan]
interface = "vmbr1"              # the bridge, or a plain interface
address = "172.22.161.254/24"    # the guests' gateway; put on the interface if it is not there
create = true                    # make the bridge if it is missing (default false: it must exist)
ports = ["tap1", "tap2"]         # interfaces to attach to a bridge that natbpf makes

[[snat]]
name = "lan-out"
network = "lan"                  # or: source = "172.22.161.0/24"
uplink = "wan"
to = "masquerade"                # or "19.19.8.10", or a pool "19.19.8.10-19.19.8.13"
ports = "1024-65535"             # external ports it may use
mapping = "endpoint-independent" # or "address-and-port-dependent"
filtering = "address-dependent"  # or "endpoint-independent", "address-and-port-dependent"
exclude = ["10.0.0.0/8"]         # destinations left alone

[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"                 # "tcp" | "udp" | "icmp" | "all" or a list of them
address = "19.19.8.10"           # default: every address of the uplink
ports = "10000-10999"            # or 80; a range, or a list; not for icmp and all
to = "172.22.161.170"
to_ports = "10000-10999"         # default: the same ports; a range of the same size, or one port
hairpin = true                   # default true: guests reach it by the public address as well

[limits]
sessions = 262144                # both directions of a connection are one session

[timeouts]                       # seconds; defaults in behaviour.md
udp = 300
"#;

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

/// What the ports of one forward become.
fn ports(lines: &str) -> Vec<PortForward> {
    let text = format!(
        "{BASE}{}",
        rule("web", &format!("protocol = \"tcp\"\n{lines}"))
    );
    config(&text).forwards.remove(0).matches.ports
}

fn same(ranges: &[(u16, u16)]) -> Vec<PortForward> {
    let ranges = ranges.iter().map(|(first, last)| range(*first, *last));
    ranges
        .map(|range| PortForward {
            external: range,
            internal: range,
        })
        .collect()
}

#[test]
fn the_example_of_the_contract() {
    let Config {
        forwarding,
        uplinks,
        networks,
        guests,
        routes,
        snat,
        forwards,
        nats,
        policies,
        ipv6,
        limits,
        timeouts,
    } = {
        assert!(warnings(CONTRACT).is_empty());
        config(CONTRACT)
    };
    assert_eq!(ipv6, None);
    assert_eq!(
        uplinks[0].addresses,
        UplinkAddresses::Fixed(vec![Ipv4Addr::new(19, 19, 8, 10)])
    );
    assert_eq!(networks[0].ports, ["tap1", "tap2"]);
    assert_eq!(snat[0].source, SnatSource::Network(NetworkId(0)));
    assert_eq!(forwards[0].matches.ports, same(&[(10000, 10999)]));
    assert_eq!(forwards[0].uplink, UplinkId(0));
    assert!(nats.is_empty() && guests.is_empty() && policies.is_empty() && routes.is_empty());
    assert_eq!(
        (networks[0].policy, &networks[0].host),
        (Action::Accept, &None)
    );
    assert_eq!(forwarding, Forwarding::Fast);
    assert_eq!((limits, timeouts), (Limits::default(), Timeouts::default()));
}

#[test]
fn the_shipped_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/natbpf.toml");
    let loaded = load_file(&path).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

/// The shipped example with the lines `#key = value` uncommented for which `wanted` says so; it is
/// given the line before.
fn uncommented(wanted: impl Fn(&str) -> bool) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/natbpf.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut before = "";
    let lines = text.lines().map(|line| {
        let is_key =
            line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
        let shown = if is_key && wanted(before) {
            &line[1..]
        } else {
            line
        };
        before = line;
        format!("{shown}\n")
    });
    lines.collect()
}

#[test]
fn the_shipped_example_shows_the_defaults() {
    let with_defaults = uncommented(|before| !before.contains("An example:"));
    assert!(with_defaults.contains("\nhairpin = true") && with_defaults.contains("\n#exclude"));
    assert_eq!(config(&with_defaults), config(&uncommented(|_| false)));
    assert!(warnings(&uncommented(|_| true)).is_empty());
}

#[test]
fn every_key_is_in_the_reference_and_in_the_shipped_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let reference = read("docs/configuration.md");
    let example = read("packaging/natbpf.toml");
    let keys = [
        uplink::KEYS,
        network::KEYS,
        dhcp::DHCP,
        ra::KEYS,
        service::DNS,
        snat::KEYS,
        guest::KEYS,
        route::KEYS,
        forward::KEYS,
        nat::KEYS,
        policy::KEYS,
        nat64::KEYS,
        limits::LIMITS,
        limits::TIMEOUTS,
    ];
    // (A key without an example is a table of its own.)
    let keys = keys.concat();
    for key in keys.iter().filter(|key| !key.example.is_empty()) {
        let name = key.name;
        assert!(
            reference.contains(&format!("\n| `{name}` |")),
            "{name} in the reference"
        );
        assert!(
            example.contains(&format!("{name} = ")),
            "{name} in the example"
        );
    }
}

#[test]
fn omitted_keys_have_defaults() {
    let text = r#"
        uplink.wan.interface = "ppp0"
        network.lan = { interface = "vmbr1", address = "10.0.0.1/8" }
        snat = [{ uplink = "wan", network = "lan", to = "masquerade" }]
        forward = [{ uplink = "wan", protocol = "udp", ports = 53, to = "10.0.0.2" }]
        nat = [{ uplink = "wan", address = "192.0.2.11", to = "10.0.0.3" }]
    "#;
    let config = config(text);
    assert_eq!(config.uplinks[0].addresses, UplinkAddresses::Interface);
    assert_eq!(config.uplinks[0].mode, Mode::Auto);
    assert_eq!(
        config.uplinks[0].reserved_ports,
        [(ForwardProtocol::Tcp, 22)]
    );
    assert_eq!(config.uplinks[0].mss_clamp, MssClamp::Auto);
    assert_eq!(config.uplinks[0].claim, Claim::Arp);
    assert!(!config.networks[0].create && config.networks[0].ports.is_empty());
    assert!(!config.networks[0].anti_spoof && !config.networks[0].isolated);
    let snat = &config.snat[0];
    assert_eq!(
        (snat.name.as_str(), snat.ports),
        ("snat-1", range(1024, 65535))
    );
    assert_eq!(snat.mapping, MappingBehaviour::EndpointIndependent);
    assert_eq!(snat.filtering, FilteringBehaviour::AddressDependent);
    let forward = &config.forwards[0];
    assert_eq!(
        (forward.name.as_str(), forward.address),
        ("forward-1", None)
    );
    assert!(forward.hairpin && forward.local);
    let nat = &config.nats[0];
    assert!(nat.name == "nat-1" && nat.hairpin);
    assert_eq!(
        (config.limits, config.timeouts),
        (Limits::default(), Timeouts::default())
    );
}

#[test]
fn uplinks_and_networks_keep_the_order_of_the_file() {
    let text = r#"
        [uplink.z]
        interface = "a"
        [network.y]
        interface = "b"
        address = "10.0.1.1/24"
        [uplink.a]
        interface = "c"
        [network.x]
        interface = "d"
        address = "10.0.0.1/24"
        [[snat]]
        uplink = "a"
        network = "x"
        to = "masquerade"
    "#;
    let config = config(text);
    assert_eq!(config.uplinks[1].name, "a");
    assert_eq!(config.networks[1].name, "x");
    assert_eq!(config.snat[0].uplink, UplinkId(1));
    assert_eq!(config.snat[0].source, SnatSource::Network(NetworkId(1)));
}

#[test]
fn ports_are_numbers_texts_ranges_and_lists() {
    assert_eq!(ports("ports = 80"), same(&[(80, 80)]));
    assert_eq!(ports("ports = 0x50"), same(&[(80, 80)]));
    assert_eq!(ports("ports = \"80\""), same(&[(80, 80)]));
    assert_eq!(ports("ports = \"10000-10999\""), same(&[(10000, 10999)]));
    assert_eq!(ports("ports = \" 1 - 65535 \"\n"), same(&[(1, 65535)]));
    assert_eq!(
        ports("ports = [80, \"443\", \"8000-8010\"]"),
        same(&[(80, 80), (443, 443), (8000, 8010)])
    );
    assert!(ports("").is_empty());
}

#[test]
fn target_ports_pair_with_ports() {
    let shifted = ports("ports = \"8000-8009\"\nto_ports = \"9000-9009\"");
    assert_eq!(
        shifted,
        [PortForward {
            external: range(8000, 8009),
            internal: range(9000, 9009)
        }]
    );

    let to_one = ports("ports = [80, \"8000-8009\"]\nto_ports = 8080");
    assert!(
        to_one
            .iter()
            .all(|ports| ports.internal == range(8080, 8080))
    );
    assert_eq!(to_one.len(), 2);

    let one_by_one = ports("ports = [80, \"8000-8009\", \"1-2\"]\nto_ports = [81, 82, \"3-4\"]");
    let internal: Vec<_> = one_by_one.iter().map(|ports| ports.internal).collect();
    assert_eq!(internal, [range(81, 81), range(82, 82), range(3, 4)]);
}

#[test]
fn protocols_are_one_or_a_list() {
    let of = |protocol: &str| {
        let text = format!("{BASE}{}", rule("web", &format!("protocol = {protocol}")));
        config(&text).forwards.remove(0).matches.protocols
    };
    assert_eq!(of("\"all\""), [ForwardProtocol::All]);
    assert_eq!(
        of("[\"udp\", \"tcp\"]"),
        [ForwardProtocol::Udp, ForwardProtocol::Tcp]
    );
    assert_eq!(of("[\"tcp\", \"icmp\"]\nports = 80").len(), 2);
}

#[test]
fn snat_goes_to_the_uplinks_address_to_one_or_to_a_pool() {
    let to = |to: &str| {
        let lines = format!("network = \"lan\"\nto = \"{to}\"");
        config(&format!("{BASE}{}", snat_rule("out", &lines))).snat[0].to
    };
    let address = |last| Ipv4Addr::new(19, 19, 8, last);
    assert_eq!(to("masquerade"), SnatTarget::Masquerade);
    assert_eq!(
        to("19.19.8.10"),
        SnatTarget::Pool {
            first: address(10),
            last: address(10)
        }
    );
    assert_eq!(
        to("19.19.8.10-19.19.8.13"),
        SnatTarget::Pool {
            first: address(10),
            last: address(13)
        }
    );
    assert!(matches!(
        to("10.0.0.0-10.0.255.255"),
        SnatTarget::Pool { .. }
    ));
}

#[test]
fn segments_are_limited_by_the_interfaces_by_nothing_or_by_a_number() {
    let clamp = |value: &str| {
        let line = format!("mss_clamp = {value}\n[network");
        config(&BASE.replace("[network", &line)).uplinks[0].mss_clamp
    };
    assert_eq!(clamp("\"auto\""), MssClamp::Auto);
    assert_eq!(clamp("\"off\""), MssClamp::Off);
    assert_eq!(clamp("88"), MssClamp::Bytes(88));
    assert_eq!(clamp("65_495"), MssClamp::Bytes(65495));
}

#[test]
fn a_guests_name_resolves_to_its_address() {
    let guests = new_guest("web1", "172.22.161.170", "52:54:00:12:AB:cd")
        + &new_guest("172.22.161.9", "172.22.161.171", "52:54:00:12:34:57")
        + &new_guest("2nd", "172.22.161.172", "52:54:00:12:34:58");
    let to = |to: &str| {
        let rule = rule("web", "protocol = \"tcp\"").replace("172.22.161.170", to);
        let config = config(&format!("{BASE}{rule}{guests}"));
        assert_eq!(config.guests[0].mac, [0x52, 0x54, 0, 0x12, 0xab, 0xcd]);
        config.forwards[0].to.now().expect("an address").octets()[3]
    };
    assert_eq!((to("web1"), to("2nd")), (170, 172));
    // What can be read as an address is one.
    assert_eq!((to("172.22.161.171"), to("172.22.161.9")), (171, 9));
}

#[test]
fn a_source_may_be_a_single_address() {
    let text = format!(
        "{BASE}{}",
        snat_rule("out", "source = \"10.0.0.1\"\nto = \"masquerade\"")
    );
    assert_eq!(
        config(&text).snat[0].source,
        SnatSource::Prefix("10.0.0.1/32".parse().unwrap())
    );
}

#[test]
fn both_addresses_of_a_network_of_two_are_hosts() {
    for address in ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.0/32"] {
        let text = BASE.replace("172.22.161.254/24", address);
        let own = config(&text).networks[0].address;
        assert_eq!(own, Some(address.parse().unwrap()));
    }
}

#[test]
fn limits_and_timeouts_up_to_their_ends() {
    let text = format!("{BASE}[limits]\nsessions = 4_194_304\n[timeouts]\nother = 2147483648\n");
    let config = config(&text);
    assert_eq!(
        (config.limits.sessions, config.timeouts.other_s),
        (4_194_304, 1 << 31)
    );
    assert_eq!(config.timeouts.udp_s, 300);
}

#[test]
fn guests_have_no_limits_of_their_own_but_those_written() {
    let limits = |lines: &str| config(&format!("{BASE}{lines}")).limits;
    let none = limits("[limits]\nsessions = 1000\n");
    assert_eq!(
        (none.sessions_per_guest, none.ports_per_guest),
        (None, None)
    );
    let some = limits("[limits]\nsessions_per_guest = 100\nports_per_guest = 4_194_304\n");
    assert_eq!(some.sessions, Limits::default().sessions);
    assert_eq!(some.sessions_per_guest, NonZeroU32::new(100));
    assert_eq!(some.ports_per_guest, NonZeroU32::new(4_194_304));
}

#[test]
fn a_file_may_have_a_byte_order_mark_and_dos_line_ends() {
    let text = format!("\u{feff}{}", CONTRACT.replace('\n', "\r\n"));
    assert_eq!(config(&text), config(CONTRACT));
}

#[test]
fn names_may_be_any_visible_text() {
    let text = BASE.replace("uplink.wan", "uplink.\"DSL «süd».1\"");
    assert_eq!(load(&text).config.uplinks[0].name, "DSL «süd».1");
}

#[test]
fn ten_thousand_forwards_take_no_time_to_compare() {
    let rules = |count: u16| {
        let rule = |i| {
            rule(
                &format!("r{i}"),
                &format!("protocol = \"tcp\"\nports = {}", i + 1000),
            )
        };
        (0..count)
            .map(rule)
            .fold(BASE.to_owned(), |text, rule| text + &rule)
    };
    let text = rules(10_000);
    let start = thread_cpu_time();
    let loaded = parse(&text, Path::new("n.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (loaded.config.forwards.len(), loaded.warnings.len()),
        (10_000, 0)
    );
    // Under 50 ms when optimised; a comparison of each with each would take far longer than this.
    let took = thread_cpu_time() - start;
    assert!(took < Duration::from_secs(5), "{took:?}");
}
