//! From text to TOML tables whose parts have their place, and from faults to messages.
//!
//! Nothing here knows what a table means.

mod diagnostic;
mod field;
mod keys;
mod name;
mod notation;
mod places;
mod report;
mod section;
mod tables;
mod template;
mod value;

pub use self::diagnostic::{ConfigError, Diagnostic};
pub(crate) use self::{
    field::Field,
    places::Places,
    report::{Fault, Report},
    section::{Key, Section, key},
    tables::locate,
    template::{Document, document},
};
