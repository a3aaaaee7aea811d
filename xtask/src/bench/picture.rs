//! The picture of the small packets' rates, as SVG: a bar for each path's median, relative to
//! nftables, and a line from the least to the most.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use super::paths::Path;
use super::report::Table;
use super::statistics::Figures;

/// Sizes in the picture's own units.
const WIDTH: f64 = 960.0;
const LABELS_END: f64 = 220.0;
const BARS_BEGIN: f64 = 232.0;
const BARS_END: f64 = 880.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;
const HEAD: f64 = 64.0;
const PANEL_HEAD: f64 = 34.0;
const PANEL_FOOT: f64 = 34.0;

/// Draws the tables, one below the other, to the same scale.
///
/// # Errors
/// When there is none, or one without nftables.
pub(crate) fn draw(tables: &[&Table]) -> Result<String> {
    let panels: Vec<_> = tables.iter().map(|table| panel(table)).collect();
    ensure!(
        !panels.is_empty() && panels.iter().all(|rows| !rows.is_empty()),
        "the picture is of small packets, inbound or outbound, and of nftables among them"
    );
    let most = panels.iter().flatten().map(|(_, ratios)| ratios.most());
    let scale = Scale {
        most: most.fold(1.0, f64::max).ceil(),
    };
    let height = panels.iter().fold(HEAD, |height, rows| {
        height + PANEL_HEAD + ROW * rows.len() as f64 + PANEL_FOOT
    });
    let mut svg = head(height);
    let mut top = HEAD;
    for (table, rows) in tables.iter().zip(&panels) {
        let _ = writeln!(
            svg,
            r#"  <text x="{LABELS_END}" y="{}" text-anchor="end" font-weight="bold">{}</text>"#,
            top + 20.0,
            table.title
        );
        top += PANEL_HEAD;
        let bottom = top + ROW * rows.len() as f64;
        svg += &scale.lines(top, bottom);
        for (name, ratios) in rows {
            svg += &bar(&scale, top, name, ratios);
            top += ROW;
        }
        top = bottom + PANEL_FOOT;
    }
    Ok(svg + "</svg>\n")
}

/// Each path's rate relative to nftables.
fn panel(table: &Table) -> Vec<(&str, Figures)> {
    let Some(base) = table.row(Path::Nftables.name()) else {
        return Vec::new();
    };
    let rows = table.rows.iter();
    rows.map(|(name, figures)| (name.as_str(), figures.ratios(base)))
        .collect()
}

/// From ratios to places.
struct Scale {
    /// The ratio at the right end.
    most: f64,
}

impl Scale {
    fn x(&self, ratio: f64) -> f64 {
        BARS_BEGIN + (BARS_END - BARS_BEGIN) * ratio / self.most
    }

    /// A line for each whole number, that of nftables darker.
    fn lines(&self, top: f64, bottom: f64) -> String {
        let mut svg = String::new();
        for number in 0..=self.most as u32 {
            let x = self.x(f64::from(number));
            let colour = if number == 1 { "#475569" } else { "#cbd5e1" };
            let _ = writeln!(
                svg,
                r##"  <path d="M{x:.1} {top}V{bottom}" stroke="{colour}"/>
  <text x="{x:.1}" y="{}" text-anchor="middle" font-size="11" fill="#475569">{number}</text>"##,
                bottom + 15.0
            );
        }
        svg
    }
}

fn head(height: f64) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"
  font-family="DejaVu Sans, Verdana, sans-serif" font-size="14" role="img"
  aria-label="Packets a second on one core, relative to nftables">
  <rect width="{WIDTH}" height="{height}" fill="#fff"/>
  <text x="20" y="28" font-size="17" font-weight="bold">
  Small packets a second on one core, nftables = 1</text>
  <text x="20" y="48" font-size="12" fill="#475569">
  Bars: medians of ratios within a round. Lines: from the least to the most.
  By `cargo xtask bench`.</text>
"##
    )
}

fn bar(scale: &Scale, top: f64, name: &str, ratios: &Figures) -> String {
    let (median, least, most) = (ratios.median(), ratios.least(), ratios.most());
    let colour = if name.starts_with("natbpf") {
        "#60a5fa"
    } else {
        "#94a3b8"
    };
    let (y, middle) = (top + (ROW - BAR) / 2.0, top + ROW / 2.0);
    let (from, to) = (scale.x(least), scale.x(most));
    let width = scale.x(median) - BARS_BEGIN;
    format!(
        r##"  <text x="{LABELS_END}" y="{:.1}" text-anchor="end">{name}</text>
  <rect x="{BARS_BEGIN}" y="{y}" width="{width:.1}" height="{BAR}" fill="{colour}"/>
  <path d="M{from:.1} {middle}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8"
   stroke="#0f172a" fill="none"/>
  <text x="{:.1}" y="{:.1}">{median:.2}</text>
"##,
        middle + 5.0,
        middle - 4.0,
        middle - 4.0,
        scale.x(median.max(most)) + 8.0,
        middle + 5.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, f64)]) -> Table {
        let row =
            |(name, value): &(&str, f64)| ((*name).to_owned(), [*value].into_iter().collect());
        Table {
            title: "inbound".to_owned(),
            unit: "Mpps",
            less_is_better: false,
            rows: rows.iter().map(row).collect(),
            bases: Vec::new(),
        }
    }

    #[test]
    fn every_path_has_a_bar_as_long_as_its_ratio() {
        let svg = draw(&[&table(&[("nftables", 2.0), ("natbpf xdp", 8.0)])]).unwrap();
        assert_eq!(
            svg.matches("<rect").count(),
            3,
            "background and two bars: {svg}"
        );
        let full = format!(r#"width="{:.1}""#, BARS_END - BARS_BEGIN);
        let quarter = format!(r#"width="{:.1}""#, (BARS_END - BARS_BEGIN) / 4.0);
        assert!(svg.contains(&full) && svg.contains(&quarter), "{svg}");
    }

    #[test]
    fn without_nftables_there_is_no_picture() {
        assert!(draw(&[&table(&[("natbpf tc", 1.0)])]).is_err());
        assert!(draw(&[]).is_err());
    }
}
