//! Reading one value: its type, its bounds, its form.

use std::borrow::Cow;

use toml::{Spanned, de::DeValue};

use super::{
    report::Fault,
    section::{Key, Section},
    value::{items, kind},
};
use crate::text::{suggest, words::quote};

/// One value of a [`Section`], or one item of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'s> {
    pub(super) section: &'s Section<'s>,
    pub(super) key: &'static Key,
    pub(super) value: &'s Spanned<DeValue<'s>>,
}

impl<'s> Field<'s> {
    /// A fault at this value.
    pub(crate) fn fault(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            at: self.value.span().start,
            key: self.section.key_path(self.key.name),
            problem: problem.into(),
            see: None,
            remedy: remedy.into(),
        }
    }

    /// The fault of an item that appears earlier in the same list.
    pub(crate) fn repeated(&self) -> Fault {
        let written = match self.value.get_ref() {
            DeValue::String(text) => quote(text),
            DeValue::Integer(integer) => format!("`{integer}`"),
            value => kind(value).to_owned(),
        };
        self.fault(format!("{written} is in the list twice"), "write it once")
    }

    /// Byte offset of this value.
    pub(crate) fn at(&self) -> usize {
        self.value.span().start
    }

    fn wants(&self, what: &str) -> Fault {
        self.fault(
            format!("must be {what}, not {}", kind(self.value.get_ref())),
            format!("write {} = {}", self.key.name, self.key.example),
        )
    }

    pub(crate) fn string(&self) -> Result<&'s str, Fault> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.wants("a string")),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool, Fault> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.wants("true or false")),
        }
    }

    /// An integer from `least` to `most`.
    pub(crate) fn integer(&self, least: u32, most: u32) -> Result<u32, Fault> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.wants("an integer"));
        };
        let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.and_then(|value| u32::try_from(value).ok());
        value
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| {
                self.fault(
                    format!("{integer} is out of range"),
                    format!("write a number from {least} to {most}"),
                )
            })
    }

    /// Text that stands for a port or a range: a string, or an integer's digits.
    pub(crate) fn digits(&self) -> Result<Cow<'s, str>, Fault> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(Cow::Borrowed(text.trim())),
            DeValue::Integer(integer) if integer.radix() == 10 => {
                Ok(Cow::Borrowed(integer.as_str().trim_start_matches('+')))
            }
            DeValue::Integer(integer) => {
                let value = i64::from_str_radix(integer.as_str(), integer.radix());
                Ok(Cow::Owned(value.map_or_else(
                    |_| integer.to_string(),
                    |value| value.to_string(),
                )))
            }
            _ => Err(self.wants("a port or a range of ports")),
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let text = self.string()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words = choices.iter().map(|(word, _)| *word);
        let remedy = match suggest::nearest(text, words.clone()) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => {
                let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
                format!("write one of {}", words.join(", "))
            }
        };
        Err(self.fault(format!("unknown value {}", quote(text)), remedy))
    }

    /// The items of a list; a single value is a list of one.
    pub(crate) fn items(self) -> Vec<Field<'s>> {
        items(self.value)
            .into_iter()
            .map(|value| Field { value, ..self })
            .collect()
    }

    /// The same, where an empty list is a fault.
    pub(crate) fn some_items(self) -> Result<Vec<Field<'s>>, Fault> {
        self.items_or(", or leave it out")
    }

    /// The same for a required key.
    pub(crate) fn required_items(self) -> Result<Vec<Field<'s>>, Fault> {
        self.items_or("")
    }

    fn items_or(self, alternative: &str) -> Result<Vec<Field<'s>>, Fault> {
        let items = self.items();
        if items.is_empty() {
            let (name, example) = (self.key.name, self.key.example);
            let remedy = format!("write {name} = {example}{alternative}");
            return Err(self.fault("is an empty list", remedy));
        }
        Ok(items)
    }
}
