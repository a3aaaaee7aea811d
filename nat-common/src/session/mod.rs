//! Sessions: how they are opened, adopted and ended, and what they refer to.

pub mod adoption;
pub mod ending;
pub mod entries;
pub mod external;
pub mod lease;
pub mod limits;
pub mod open_forward;
pub mod open_hairpin;
pub mod open_host;
pub mod open_mapping;
pub mod open_outbound;
pub mod open_plain;
pub mod opening;
pub mod references;
pub mod tracking;
