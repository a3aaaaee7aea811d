//! `natbpf leases`: who has which address by DHCP.

use std::{
    io::{self, Write},
    net::Ipv4Addr,
};

use nat_config::{model::mac_text, visible::visible};
use serde::Serialize;

use super::{Format, duration, table, write_table};
use crate::dhcp::lease::Lease;

/// What is shown of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseView {
    network: String,
    address: Ipv4Addr,
    mac: String,
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
            address: lease.address,
            mac: mac_text(lease.mac),
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
    let mut shown = table(&["network", "address", "mac", "name", "expires in"], 0..0);
    for lease in leases {
        shown.add_row([
            lease.network.clone(),
            lease.address.to_string(),
            lease.mac.clone(),
            lease.name.clone().unwrap_or_else(|| "-".to_owned()),
            lease.expires_s.map_or_else(|| "never".to_owned(), duration),
        ]);
    }
    write_table(output, &shown)
}

#[cfg(test)]
mod tests {
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
    fn leases_are_json() {
        let json: serde_json::Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!(json[0]["name"], "web1");
        assert_eq!(json[0]["expires_s"], 3500);
        assert_eq!(json[1]["mac"], "52:54:00:00:00:0b");
        assert!(json[1]["name"].is_null() && json[1]["expires_s"].is_null());
    }
}
