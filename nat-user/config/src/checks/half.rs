//! Rules about both families.

use crate::model::Family;

/// That a rule never matches; `is_half` if the other family is another matter.
pub(super) fn never<A: Family>(is_half: bool) -> String {
    match is_half {
        true => format!("can never match {}", A::NAME),
        false => "can never match".to_owned(),
    }
}
