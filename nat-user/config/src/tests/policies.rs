//! `[[policy]]`, and the policy keys of networks.

use std::net::Ipv4Addr;

use super::{
    super::model::{
        Action, ForwardProtocol, HostService, NetworkId, PolicyEnd, PortRange, UplinkId,
    },
    BASE, config, guest, refusal_of, warnings,
};

const MAC: &str = "52:54:00:12:34:56";

fn policy(lines: &str) -> String {
    format!("[[policy]]\n{lines}\n")
}

/// The ends of a policy from these.
fn from(ends: &str) -> Vec<PolicyEnd> {
    let guest = guest("web1", "172.22.161.170", MAC);
    let text = policy(&format!("from = {ends}\naction = \"accept\""));
    config(&format!("{BASE}{guest}{text}"))
        .policies
        .remove(0)
        .from
}

/// The services of the host for guests, with these lines in the network.
fn host(lines: &str) -> Option<Vec<HostService>> {
    config(&format!("{BASE}{lines}\n")).networks.remove(0).host
}

#[test]
fn ends_are_known_by_their_names() {
    let web1 = PolicyEnd::Guest(Ipv4Addr::new(172, 22, 161, 170).into());
    assert_eq!(from("\"wan\""), [PolicyEnd::Uplink(UplinkId(0))]);
    assert_eq!(from("\"lan\""), [PolicyEnd::Network(NetworkId(0))]);
    assert_eq!(from("\"network.lan\""), [PolicyEnd::Network(NetworkId(0))]);
    for written in ["\"web1\"", "\"guest.web1\"", "\"172.22.161.170\""] {
        assert_eq!(from(written), std::slice::from_ref(&web1), "{written}");
    }
    let prefix = PolicyEnd::Prefix("10.0.0.0/8".parse().unwrap());
    assert_eq!(from("[\"any\"]"), [PolicyEnd::Any]);
    assert_eq!(
        from("[\"10.0.0.0/8\", \"wan\"]"),
        [prefix, PolicyEnd::Uplink(UplinkId(0))]
    );
}

#[test]
fn omitted_policy_keys_mean_any() {
    let text =
        policy("to = \"host\"\nprotocol = \"tcp\"\nports = [22, \"8000-8010\"]\naction = \"drop\"");
    let rule = config(&format!("{BASE}{text}")).policies.remove(0);
    assert_eq!(
        (rule.from, rule.to),
        (vec![PolicyEnd::Any], vec![PolicyEnd::Host])
    );
    assert_eq!(rule.protocols, [ForwardProtocol::Tcp]);
    let range = |first, last| PortRange { first, last };
    assert_eq!(rule.ports, [range(22, 22), range(8000, 8010)]);
    assert_eq!(
        (rule.name.as_str(), rule.action),
        ("policy-1", Action::Drop)
    );
    let text = policy("from = \"lan\"\naction = \"accept\"");
    let rule = config(&format!("{BASE}{text}")).policies.remove(0);
    assert_eq!(rule.protocols, [ForwardProtocol::All]);
    assert!(rule.ports.is_empty());
}

#[test]
fn a_closed_network_still_allows_dhcp_and_dns_of_the_host() {
    let needed = vec![HostService::Dhcp, HostService::Dns, HostService::Ping];
    assert_eq!(host(""), None);
    assert_eq!(host("policy = \"accept\""), None);
    assert_eq!(host("policy = \"drop\""), Some(needed));
    assert_eq!(host("policy = \"drop\"\nhost = \"all\""), None);
    assert_eq!(host("host = []"), Some(Vec::new()));
    let ssh = HostService::Port(ForwardProtocol::Tcp, 22);
    assert_eq!(
        host("host = [\"ping\", \"tcp/22\"]"),
        Some(vec![HostService::Ping, ssh])
    );
}

