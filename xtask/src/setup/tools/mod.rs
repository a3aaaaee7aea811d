//! The programs that the lab, the tests and the benchmarks run: which package has each, and what
//! shows that it is the one that they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use bpf_toolchain::process::find_programs;
use bpf_toolchain::unpack::{NETWORK_OWNERS, TRANSLATORS, Unpacked, Wanted};

use super::needs::Needs;
use crate::kernels::QEMU;

/// A program, and the Debian package that has it.
pub(super) struct Tool {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
    /// What for; shown when it cannot be installed.
    pub(super) why: &'static str,
    /// What the program must do: others have its name too.
    test: Test,
    /// Other names of its file: those that Debian's alternatives choose from.
    files: &'static [&'static str],
    /// What it must be told where its package is unpacked: variables, and paths in the package.
    variables: &'static [(&'static str, &'static str)],
}

/// What shows that a program is the one that is needed.
enum Test {
    /// With these arguments it succeeds, and says each of these texts.
    Says(&'static [&'static str], &'static [&'static str]),
    /// The same, and it needs no library.
    Static(&'static [&'static str], &'static [&'static str]),
}

const fn tool(
    needed: (&'static str, &'static str),
    why: &'static str,
    arguments: &'static [&'static str],
    texts: &'static [&'static str],
) -> Tool {
    Tool {
        program: needed.0,
        package: needed.1,
        why,
        test: Test::Says(arguments, texts),
        files: &[],
        variables: &[],
    }
}

impl Tool {
    const fn or_file(mut self, files: &'static [&'static str]) -> Self {
        self.files = files;
        self
    }

    const fn with(mut self, variables: &'static [(&'static str, &'static str)]) -> Self {
        self.variables = variables;
        self
    }

    const fn without_libraries(mut self) -> Self {
        if let Test::Says(arguments, texts) = self.test {
            self.test = Test::Static(arguments, texts);
        }
        self
    }
}

/// What the lab and the tests run, besides natbpf.
const LAB: &[Tool] = &[
    tool(
        ("ip", "iproute2"),
        "makes namespaces, links and routes",
        &["-V"],
        &["iproute2"],
    ),
    tool(
        ("tc", "iproute2"),
        "shows and damages what passes an interface",
        &["-V"],
        &["iproute2"],
    )
    .with(&[("TC_LIB_DIR", "usr/lib/tc")]),
    tool(
        ("nft", "nftables"),
        "is the NAT to compare with, and a firewall",
        &["-V"],
        &["nftables"],
    ),
    tool(
        ("ping", "iputils-ping"),
        "tests ICMP echo and path MTU",
        &["-V"],
        &["iputils"],
    ),
    tool(
        ("traceroute", "traceroute"),
        "tests ICMP errors",
        &["--version"],
        &["Modern traceroute"],
    )
    .or_file(&["traceroute.db"]),
    tool(
        ("iperf3", "iperf3"),
        "measures throughput",
        &["--version"],
        &["iperf 3"],
    ),
    tool(
        ("curl", "curl"),
        "is the HTTP client behind or before the NAT",
        &["--version"],
        &["http"],
    ),
];

const XTABLES: &[(&str, &str)] = &[("XTABLES_LIBDIR", "usr/lib/x86_64-linux-gnu/xtables")];
const OTHER_NAT: &str = "is the other NAT to compare with";
const FIREWALL: &str = "is a firewall beside natbpf";

/// What measuring needs besides.
const BENCH: &[Tool] = &[
    tool(
        ("iptables-restore", "iptables"),
        OTHER_NAT,
        &["-V"],
        &["nf_tables"],
    )
    .or_file(&["iptables-nft-restore"])
    .with(XTABLES),
    tool(
        ("conntrack", "conntrack"),
        "empties the kernel's table of connections",
        &["--version"],
        &["conntrack-tools"],
    ),
    tool(
        ("bridge", "iproute2"),
        "tells a bridge where a guest is",
        &["-V"],
        &["bridge utility"],
    ),
];

