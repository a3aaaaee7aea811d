//! Filling in placeholders such as `{n}`.

use std::fmt;

use super::list::{List, Value};
use crate::text::words::{quote, shortened};

/// The values of one instance.
pub(super) struct Bindings<'l> {
    lists: &'l [List<'l>],
    index: usize,
}

impl<'l> Bindings<'l> {
    pub(super) fn new(lists: &'l [List<'l>], index: usize) -> Self {
        Self { lists, index }
    }

    fn get(&self, name: &str) -> Option<&'l Value> {
        let list = self.lists.iter().find(|list| list.name == name)?;
        list.values.get(self.index)
    }
}

/// `n = 17, address = 192.0.2.16`.
impl fmt::Display for Bindings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, list) in self.lists.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            let value = list.values[self.index].to_string();
            write!(f, "{separator}{} = {}", list.name, shortened(&value))?;
        }
        Ok(())
    }
}

/// Far more than any value has.
const MOST_FILLED: usize = 16_384;

/// A text with its placeholders filled in; nothing if there are none. The error is problem and
/// remedy.
pub(super) fn fill(
    text: &str,
    bindings: &Bindings<'_>,
) -> Result<Option<String>, (String, String)> {
    if !text.contains(['{', '}']) {
        return Ok(None);
    }
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        if filled.len() > MOST_FILLED {
            let problem = format!("{} becomes longer than {MOST_FILLED} bytes", quote(text));
            return Err((problem, "write a shorter text".to_owned()));
        }
        filled.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            filled.push_str(brace);
            rest = after;
        } else if let (true, Some((inner, after))) = (brace == "{", rest.split_once('}')) {
            filled.push_str(&value(inner, bindings)?);
            rest = after;
        } else {
            let problem = format!("{} contains a single `{brace}`", quote(text));
            return Err((problem, format!("write {brace}{brace} for a literal brace")));
        }
    }
    filled.push_str(rest);
    Ok(Some(filled))
}

/// The text for `n`, `n:03`, `n:x` or `n:02x`.
fn value(inner: &str, bindings: &Bindings<'_>) -> Result<String, (String, String)> {
    let (name, form) = match inner.split_once(':') {
        Some((name, form)) => (name, Some(form)),
        None => (inner, None),
    };
    let Some(value) = bindings.get(name) else {
        let problem = format!(
            "there is no list {} for {{{}}}",
            quote(name),
            shortened(inner)
        );
        let names: Vec<_> = bindings.lists.iter().map(|list| quote(list.name)).collect();
        let remedy = format!(
            "the lists of this template are {} (write a literal brace twice)",
            names.join(", ")
        );
        return Err((problem, remedy));
    };
    let Some(form) = form else {
        return Ok(value.to_string());
    };
    formatted(value, form).ok_or_else(|| {
        let problem = format!(
            "{{{}}} cannot be written for {}",
            shortened(inner),
            quote(&value.to_string())
        );
        let remedy = format!(
            "write {{{name}:03}} for three digits of an integer, {{{name}:02x}} for two in base 16"
        );
        (problem, remedy)
    })
}

/// No interface, address or port needs more digits.
const MOST_DIGITS: usize = 16;

fn formatted(value: &Value, form: &str) -> Option<String> {
    let integer = match value {
        Value::Integer(integer) => *integer,
        // A number in a list may be written as text.
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
        Value::Text(_) => return None,
    };
    let (width, is_hex) = match form.strip_suffix('x') {
        Some(width) => (width, true),
        None => (form, false),
    };
    let width = match width.strip_prefix('0') {
        Some(width) => width.parse().ok().filter(|width| *width <= MOST_DIGITS)?,
        None if width.is_empty() && is_hex => 1,
        None => return None,
    };
    Some(match is_hex {
        true => format!("{integer:0width$x}"),
        false => format!("{integer:0width$}"),
    })
}
