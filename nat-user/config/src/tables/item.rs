//! A value with its place.

use crate::syntax::Section;

/// A value with the table from which it was read.
#[derive(Debug)]
pub(crate) struct Item<'a, T> {
    pub(crate) section: Section<'a>,
    pub(crate) value: T,
    /// Whether the table also says something about the other family.
    pub(crate) is_half: bool,
}

impl<'a, T> Item<'a, T> {
    pub(crate) fn new(section: Section<'a>, value: T) -> Self {
        Self {
            section,
            value,
            is_half: false,
        }
    }
}

/// What a table says about IPv4 and about IPv6.
pub(crate) type Halves<T, U> = (Option<T>, Option<U>);

/// The items of each family.
pub(super) fn by_family<T, U>(
    items: Vec<Item<'_, Halves<T, U>>>,
) -> (Vec<Item<'_, T>>, Vec<Item<'_, U>>) {
    let (mut of_ipv4, mut of_ipv6) = (Vec::new(), Vec::new());
    for Item { section, value, .. } in items {
        let (ipv4, ipv6) = value;
        let is_half = ipv4.is_some() && ipv6.is_some();
        of_ipv4.extend(ipv4.map(|value| Item {
            section: section.clone(),
            value,
            is_half,
        }));
        of_ipv6.extend(ipv6.map(|value| Item {
            section,
            value,
            is_half,
        }));
    }
    (of_ipv4, of_ipv6)
}