/// What tests need besides.
const TESTS: &[Tool] = &[
    tool(
        (QEMU, "qemu-system-x86"),
        "runs older kernels, and guests",
        &["-accel", "help"],
        &["tcg"],
    ),
    tool(
        ("busybox", "busybox-static"),
        "is all that the tests' virtual machines have, and asks name servers",
        &["--list"],
        &[
            "udhcpc\n",
            "httpd\n",
            "nslookup\n",
            "wget\n",
            "insmod\n",
            "sha256sum\n",
        ],
    )
    .without_libraries(),
    tool(
        ("depmod", "kmod"),
        "says which modules a kernel needs for what",
        &["--version"],
        &["kmod"],
    ),
    tool(
        ("modprobe", "kmod"),
        "loads modules in the tests' virtual machines",
        &["--version"],
        &["kmod"],
    ),
    tool(
        ("strip", "binutils"),
        "removes debug information from a kernel's file system",
        &["--version"],
        &["strip"],
    ),
    tool(
        ("cpio", "cpio"),
        "packs what a kernel boots into",
        &["--version"],
        &["GNU cpio"],
    ),
    tool(
        ("c++", "g++"),
        "compiles libFuzzer",
        &["-x", "c++", "-E", "-include", "cstdint", "/dev/null"],
        &["int64_t"],
    )
    .or_file(&["g++"]),
    tool(
        ("turnserver", "coturn"),
        "finds out how the NAT behaves",
        &["--version"],
        &["4."],
    ),
    tool(
        ("dnsmasq", "dnsmasq-base"),
        "serves DHCP and DNS to guests",
        &["--version"],
        &["Dnsmasq", " DHCP "],
    ),
    tool(
        ("unbound", "unbound"),
        "answers the names that guests with IPv6 alone ask for",
        &["-V"],
        &["Version 1."],
    ),
    tool(
        ("udhcpc", "udhcpc"),
        "gets a guest its address",
        &["--help"],
        &["Usage: udhcpc"],
    ),
    tool(
        ("rdisc6", "ndisc6"),
        "asks for routers",
        &["-V"],
        &["ndisc6"],
    ),
    tool(
        ("dhcpcd", "dhcpcd-base"),
        "gets a guest its IPv6 address",
        &["--version"],
        &["dhcpcd"],
    ),
    tool(
        ("ethtool", "ethtool"),
        "changes what an interface leaves to its driver",
        &["--version"],
        &["ethtool version"],
    ),
    tool(
        ("mtr", "mtr-tiny"),
        "shows the hops of a way",
        &["--help"],
        &["--json"],
    )
    .with(&[("MTR_PACKET", "usr/bin/mtr-packet")]),
    tool(
        ("nping", "nmap"),
        "sends packets that no application sends",
        &["--version"],
        &["Nping"],
    ),
    tool(("iptables", "iptables"), FIREWALL, &["-V"], &["nf_tables"])
        .or_file(&["iptables-nft"])
        .with(XTABLES),
    tool(
        ("iptables-nft", "iptables"),
        FIREWALL,
        &["-V"],
        &["nf_tables"],
    )
    .with(XTABLES),
    tool(
        ("iptables-nft-restore", "iptables"),
        FIREWALL,
        &["-V"],
        &["nf_tables"],
    )
    .with(XTABLES),
    tool(
        ("iptables-legacy", "iptables"),
        FIREWALL,
        &["-V"],
        &["legacy"],
    )
    .with(XTABLES),
    tool(
        ("iptables-legacy-restore", "iptables"),
        FIREWALL,
        &["-V"],
        &["legacy"],
    )
    .with(XTABLES),
    tool(
        ("debootstrap", "debootstrap"),
        "makes the Debian that runs in containers",
        &["--version"],
        &["debootstrap"],
    )
    .with(&[("DEBOOTSTRAP_DIR", "usr/share/debootstrap")]),
    tool(("ss", "iproute2"), "shows sockets", &["-V"], &["iproute2"]),
];

/// Packages that are unpacked together and never installed, also where they are installed already:
/// installing them would start services or configure this machine's network.
pub(super) struct Bundle {
    /// The directory in which they are unpacked.
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    /// Their purpose, for the message when they cannot be unpacked.
    pub(super) why: &'static str,
    /// The programs that the tests run, and the check that each works.
    programs: &'static [(&'static str, Test)],
}

/// Tests run them on a host of the lab that has its own files.
const OWNERS: Bundle = Bundle {
    name: NETWORK_OWNERS,
    packages: &[
        "libvirt-daemon",
        "libvirt-clients",
        // libvirt ends its dnsmasq only if that is the file which libvirt knows, not a script.
        "dnsmasq-base",
        "ifupdown",
        "bridge-utils",
    ],
    why: "make bridges beside natbpf in tests",
    programs: &[
        ("libvirtd", Test::Says(&["--version"], &["libvirt"])),
        ("virsh", Test::Says(&["--version"], &["."])),
        ("dnsmasq", Test::Says(&["--version"], &["Dnsmasq"])),
        ("ifup", Test::Says(&["--version"], &["ifup"])),
        ("brctl", Test::Says(&["--version"], &["bridge-utils"])),
    ],
};

