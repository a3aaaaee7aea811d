//! How long is waited for what must come, on machines that are slower than those the tests know.

use std::sync::OnceLock;
use std::time::Duration;

/// The variable that says so many times as long, for everything; 1 without it.
pub const VARIABLE: &str = "NATBPF_TEST_PATIENCE";

/// How long a socket of the lab waits for a packet before it gives up with an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait here for an event that must happen within `usual`. Waits for events that must
/// *not* happen stay the same, and so do the assertions.
///
/// # Panics
/// When [`VARIABLE`] is no number.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    usual * *TIMES.get_or_init(|| times(std::env::var(VARIABLE).ok().as_deref()))
}

fn times(value: Option<&str>) -> u32 {
    let Some(value) = value else { return 1 };
    match value.parse() {
        Ok(times @ 1..=1000) => times,
        _ => panic!("{VARIABLE} is {value:?}, not a number from 1 to 1000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_variable_nothing_takes_longer() {
        assert_eq!((times(None), times(Some("4"))), (1, 4));
    }

    #[test]
    #[should_panic(expected = "NATBPF_TEST_PATIENCE is \"much\"")]
    fn an_invalid_number_is_refused() {
        times(Some("much"));
    }
}
