//! What is known at a line of a file.

use std::net::Ipv4Addr;

use super::blocks::Blocks;
use crate::{dump::Dump, shell::Variables};

/// What happens to the lines that a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// iptables-restore loads them.
    Loaded,
    /// They are for another host, or for a command that does not run.
    Elsewhere,
    /// Another program takes them, or a file.
    Others,
}

/// Between `*nat` and `COMMIT`, or after the chains of `iptables -S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InTable {
    pub(super) name: String,
    /// Whether `COMMIT` ends it.
    pub(super) is_saved: bool,
}

#[derive(Default)]
pub(super) struct Reader {
    pub(super) dump: Dump,
    pub(super) table: Option<InTable>,
    /// Lines, chains and policies since the last other line of `iptables -S`.
    pub(super) list: Vec<(usize, String, String)>,
    pub(super) is_interfaces: bool,
    /// Of `/etc/network/interfaces` the interface at hand, with its address until the netmask
    /// comes.
    pub(super) interface: Option<String>,
    pub(super) address: Option<Ipv4Addr>,
    /// The section of wg-quick's file, or of a unit.
    pub(super) section: Option<String>,
    pub(super) own_name: Option<String>,
    pub(super) variables: Variables,
    pub(super) blocks: Blocks,
    /// The word that ends the lines which a command reads, and what happens to them.
    pub(super) here: Option<(String, Input)>,
    /// Whether the script has ended.
    pub(super) has_ended: bool,
}
