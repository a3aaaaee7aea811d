//! What a starting daemon finds, and what it makes of it: a clear error or a clean takeover.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use lab::topology::Proxmox;
use lab::{Natbpf, Output};
use nat_user::dataplane::{Dataplane, Pins, Sizes};
use tests::{at, exchange, snapshot};

/// A session by masquerade, one by a forward, and what they count.
fn talk(net: &Proxmox) -> Result<()> {
    let (server, service) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    exchange(&server, at(Proxmox::PUBLIC, 10000), &service, b"in")?;
    Ok(())
}

/// What `natbpf run` says that is expected to refuse.
fn refusal(natbpf: &mut Natbpf) -> Result<String> {
    match natbpf.launch() {
        Ok(()) => bail!("it started"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// What is mounted in the lab's folder. (Other tests mount as well.)
fn mounts(net: &Proxmox) -> Result<Vec<String>> {
    let folder = net.lab().folder().display().to_string();
    let all = net.host.check(["cat", "/proc/self/mounts"])?;
    let own = all.lines().filter(|line| line.contains(&folder));
    Ok(own.map(str::to_owned).collect())
}

fn run_with(net: &Proxmox, natbpf: &Natbpf, run_dir: &Path, bpffs: &Path) -> Result<Output> {
    let binary = Natbpf::binary()?;
    let paths =
        [&binary, &natbpf.config_file(), run_dir, bpffs].map(|path| path.display().to_string());
    let [binary, config, run_dir, bpffs] = &paths;
    net.host.run([
        binary,
        "-c",
        config,
        "--run-dir",
        run_dir,
        "--bpffs",
        bpffs,
        "run",
    ])
}

/// Makes a map that is none of natbpf's, an array of one word of 8 bytes, and pins it.
fn pin_foreign_map(path: &Path) -> Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_OBJ_PIN: libc::c_long = 6;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let shape: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 8, 1];
    // SAFETY: the start of `union bpf_attr` for this command: type, sizes of key and value,
    // entries.
    let map = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            &raw const shape,
            size_of_val(&shape),
        )
    };
    ensure!(map >= 0, "make a map: {}", io::Error::last_os_error());
    // SAFETY: the call gave it to us.
    let map = unsafe { OwnedFd::from_raw_fd(map as i32) };
    let name = CString::new(path.as_os_str().as_bytes())?;
    let pin: [u64; 2] = [name.as_ptr() as u64, map.as_raw_fd() as u64];
    // SAFETY: as above: pointer to the path, and the map; `name` lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const pin,
            size_of_val(&pin),
        )
    };
    ensure!(result == 0, "pin a map: {}", io::Error::last_os_error());
    Ok(())
}

/// Sessions of rules whose names are lost are shown and counted under "(lost N)", each with what it
/// had before, and can be ended by that name.
fn lost_rules_count_on(natbpf: &Natbpf, sessions: &[serde_json::Value]) -> Result<()> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    for session in sessions {
        let name = session["rule"].as_str().context("no rule")?;
        ensure!(name.starts_with("(lost "), "{session}");
        let rule = rules.iter().find(|rule| rule["name"] == name);
        let rule = rule.with_context(|| format!("no {name} in {stats}"))?;
        ensure!(rule["configured"] == false, "{rule}");
        for (what, count) in [
            ("connections", 1),
            ("active", 1),
            ("packets_in", 2),
            ("packets_out", 2),
        ] {
            ensure!(rule[what] == count, "{what}: {rule}");
        }
        let found = natbpf.conntrack(&["--rule", name])?;
        let is_found = found.len() == 1 && found[0]["internal"] == session["internal"];
        ensure!(is_found, "{found:?}");
    }
    Ok(())
}

#[test]
fn a_state_file_that_is_damaged_or_lost_costs_no_session() -> Result<()> {
    for damage in ["{\"version\": \"0.1.0\", \"pid\": 7, \"gen", ""] {
        let net = Proxmox::new()?;
        let mut natbpf = net.natbpf(&net.config())?;
        talk(&net)?;
        let before = natbpf.conntrack(&[])?;
        natbpf.kill()?;
        let file = natbpf.run_dir().join("state.json");
        match damage {
            "" => fs::remove_file(file)?,
            damage => fs::write(file, damage)?,
        }
        natbpf.launch()?;
        talk(&net)?;
        let after = natbpf.conntrack(&[])?;
        let endpoints = |sessions: &[serde_json::Value]| -> Vec<String> {
            let mut ends: Vec<String> = sessions
                .iter()
                .map(|one| format!("{} {}", one["internal"], one["external"]))
                .collect();
            ends.sort();
            ends
        };
        ensure!(
            endpoints(&after) == endpoints(&before),
            "{after:?}, before {before:?}"
        );
        let warnings = natbpf.status()?["warnings"].to_string();
        ensure!(warnings.contains("state.json was lost"), "{warnings}");
        lost_rules_count_on(&natbpf, &after)?;
        // Rules are known by new numbers, and work.
        let other = net.cli.udp("198.51.100.2:7001")?;
        let guest = net.vm1.udp("0.0.0.0:5001")?;
        exchange(&guest, at(Proxmox::CLI, 7001), &other, b"a new one")?;
        let stats = natbpf.stats()?;
        let rules = stats["rules"].as_array().context("no rules")?;
        let opened = rules
            .iter()
            .find(|rule| rule["name"] == "lan-out")
            .context("no rule")?;
        ensure!(opened["connections"] == 1, "{stats}");
        let lost = after[0]["rule"].as_str().context("no rule")?;
        let flush = ["conntrack", "flush", "--rule", lost];
        natbpf.cli(&flush)?.expect_ok()?;
        let left = natbpf.conntrack(&[])?;
        ensure!(left.len() == 2 && natbpf.conntrack(&["--rule", lost])?.is_empty());
    }
    Ok(())
}

