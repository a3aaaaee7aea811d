//! Random traffic between guests and remotes runs through the hooks in the order of a real host,
//! and after each packet what must always hold is checked.

use kit::packets::ETHERNET;
use proptest::{collection::vec, prelude::*};

use super::{Outcome, PROTOCOLS, Traffic};
use crate::family::HEADER;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A guest sends to a remote.
    Send {
        guest: u8,
        remote: u8,
        port: u8,
        protocol: usize,
    },
    /// A remote answers what it has last received.
    Answer { remote: u8 },
    /// A remote sends to a forwarded port.
    Ask {
        remote: u8,
        port: u8,
        protocol: usize,
    },
    /// A guest sends to a forwarded port by the public address.
    Hairpin {
        guest: u8,
        port: u8,
        protocol: usize,
    },
    /// Time passes, and idle sessions end.
    Wait { seconds: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let protocol = 0..PROTOCOLS.len();
    // Without ports, what a remote sends is the guest's that talks to it already.
    let with_ports = 0..PROTOCOLS.len() - 1;
    prop_oneof![
        4 => (0..3u8, 0..3u8, 0..4u8, protocol).prop_map(
            |(guest, remote, port, protocol)| Step::Send { guest, remote, port, protocol }
        ),
        4 => (0..3u8).prop_map(|remote| Step::Answer { remote }),
        2 => (0..3u8, 0..4u8, with_ports.clone()).prop_map(
            |(remote, port, protocol)| Step::Ask { remote, port, protocol }
        ),
        2 => (0..3u8, 0..4u8, with_ports).prop_map(
            |(guest, port, protocol)| Step::Hairpin { guest, port, protocol }
        ),
        1 => (0..400u16).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// No inside address leaves, every checksum is right, answers reach who asked, and when all
    /// sessions have expired every table is empty.
    #[test]
    fn random_traffic_keeps_the_invariants(steps in vec(step(), 1..80)) {
        let mut traffic = Traffic::new();
        for step in steps {
            match step {
                Step::Send { guest, remote, port, protocol } => {
                    traffic.guest_sends(guest, remote, port, PROTOCOLS[protocol]);
                }
                Step::Answer { remote } => traffic.remote_answers(remote),
                Step::Ask { remote, port, protocol } => {
                    traffic.remote_asks(remote, port, PROTOCOLS[protocol]);
                }
                Step::Hairpin { guest, port, protocol } => {
                    traffic.guest_asks_by_public_address(guest, port, PROTOCOLS[protocol]);
                }
                Step::Wait { seconds } => traffic.wait(seconds.into()),
            }
        }
        traffic.wait(10_000);
        traffic.assert_empty();
    }

    /// Whatever the bytes are, nothing is read beyond them, and what is not translated is as it
    /// came.
    #[test]
    fn any_bytes_are_dropped_or_left_as_they_are(bytes in vec(any::<u8>(), 0..200)) {
        let traffic = Traffic::new();
        for outcome in traffic.at_every_hook(&bytes) {
            if let Outcome::Untouched(after) = outcome {
                prop_assert_eq!(&after, &bytes);
            }
        }
    }

    /// A valid packet with a few bytes changed does no harm either.
    #[test]
    fn damaged_packets_are_dropped_or_left_as_they_are(
        damage in vec((ETHERNET..ETHERNET + HEADER + 26, any::<u8>()), 1..4),
        len in 0..HEADER + 40,
    ) {
        let traffic = Traffic::new();
        let mut bytes = traffic.request(PROTOCOLS[0]);
        for (offset, value) in damage {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().min(ETHERNET + len));
        for outcome in traffic.at_every_hook(&bytes) {
            if let Outcome::Untouched(after) = outcome {
                prop_assert_eq!(&after, &bytes);
            }
        }
    }
}
