//! Bytes that say where they belong: each follows from a key and an offset, so that a byte that is
//! missing, doubled, or another session's is a wrong one.

/// Steele, Lea and Flood's SplitMix64: a number that follows from another one without showing it.
#[must_use]
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes the bytes from `offset` on.
pub(super) fn fill(key: u64, offset: u64, bytes: &mut [u8]) {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let word = mix(key ^ mix(at / 8)).to_le_bytes();
        let word = &word[(at % 8) as usize..];
        let length = word.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&word[..length]);
        at += length as u64;
        rest = later;
    }
}

/// How many of the bytes from `offset` on are right, before the first wrong one.
pub(super) fn right(key: u64, offset: u64, bytes: &[u8]) -> usize {
    let mut expected = vec![0; bytes.len()];
    fill(key, offset, &mut expected);
    let mut pairs = expected.iter().zip(bytes);
    pairs.position(|(a, b)| a != b).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_stream() {
        let mut whole = [0; 100];
        fill(7, 3, &mut whole);
        let (mut pieces, mut at) = (Vec::new(), 0);
        for length in [1, 7, 8, 9, 0, 75] {
            let mut piece = vec![0; length];
            fill(7, 3 + at, &mut piece);
            pieces.extend(piece);
            at += length as u64;
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn shifted_or_swapped_entries_are_found() {
        let mut bytes = [0; 64];
        fill(7, 0, &mut bytes);
        assert_eq!(right(7, 0, &bytes), 64);
        assert!(right(7, 1, &bytes) < 8);
        assert!(right(8, 0, &bytes) < 8);
        bytes[40] ^= 1;
        assert_eq!(right(7, 0, &bytes), 40);
    }
}
