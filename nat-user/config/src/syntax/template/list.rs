//! The lists of a template: the values of `for`.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    syntax::report::Fault,
    text::words::{dotted, is_bare, quote},
};

/// The key of a template's lists.
pub(super) const FOR: &str = "for";

/// Far more than there are interfaces on any host.
const MOST_INSTANCES: u64 = 65_536;
/// How many values the lists of a template may have together: the most instances, with eight lists.
const MOST_VALUES: usize = 8 * 65_536;

/// A name and its values, one for each instance.
pub(super) struct List<'v> {
    pub(super) name: &'v str,
    pub(super) values: Vec<Value>,
}

/// One value of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Integer(u64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(integer) => integer.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Problem and remedy.
type Objection = (String, String);

const EXAMPLE: &str = "write for = { n = \"1-200\", address = \"192.0.2.0-192.0.2.199\" }";

/// The lists of a template, in the order of the file. All have the same number of values.
pub(super) fn read<'v>(
    path: &str,
    at: usize,
    table: &'v DeTable<'_>,
) -> Result<Vec<List<'v>>, Fault> {
    let path = format!("{path}.{FOR}");
    let fault = |at: usize, key: &str, (problem, remedy): Objection| Fault {
        at,
        key: match key {
            "" => path.clone(),
            key => format!("{path}.{}", dotted(&[key])),
        },
        problem,
        see: None,
        remedy,
    };
    let missing = |problem: &str| (problem.to_owned(), EXAMPLE.to_owned());
    let Some(value) = table.get(FOR) else {
        return Err(fault(at, "", missing("is missing")));
    };
    let DeValue::Table(written) = value.get_ref() else {
        return Err(fault(
            value.span().start,
            "",
            missing("is not a table of lists"),
        ));
    };
    let mut by_place: Vec<_> = written.iter().collect();
    by_place.sort_by_key(|(name, _)| name.span().start);
    let mut lists: Vec<List<'v>> = Vec::new();
    for (name, value) in by_place {
        let place = value.span().start;
        let name = name.get_ref().as_ref();
        check_name(name).map_err(|objection| fault(place, name, objection))?;
        let values = values(value).map_err(|objection| fault(place, name, objection))?;
        let count = values.len();
        if let Some(first) = lists
            .first()
            .filter(|first| first.values.len() != values.len())
        {
            let others = first.values.len();
            let problem = format!("has {count} values, but {} has {others}", quote(first.name));
            let remedy = "write lists of the same length, because each instance takes one value \
                from each";
            return Err(fault(place, name, (problem, remedy.to_owned())));
        }
        lists.push(List { name, values });
        let most = (MOST_VALUES / count).max(1);
        if lists.len() > most {
            let problem = format!("is list {} of {count} values each", lists.len());
            let remedy = format!("write {most} lists of this length at most");
            return Err(fault(place, name, (problem, remedy)));
        }
    }
    match lists.is_empty() {
        true => Err(fault(value.span().start, "", missing("is empty"))),
        false => Ok(lists),
    }
}

fn check_name(name: &str) -> Result<(), Objection> {
    if !name.is_empty() && name.chars().all(is_bare) {
        return Ok(());
    }
    let problem = format!("{} is not a valid name for a list", quote(name));
    Err((problem, "write letters, digits, - and _".to_owned()))
}

fn values(value: &Spanned<DeValue<'_>>) -> Result<Vec<Value>, Objection> {
    let example = "write \"1-200\", \"192.0.2.0-192.0.2.199\", \"192.0.2.0/24\" or a list such as \
        [\"a\", \"b\"]";
    let mut values = Vec::new();
    match value.get_ref() {
        DeValue::String(text) => {
            values = range(text)?.ok_or_else(|| {
                let problem = format!("{} is neither a range nor a list", quote(text));
                (problem, example.to_owned())
            })?;
        }
        DeValue::Array(items) => {
            for item in items.iter() {
                values.extend(item_values(item.get_ref(), example)?);
                count(values.len() as u64)?;
            }
        }
        _ => {
            return Err((
                "is neither a range nor a list".to_owned(),
                example.to_owned(),
            ));
        }
    }
    match values.is_empty() {
        true => Err(("is an empty list".to_owned(), example.to_owned())),
        false => Ok(values),
    }
}

/// An item of a list: a range, or a single value.
fn item_values(item: &DeValue<'_>, example: &str) -> Result<Vec<Value>, Objection> {
    match item {
        DeValue::String(text) => {
            let alone = || vec![Value::Text(text.to_string())];
            Ok(range(text)?.unwrap_or_else(alone))
        }
        DeValue::Integer(integer) => {
            let value =
                u64::from_str_radix(integer.as_str().trim_start_matches('+'), integer.radix());
            let value = value.map_err(|_| {
                let problem = format!("`{integer}` is less than 0");
                (problem, example.to_owned())
            })?;
            Ok(vec![Value::Integer(value)])
        }
        _ => Err((
            "contains a value that is neither text nor an integer".to_owned(),
            example.to_owned(),
        )),
    }
}

/// The values of a text that is a range of integers, of addresses, or a prefix; nothing if it is
/// neither.
fn range(text: &str) -> Result<Option<Vec<Value>>, Objection> {
    if let Some((address, length)) = text.split_once('/')
        && let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse::<u8>())
        && let Ok(prefix) = Ipv4Net::new(address, length)
    {
        if prefix.addr() != prefix.network() {
            let problem = format!("`{prefix}` has bits set beyond its prefix length");
            return Err((problem, format!("write \"{}\"", prefix.trunc())));
        }
        return addresses(prefix.network(), prefix.broadcast()).map(Some);
    }
    let Some((first, last)) = text.split_once('-') else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    if let (Ok(first), Ok(last)) = (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
        return addresses(first, last).map(Some);
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return Ok(None);
    }
    let (Ok(low), Ok(high)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return Ok(None);
    };
    if low.to_string() != first {
        let width = first.len();
        let problem = format!("{} begins with a zero", quote(text));
        let remedy = format!(
            "write \"{low}-{high}\", and {{NAME:0{width}}} where {width} digits are needed"
        );
        return Err((problem, remedy));
    }
    span(low, high)?;
    Ok(Some((low..=high).map(Value::Integer).collect()))
}

fn addresses(first: Ipv4Addr, last: Ipv4Addr) -> Result<Vec<Value>, Objection> {
    if first > last {
        return Err(inverted(first, last));
    }
    let range = u32::from(first)..=u32::from(last);
    span((*range.start()).into(), (*range.end()).into())?;
    Ok(range
        .map(|address| Value::Text(Ipv4Addr::from(address).to_string()))
        .collect())
}

/// Refuses ranges that are inverted or too large.
fn span(first: u64, last: u64) -> Result<(), Objection> {
    match last.checked_sub(first) {
        None => Err(inverted(first, last)),
        Some(more) => count(more.saturating_add(1)),
    }
}

fn inverted(first: impl fmt::Display, last: impl fmt::Display) -> Objection {
    let problem = format!("the range {first}-{last} is inverted");
    (problem, format!("write \"{last}-{first}\""))
}

fn count(values: u64) -> Result<(), Objection> {
    if values <= MOST_INSTANCES {
        return Ok(());
    }
    let problem = format!("has {values} values");
    Err((problem, format!("write at most {MOST_INSTANCES}")))
}
