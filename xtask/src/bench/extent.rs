//! How much is measured, and where a run is.

/// How much of everything.
pub(crate) struct Extent {
    /// Rounds of short measurements.
    pub(crate) rounds: u32,
    /// Rounds of transfers.
    pub(crate) bulk_rounds: u32,
    /// Whether transfers also go against the direction in which they were opened.
    pub(crate) downloads: bool,
    /// Exchanges of one measurement of latency.
    pub(crate) exchanges: usize,
    /// Numbers of forwards.
    pub(crate) forwards: Vec<u32>,
    /// Numbers of sessions; the first one is what the others are compared with.
    pub(crate) sessions: Vec<u32>,
}

/// Says where the run is.
pub(crate) fn progress(what: &str, round: u32, rounds: u32) {
    eprintln!("{what}: round {round} of {rounds}");
}
