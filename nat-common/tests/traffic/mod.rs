//! Traffic between guests and remotes of a host in memory: what one end sends, and what the other
//! must receive.

mod properties;

use crate::family::{ICMP, Ip, PUBLIC, World, host, read};
use kit::{
    packets::{At, GRE, answer, request},
    world::{Hook, LAN, UPLINK},
};
use nat_common::{
    pipeline::Verdict,
    wire::protocol::{TCP, UDP},
};

/// The protocols that traffic is made of: with ports, with an identifier, and with neither.
pub(crate) const PROTOCOLS: [u8; 4] = [UDP, TCP, ICMP, GRE];

/// The guest that ports are forwarded to.
const SERVER: u8 = 0;

/// The packet after the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Dropped,
    Untouched(Vec<u8>),
    Translated(Vec<u8>),
}

/// Protocol, source and destination of a packet whose checksums are right.
type Flow = (u8, At<Ip>, At<Ip>);

/// What a remote has received, and the guest's endpoint that it came from.
type Received = (Flow, At<Ip>);

pub(crate) struct Traffic {
    world: World,
    /// What each remote has last received, and from which guest's endpoint it came.
    received: [Option<Received>; 3],
}

fn guest(number: u8) -> Ip {
    host([172, 22, 161, 170 + number])
}

fn remote(number: u8) -> Ip {
    host([198, 51, 100, 2 + number])
}

impl Traffic {
    pub(crate) fn new() -> Self {
        let mut world = World::new();
        let server = At(guest(SERVER), 80);
        for protocol in [UDP, TCP] {
            world.forward(protocol, 10_000..=10_099, server);
        }
        world.forward(ICMP, 0..=0, At(server.0, 0));
        Self {
            world,
            received: [None; 3],
        }
    }

    pub(crate) fn request(&self, protocol: u8) -> Vec<u8> {
        request(protocol, At(remote(0), 4000), At(PUBLIC, 10_000)).bytes()
    }

    pub(crate) fn guest_sends(&mut self, from: u8, to: u8, port: u8, protocol: u8) {
        let internal = At(guest(from), 5000 + u16::from(port));
        let sent = request(protocol, internal, At(remote(to), 7000)).bytes();
        let Some(outside) = self.out(&sent) else {
            return;
        };
        let (_, source, destination) = outside;
        assert_eq!(source.0, PUBLIC, "left with an inside address");
        assert_eq!(destination, read(&sent).destination);
        self.received[usize::from(to)] = Some((outside, internal));
    }

    pub(crate) fn remote_answers(&self, from: u8) {
        let Some(((protocol, source, destination), internal)) = self.received[usize::from(from)]
        else {
            return;
        };
        match self.inbound(&answer(protocol, destination, source).bytes()) {
            Outcome::Translated(packet) => {
                let seen = read(&packet);
                assert_eq!(seen.destination.0, internal.0, "answer to the wrong guest");
                if protocol != GRE {
                    assert_eq!(seen.destination.1, internal.1, "answer to the wrong port");
                }
            }
            // Its session has expired.
            Outcome::Dropped | Outcome::Untouched(_) => {}
        }
    }

    pub(crate) fn remote_asks(&self, from: u8, port: u8, protocol: u8) {
        let client = At(remote(from), 4000);
        let external = At(PUBLIC, 10_000 + u16::from(port));
        let Outcome::Translated(packet) =
            self.inbound(&request(protocol, client, external).bytes())
        else {
            return;
        };
        let seen = read(&packet);
        assert_eq!(seen.destination.0, guest(SERVER));
        let answered = answer(protocol, seen.destination, seen.source).bytes();
        let outside = self.out(&answered).expect("an answer leaves");
        assert_eq!(outside, flow(&answer(protocol, external, client).bytes()));
    }

    pub(crate) fn guest_asks_by_public_address(&self, from: u8, port: u8, protocol: u8) {
        let client = At(guest(from), 5000 + u16::from(port));
        let external = At(PUBLIC, 10_000 + u16::from(port));
        let asked = request(protocol, client, external).bytes();
        let Some((_, source, destination)) = self.between_guests(&asked) else {
            return;
        };
        assert_eq!((source.0, destination.0), (PUBLIC, guest(SERVER)));
        let back = self
            .between_guests(&answer(protocol, destination, source).bytes())
            .expect("an answer passes");
        assert_eq!(back, flow(&answer(protocol, external, client).bytes()));
    }

    /// Time passes, and the daemon looks for idle sessions.
    pub(crate) fn wait(&mut self, seconds: u32) {
        self.world.wait(seconds);
    }

    pub(crate) fn assert_empty(&self) {
        let [sessions, mappings, ports, permits] = self.world.entries();
        let guests = self.world.tables.guests.entries().len();
        assert_eq!(
            [sessions, mappings, ports, permits, guests],
            [0; 5],
            "sessions, mappings, ports, permits, guests"
        );
    }

    pub(crate) fn at_every_hook(&self, bytes: &[u8]) -> Vec<Outcome> {
        vec![
            self.inbound(bytes),
            self.run(bytes, UPLINK, LAN, Hook::Outbound),
            self.run(bytes, UPLINK, 0, Hook::Outbound),
            self.run(bytes, LAN, LAN, Hook::FromGuest),
            self.run(bytes, LAN, LAN, Hook::ToGuest),
            self.run(bytes, LAN, 0, Hook::ToGuest),
        ]
    }

    fn inbound(&self, bytes: &[u8]) -> Outcome {
        self.run(bytes, UPLINK, UPLINK, Hook::Inbound)
    }

    /// From a guest by the kernel's routing to the uplink.
    fn out(&self, bytes: &[u8]) -> Option<Flow> {
        let packet = match self.run(bytes, LAN, LAN, Hook::FromGuest) {
            Outcome::Untouched(packet) => packet,
            other => panic!("{other:?} at the network's ingress"),
        };
        match self.run(&packet, UPLINK, LAN, Hook::Outbound) {
            Outcome::Translated(packet) => Some(flow(&packet)),
            Outcome::Dropped => None,
            Outcome::Untouched(_) => panic!("left untranslated"),
        }
    }

    /// From a guest by the kernel's routing to a guest.
    fn between_guests(&self, bytes: &[u8]) -> Option<Flow> {
        let packet = match self.run(bytes, LAN, LAN, Hook::FromGuest) {
            Outcome::Translated(packet) => packet,
            Outcome::Dropped => return None,
            Outcome::Untouched(_) => panic!("not hairpinned"),
        };
        match self.run(&packet, LAN, LAN, Hook::ToGuest) {
            Outcome::Translated(packet) => Some(flow(&packet)),
            other => panic!("{other:?} at the network's egress"),
        }
    }

    fn run(&self, bytes: &[u8], interface: u32, ingress: u32, hook: Hook) -> Outcome {
        match self.world.run(hook, bytes, interface, ingress) {
            Ok((Verdict::Untouched, packet)) => Outcome::Untouched(packet),
            Ok((Verdict::Translated | Verdict::Opened | Verdict::ReceivedAnew, packet)) => {
                Outcome::Translated(packet)
            }
            Ok((Verdict::Forwarded, _)) => panic!("there is no next hop"),
            Ok((Verdict::Beyond | Verdict::Dropped(_), _)) => panic!("undecided"),
            Ok((Verdict::Queued, _)) | Err(_) => Outcome::Dropped,
        }
    }
}

fn flow(packet: &[u8]) -> Flow {
    let seen = read(packet);
    (seen.protocol, seen.source, seen.destination)
}
