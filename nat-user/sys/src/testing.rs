//! For tests: fake interfaces, and network namespaces, which need root and `ip` and fail loudly
//! without them.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::netlink::{Kind, Layer, Link, Xdp};

/// An Ethernet interface that is up and running, with an address that contains its index and an MTU
/// of 1500 bytes.
pub fn link(index: u32, name: &str) -> Link {
    let [.., high, low] = index.to_be_bytes();
    Link {
        index,
        name: name.to_owned(),
        kind: Kind::Device,
        layer: Layer::Ethernet,
        up: true,
        running: true,
        all_groups: false,
        mtu: 1500,
        mac: Some([2, 0, 0, 0, high, low]),
        master: None,
        calls_netfilter: false,
        bus: None,
        queues: false,
        vlan_filtering: false,
        default_vlan: 0,
        port: None,
        parent: None,
        xdp: Xdp::default(),
    }
}

/// Runs a test in a new network namespace, in a separate thread. The namespace is gone when the
/// thread has ended and all its sockets are closed.
pub fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce() + Send + 'static,
{
    let thread = thread::spawn(|| {
        // SAFETY: unshare takes no pointers; it moves this thread alone to a new namespace.
        let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let error = std::io::Error::last_os_error();
        assert_eq!(
            status, 0,
            "make a network namespace: {error}; run the tests as root"
        );
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("start a runtime")
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with arguments that hold no spaces, and returns what it prints.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs `bridge` with arguments that hold no spaces, and returns what it prints.
pub fn bridge(arguments: &str) -> String {
    run("bridge", arguments)
}

/// Runs a tool. Words that belong together are joined by an underscore.
pub fn tool(command: &str) {
    let mut words = command.split(' ').map(|word| word.replace('_', " "));
    let mut tool = Command::new(words.next().expect("a tool"));
    let output = tool.args(words).output().expect("run it");
    assert!(output.status.success(), "{command}: {output:?}");
}

/// Makes a bridge filter VLANs. `false` if this kernel cannot (CONFIG_BRIDGE_VLAN_FILTERING).
pub fn filter_vlans(bridge: &str) -> bool {
    let options = [
        "link",
        "set",
        bridge,
        "type",
        "bridge",
        "vlan_filtering",
        "1",
    ];
    let output = Command::new("ip").args(options).output();
    let output = output.expect("run ip (Debian: iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    let is_missing = error.contains("not supported");
    assert!(
        output.status.success() || is_missing,
        "filter VLANs: {error}"
    );
    if is_missing {
        eprintln!("not tried: this kernel has bridges without VLAN filtering");
    }
    !is_missing
}

fn run(tool: &str, arguments: &str) -> String {
    let output = Command::new(tool)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("run {tool} (Debian: iproute2): {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments}: {error}");
    String::from_utf8(output.stdout).expect("iproute2 prints UTF-8")
}

/// Turns off IPv6 for new interfaces: it would send packets and learn neighbours asynchronously.
pub fn without_ipv6() {
    let setting = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    fs::write(setting, "1").unwrap_or_else(|error| panic!("write {setting}: {error}"));
}

/// Interfaces, addresses, routes and IPv4 settings: all that `host` may change.
#[derive(Debug, PartialEq, Eq)]
pub struct HostState(Vec<String>);

impl HostState {
    /// The current state of the namespace.
    pub fn read() -> Self {
        let mut lines = Vec::new();
        for command in ["-o link", "-o -4 addr", "-4 route show table all"] {
            lines.extend(ip(command).lines().map(without_transient));
        }
        settings(Path::new("/proc/sys/net/ipv4"), &mut lines);
        settings(Path::new("/proc/sys/net/bridge"), &mut lines);
        Self(lines)
    }

    /// Waits until the namespace has this state again, because the kernel removes some routes a
    /// moment after their interface; fails with the difference.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        self.assert_same(|_| true);
    }

    /// The same, whether the host forwards now or did then.
    #[track_caller]
    pub fn assert_unchanged_but_forwarding(&self) {
        let settings = [
            "/ip_forward = ",
            "/forwarding = ",
            "/all/accept_redirects = ",
        ];
        self.assert_same(|line| !settings.iter().any(|setting| line.contains(setting)));
    }

    #[track_caller]
    fn assert_same(&self, counts: impl Fn(&str) -> bool) {
        let counting = |state: &Self| {
            let lines = state.0.iter().filter(|line| counts(line));
            lines.cloned().collect::<Vec<_>>()
        };
        let before = Self(counting(self));
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let now = Self(counting(&Self::read()));
            if now == before {
                return;
            }
            if Instant::now() > deadline {
                let missing = before.0.iter().filter(|line| !now.0.contains(line));
                let added = now.0.iter().filter(|line| !before.0.contains(line));
                let missing = missing.collect::<Vec<_>>();
                panic!("gone: {missing:#?}, new: {:#?}", added.collect::<Vec<_>>());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Without what the kernel changes asynchronously: an interface that was up once keeps its queueing
/// discipline when it is down again, and a carrier comes and goes with the other end.
fn without_transient(line: &str) -> String {
    let mut words = Vec::new();
    let mut rest = line.split_whitespace();
    while let Some(word) = rest.next() {
        match word {
            "qdisc" | "state" => drop(rest.next()),
            _ if word.starts_with('<') => {
                let flags = word.split(['<', '>', ',']);
                words.extend(flags.filter(|flag| !matches!(*flag, "NO-CARRIER" | "LOWER_UP")));
            }
            _ => words.push(word),
        }
    }
    words.join(" ")
}

fn settings(directory: &Path, lines: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            settings(&path, lines);
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.push(format!("{} = {}", path.display(), value.trim_end()));
        }
    }
}
