//! Adding an entry to a table.

use crate::drop_reason::DropReason;

/// Why an entry was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// The key exists already.
    Exists,
    /// The table is full.
    Full,
}

impl From<InsertError> for DropReason {
    fn from(_: InsertError) -> Self {
        Self::TableFull
    }
}
