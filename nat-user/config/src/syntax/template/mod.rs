//! `[[template]]`: tables that are written once and stand for many.
//!
//! A template is expanded on the parsed TOML, before anything looks at what its tables mean, so
//! that every kind of table can be in one. Its *lists* advance together: the first values of all
//! lists give the first *instance*, and so on. A value of an instance has no place in the text. It
//! gets an offset behind the end of the text, from which [`Places`] finds its place in the template
//! and its instance.

mod list;
mod placeholder;

use std::{borrow::Cow, collections::BTreeMap};

use toml::{
    Spanned,
    de::{DeArray, DeString, DeTable, DeValue},
};

use self::{
    list::{FOR, List},
    placeholder::{Bindings, fill},
};
use super::{notation, places::Places, report::Fault, value::kind};
use crate::text::words::{dotted, quote};

const TEMPLATE: &str = "template";

/// A parsed TOML file with its templates expanded.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    pub(crate) table: DeTable<'t>,
    pub(crate) places: Places,
}

/// Parses a whole file and expands its templates. Errors are in the order of the file.
pub(crate) fn document(text: &str) -> Result<Document<'_>, (Fault, Vec<Fault>)> {
    let mut table = notation::document(text)?.into_inner();
    let mut expansion = Expansion::new(text);
    if let Some(templates) = table.remove(TEMPLATE) {
        expansion.all(&templates, &mut table);
    }
    let mut faults = expansion.faults;
    faults.sort_by_key(|fault| fault.at);
    let mut faults = faults.into_iter();
    match faults.next() {
        None => Ok(Document {
            table,
            places: expansion.places,
        }),
        Some(first) => Err((first, faults.collect())),
    }
}

struct Expansion<'t> {
    places: Places,
    faults: Vec<Fault>,
    /// The tables `[[KEY]]` that were made.
    rules: BTreeMap<String, Rules<'t>>,
    /// How many bytes of text were made.
    text_len: usize,
}

/// How many values templates may create, including keys and tables: enough for 65,536 forwards with
/// all keys.
const MOST_VALUES: usize = 1 << 20;
/// How much text they may create.
const MOST_TEXT: usize = 16 << 20;

/// Tables `[[KEY]]` of templates.
struct Rules<'t> {
    /// Where the first of them was made.
    at: usize,
    /// Each with the offset of its template.
    made: Vec<(usize, Spanned<DeValue<'t>>)>,
}

/// One template.
struct Template<'v, 't> {
    /// Such as `template.template-1`.
    path: String,
    /// Offset of its header.
    at: usize,
    lists: Vec<List<'v>>,
    table: &'v DeTable<'t>,
}

impl<'t> Expansion<'t> {
    fn new(text: &str) -> Self {
        Self {
            places: Places::new(text.len()),
            faults: Vec::new(),
            rules: BTreeMap::new(),
            text_len: 0,
        }
    }

    /// Whether the templates have created too much, including the descriptions of instances: a
    /// small text may expand to more than the memory.
    fn is_too_much(&self) -> bool {
        self.places.made() > MOST_VALUES || self.text_len > MOST_TEXT
    }

