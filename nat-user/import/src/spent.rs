//! The cost of reading a file, which is bounded for any file.

/// The most stored lines of a file. The rules of one hook are far fewer ([`super::flatten`]).
const MOST_ENTRIES: usize = 300_000;
/// Bytes of the stored lines, once for each command in them.
const MOST_TEXT: usize = 32 << 20;
/// Bytes of lines with expanded variables.
const MOST_EXPANDED: usize = 32 << 20;
/// How often a rule may be compared with another one, or moved for another one: a second's work.
pub(super) const MOST_STEPS: usize = 100_000_000;
/// How many of a chain's rules are moved in the time in which two are compared.
const MOVED_IN_A_STEP: usize = 16;

/// The cost of a file so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Spent {
    entries: usize,
    text: usize,
    expanded: usize,
    steps: usize,
}

impl Spent {
    /// A chain, a rule or a remark, with its stored line.
    pub(super) fn entry(&mut self, text: &str) {
        self.entries += 1;
        self.text += text.len();
    }

    /// A line of this length with expanded variables.
    pub(super) fn expanded(&mut self, len: usize) {
        self.expanded += len;
    }

    /// This many items were checked.
    pub(super) fn steps(&mut self, count: usize) {
        self.steps += count;
    }

    /// This many rules of a chain move.
    pub(super) fn moved(&mut self, count: usize) {
        self.steps += count / MOVED_IN_A_STEP + 1;
    }

    #[cfg(test)]
    pub(super) fn steps_since(&self, before: &Self) -> usize {
        self.steps - before.steps
    }

    /// Why reading stops, if it does.
    pub(super) fn excess(&self) -> Option<String> {
        let too_much = if self.entries > MOST_ENTRIES {
            format!("more than {MOST_ENTRIES} rules, chains and other lines")
        } else if self.text > MOST_TEXT {
            format!(
                "lines with too many commands: {} MiB of them",
                MOST_TEXT >> 20
            )
        } else if self.expanded > MOST_EXPANDED {
            let most = MOST_EXPANDED >> 20;
            format!("more than {most} MiB of text once variables have their values")
        } else if self.steps > MOST_STEPS {
            "more rules than can be searched for by -C, -D, -I and -F".to_owned()
        } else {
            return None;
        };
        Some(format!("is the line at which the file has {too_much}"))
    }
}
