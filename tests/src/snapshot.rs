//! The state of a host, to verify that natbpf leaves no trace.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;
use lab::patience::patience;

/// How long bridges may take to say that they are up.
const PATIENCE: Duration = Duration::from_secs(3);

/// Settings that natbpf leaves on when it goes, or that the kernel changes along with them; and
/// what the kernel makes up when the first socket of any program listens.
const LEFT: [&str; 4] = [
    "/ip_forward ",
    "/forwarding ",
    "/all/accept_redirects ",
    "/tcp_fastopen_key ",
];

/// Everything of a host that natbpf could change: interfaces, addresses, routes, qdiscs and
/// filters, XDP programs, and every sysctl of IPv4, the bridges and netfilter; a line for each.
/// Without `ip_forward` and what it changes, which natbpf leaves on for others.
///
/// # Errors
/// When the host does not say.
pub fn take(host: &Host) -> Result<Vec<String>> {
    wait_for_bridges(host)?;
    let mut text = String::new();
    for command in [
        "ip -o link show",
        "ip -o address show",
        "ip route show table all",
        "ip rule show",
        "tc qdisc show",
        "bridge link show",
        "ip neigh show proxy",
    ] {
        let said = host.check(command.split(' '))?;
        writeln!(text, "# {command}\n{said}")?;
    }
    for interface in interfaces(host)? {
        for side in ["ingress", "egress"] {
            let said = host.run(["tc", "filter", "show", "dev", &interface, side])?;
            writeln!(text, "# filters of {interface}, {side}\n{}", said.stdout)?;
        }
    }
    let sysctls = host.enter(|| {
        let mut lines = Vec::new();
        for root in ["ipv4", "bridge", "netfilter"] {
            read_all(&Path::new("/proc/sys/net").join(root), &mut lines);
        }
        lines.retain(|line: &String| !LEFT.iter().any(|left| line.contains(left)));
        lines.sort();
        lines
    })?;
    Ok(text.lines().map(str::to_owned).chain(sysctls).collect())
}

/// Waits until bridges say that they are up: the kernel gets to that some time after it is so.
fn wait_for_bridges(host: &Host) -> Result<()> {
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        let said = host.check(["ip", "-o", "link", "show", "type", "bridge"])?;
        let is_late = |line: &str| line.contains("LOWER_UP") && line.contains("state UNKNOWN");
        if !said.lines().any(is_late) || Instant::now() > deadline {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The lines in which two snapshots differ, for messages.
#[must_use]
pub fn difference(before: &[String], after: &[String]) -> String {
    let gone = before
        .iter()
        .filter(|line| !after.contains(line))
        .map(|line| format!("- {line}\n"));
    let new = after
        .iter()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+ {line}\n"));
    gone.chain(new).collect()
}

fn interfaces(host: &Host) -> Result<Vec<String>> {
    let said = host.check(["ip", "-o", "link", "show"])?;
    // 2: eth0@if3: <BROADCAST,…
    said.lines()
        .map(|line| {
            let name = line
                .split(": ")
                .nth(1)
                .and_then(|name| name.split('@').next());
            name.map(str::to_owned)
                .with_context(|| format!("no interface in {line}"))
        })
        .collect()
}

/// Reads a tree of sysctls, leaving out those that move by themselves or cannot be read.
fn read_all(folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, lines);
        } else if path.ends_with("nf_conntrack_count") {
            // How many connections there are.
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
}