#[test]
fn policy_that_names_nothing() {
    assert_eq!(
        refusal_of(&policy("action = \"drop\"")),
        "n.toml:8:1: policy.policy-1: has no condition, so it would match every flow; write from, \
         to or protocol; for a default write policy = \"drop\" in [network.NAME]"
    );
    assert_eq!(
        refusal_of(&policy("from = []\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: is an empty list; write from = \"wan\", or leave it out"
    );
}

#[test]
fn policy_with_unknown_ends() {
    assert_eq!(
        refusal_of(&policy("from = \"lann\"\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: there is no uplink, network or guest `lann`, and it is \
         not an address; did you mean \"lan\"?"
    );
    assert_eq!(
        refusal_of(&policy("from = \"host\"\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: policies do not apply to packets that the host itself \
         sends; write a network, an uplink or an address"
    );
    assert_eq!(
        refusal_of(&policy("from = \"10.0.0.1/8\"\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: `10.0.0.1/8` has bits set beyond its prefix length; \
         write \"10.0.0.0/8\""
    );
    assert_eq!(
        refusal_of(&policy("from = \"224.0.0.1\"\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: 224.0.0.1 is a multicast address; write an address that \
         one host can have"
    );
    assert_eq!(
        refusal_of(&policy("from = [\"lan\", \"lan\"]\naction = \"drop\"")),
        "n.toml:9:16: policy.policy-1.from: `lan` is in the list twice; write it once"
    );
    assert_eq!(
        refusal_of(&policy("from = [\"lan\", \"any\"]\naction = \"drop\"")),
        "n.toml:9:8: policy.policy-1.from: `any` already includes the others; write \"any\" alone"
    );
    let named = guest("wan", "172.22.161.170", MAC);
    let ambiguous = policy("from = \"wan\"\naction = \"drop\"");
    assert_eq!(
        refusal_of(&format!("{named}{ambiguous}")),
        "n.toml:14:8: policy.policy-1.from: `wan` is the name of an uplink and of a guest; \
         write \"uplink.wan\" or \"guest.wan\""
    );
}

#[test]
fn policy_without_sense() {
    assert_eq!(
        refusal_of(&policy("from = \"lan\"")),
        "n.toml:8:1: policy.policy-1.action: is missing; write action = \"accept\""
    );
    assert_eq!(
        refusal_of(&policy("from = \"lan\"\naction = \"reject\"")),
        "n.toml:10:10: policy.policy-1.action: unknown value `reject`; write one of \"accept\", \
         \"drop\""
    );
    assert_eq!(
        refusal_of(&policy("from = \"lan\"\nports = 22\naction = \"drop\"")),
        "n.toml:10:9: policy.policy-1.ports: only tcp and udp have ports; leave ports out, or \
         write \
         protocol = \"tcp\" or \"udp\""
    );
}

#[test]
fn services_of_the_host_that_are_none() {
    for (written, problem) in [
        (
            "\"ssh\"",
            "unknown value `ssh`; write \"dhcp\", \"dns\", \"ping\", a port such as \"tcp/22\", or \
             host = \"all\"",
        ),
        (
            "\"tcp/0\"",
            "`tcp/0` names no port; write a port from 1 to 65535, as in \"tcp/22\"",
        ),
    ] {
        let line = refusal_of(&format!(
            "[network.b]\ninterface = \"b\"\naddress = \"10.0.0.1/8\"\nhost = [{written}]"
        ));
        assert_eq!(line, format!("n.toml:11:9: network.b.host: {problem}"));
    }
}

#[test]
fn policy_that_can_never_match() {
    let twice = policy("from = \"lan\"\naction = \"drop\"")
        + &policy(
            "from = \"lan\"\nto = \"wan\"\nprotocol = \"tcp\"\nports = 80\naction = \"accept\"",
        );
    assert_eq!(
        warnings(&format!("{BASE}{twice}")),
        [
            "n.toml:11:1: policy.policy-2: can never match: shadowed by `policy-1` (line 8); put \
          it before that policy, or remove it"
        ]
    );
    // "Any" does not include the host.
    let host = policy("from = \"lan\"\naction = \"drop\"")
        + &policy("from = \"lan\"\nto = \"host\"\naction = \"accept\"");
    assert!(warnings(&format!("{BASE}{host}")).is_empty());
}

/// Comparing all would take billions of comparisons: the rest is not compared, and the warning says
/// so.
#[test]
fn of_many_policies_the_first_are_compared_with_each_other() {
    let policies: String = (1..6000)
        .map(|port| {
            format!(
                "[[policy]]\nfrom = \"lan\"\nprotocol = \"tcp\"\nports = {port}\naction = \
                \"drop\"\n"
            )
        })
        .collect();
    let said = warnings(&format!("{BASE}{policies}"));
    assert_eq!(said.len(), 1, "{:?}", said.first());
    assert!(
        said[0].contains("has too many policies before it"),
        "{}",
        said[0]
    );
}