    fn all(&mut self, templates: &Spanned<DeValue<'t>>, root: &mut DeTable<'t>) {
        let DeValue::Array(items) = templates.get_ref() else {
            return self.wrong_shape(TEMPLATE, templates, "[[template]]");
        };
        for (index, item) in items.iter().enumerate() {
            let path = dotted(&[TEMPLATE, &format!("{TEMPLATE}-{}", index + 1)]);
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong_shape(&path, item, "[[template]]");
                continue;
            };
            let at = item.span().start;
            match list::read(&path, at, table) {
                Ok(lists) => {
                    let template = Template {
                        path,
                        at,
                        lists,
                        table,
                    };
                    self.instances(&template, root);
                }
                Err(fault) => self.faults.push(fault),
            }
        }
        for (key, rules) in std::mem::take(&mut self.rules) {
            self.add_rules(&key, rules, root);
        }
    }

    /// Creates one instance after the other until a fault is found.
    fn instances(&mut self, template: &Template<'_, 't>, root: &mut DeTable<'t>) {
        let count = template.lists.first().map_or(0, |list| list.values.len());
        let before = self.faults.len();
        for index in 0..count {
            let bindings = Bindings::new(&template.lists, index);
            let shown = bindings.to_string();
            self.text_len += shown.len();
            self.places.begin_instance(shown);
            for (key, value) in template.table {
                if key.get_ref() != FOR {
                    self.kind(template, &bindings, key, value, root);
                }
            }
            if self.is_too_much() {
                return self.too_much(template, index, count);
            }
            // The other instances have the same faults, or consequences of them.
            if self.faults.len() > before {
                return;
            }
        }
    }

    fn too_much(&mut self, template: &Template<'_, 't>, index: usize, count: usize) {
        let problem = format!(
            "makes more than {MOST_VALUES} values or {} MiB of text by instance {} of {count}",
            MOST_TEXT >> 20,
            index + 1
        );
        let remedy = "write shorter lists or fewer tables";
        self.fault(template.at, template.path.clone(), &problem, remedy);
    }

    /// All tables of a kind in one instance.
    fn kind(
        &mut self,
        template: &Template<'_, 't>,
        bindings: &Bindings<'_>,
        key: &Spanned<DeString<'t>>,
        value: &Spanned<DeValue<'t>>,
        root: &mut DeTable<'t>,
    ) {
        let path = format!("{}.{}", template.path, dotted(&[key.get_ref()]));
        let name = key.get_ref();
        match value.get_ref() {
            _ if name == TEMPLATE => {
                let problem = "a template cannot be inside another template";
                let remedy = "write it on its own, with lists that name every combination";
                self.fault(key.span().start, path, problem, remedy);
            }
            DeValue::Array(items) => {
                let items = items.iter();
                let made: Vec<_> = items
                    .map(|item| (template.at, self.value(&path, bindings, item)))
                    .collect();
                let at = self.places.add(key.span().start);
                let rules = self.rules.entry(name.to_string());
                let rules = rules.or_insert_with(|| Rules {
                    at,
                    made: Vec::new(),
                });
                rules.made.extend(made);
            }
            DeValue::Table(named) => self.named(&path, bindings, (key, named), root),
            other => {
                let problem = format!("a template contains only tables, not {}", kind(other));
                let remedy = "write it above all tables, or as [[template.KIND]]";
                self.fault(value.span().start, path, &problem, remedy);
            }
        }
    }

    /// The tables `[KIND.NAME]` of one instance.
    fn named(
        &mut self,
        path: &str,
        bindings: &Bindings<'_>,
        (key, named): (&Spanned<DeString<'t>>, &DeTable<'t>),
        root: &mut DeTable<'t>,
    ) {
        let at = self.places.add(key.span().start);
        let kind = Spanned::new(at..at, key.get_ref().clone());
        for (name, value) in named {
            let name = self.key(path, bindings, name);
            let value = self.value(path, bindings, value);
            let of_kind = root
                .entry(kind.clone())
                .or_insert_with(|| Spanned::new(at..at, DeValue::Table(DeTable::new())));
            let DeValue::Table(of_kind) = of_kind.get_mut() else {
                return self.mixed(key.get_ref(), at, root.get(key.get_ref().as_ref()));
            };
            if let Some(other) = of_kind.get(name.get_ref().as_ref()) {
                let fault = self.made_twice(key.get_ref(), &name, other);
                self.faults.push(fault);
                continue;
            }
            of_kind.insert(name, value);
        }
    }

    /// A kind of table that appears in two forms.
    fn mixed(&mut self, kind: &str, at: usize, other: Option<&Spanned<DeValue<'t>>>) {
        let at = self.places.written(at);
        let other = other.map(|other| self.places.written(other.span().start));
        self.faults.push(Fault {
            at,
            key: dotted(&[kind]),
            problem: format!("is both [{kind}.NAME] and [[{kind}]]"),
            see: other,
            remedy: "use the same form in the template as elsewhere".to_owned(),
        });
    }

    fn made_twice(
        &self,
        kind: &str,
        name: &Spanned<DeString<'t>>,
        other: &Spanned<DeValue<'t>>,
    ) -> Fault {
        let (at, before) = (name.span().start, other.span().start);
        let shown = quote(name.get_ref());
        let instance = self.places.instance(at).unwrap_or_default();
        let problem = match self.places.instance(before) {
            Some(first) => format!("both {first} and {instance} create a table {shown}"),
            None => format!("{instance} creates a table {shown}, which already exists"),
        };
        Fault {
            at: self.places.written(at),
            key: dotted(&[kind, name.get_ref()]),
            problem,
            see: Some(self.places.written(before)),
            remedy: "give each its own name, with a placeholder such as {n}".to_owned(),
        }
    }

    /// Inserts the created tables `[[KEY]]` at the place of their templates.
    fn add_rules(&mut self, key: &str, Rules { at, mut made }: Rules<'t>, root: &mut DeTable<'t>) {
        let present = root.remove(key);
        match present.as_ref().map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => {
                let written = items.iter().map(|item| (item.span().start, item.clone()));
                made.extend(written);
                made.sort_by_key(|(offset, _)| *offset);
            }
            Some(_) => return self.mixed(key, at, present.as_ref()),
            None => {}
        }
        let mut array = DeArray::new();
        made.into_iter().for_each(|(_, item)| array.push(item));
        let key = Spanned::new(at..at, Cow::from(key.to_owned()));
        root.insert(key, Spanned::new(at..at, DeValue::Array(array)));
    }

    /// A value with all placeholders filled in.
    fn value(
        &mut self,
        path: &str,
        bindings: &Bindings<'_>,
        value: &Spanned<DeValue<'t>>,
    ) -> Spanned<DeValue<'t>> {
        let start = value.span().start;
        let filled = match value.get_ref() {
            DeValue::String(text) => DeValue::String(self.text(path, bindings, text, start)),
            DeValue::Array(items) => {
                let mut array = DeArray::new();
                for item in items.iter() {
                    array.push(self.value(path, bindings, item));
                }
                DeValue::Array(array)
            }
            DeValue::Table(table) => {
                let mut filled = DeTable::new();
                for (name, value) in table {
                    let path = format!("{path}.{}", dotted(&[name.get_ref()]));
                    let key = self.key(&path, bindings, name);
                    let value = self.value(&path, bindings, value);
                    filled.insert(key, value);
                }
                DeValue::Table(filled)
            }
            other => other.clone(),
        };
        let at = self.places.add(start);
        Spanned::new(at..at, filled)
    }

    fn key(
        &mut self,
        path: &str,
        bindings: &Bindings<'_>,
        key: &Spanned<DeString<'t>>,
    ) -> Spanned<DeString<'t>> {
        let start = key.span().start;
        let filled = self.text(path, bindings, key.get_ref(), start);
        let at = self.places.add(start);
        Spanned::new(at..at, filled)
    }

    fn text(
        &mut self,
        path: &str,
        bindings: &Bindings<'_>,
        text: &DeString<'t>,
        at: usize,
    ) -> DeString<'t> {
        match fill(text, bindings) {
            Ok(Some(filled)) => {
                self.text_len += filled.len();
                Cow::Owned(filled)
            }
            Ok(None) => {
                // (One that is borrowed from the file costs nothing.)
                if let Cow::Owned(text) = text {
                    self.text_len += text.len();
                }
                text.clone()
            }
            Err((problem, remedy)) => {
                self.fault(at, path.to_owned(), &problem, &remedy);
                text.clone()
            }
        }
    }

    fn wrong_shape(&mut self, path: &str, value: &Spanned<DeValue<'_>>, shape: &str) {
        let problem = format!("must be {shape}, not {}", kind(value.get_ref()));
        let remedy = format!("begin it with a line {shape}");
        self.fault(value.span().start, path.to_owned(), &problem, &remedy);
    }

    fn fault(&mut self, at: usize, key: String, problem: &str, remedy: &str) {
        self.faults.push(Fault {
            at,
            key,
            problem: problem.to_owned(),
            see: None,
            remedy: remedy.to_owned(),
        });
    }
}
