//! Services of the host that a forward hides from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
};

use nat_config::model::{Config, ForwardProtocol, ForwardRule, PortRange, Uplink, UplinkAddresses};

use crate::{
    Finding, Kind,
    flows::{TCP, UDP},
};

/// How many of the ports that one rule hides are named.
const SHOWN: usize = 8;

/// A listening socket: protocol, port, and address, which is unspecified for all addresses.
type Listener = (u8, u16, Ipv4Addr);

/// Forwards that take ports on which the host listens: one finding for each. `held` are all
/// addresses of the host, `own` gives those of an interface.
pub(super) fn find_listeners(
    config: &Config,
    held: &BTreeSet<Ipv4Addr>,
    own: &dyn Fn(&str) -> Vec<Ipv4Addr>,
) -> Vec<Finding> {
    of(config, held, own, &listeners())
}

fn of(
    config: &Config,
    held: &BTreeSet<Ipv4Addr>,
    own: &dyn Fn(&str) -> Vec<Ipv4Addr>,
    listeners: &BTreeSet<Listener>,
) -> Vec<Finding> {
    // (A port of an earlier rule does not count for later ones.)
    let mut known = BTreeSet::new();
    let mut findings = Vec::new();
    for rule in config
        .forwards
        .iter()
        .filter(|rule| rule.to.now().is_some())
    {
        let Some(uplink) = config.uplinks.get(rule.uplink.0) else {
            continue;
        };
        let external: Vec<Ipv4Addr> = match (&rule.address, &uplink.addresses) {
            (Some(address), _) => vec![*address],
            (None, UplinkAddresses::Fixed(addresses)) => addresses.clone(),
            (None, UplinkAddresses::Interface) => own(&uplink.interface),
        };
        let mut hidden: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
        for address in external.iter().filter(|address| held.contains(address)) {
            for &(protocol, port, at) in listeners {
                let is_there = at.is_unspecified() || at == *address;
                if is_there
                    && takes(rule, uplink, protocol, port)
                    && known.insert((protocol, port, *address))
                {
                    hidden.entry(protocol).or_default().insert(port);
                }
            }
        }
        if !hidden.is_empty() {
            findings.push(finding(rule, &hidden));
        }
    }
    findings
}

/// Whether a forward takes a port of the host's own address. A port in `keep` goes only to a rule
/// that names it individually.
fn takes(rule: &ForwardRule, uplink: &Uplink, protocol: u8, port: u16) -> bool {
    let own = match protocol {
        TCP => ForwardProtocol::Tcp,
        _ => ForwardProtocol::Udp,
    };
    let protocols = &rule.matches.protocols;
    if !protocols.contains(&own) && !protocols.contains(&ForwardProtocol::All) {
        return false;
    }
    let is_reserved = uplink.reserved_ports.contains(&(own, port));
    let ranges = rule.matches.ports.iter().map(|ports| ports.external);
    let has = |range: PortRange| (range.first..=range.last).contains(&port);
    match rule.matches.ports.is_empty() {
        true => !is_reserved,
        false => ranges
            .into_iter()
            .any(|range| has(range) && !(is_reserved && range.count() > 1)),
    }
}

fn finding(rule: &ForwardRule, hidden: &BTreeMap<u8, BTreeSet<u16>>) -> Finding {
    let of_protocol = |(protocol, ports): (&u8, &BTreeSet<u16>)| {
        let word = if *protocol == TCP { "tcp" } else { "udp" };
        let shown: Vec<String> = ports.iter().take(SHOWN).map(u16::to_string).collect();
        let more = match ports.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{word} {}{more}", shown.join(", "))
    };
    let ports: Vec<String> = hidden.iter().map(of_protocol).collect();
    Finding {
        kind: Kind::HiddenListener,
        place: format!("[[forward]] \"{}\"", rule.name),
        what: format!(
            "takes {}, on which this host itself listens",
            ports.join(" and ")
        ),
        why:
            "connections from outside reach the guest, not the host's service (a port that Docker \
              publishes counts as one)"
                .to_owned(),
        remedy: "leave the port out of the forward, or name it in keep of the uplink; or make the \
                 service listen on another address"
            .to_owned(),
        commands: Vec::new(),
    }
}

