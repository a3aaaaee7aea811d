//! Medians and their spread.

use serde_json::{Value, json};

/// The figures of one thing, one from each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

impl Figures {
    /// Adds a round's.
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The one in the middle; of an even number the upper one. Not a number without any.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The least one.
    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The greatest one.
    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Round by round, each divided by the other's of the same round: what slowed a whole round
    /// down is not in it.
    pub(crate) fn ratios(&self, base: &Self) -> Self {
        let pairs = self.0.iter().zip(&base.0);
        Self(pairs.map(|(figure, base)| figure / base).collect())
    }

    /// For the report's file.
    pub(crate) fn json(&self) -> Value {
        json!({
            "median": self.median(), "least": self.least(), "most": self.most(), "rounds": self.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[f64]) -> Figures {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_in_the_middle_and_the_spread_around_it() {
        let some = figures(&[3.0, 1.0, 2.0]);
        assert_eq!((some.least(), some.median(), some.most()), (1.0, 2.0, 3.0));
        assert!(figures(&[]).median().is_nan());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let slow_second_round = figures(&[2.0, 1.0, 2.0]);
        let base = figures(&[1.0, 0.5, 1.0]);
        let ratios = slow_second_round.ratios(&base);
        assert_eq!((ratios.least(), ratios.most()), (2.0, 2.0));
    }
}
