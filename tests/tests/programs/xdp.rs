//! The XDP program on packets of IPv6, which it leaves to a program of their own.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, Map};
use kit::{
    octets::DESTINATION_OPTIONS,
    packets::{At, SYN, ping, pong, read, tcp, udp},
};
use nat_common::{
    tables::{
        interfaces::{Interface, InterfaceFlags, role},
        next_hops::{self, NextHopFlags, NextHopRecord},
        sessions::{SessionKey, SessionRecord},
    },
    wire::address::Addr6,
};
use nat_user::dataplane::{Plain, TestRunOutput};

use super::{
    harness::{HOOK, NETWORK_NUMBER, Plane},
    ipv6::{GUEST, HOP_LIMIT, Octets, PUBLIC, REMOTE},
};

const PASS: i32 = 2;
const SENT: i32 = 4;

/// Longer than a datagram that XDP has passed up may be under way.
const PAUSE: Duration = Duration::from_millis(2);

const TAG: u32 = next_hops::tag(1, 1);
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MTU: usize = 1500;

const UPLINK: Interface = Interface {
    role: role::UPLINK,
    flags: InterfaceFlags::empty(),
    number: NETWORK_NUMBER,
    mac: [0; 6],
    mss: 0,
    vlan: 0,
};

impl Plane {
    /// A data plane whose sessions all have a next hop.
    fn with_next_hop() -> Result<Self> {
        let mut plane = Self::with_rules_of_ipv6()?;
        let (guest, remote) = (At(GUEST, 5000), At(REMOTE, 7000));
        for packet in [udp(guest, remote), tcp(guest, remote, SYN)] {
            plane.out(&packet.bytes())?;
        }
        plane.out(&ping(At(GUEST, 77), REMOTE).bytes())?;
        type Key = Plain<SessionKey<Addr6>>;
        let mut sessions: HashMap<_, Key, Plain<SessionRecord<Addr6>>> =
            HashMap::try_from(Map::HashMap(plane.map("SESSIONS6")?))?;
        let entries: Vec<_> = sessions.iter().collect::<Result<_, _>>()?;
        ensure!(entries.len() == 6, "{} entries", entries.len());
        for (key, Plain(mut record)) in entries {
            record.next_hop = TAG;
            sessions.insert(key, Plain(record), 0)?;
        }
        let mut hops: Array<_, Plain<NextHopRecord>> =
            Array::try_from(Map::Array(plane.map("NEXT_HOPS")?))?;
        let hop = NextHopRecord {
            tag: TAG,
            port: HOOK,
            mtu: MTU as u32,
            destination: GUEST_MAC,
            source: BRIDGE_MAC,
            flags: NextHopFlags::TAKES_FRAMES,
            ..NextHopRecord::default()
        };
        hops.set(next_hops::slot(TAG), Plain(hop), 0)?;
        plane.dataplane.set_fast_until(u32::MAX)?;
        plane
            .dataplane
            .set_interfaces(&BTreeMap::from([(HOOK, UPLINK)]))?;
        Ok(plane)
    }

    /// A frame for the uplink itself.
    fn early(&mut self, frame: &[u8]) -> Result<TestRunOutput> {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&UPLINK.mac);
        self.programs.test_run_xdp(&frame)
    }

    /// Looks that a frame passes unchanged.
    fn passes(&mut self, what: &str, frame: &[u8]) -> Result<()> {
        let output = self.early(frame)?;
        ensure!(output.verdict == PASS, "{what}: verdict {}", output.verdict);
        ensure!(output.packet[6..] == frame[6..], "{what}: changed");
        Ok(())
    }

    /// Looks that a frame is sent to the guest.
    fn is_sent(&mut self, what: &str, frame: &[u8]) -> Result<Vec<u8>> {
        thread::sleep(PAUSE);
        let output = self.early(frame)?;
        ensure!(output.verdict == SENT, "{what}: verdict {}", output.verdict);
        ensure!(output.packet[..12] == [GUEST_MAC, BRIDGE_MAC].concat());
        Ok(output.packet)
    }
}

