//! A value with its place.

use crate::syntax::Section;

/// A value with the table from which it was read.
#[derive(Debug)]
pub(crate) struct Item<'a, T> {
    pub(crate) section: Section<'a>,
    pub(crate) value: T,
}
