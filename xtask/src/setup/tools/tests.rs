use std::os::unix::fs::PermissionsExt;

use super::*;

/// A directory with programs, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("natbpf-tool-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn program(&self, path: &str, script: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn unpacked(&self) -> Unpacked {
        Unpacked::below(self.0.join("tools"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PING: Tool =
    tool(("ping", "iputils-ping"), "pings", &["-V"], &["iputils"]).or_file(&["ping.iputils"]);
const RIGHT: &str = "echo ping from iputils 20221126";
const WRONG: &str = "echo 'ping (GNU inetutils) 2.4'";

#[test]
fn a_suitable_tool_is_used_directly() {
    let scratch = Scratch::new("right");
    let here = [scratch.program("bin/ping", RIGHT)];
    assert!(PING.is_among(here.into_iter(), &scratch.unpacked()));
    assert!(!scratch.unpacked().bin().exists());
}

#[test]
fn the_right_tool_under_another_name_is_called_instead_of_a_wrong_one() {
    let scratch = Scratch::new("alternative");
    let right = scratch.program("bin/ping.iputils", RIGHT);
    let here = [scratch.program("bin/ping", WRONG), right.clone()];
    assert!(PING.is_among(here.into_iter(), &scratch.unpacked()));
    let link = fs::read_link(scratch.unpacked().bin().join("ping")).unwrap();
    assert_eq!(link, right);
}

#[test]
fn a_tool_of_the_same_name_that_does_something_else_is_missing() {
    let scratch = Scratch::new("wrong");
    let failing = scratch.program("bin/failing", &format!("{RIGHT}; exit 1"));
    for here in [
        vec![scratch.program("bin/ping", WRONG)],
        vec![failing],
        vec![],
    ] {
        assert!(!PING.is_among(here.into_iter(), &scratch.unpacked()));
    }
    assert!(!scratch.unpacked().bin().exists());
}

#[test]
fn unpacked_packages_need_no_apt() {
    let scratch = Scratch::new("unpacked");
    scratch.program("tools/iputils-ping/usr/bin/ping", RIGHT);
    let here = [scratch.program("bin/ping", WRONG)];
    assert!(PING.is_among(here.into_iter(), &scratch.unpacked()));
    assert!(scratch.unpacked().bin().join("ping").is_file());
}

#[test]
fn an_unpacked_tool_that_does_not_work_is_not_called() {
    let scratch = Scratch::new("broken");
    scratch.program("tools/iputils-ping/usr/bin/ping", WRONG);
    assert!(!PING.is_among(std::iter::empty(), &scratch.unpacked()));
    assert!(!scratch.unpacked().bin().join("ping").exists());
}

const BRIDGES: Bundle = Bundle {
    name: "owners",
    packages: &["bridge-utils"],
    why: "make bridges",
    programs: &[("brctl", Test::Says(&["--version"], &["bridge-utils"]))],
};

#[test]
fn a_bundle_runs_from_its_own_directory_and_never_by_its_programs_names() {
    let scratch = Scratch::new("bundle");
    let unpacked = scratch.unpacked();
    assert!(!BRIDGES.is_here(&unpacked));
    scratch.program("tools/owners/sbin/brctl", "echo bridge-utils, 1.7.1");
    assert!(BRIDGES.is_here(&unpacked));
    assert!(unpacked.apart("owners").join("brctl").exists());
    assert!(!unpacked.bin().exists());
}

#[test]
fn a_bundle_whose_program_fails_is_missing() {
    let scratch = Scratch::new("broken-bundle");
    scratch.program("tools/owners/sbin/brctl", "exit 127");
    assert!(!BRIDGES.is_here(&scratch.unpacked()));
}

/// A 64-bit ELF file with one program header of this kind.
fn elf(kind: u32) -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64..68].copy_from_slice(&kind.to_le_bytes());
    bytes
}

#[test]
fn a_program_that_asks_for_a_loader_is_not_static() {
    let scratch = Scratch::new("static");
    let file = scratch.0.join("program");
    for (bytes, expected) in [
        (elf(1), true),
        (elf(3), false),
        (elf(1)[..66].to_vec(), false),
        (b"#!/bin/sh\n".to_vec(), false),
    ] {
        fs::write(&file, bytes).unwrap();
        assert_eq!(is_static(&file), expected);
    }
    assert!(!is_static(&scratch.0.join("missing")));
}
