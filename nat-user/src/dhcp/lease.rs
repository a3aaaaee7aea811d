//! The file in which a dnsmasq keeps its leases: a line for each, with the time of its end in
//! seconds since 1970 (0 is never), link-layer address, address, name (`*` is none) and client
//! identifier. After a line with the server's `duid`, the leases of DHCPv6 follow, with the number
//! of the client's association (RFC 8415) instead of the link-layer address.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How many bytes of a file are read: the leases of the largest network take a third.
const MOST: u64 = 16 << 20;

/// A file that has just been written may be half written.
const REST: Duration = Duration::from_millis(100);

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The leased address.
    pub address: Ipv4Addr,
    /// Who has it.
    pub mac: [u8; 6],
    /// The name that it has given itself, or that it was given.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970; `None` is never.
    pub ends_s: Option<u64>,
}

impl Lease {
    /// Its remaining time in seconds; `None` is forever.
    #[must_use]
    pub fn expires_s(&self, now_s: u64) -> Option<u64> {
        self.ends_s.map(|ends_s| ends_s.saturating_sub(now_s))
    }
}

/// One lease of DHCPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease6 {
    /// The leased address.
    pub address: Ipv6Addr,
    /// By which the client is known, as dnsmasq writes it.
    pub duid: String,
    /// The name that it was given: that of a `[[guest]]`, which dnsmasq knows by its link-layer
    /// address.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970; `None` is never.
    pub ends_s: Option<u64>,
}

impl Lease6 {
    /// Its remaining time in seconds; `None` is forever.
    #[must_use]
    pub fn expires_s(&self, now_s: u64) -> Option<u64> {
        self.ends_s.map(|ends_s| ends_s.saturating_sub(now_s))
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The leases in a file that have not ended, in the order of their addresses. A missing file
/// contains none.
#[must_use]
pub fn read(file: &Path, now_s: u64) -> Vec<Lease> {
    let bytes = begin_of(file);
    let text = String::from_utf8_lossy(&bytes);
    let lasts = |lease: &Lease| lease.ends_s.is_none_or(|ends_s| ends_s > now_s);
    let mut leases: Vec<Lease> = text.lines().filter_map(parse).filter(lasts).collect();
    leases.sort_by_key(|lease| lease.address);
    leases
}

/// The leases of DHCPv6 in a file that have not ended, in the order of their addresses.
#[must_use]
pub fn read6(file: &Path, now_s: u64) -> Vec<Lease6> {
    let bytes = begin_of(file);
    let text = String::from_utf8_lossy(&bytes);
    let lasts = |lease: &Lease6| lease.ends_s.is_none_or(|ends_s| ends_s > now_s);
    let mut leases: Vec<Lease6> = text.lines().filter_map(parse6).filter(lasts).collect();
    leases.sort_by_key(|lease| lease.address);
    leases
}

/// What a file that dnsmasq writes begins with. Guests influence what dnsmasq writes, so its size
/// is limited.
pub(super) fn begin_of(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    match read {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}

/// `None` for lines about anything but IPv4 over Ethernet.
fn parse(line: &str) -> Option<Lease> {
    let mut words = line.split(' ');
    let ends_s: u64 = words.next()?.parse().ok()?;
    let mac: Vec<u8> = words
        .next()?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    let address = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| *name != "*");
    Some(Lease {
        address,
        mac: mac.try_into().ok()?,
        name: name.map(str::to_owned),
        ends_s: (ends_s != 0).then_some(ends_s),
    })
}

/// `None` for lines about anything but IPv6. A temporary address has a `T` before the number.
fn parse6(line: &str) -> Option<Lease6> {
    let mut words = line.split(' ');
    let ends_s: u64 = words.next()?.parse().ok()?;
    let _association: u32 = words.next()?.parse().ok()?;
    let address = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| *name != "*");
    Some(Lease6 {
        address,
        duid: words.next()?.to_owned(),
        name: name.map(str::to_owned),
        ends_s: (ends_s != 0).then_some(ends_s),
    })
}

/// Checks whether files of leases have changed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<PathBuf, Seen>,
}

/// What a file was like when it was last read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    written: Option<SystemTime>,
    length: u64,
    /// Who has which address. (The end of a lease matters only once it is reached.)
    leases: Vec<(Ipv4Addr, [u8; 6], Option<String>)>,
    leases6: Vec<(Ipv6Addr, Option<String>)>,
    /// When the first of them ends.
    ends_s: Option<u64>,
}

/// The result of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Same,
    Changed,
}

impl Watch {
    /// Checks all files; earlier files that are not among them are forgotten.
    pub(super) fn look(&mut self, files: &[PathBuf]) -> Look {
        let now_s = now_s();
        let before = self.seen.len();
        self.seen.retain(|file, _| files.contains(file));
        let mut look = match self.seen.len() == before {
            true => Look::Same,
            false => Look::Changed,
        };
        for file in files {
            let seen = self.seen.entry(file.clone()).or_default();
            if let Some(now) = seen.changed(file, now_s) {
                if (&now.leases, &now.leases6) != (&seen.leases, &seen.leases6) {
                    look = Look::Changed;
                }
                *seen = now;
            }
        }
        look
    }
}

