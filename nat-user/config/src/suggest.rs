//! What somebody may have meant by a word that is not known.

/// No key is longer; a limit keeps absurdly long words cheap.
const LONGEST: usize = 64;

/// The candidate that is most likely meant by a mistyped `word`, if one is near enough.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word: Vec<char> = word.to_lowercase().chars().take(LONGEST + 1).collect();
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    let distances = candidates.into_iter().filter_map(|candidate| {
        let letters: Vec<char> = candidate.to_lowercase().chars().collect();
        // The difference in length is a lower bound.
        (letters.len().abs_diff(word.len()) <= allowed)
            .then(|| (distance(&word, &letters), candidate))
    });
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed).then_some(candidate)
}

/// Letters to insert, remove, replace or swap with their neighbour to make one of the other
/// (optimal string alignment).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped =
                row > 0 && column > 0 && from[row - 1] == *other && *letter == to[column - 1];
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
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
