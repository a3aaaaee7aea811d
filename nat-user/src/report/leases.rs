//! `natbpf leases`: who has which address by DHCP.

use std::{
    io::{self, Write},
    net::IpAddr,
};

use nat_config::{model::mac_text, visible::visible};
use serde::Serialize;

use super::{Format, duration, table, write_table};
use crate::dhcp::lease::{Lease, Lease6};

/// What is shown of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseView {
    network: String,
    address: IpAddr,
    /// `None` for DHCPv6, which knows its clients by their DUIDs.
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duid: Option<String>,
    name: Option<String>,
    /// `None` is never.
    expires_s: Option<u64>,
}

impl LeaseView {
    /// A lease of a network at a time in seconds since 1970.
    #[must_use]
    pub fn new(network: &str, lease: Lease, now_s: u64) -> Self {
        Self {
            network: network.to_owned(),
            address: lease.address.into(),
            mac: Some(mac_text(lease.mac)),
            duid: None,
            expires_s: lease.expires_s(now_s),
            name: lease.name.map(|name| visible(&name).into_owned()),
        }
    }

    /// The same for DHCPv6.
    #[must_use]
    pub fn of_ipv6(network: &str, lease: Lease6, now_s: u64) -> Self {
        Self {
            network: network.to_owned(),
            address: lease.address.into(),
            mac: None,
            duid: Some(visible(&lease.duid).into_owned()),
            expires_s: lease.expires_s(now_s),
            name: lease.name.map(|name| visible(&name).into_owned()),
        }
    }
}

/// Writes the leases.
///
/// # Errors
/// When they cannot be written.
pub fn write_leases(
    output: &mut dyn Write,
    leases: &[LeaseView],
    format: Format,
) -> io::Result<()> {
    match format {
        Format::Human => show_human(output, leases),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *output, leases)?;
            writeln!(output)
        }
    }
}

fn show_human(output: &mut dyn Write, leases: &[LeaseView]) -> io::Result<()> {
    let has_duids = leases.iter().any(|lease| lease.duid.is_some());
    let client = if has_duids { "mac or DUID" } else { "mac" };
    let mut shown = table(&["network", "address", client, "name", "expires in"], 0..0);
    for lease in leases {
        shown.add_row([
            lease.network.clone(),
            lease.address.to_string(),
            lease
                .mac
                .as_ref()
                .or(lease.duid.as_ref())
                .cloned()
                .unwrap_or_default(),
            lease.name.clone().unwrap_or_else(|| "-".to_owned()),
            lease.expires_s.map_or_else(|| "never".to_owned(), duration),
        ]);
    }
    write_table(output, &shown)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn views() -> Vec<LeaseView> {
        let lease = |last: u8, name: Option<&str>, ends_s| Lease {
            address: Ipv4Addr::new(172, 22, 161, last),
            mac: [0x52, 0x54, 0, 0, 0, last],
            name: name.map(str::to_owned),
            ends_s,
        };
        [lease(10, Some("web1"), Some(4500)), lease(11, None, None)]
            .map(|lease| LeaseView::new("lan", lease, 1000))
            .to_vec()
    }

    fn shown(format: Format) -> String {
        let mut output = Vec::new();
        write_leases(&mut output, &views(), format).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn leases_are_a_table() {
        assert_eq!(
            shown(Format::Human),
            "network  address        mac                name  expires in\n\
             lan      172.22.161.10  52:54:00:00:00:0a  web1  58 min 20 s\n\
             lan      172.22.161.11  52:54:00:00:00:0b  -     never\n"
        );
    }

    #[test]
    fn clients_of_dhcpv6_have_duids() {
        let lease = Lease6 {
            address: "2001:db8:0:1::100".parse().unwrap(),
            duid: "00:03:00:01:52:54:00:00:00:0c".to_owned(),
            name: Some("web2".to_owned()),
            ends_s: None,
        };
        let mut views = views();
        views.truncate(1);
        views.push(LeaseView::of_ipv6("lan", lease, 1000));
        let mut output = Vec::new();
        write_leases(&mut output, &views, Format::Human).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "network  address            mac or DUID                    name  expires in\n\
             lan      172.22.161.10      52:54:00:00:00:0a              web1  58 min 20 s\n\
             lan      2001:db8:0:1::100  00:03:00:01:52:54:00:00:00:0c  web2  never\n"
        );
        let json = serde_json::to_value(&views).unwrap();
        assert!(json[0].get("duid").is_none() && json[1]["mac"].is_null());
        assert_eq!(json[1]["duid"], "00:03:00:01:52:54:00:00:00:0c");
    }

    #[test]
    fn leases_are_json() {
        let json: serde_json::Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!(json[0]["name"], "web1");
        assert_eq!(json[0]["expires_s"], 3500);
        assert_eq!(json[1]["mac"], "52:54:00:00:00:0b");
        assert!(json[1]["name"].is_null() && json[1]["expires_s"].is_null());
    }
}