impl Seen {
    /// What the file is like now, if it is worth reading.
    fn changed(&self, file: &Path, now_s: u64) -> Option<Self> {
        let data = fs::metadata(file).ok();
        let written = data.as_ref().and_then(|data| data.modified().ok());
        let length = data.map_or(0, |data| data.len());
        let is_touched = (written, length) != (self.written, self.length);
        let has_ended = self.ends_s.is_some_and(|ends_s| ends_s <= now_s);
        // After a clock was set back, the age is negative, and waiting would never end.
        let age = written.and_then(|written| written.elapsed().ok());
        let is_restless = is_touched && age.is_some_and(|age| age < REST);
        if is_restless || !(is_touched || has_ended) {
            return None;
        }
        let (leases, leases6) = (read(file, now_s), read6(file, now_s));
        let ends = leases.iter().map(|lease| lease.ends_s);
        let ends = ends.chain(leases6.iter().map(|lease| lease.ends_s));
        Some(Self {
            written,
            length,
            ends_s: ends.flatten().min(),
            leases6: leases6
                .into_iter()
                .map(|lease| (lease.address, lease.name))
                .collect(),
            leases: leases
                .into_iter()
                .map(|lease| (lease.address, lease.mac, lease.name))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
2000 52:54:00:00:00:02 172.22.161.20 web1 01:52:54:00:00:00:02
0 52:54:00:00:00:01 172.22.161.3 * *
900 52:54:00:00:00:03 172.22.161.4 gone *
2000 06-52:54:00:00:00:04 172.22.161.5 other *
duid 00:01
2000 1699687385 fd00::1 six 00:01:00:01:32:a0:9b:ba:0a:22:65:4f:2b:d9
2000 T7 fd00::9 temporary 00:03:00:01:52:54:00:00:00:02
0 8 fd00::2 * 00:03:00:01:52:54:00:00:00:02
900 8 fd00::3 gone 00:03:00:01:52:54:00:00:00:02
2000 52:54:00:00:00:05 fd00::4
2000 52:54:00
";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmbr1.leases");
        fs::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn leases_that_last_are_read_in_order() {
        let (_folder, file) = file(FILE);
        let leases = read(&file, 1000);
        assert_eq!(leases.len(), 2, "{leases:?}");
        assert_eq!(leases[0].address, Ipv4Addr::new(172, 22, 161, 3));
        assert_eq!((&leases[0].name, leases[0].expires_s(1000)), (&None, None));
        assert_eq!(leases[1].mac, [0x52, 0x54, 0, 0, 0, 2]);
        assert_eq!(leases[1].name.as_deref(), Some("web1"));
        assert_eq!(leases[1].expires_s(1000), Some(1000));
        assert!(read(Path::new("/nowhere"), 1000).is_empty());
    }

    #[test]
    fn leases_of_dhcpv6_are_read_beside_the_others() {
        let (_folder, file) = file(FILE);
        let leases = read6(&file, 1000);
        let of = |lease: &Lease6| (lease.address.to_string(), lease.name.clone(), lease.ends_s);
        let own: Vec<_> = leases.iter().map(of).collect();
        let six = ("fd00::1".to_owned(), Some("six".to_owned()), Some(2000));
        assert_eq!(own, [six, ("fd00::2".to_owned(), None, None)]);
        assert_eq!(leases[0].duid, "00:01:00:01:32:a0:9b:ba:0a:22:65:4f:2b:d9");
    }

    /// The rest of the file is a hole.
    #[test]
    fn of_a_huge_file_the_begin_is_read() {
        let (_folder, path) = file("0 52:54:00:00:00:02 10.0.0.2 a *\n");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 36).unwrap();
        assert_eq!(begin_of(&path).len() as u64, MOST);
        assert_eq!(read(&path, 1000).len(), 1);
    }

    fn age(file: &Path) {
        let before = SystemTime::now() - Duration::from_secs(5);
        let open = fs::OpenOptions::new().append(true).open(file).unwrap();
        open.set_modified(before).unwrap();
    }

    #[test]
    fn a_change_is_seen_once_and_renewals_are_none() {
        let (_folder, file) = file("");
        let mut watch = Watch::default();
        let mut look = |text: Option<String>| {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
                age(&file);
            }
            watch.look(std::slice::from_ref(&file))
        };
        let line =
            |ends_s: u64, address: &str| format!("{ends_s} 52:54:00:00:00:02 {address} a *\n");
        let later = now_s() + 1000;
        assert_eq!(look(Some(line(later, "10.0.0.2"))), Look::Changed);
        assert_eq!(look(None), Look::Same);
        assert_eq!(look(Some(line(later * 10, "10.0.0.2"))), Look::Same);
        assert_eq!(look(Some(line(later, "10.0.0.33"))), Look::Changed);
        assert_eq!(look(Some(String::new())), Look::Changed);
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone() {
        let (_folder, file) = file("0 52:54:00:00:00:02 10.0.0.2 a *\n");
        let mut watch = Watch::default();
        assert_eq!(watch.look(std::slice::from_ref(&file)), Look::Same);
        age(&file);
        assert_eq!(watch.look(std::slice::from_ref(&file)), Look::Changed);
    }
}
