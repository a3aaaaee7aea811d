//! Whether a dnsmasq hangs: stopped by a signal, or with datagrams in its sockets that it does not
//! read although it does nothing else. It is not queried, so an idle one costs nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

const DNS_PORT: u16 = 53;

/// For how long it may look so: a busy host may delay a process.
const LIMIT: Duration = Duration::from_secs(5);

/// Since when a dnsmasq looks as if it hangs.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Its CPU time at that moment.
    since: Option<(Instant, Option<u64>)>,
}

impl Stall {
    /// Whether it has looked so for long enough. Call it about once a second.
    pub(super) fn hangs(
        &mut self,
        (pid, address): (i32, Option<Ipv4Addr>),
        waiting: &Waiting,
        now: Instant,
    ) -> bool {
        let is_idle = is_stopped(pid) || waiting.are_any_of(pid, address);
        self.takes_in(is_idle, worked(pid), now)
    }

    fn takes_in(&mut self, is_idle: bool, worked: Option<u64>, now: Instant) -> bool {
        match self.since {
            Some((since, before)) if is_idle && before == worked => now - since >= LIMIT,
            _ => {
                self.since = is_idle.then_some((now, worked));
                false
            }
        }
    }
}

/// The fields of `/proc/PID/stat` after the name, which may hold spaces and brackets.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn stat(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// Whether it is stopped by a signal and waits for another one.
fn is_stopped(pid: i32) -> bool {
    let stat = stat(pid).unwrap_or_default();
    fields(&stat).is_some_and(|mut fields| fields.next() == Some("T"))
}

/// Its CPU time.
fn worked(pid: i32) -> Option<u64> {
    worked_in(&stat(pid)?)
}

fn worked_in(stat: &str) -> Option<u64> {
    // utime and stime, fields 14 and 15 of proc_pid_stat(5); the name is the second.
    let times: Vec<u64> = fields(stat)?
        .skip(11)
        .take(2)
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    (times.len() == 2).then(|| times.iter().sum())
}

/// The sockets of this network namespace in which datagrams wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    inodes: BTreeSet<u64>,
    /// The addresses of those that belong to name servers: only some users may see the owner of a
    /// socket.
    servers: BTreeSet<Ipv4Addr>,
}

impl Waiting {
    /// At this moment.
    pub(super) fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/self/net/udp").unwrap_or_default())
    }

    /// From the text of `/proc/net/udp`.
    fn read(sockets: &str) -> Self {
        let mut waiting = Self::default();
        for line in sockets.lines().skip(1) {
            if let Some((address, port, inode)) = waiting_socket(line) {
                waiting.inodes.insert(inode);
                if port == DNS_PORT {
                    waiting.servers.insert(address);
                }
            }
        }
        waiting
    }

    /// Whether one of them is that of a process that serves names at this address.
    fn are_any_of(&self, pid: i32, address: Option<Ipv4Addr>) -> bool {
        let is_server = address.is_some_and(|address| self.servers.contains(&address));
        if self.inodes.is_empty() || is_server {
            return !self.inodes.is_empty();
        }
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        files.flatten().any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|target| {
                let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
                inode.parse().ok()
            });
            inode.is_some_and(|inode| self.inodes.contains(&inode))
        })
    }
}

/// Address, port and inode of a socket in which something waits, of a line of `/proc/net/udp`.
fn waiting_socket(line: &str) -> Option<(Ipv4Addr, u16, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (_, received) = fields.nth(2)?.split_once(':')?;
    let inode = fields.nth(4)?.parse().ok()?;
    if u64::from_str_radix(received, 16).ok()? == 0 {
        return None;
    }
    // (A word of memory as it is.)
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some((address.into(), u16::from_str_radix(port, 16).ok()?, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hangs_if_it_does_nothing_for_long_while_there_is_work() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::default();
        assert!(!stall.takes_in(true, Some(7), at(0)));
        assert!(!stall.takes_in(true, Some(7), at(4)));
        assert!(stall.takes_in(true, Some(7), at(5)));
        // It has worked, or had nothing to do, in between.
        assert!(!stall.takes_in(true, Some(8), at(6)));
        assert!(!stall.takes_in(true, Some(8), at(10)));
        assert!(!stall.takes_in(false, Some(8), at(11)));
        assert!(!stall.takes_in(true, Some(8), at(12)));
        assert!(stall.takes_in(true, Some(8), at(17)));
    }

    #[test]
    fn drivers_features_are_read() {
        let stat = "17 (dns) masq)) T 1 17 17 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(fields(stat).unwrap().next(), Some("T"));
        assert_eq!(worked_in(stat), Some(42));
        let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                        retrnsmt   uid  timeout inode\n\
                        1: FEA116AC:0035 00000000:0000 07 00000000:00000300 00:00000000 00000000   \
                        998        0 4242 2 0 0\n\
                        2: FEA116AC:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000   \
                        998        0 4243 2 0 0\n";
        let waiting = Waiting::read(sockets);
        assert_eq!(waiting.inodes, BTreeSet::from([4242]));
        let server = Ipv4Addr::new(172, 22, 161, 254);
        assert_eq!(waiting.servers, BTreeSet::from([server]));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(waiting.are_any_of(own, Some(server)));
        assert!(!waiting.are_any_of(own, Some(Ipv4Addr::LOCALHOST)));
        assert!(!Waiting::default().are_any_of(own, Some(server)));
    }

    #[test]
    fn this_process_is_not_stopped() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!is_stopped(pid) && worked(pid).is_some());
    }
}
