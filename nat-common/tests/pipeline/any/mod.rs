//! What no packet takes part in, and so no family.

mod layout;
mod records;
