//! The programs that take over what packets have changed in the former tables meanwhile.

use anyhow::{Context as _, Result};
use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Pod;
use nat_common::session::adoption::{ADOPT_BATCH, ADOPT_OFFSET, Adopted, COUNTED_BATCH, Counted};

use crate::dataplane::{Pinned, Programs, family::name_of};

impl Programs {
    /// Adds sessions or updates existing ones. Returns how many found no place.
    pub(super) fn adopt_sessions<A: Pinned>(&mut self, sessions: &[Adopted<A>]) -> Result<u32> {
        let program = name_of::<A>("adopt_sessions");
        let mut refused = 0;
        for chunk in sessions.chunks(ADOPT_BATCH as usize) {
            refused += self.run_on(&program, chunk)?;
        }
        Ok(refused)
    }

    /// Adds to the counts.
    pub(super) fn add_counts(&mut self, counts: &[Counted]) -> Result<()> {
        for chunk in counts.chunks(COUNTED_BATCH as usize) {
            self.run_on("add_counts", chunk)?;
        }
        Ok(())
    }

    /// Runs a program on some records and returns its result.
    fn run_on<T: Pod>(&mut self, program: &str, records: &[T]) -> Result<u32> {
        let mut packet = vec![0; ADOPT_OFFSET];
        packet[..4].copy_from_slice(&(records.len() as u32).to_ne_bytes());
        packet.extend_from_slice(bytemuck::cast_slice(records));
        let options = TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::default()
        };
        let result = self.program(program)?.test_run(options);
        let result = result.with_context(|| format!("run {program}"))?;
        Ok(result.return_value)
    }
}
