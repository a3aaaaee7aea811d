//! All lanes of a run. They exist side by side, so that a round uses each in turn without any
//! set-up in between.

use std::path::PathBuf;

use anyhow::Result;

use super::paths::{Lane, Variant};
use super::programs::{Attached, Programs};

/// The lanes, and what is needed to create more.
pub(crate) struct Lanes {
    /// What sends, receives and redirects.
    pub(crate) programs: Programs,
    binary: PathBuf,
    made: Vec<Lane>,
}

impl Lanes {
    /// None yet; `binary` is natbpf.
    pub(crate) fn new(programs: Programs, binary: PathBuf) -> Self {
        Self {
            programs,
            binary,
            made: Vec::new(),
        }
    }

    /// Makes the lanes of these variants that are not there.
    ///
    /// # Errors
    /// When one cannot be set up.
    pub(crate) fn make(&mut self, variants: &[Variant]) -> Result<()> {
        for variant in variants {
            if !self.made.iter().any(|lane| lane.variant == *variant) {
                let lane = Lane::new(*variant, &mut self.programs, &self.binary)?;
                self.made.push(lane);
            }
        }
        Ok(())
    }

    /// Takes the lanes of these variants down, for the memory that they hold.
    pub(crate) fn remove(&mut self, variants: &[Variant]) {
        self.made.retain(|lane| !variants.contains(&lane.variant));
    }

    /// The lanes of these variants, with the programs to use on them.
    ///
    /// # Errors
    /// As for [`Lanes::make`].
    pub(crate) fn take(&mut self, variants: &[Variant]) -> Result<(&mut Programs, Vec<&Lane>)> {
        self.make(variants)?;
        let of = |variant: &Variant| self.made.iter().find(|lane| lane.variant == *variant);
        let lanes = variants.iter().filter_map(of).collect();
        Ok((&mut self.programs, lanes))
    }

    /// The same, with what ends packets attached until it is dropped.
    ///
    /// # Errors
    /// As for [`Lanes::make`].
    pub(crate) fn with_sinks(
        &mut self,
        variants: &[Variant],
    ) -> Result<(&mut Programs, Vec<&Lane>, Vec<Attached>)> {
        let (programs, lanes) = self.take(variants)?;
        let mut sinks = Vec::new();
        for lane in &lanes {
            sinks.extend(lane.sinks(programs)?);
        }
        Ok((programs, lanes, sinks))
    }
}
