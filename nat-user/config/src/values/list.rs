//! Lists.

use std::{collections::HashSet, hash::Hash};

use crate::syntax::{Fault, Field};

/// Checks every item of a list; a duplicate is a fault.
pub(crate) fn distinct<'s, T: Clone + Eq + Hash>(
    items: Vec<Field<'s>>,
    check: impl Fn(Field<'s>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    if let [only] = items[..] {
        return Ok(vec![check(only)?]);
    }
    let mut values = Vec::with_capacity(items.len());
    let mut seen = HashSet::with_capacity(items.len());
    for item in items {
        let value = check(item)?;
        if !seen.insert(value.clone()) {
            return Err(item.repeated());
        }
        values.push(value);
    }
    Ok(values)
}
