//! What was measured, as tables to read and as a file.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::statistics::Figures;

/// One thing that was measured on several paths.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// What, for example "inbound, small packets".
    pub(crate) title: String,
    /// In which unit.
    pub(crate) unit: &'static str,
    /// Whether less is better, as of times.
    pub(crate) less_is_better: bool,
    /// Name and figures of each path.
    pub(crate) rows: Vec<(String, Figures)>,
    /// Names of the rows that the others are divided by.
    pub(crate) bases: Vec<String>,
}

impl Table {
    /// The figures of the row of this name.
    pub(crate) fn row(&self, name: &str) -> Option<&Figures> {
        let mut rows = self.rows.iter();
        rows.find(|(row, _)| row == name)
            .map(|(_, figures)| figures)
    }

    /// The bases that were measured, and their figures.
    fn measured_bases(&self) -> impl Iterator<Item = (&str, &Figures)> {
        let bases = self.bases.iter();
        bases.filter_map(|name| Some((name.as_str(), self.row(name)?)))
    }

    /// As a Markdown table: ratios first, which are what counts.
    pub(crate) fn text(&self) -> String {
        let better = if self.less_is_better {
            ", less is better"
        } else {
            ""
        };
        let mut head = format!("| {}{better} |", self.title);
        let mut rule = String::from("| --- |");
        for (name, _) in self.measured_bases() {
            head += &format!(" / {name} |");
            rule += " --- |";
        }
        let mut text = format!("{head} {} |\n{rule} --- |\n", self.unit);
        for (name, figures) in &self.rows {
            let _ = write!(text, "| {name} |");
            for (_, base) in self.measured_bases() {
                let _ = write!(text, " {} |", spread(&figures.ratios(base)));
            }
            let _ = writeln!(text, " {} |", spread(figures));
        }
        text
    }

    /// For the file.
    pub(crate) fn json(&self) -> Value {
        let row = |(name, figures): &(String, Figures)| {
            let ratios = self.measured_bases();
            let ratios = ratios.map(|(base, of)| (base.to_owned(), figures.ratios(of).json()));
            let ratios: serde_json::Map<_, _> = ratios.collect();
            json!({ "name": name, "figures": figures.json(), "ratios": ratios })
        };
        json!({
            "title": self.title, "unit": self.unit, "less_is_better": self.less_is_better,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Median, and from the least to the most.
fn spread(figures: &Figures) -> String {
    let (median, least, most) = (figures.median(), figures.least(), figures.most());
    format!("{} ({} to {})", short(median), short(least), short(most))
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A number with its thing, thousands apart.
pub(crate) fn count_of(count: u32, thing: &str) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let plural = if count == 1 { "" } else { "s" };
    format!("{text} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let rows = [("quick", [4.0, 6.0]), ("base", [2.0, 3.0])];
        let rows = rows.map(|(name, values)| (name.to_owned(), values.into_iter().collect()));
        Table {
            title: "packets".to_owned(),
            unit: "Mpps",
            less_is_better: false,
            rows: rows.to_vec(),
            bases: vec!["base".to_owned(), "never measured".to_owned()],
        }
    }

    #[test]
    fn a_row_has_its_ratio_to_each_base_that_was_measured() {
        let text = table().text();
        assert!(text.starts_with("| packets | / base | Mpps |\n"), "{text}");
        let quick = "| quick | 2.00 (2.00 to 2.00) | 6.00 (4.00 to 6.00) |";
        assert!(text.contains(quick), "{text}");
    }

    #[test]
    fn the_file_has_every_round() {
        let json = table().json();
        assert_eq!(json["rows"][0]["figures"]["rounds"], json!([4.0, 6.0]));
        assert_eq!(json["rows"][0]["ratios"]["base"]["median"], json!(2.0));
    }

    #[test]
    fn numbers_are_written_to_be_read() {
        assert_eq!(count_of(1, "forward"), "1 forward");
        assert_eq!(count_of(4_000_000, "session"), "4,000,000 sessions");
    }
}