/// All of this network namespace's.
fn listeners() -> BTreeSet<Listener> {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let ephemeral = ephemeral.ok().and_then(|text| {
        let mut words = text.split_ascii_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    let mut found = BTreeSet::new();
    for (file, protocol) in [("tcp", TCP), ("tcp6", TCP), ("udp", UDP), ("udp6", UDP)] {
        let text = read(file).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| {
            let (address, port) = waiting(line, protocol)?;
            // A datagram socket of a client also looks like a listener.
            let is_asking = |(first, last): (u16, u16)| (first..=last).contains(&port);
            let is_clients = protocol == UDP && ephemeral.is_some_and(is_asking);
            (!is_clients).then_some((protocol, port, address))
        }));
    }
    found
}

/// Address and port of a listening socket, from a line of `/proc/net/tcp` or a similar file.
fn waiting(line: &str, protocol: u8) -> Option<(Ipv4Addr, u16)> {
    /// `TCP_LISTEN` and `TCP_CLOSE` of the kernel's `include/net/tcp_states.h`.
    const STATES: [&str; 2] = ["0A", "07"];
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (_, remote_port) = fields.next()?.split_once(':')?;
    let state = STATES[usize::from(protocol != TCP)];
    if remote_port != "0000" || fields.next()? != state {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = match address.len() {
        8 => u32::from_str_radix(address, 16).ok()?.to_ne_bytes().into(),
        // A socket of IPv6 for all addresses takes IPv4 as well, if it was not asked not to.
        _ if address.bytes().all(|digit| digit == b'0') => Ipv4Addr::UNSPECIFIED,
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

    fn found(forward: &str, listeners: &[Listener]) -> Vec<String> {
        let text = format!(
            "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = \"br0\"\n\
             address = \"10.0.0.254/24\"\n{forward}"
        );
        let loaded = nat_config::parse(&text, Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let held = BTreeSet::from([OWN, INSIDE]);
        let listeners = listeners.iter().copied().collect();
        let findings = of(&config, &held, &|_| vec![OWN], &listeners);
        findings.into_iter().map(|finding| finding.what).collect()
    }

    fn forward(what: &str) -> String {
        format!("[[forward]]\nuplink = \"wan\"\nto = \"10.0.0.1\"\n{what}\n")
    }

    #[test]
    fn listeners_behind_a_forward_are_named() {
        let any = Ipv4Addr::UNSPECIFIED;
        let all = [
            (TCP, 22, any),
            (TCP, 2222, any),
            (TCP, 8006, OWN),
            (UDP, 8006, INSIDE),
        ];
        let range = forward("protocol = [\"tcp\", \"udp\"]\nports = \"20-9000\"");
        let expected = "takes tcp 2222, 8006, on which this host itself listens";
        assert_eq!(found(&range, &all), [expected]);
        assert_eq!(found(&forward("protocol = \"all\""), &all), [expected]);
        // A rule that names a kept port takes it intentionally, and hides the service.
        let ssh = forward("protocol = \"tcp\"\nports = 22");
        assert_eq!(
            found(&ssh, &all),
            ["takes tcp 22, on which this host itself listens"]
        );
        let other = forward("protocol = \"udp\"\nports = \"20-9000\"");
        assert!(found(&other, &all).is_empty());
        let elsewhere = forward("address = \"198.51.100.9\"\nprotocol = \"all\"");
        assert!(found(&elsewhere, &all).is_empty());
        // The first rule has what both name.
        let both = forward("name = \"one\"\nprotocol = \"tcp\"\nports = 2222")
            + &forward("name = \"two\"\nprotocol = \"tcp\"\nports = \"2000-9000\"");
        assert_eq!(
            found(&both, &all),
            [
                "takes tcp 2222, on which this host itself listens",
                "takes tcp 8006, on which this host itself listens"
            ]
        );
    }

    #[test]
    fn sockets_that_wait_are_read() {
        let of = |line: &str, protocol| {
            waiting(line, protocol).map(|(address, port)| (address.octets(), port))
        };
        let tcp =
            " 0: 016433C6:1F46 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 9 1";
        assert_eq!(of(tcp, TCP), Some(([198, 51, 100, 1], 8006)));
        assert_eq!(of(&tcp.replace(" 0A ", " 01 "), TCP), None);
        let six = format!(
            " 1: {}:08AE {}:0000 0A 0:0 00:0 0 0 0 9 1",
            "0".repeat(32),
            "0".repeat(32)
        );
        assert_eq!(of(&six, TCP), Some(([0; 4], 2222)));
        let udp =
            " 2: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 9 2";
        assert_eq!(of(udp, UDP), Some(([0; 4], 53)));
        assert_eq!(
            of(&udp.replace("00000000:0000 07", "026433C6:0035 07"), UDP),
            None
        );
    }
}
