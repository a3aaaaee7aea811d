//! Names of interfaces, hosts and domains.

use crate::{
    syntax::{Fault, Field},
    text::words::quote,
};

/// Bytes of an interface's name (the kernel's IFNAMSIZ, without the zero at its end).
const LONGEST_INTERFACE: usize = 15;

/// The name of a network interface, by the rules of the kernel (`dev_valid_name`).
pub(crate) fn interface(field: Field<'_>) -> Result<String, Fault> {
    let name = field.string()?;
    let not_in_a_name = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    let problem = if name.is_empty() || matches!(name, "." | "..") {
        format!("{} is not the name of an interface", quote(name))
    } else if name.len() > LONGEST_INTERFACE {
        format!(
            "{} has {} bytes, but the name of an interface has at most {LONGEST_INTERFACE}",
            quote(name),
            name.len()
        )
    } else if let Some(c) = name.chars().find(|c| not_in_a_name(*c)) {
        format!(
            "{} holds {c:?}, which the name of an interface cannot contain",
            quote(name)
        )
    } else {
        return Ok(name.to_owned());
    };
    Err(field.fault(problem, "write a name as `ip link` shows it"))
}

/// The longest label of a name (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;
/// The longest name, without the dot at its end.
const LONGEST_DOMAIN: usize = 253;

/// Whether a text can be the name of a host, without its domain (RFC 1123 section 2.1; the
/// underscore, which many use, passes as well).
pub(crate) fn is_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.chars().all(inside)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A domain, such as `"lan"` or `"guests.example.org"`.
pub(crate) fn domain(field: Field<'_>) -> Result<String, Fault> {
    let text = field.string()?;
    if text.len() <= LONGEST_DOMAIN && text.split('.').all(is_label) {
        return Ok(text.to_ascii_lowercase());
    }
    let remedy = "write names between dots, as in \"lan\" or \"guests.example.org\"";
    Err(field.fault(format!("{} is not a domain", quote(text)), remedy))
}
