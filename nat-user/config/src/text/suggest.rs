//! The known word that an unknown one probably means.

use strsim::osa_distance;

/// No key is longer; a limit keeps absurdly long words cheap.
const LONGEST: usize = 64;

/// The candidate that is most likely meant by a mistyped `word`, if one is near enough.
pub(crate) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let length = word.chars().take(LONGEST + 1).count();
    if length > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let allowed = (length / 3).max(1);
    let distances = candidates.into_iter().filter_map(|candidate| {
        let other = candidate.to_lowercase();
        // The difference in length is a lower bound.
        (other.chars().count().abs_diff(length) <= allowed)
            .then(|| (osa_distance(&word, &other), candidate))
    });
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["address", "create", "interface", "ports", "to"];

    #[test]
    fn a_mistyped_word_finds_its_neighbour() {
        assert_eq!(nearest("adress", KEYS), Some("address"));
        assert_eq!(nearest("interfcae", KEYS), Some("interface"));
        assert_eq!(nearest("Port", KEYS), Some("ports"));
        assert_eq!(nearest("ot", KEYS), Some("to"));
    }

    #[test]
    fn a_word_like_no_other_finds_none() {
        assert_eq!(nearest("gateway", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest(&"x".repeat(100_000), KEYS), None);
    }
}
