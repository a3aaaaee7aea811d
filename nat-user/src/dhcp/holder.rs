//! Which process has the ports that a dnsmasq needs.

use std::{fs, net::Ipv4Addr, os::unix::ffi::OsStrExt as _, path::Path};

const DNS: u16 = 53;
const DHCP: u16 = 67;

/// `TCP_LISTEN` in the kernel's `include/net/tcp_states.h`.
const LISTENING: &str = "0A";

/// What to add to the last message of a dnsmasq: which process blocks it. `folder` contains the
/// configurations of natbpf's other dnsmasqs, which do not.
pub(super) fn explain(words: &str, address: Option<Ipv4Addr>, folder: &Path) -> String {
    if !words.contains("Address already in use") {
        return String::new();
    }
    let (port, tables): (u16, &[&str]) = if words.contains("DHCP") {
        (DHCP, &["udp", "udp6"])
    } else {
        (DNS, &["udp", "tcp", "udp6", "tcp6"])
    };
    let read = |table: &&str| fs::read_to_string(format!("/proc/net/{table}")).ok();
    let sockets: Vec<u64> = tables
        .iter()
        .filter_map(read)
        .flat_map(|text| sockets(&text, address, port))
        .collect();
    let holders: Vec<String> = holders(&sockets, folder);
    match &holders[..] {
        [] => format!("; another process has port {port}"),
        holders => format!("; port {port} is held by {}", holders.join(" and ")),
    }
}

/// The inodes of sockets of `/proc/net/{udp,tcp}` that have a port of this address or of all.
fn sockets(table: &str, address: Option<Ipv4Addr>, port: u16) -> Vec<u64> {
    // The kernel prints the words of an address as they are in memory.
    let own = address.map(|own| format!("{:08X}", u32::from_ne_bytes(own.octets())));
    let of_line = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (at, number) = columns.get(1)?.split_once(':')?;
        let is_meant = Some(at) == own.as_deref() || at.bytes().all(|digit| digit == b'0');
        let is_port = u16::from_str_radix(number, 16) == Ok(port);
        // A TCP connection does not prevent listening. (UDP has 07.)
        let is_open = ["07", LISTENING].contains(columns.get(3)?);
        let inode = columns.get(9)?.parse().ok()?;
        (is_meant && is_port && is_open).then_some(inode)
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// The processes that have one of these sockets, as far as permissions allow.
fn holders(sockets: &[u64], folder: &Path) -> Vec<String> {
    let names: Vec<String> = sockets
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| {
        let name = entry.file_name();
        name.as_bytes().iter().all(u8::is_ascii_digit)
    });
    let mut found = Vec::new();
    for process in processes {
        let path = process.path();
        let descriptors = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|link| names.iter().any(|name| link.as_os_str() == name.as_str()))
            && !is_ours(&path, folder)
        {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = process.file_name();
            found.push(format!("{} (pid {})", name.trim(), pid.to_string_lossy()));
        }
    }
    found
}

/// One of natbpf's other dnsmasqs, which has the port of another interface.
fn is_ours(process: &Path, folder: &Path) -> bool {
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let folder = [b"--conf-file=", folder.as_os_str().as_bytes(), b"/"].concat();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument.starts_with(&folder))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn other_words_need_no_explanation() {
        let folder = Path::new("/nowhere");
        assert_eq!(explain("bad option", Some(Ipv4Addr::LOCALHOST), folder), "");
    }

    #[test]
    fn the_process_with_a_port_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let found = sockets(&table, Some(Ipv4Addr::LOCALHOST), port);
        assert_eq!(found.len(), 1, "{table}");
        assert!(sockets(&table, Some(Ipv4Addr::new(127, 0, 0, 2)), port).is_empty());
        let holders = holders(&found, Path::new("/nowhere"));
        let own = format!("(pid {})", std::process::id());
        assert!(
            holders.len() == 1 && holders[0].ends_with(&own),
            "{holders:?}"
        );
    }

    #[test]
    fn a_socket_of_all_addresses_is_in_the_way_too() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
            uid  timeout inode\n\
            1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        \
            0 4711 2\n\
            2: 00000000:0035 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        \
            0 4712 2\n";
        assert_eq!(sockets(table, Some(Ipv4Addr::new(10, 0, 0, 1)), 53), [4711]);
    }
}
