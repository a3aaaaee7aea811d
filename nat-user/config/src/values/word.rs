//! Values with a few possible words.

use crate::{
    model::{Action, Forwarding},
    syntax::{Fault, Field},
};

/// The path of packets of established sessions.
pub(crate) fn forwarding(field: Field<'_>) -> Result<Forwarding, Fault> {
    field.choice(&[("fast", Forwarding::Fast), ("kernel", Forwarding::Kernel)])
}

/// `"accept"` or `"drop"`.
pub(crate) fn action(field: Field<'_>) -> Result<Action, Fault> {
    field.choice(&[("accept", Action::Accept), ("drop", Action::Drop)])
}