/// tayga's service, once installed, makes a device and routes.
const TAYGA: Bundle = Bundle {
    name: TRANSLATORS,
    packages: &["tayga"],
    why: "translates as NAT64 does, to compare with",
    programs: &[("tayga", Test::Says(&["--help"], &["--nodetach"]))],
};

/// All bundles.
pub(super) const BUNDLES: [&Bundle; 2] = [&OWNERS, &TAYGA];

impl Bundle {
    /// Whether all its programs work where they are unpacked.
    pub(super) fn is_here(&self, unpacked: &Unpacked) -> bool {
        let works = || {
            let dir = unpacked.apart(self.name);
            let mut programs = self.programs.iter();
            programs.all(|(program, test)| test.passes(&dir.join(program)))
        };
        works() || (unpacked.root(self.name).is_dir() && self.provide(unpacked).is_ok() && works())
    }

    fn provide(&self, unpacked: &Unpacked) -> Result<()> {
        let programs: Vec<&str> = self.programs.iter().map(|(program, _)| *program).collect();
        unpacked.provide_apart(self.name, &programs)
    }
}

/// The programs that the lab and the tests of whole hosts run.
pub(crate) fn lab_programs() -> impl Iterator<Item = &'static str> {
    LAB.iter().map(|tool| tool.program)
}

/// All of them that `needs` names.
pub(super) fn needed(needs: Needs) -> impl Iterator<Item = &'static Tool> {
    let lab = LAB.iter().filter(move |_| needs >= Needs::Lab);
    let bench = BENCH.iter().filter(move |_| needs >= Needs::Bench);
    let tests = TESTS.iter().filter(move |_| needs == Needs::Tests);
    lab.chain(bench).chain(tests)
}

impl Tool {
    /// Whether its name starts the right program. If that program has another name or place, its
    /// name starts it from now on.
    pub(super) fn is_here(&self, unpacked: &Unpacked) -> bool {
        let others = self.files.iter().flat_map(|name| find_programs(name));
        self.is_among(find_programs(self.program).chain(others), unpacked)
    }

    /// The same for the programs that are here, the one first that is called.
    fn is_among(&self, mut here: impl Iterator<Item = PathBuf>, unpacked: &Unpacked) -> bool {
        if here.next().is_some_and(|path| self.test.passes(&path)) {
            return true;
        }
        match here.find(|path| self.test.passes(path)) {
            Some(other) => unpacked.prefer(self.program, &other).is_ok(),
            // For another tool of its package, or before something was installed that is in its
            // way.
            None => {
                unpacked.root(self.package).is_dir() && self.take_from(unpacked).unwrap_or(false)
            }
        }
    }

    /// The program and what it is for, as part of a message.
    pub(super) fn about(&self) -> String {
        format!("{} (of {}), which {}", self.program, self.package, self.why)
    }

    /// Makes it run from its unpacked package, and returns whether it is the right program.
    pub(super) fn take_from(&self, unpacked: &Unpacked) -> Result<bool> {
        let wanted = Wanted {
            name: self.program,
            files: self.files,
            variables: self.variables,
        };
        unpacked.provide(self.package, &wanted)?;
        let program = unpacked.bin().join(self.program);
        let is_right = self.test.passes(&program);
        if !is_right {
            unpacked.forget(self.program);
        }
        Ok(is_right)
    }
}

impl Test {
    fn passes(&self, program: &Path) -> bool {
        match self {
            Self::Says(arguments, texts) => says(program, arguments, texts),
            Self::Static(arguments, texts) => is_static(program) && says(program, arguments, texts),
        }
    }
}

/// Whether a program succeeds with these arguments and says all of these texts.
fn says(program: &Path, arguments: &[&str], texts: &[&str]) -> bool {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    output.is_ok_and(|output| {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        output.status.success() && texts.iter().all(|wanted| text.contains(wanted))
    })
}

/// Whether a program is an ELF file that asks for no loader: no program header is `PT_INTERP`.
fn is_static(program: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(bytes) = fs::read(program) else {
        return false;
    };
    let number = |at: usize, size: usize| {
        let bytes = bytes.get(at..at + size)?;
        bytes
            .iter()
            .rev()
            .try_fold(0_usize, |value, byte| Some(value << 8 | usize::from(*byte)))
    };
    // Of a 64-bit file: e_phoff, e_phentsize, e_phnum (elf(5)).
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    let interp = PT_INTERP.to_le_bytes();
    bytes.starts_with(b"\x7fELF")
        && (0..count).all(|index| {
            let at = start + index * size;
            bytes.get(at..at + 4).is_some_and(|kind| kind != interp)
        })
}

#[cfg(test)]
mod tests;
