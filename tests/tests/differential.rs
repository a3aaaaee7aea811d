//! natbpf compared with netfilter, packet by packet. Needs root.
//!
//! The same random packets are put on the wires of two hosts that are alike but for one thing:
//! the one translates with nftables, the other with natbpf. What comes out must be the same, but
//! for the ports that each chooses, or be one of the differences in [`differential::decisions`].
//!
//! `NATBPF_DIFF_SEED` and `NATBPF_DIFF_PACKETS` say which packets and how many.

mod differential {
    pub(crate) mod compare;
    pub(crate) mod decisions;
    pub(crate) mod generate;
    mod ipv6;
    pub(crate) mod model;
    mod run;
    mod tests;
    pub(crate) mod twin;
}