fn answer(payload: &[u8]) -> Vec<u8> {
    let answer = udp(At(REMOTE, 7000), At(PUBLIC, 5000));
    answer.payload(payload).bytes()
}

#[test]
fn xdp_sends_established_datagrams_of_ipv6_to_the_guest() -> Result<()> {
    let mut plane = Plane::with_next_hop()?;
    let echo = pong(REMOTE, At(PUBLIC, 77)).bytes();
    plane.passes("without the program", &answer(b"answer"))?;
    plane.programs.join_xdp(true)?;
    plane.passes("the first one", &answer(b"answer"))?;
    plane.passes("the first echo", &echo)?;
    for length in [0, 1, 33, MTU - 48] {
        let mut frame = answer(&vec![0x5a; length]);
        // Traffic class and flow label.
        frame[14..18].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45]);
        let sent = plane.is_sent("a datagram", &frame)?;
        // (Reading checks the checksum.)
        let (from, to) = read::<Octets>(&sent).ends();
        ensure!((from, to) == (At(REMOTE, 7000), At(GUEST, 5000)));
        ensure!(sent[14..18] == frame[14..18], "class and label");
        ensure!(sent[HOP_LIMIT] == frame[HOP_LIMIT] - 1);
        ensure!(sent[62..] == frame[62..], "data");
    }
    let sent = plane.is_sent("an echo", &echo)?;
    ensure!(read::<Octets>(&sent).destination.0 == GUEST);
    plane.programs.join_xdp(false)?;
    plane.passes("without the program again", &answer(b"answer"))?;
    // It may be taken away twice.
    plane.programs.join_xdp(false)
}

#[test]
fn xdp_passes_everything_else_of_ipv6_unchanged() -> Result<()> {
    let mut plane = Plane::with_next_hop()?;
    plane.programs.join_xdp(true)?;
    plane.passes("the first one", &answer(b"answer"))?;
    let plain = answer(b"answer");
    let with = |offset: usize, byte: u8| {
        let mut frame = plain.clone();
        frame[offset] = byte;
        frame
    };
    let tagged = [&plain[..12], &[0x81, 0, 0, 0], &plain[12..]].concat();
    let (remote, public) = (At(REMOTE, 7000), At(PUBLIC, 5000));
    let options = [1, 4, 0, 0, 0, 0];
    let fragment = [0, 0, 0, 0, 0, 7];
    const FRAGMENT: u8 = 44;
    for (what, frame) in [
        ("one hop", with(HOP_LIMIT, 1)),
        ("no hop", with(HOP_LIMIT, 0)),
        ("another version", with(14, 0x40)),
        ("another protocol", with(13, 0)),
        ("a tag", tagged),
        ("too large", answer(&[0; MTU - 47])),
        ("cut off", plain[..60].to_vec()),
        ("shorter than a header", plain[..40].to_vec()),
        ("no session", udp(remote, At(PUBLIC, 5001)).bytes()),
        ("TCP", tcp(remote, public, SYN).bytes()),
        (
            "options",
            udp(remote, public)
                .extension(DESTINATION_OPTIONS, &options)
                .bytes(),
        ),
        (
            "a fragment",
            udp(remote, public).extension(FRAGMENT, &fragment).bytes(),
        ),
    ] {
        thread::sleep(PAUSE);
        plane.passes(what, &frame)?;
    }
    plane.is_sent("a datagram", &plain)?;
    // Where prefixes become others, sessions know other addresses.
    let flags = InterfaceFlags::HAS_PREFIXES;
    let uplink = Interface { flags, ..UPLINK };
    plane
        .dataplane
        .set_interfaces(&BTreeMap::from([(HOOK, uplink)]))?;
    thread::sleep(PAUSE);
    plane.passes("prefixes that become others", &plain)?;
    plane
        .dataplane
        .set_interfaces(&BTreeMap::from([(HOOK, UPLINK)]))?;
    plane.is_sent("a datagram", &plain)?;
    // Without a daemon, changes of the host are not followed.
    plane.dataplane.set_fast_until(0)?;
    plane.passes("no lease", &plain)
}
