//! The programs that the lab, the tests and the benchmarks run: which package has each, and what shows
//! that it is the one that they need.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use bpf_toolchain::process::find_programs;
use bpf_toolchain::unpack::{Unpacked, Wanted};

use super::Needs;
use crate::kernels;

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
        (kernels::QEMU, "qemu-system-x86"),
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
        ("udhcpc", "udhcpc"),
        "gets a guest its address",
        &["--help"],
        &["Usage: udhcpc"],
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
    tool(("ss", "iproute2"), "shows sockets", &["-V"], &["iproute2"]),
];

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
    /// Whether calling it by its name starts what is needed; where it does not, but that is here under
    /// another name or in another place, it does from now on.
    pub(super) fn is_here(&self, unpacked: &Unpacked) -> bool {
        let mut candidates = find_programs(self.program);
        let chosen = candidates.next();
        if chosen.is_some_and(|path| self.test.passes(&path)) {
            return true;
        }
        let others = self.files.iter().flat_map(|name| find_programs(name));
        let Some(other) = candidates.chain(others).find(|path| self.test.passes(path)) else {
            return false;
        };
        unpacked.prefer(self.program, &other).is_ok()
    }

    /// Has it run from its unpacked package, and says whether that is what is needed.
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
