//! What a command needs of the set-up.

/// What a command is about to do, and so what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// The BPF toolchain.
    Build,
    /// Also the programs that the lab runs.
    Lab,
    /// Also the other NATs that natbpf is measured against.
    Bench,
    /// Also the formatter and clippy, for the host and for BPF, and what fuzzing needs.
    Tests,
}
