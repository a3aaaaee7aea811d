//! How a packet is translated.

use crate::{
    headers::{parsed::Parsed, quoted::Quoted},
    tables::sessions::{Session, SessionFlags, SessionRecord},
    translation::{icmp_error::ErrorTranslation, verdict::Verdict},
    wire::address::{Address, Endpoint, Port},
};

/// How a packet is translated. It is in the packet's work area.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Translation<A> {
    /// The packet's verdict after the translation.
    pub verdict: Verdict,
    /// Its source. (For an ICMP error, see [`Self::error`].)
    pub source: Endpoint<A>,
    /// Its destination.
    pub destination: Endpoint<A>,
    /// The packet that an ICMP error quotes, before the translation.
    pub quoted: Quoted<A>,
    /// The addresses of an ICMP error.
    pub error: ErrorTranslation<A>,
    /// Its identification for reassembly.
    pub id: u32,
    /// The largest TCP segment that it may announce, 0 if there is no limit.
    pub mss: u16,
    /// Whether it is counted under [`Self::rule`].
    pub is_counted: bool,
    /// Whether it counts as `in`.
    pub is_in: bool,
    /// Number of the rule under which it counts.
    pub rule: u32,
}

impl<A: Address> Translation<A> {
    /// The value before any packet is decided on.
    pub const EMPTY: Self = {
        let nowhere = Endpoint {
            address: A::UNSPECIFIED,
            port: Port::ZERO,
        };
        Self {
            verdict: Verdict::Translated,
            source: nowhere,
            destination: nowhere,
            quoted: Quoted::EMPTY,
            error: ErrorTranslation {
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                quoted_source: nowhere,
                quoted_destination: nowhere,
            },
            id: 0,
            mss: 0,
            is_counted: false,
            is_in: false,
            rule: 0,
        }
    };

    /// Begins with a packet that keeps its identification and is not counted.
    #[inline(always)]
    pub fn begin(&mut self, parsed: &Parsed<A>) {
        self.verdict = Verdict::Translated;
        self.id = parsed.header.id;
        self.mss = 0;
        self.is_counted = false;
    }

    /// Counts the packet under a rule.
    #[inline(always)]
    pub fn count(&mut self, rule: u32, is_in: bool) {
        self.is_counted = true;
        self.rule = rule;
        self.is_in = is_in;
    }

    /// Translates the packet to the endpoints of its session, and counts it.
    #[inline(always)]
    pub fn of_session(&mut self, session: &Session<A>) {
        self.source = session.source_endpoint();
        self.destination = session.destination_endpoint();
        self.count(session.rule, session.has(SessionFlags::IN));
    }

    /// The same for a packet that has opened its session.
    #[inline(always)]
    pub fn of_opened(&mut self, record: &SessionRecord<A>, is_in: bool) {
        self.verdict = Verdict::Opened;
        self.source = record.source_endpoint();
        self.destination = Endpoint::new(record.destination, record.destination_port);
        self.count(record.rule, is_in);
    }
}
