//! Something that the configuration needs and the host does not have.

use std::fmt;

/// Something that the configuration needs and the host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key in the configuration, as in `["uplink", "wan", "interface"]`.
    pub key: [String; 3],
    /// What is wrong.
    pub problem: String,
    /// What to do instead.
    pub remedy: String,
    /// Whether an interface is missing, which may come later.
    pub is_absence: bool,
}

/// All problems of a plan, as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    pub(super) fn new(key: [&str; 3], problem: String, remedy: &str) -> Self {
        Self {
            key: key.map(str::to_owned),
            problem,
            remedy: remedy.to_owned(),
            is_absence: false,
        }
    }

    pub(super) fn absence(key: [&str; 3], problem: String, remedy: &str) -> Self {
        Self {
            is_absence: true,
            ..Self::new(key, problem, remedy)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// One line each.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
