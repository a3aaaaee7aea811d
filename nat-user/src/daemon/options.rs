//! What the command line says about a daemon.

use std::path::PathBuf;

/// The paths of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Control socket, lock and state.
    pub run_dir: PathBuf,
    /// Pins.
    pub bpffs: PathBuf,
    /// Whether the programs write debug messages.
    pub log_packets: bool,
}
