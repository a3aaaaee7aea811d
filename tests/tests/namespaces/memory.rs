//! The memory that natbpf takes by default is what docs/install.md states.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use lab::topology::Proxmox;

const PAGE: &str = include_str!("../../../docs/install.md");

/// How much larger or smaller the tables may be, in percent: kernels differ a little.
const TABLES_MARGIN: u64 = 5;
/// How much larger the daemon may be, in percent. Without optimisation it takes a third more.
const DAEMON_MARGIN: u64 = 50;
/// What the page states for two processors.
const STATED_PROCESSORS: u64 = 2;

const MIB: u64 = 1 << 20;

/// The figure behind some words of the page, in MiB.
fn stated(words: &str) -> Result<u64> {
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = page
        .split_once(words)
        .with_context(|| format!("install.md does not say {words:?}"))?;
    let (number, _) = rest.split_once(" MiB").context("a figure in MiB")?;
    number.trim().parse().with_context(|| number.to_owned())
}

/// The value of a line `name: value` or `name:\tvalue kB`.
fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The bytes of all BPF maps that a process has open, by the kernel's own account.
fn maps(pid: u32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        if let (Some(id), Some(bytes)) = (value(&text, "map_id"), value(&text, "memlock")) {
            maps.insert(id, bytes);
        }
    }
    ensure!(maps.len() > 20, "{} maps only", maps.len());
    Ok(maps.values().sum())
}

/// Before Linux 6.4, `memlock` leaves out what the kernel needs around each entry.
fn counts_all() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|number| number.parse::<u32>());
    let (major, minor) = (numbers.next(), numbers.next());
    let (Some(Ok(major)), Some(Ok(minor))) = (major, minor) else {
        return Ok(false);
    };
    Ok((major, minor) >= (6, 4))
}

/// How many processors the kernel keeps counters for: `0-3`, maybe several of these.
fn processors() -> Result<u64> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().context("a list")?;
    let last: u64 = last.parse().with_context(|| text.clone())?;
    Ok(last + 1)
}

#[test]
fn default_memory_matches_the_documentation() -> Result<()> {
    let (tables, daemon) = (stated("The tables take")?, stated("The daemon takes")?);
    let own = stated("(`VmHWM` and `VmRSS`;")?;
    let all = stated("allocated at the start:")?;
    ensure!(all == tables + daemon, "{tables} + {daemon} is not {all}");
    let per_processor = 64 << 10;
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let pid = natbpf.id().context("a daemon")?;
    let of_maps = maps(pid)?;
    let more = processors()?.saturating_sub(STATED_PROCESSORS) * per_processor;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of_daemon = value(&status, "RssAnon").context("RssAnon")? << 10;
    println!("maps: {of_maps} bytes, {more} of them by processors; daemon: {of_daemon} bytes");
    let stated = tables * MIB + more;
    ensure!(of_maps <= stated * (100 + TABLES_MARGIN) / 100);
    ensure!(!counts_all()? || of_maps >= stated * (100 - TABLES_MARGIN) / 100);
    // (Of the program file, only recently used pages of any process are in memory.)
    ensure!(of_daemon <= own * MIB * (100 + DAEMON_MARGIN) / 100);
    Ok(())
}

#[test]
fn l6_2_memory_of_ipv6_comes_and_goes_with_it() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let pid = natbpf.id().context("a daemon")?;
    let before = maps(pid)?;
    let with_ipv6 = net.config().replace(
        "\"172.22.161.254/24\"",
        "[\"172.22.161.254/24\", \"2001:db8:0:101::1/64\"]",
    );
    natbpf.reload(&with_ipv6)?;
    let more = maps(pid)?.checked_sub(before).context("less memory")?;
    println!("tables of IPv6: {more} bytes");
    ensure!(more > 32 * MIB, "{more}");
    natbpf.reload(&net.config())?;
    let after = maps(pid)?;
    ensure!(after == before, "{before} bytes before, {after} after");
    Ok(())
}
