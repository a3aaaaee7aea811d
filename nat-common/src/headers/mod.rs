//! What the headers of one packet say, read once. Nothing here knows a table.

pub mod dhcp;
pub mod offloads;
pub mod parsed;
pub mod quoted;