/// A daemon that is killed while it makes the maps leaves some of them, and no program that uses
/// them.
#[test]
fn maps_of_a_start_that_was_killed_make_room_for_the_next() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &net.config(),
    )?;
    let pins = Pins::below(natbpf.bpffs());
    drop(Dataplane::load(pins, &Sizes::new(1024, 16), false)?);
    for map in ["SETTINGS", "EXITS"] {
        fs::remove_file(Pins::below(natbpf.bpffs()).map(map))?;
    }
    natbpf.launch()?;
    talk(&net)
}

#[test]
fn maps_of_another_program_are_refused_by_name_and_left_alone() -> Result<()> {
    let net = Proxmox::new()?;
    let before = snapshot::take(&net.host)?;
    let natbpf = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &net.config(),
    );
    let mut natbpf = natbpf?;
    let layout = natbpf.bpffs().join("v5");
    fs::create_dir_all(&layout)?;
    pin_foreign_map(&layout.join("SESSIONS"))?;
    let said = refusal(&mut natbpf)?;
    ensure!(
        said.contains("SESSIONS") && said.contains("another program or version"),
        "{said}"
    );
    ensure!(layout.join("SESSIONS").exists());
    let after = snapshot::take(&net.host)?;
    ensure!(after == before, "{}", snapshot::difference(&before, &after));
    Ok(())
}

#[test]
fn a_bpffs_that_is_not_mounted_is_mounted_and_unmounted() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &net.config(),
    )?;
    let before = mounts(&net)?;
    natbpf.set_bpffs(net.lab().folder().join("unmounted"));
    natbpf.launch()?;
    talk(&net)?;
    let is_there = |mounts: &[String]| mounts.iter().any(|line| line.contains("unmounted bpf"));
    ensure!(is_there(&mounts(&net)?), "not mounted");
    natbpf.cli(&["down"])?.expect_ok()?;
    let after = mounts(&net)?;
    ensure!(after == before, "{after:?}, before {before:?}");
    ensure!(!net.lab().folder().join("unmounted").exists());
    Ok(())
}

#[test]
fn a_failed_write_is_an_error_and_changes_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &net.config(),
    )?;
    let before = snapshot::take(&net.host)?;
    let folder = net.lab().folder().join("read-only");
    fs::create_dir(&folder)?;
    for (kind, named) in [("tmpfs", "run"), ("bpf", "pins")] {
        let (run_dir, bpffs) = match kind {
            "tmpfs" => (folder.join("run"), net.lab().folder().join("pins")),
            _ => (net.lab().folder().join("run"), folder.join("pins")),
        };
        let (binary, config) = (Natbpf::binary()?, natbpf.config_file());
        // Mounted where this one command sees it, and gone with it.
        let script = format!(
            "mount -t {kind} -o ro none {} && {} -c {} --run-dir {} --bpffs {} run",
            folder.display(),
            binary.display(),
            config.display(),
            run_dir.display(),
            bpffs.display()
        );
        let said = net.host.run(["unshare", "--mount", "sh", "-c", &script])?;
        ensure!(said.status.code() == Some(1), "{kind}: {said:?}");
        let is_named = said.stderr.contains("Read-only") && said.stderr.contains(named);
        ensure!(
            is_named && said.stderr.trim().lines().count() <= 3,
            "{kind}: {}",
            said.stderr
        );
        let after = snapshot::take(&net.host)?;
        ensure!(
            after == before,
            "{kind}: {}",
            snapshot::difference(&before, &after)
        );
    }
    Ok(())
}

#[test]
fn two_daemons_never_share_a_data_plane() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let before = snapshot::take(&net.host)?;
    let other = net.lab().folder().join("another-run-dir");
    let said = run_with(&net, &natbpf, &other, natbpf.bpffs())?;
    ensure!(said.status.code() == Some(1), "{said:?}");
    ensure!(
        said.stderr.contains("another natbpf uses --bpffs"),
        "{}",
        said.stderr
    );
    let after = snapshot::take(&net.host)?;
    ensure!(after == before, "{}", snapshot::difference(&before, &after));
    talk(&net)
}
