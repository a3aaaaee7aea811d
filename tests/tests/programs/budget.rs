//! What the verifier has to look at: a program that grows past its budget does so on purpose.

use anyhow::{Result, ensure};

use super::harness::Plane;

/// Programs with the number of instructions that the verifier may process for each: a quarter more
/// than on Linux 6.18, since kernels count a little differently.
const BUDGET: &[(&str, u32)] = &[
    ("nat_inbound", 27_000),
    ("nat_inbound_l3", 27_000),
    ("nat_outbound", 50_000),
    ("nat_outbound_l3", 50_000),
    ("nat_from_guest", 70_000),
    ("nat_from_guest_l3", 70_000),
    ("nat_to_guest", 9_200),
    ("nat_to_guest_l3", 9_200),
    ("end_sessions", 4_100),
    ("expire_fragments", 300),
];

/// The kernel takes every program, and finds it no more complex than it was.
#[test]
fn every_program_passes_the_verifier_within_its_budget() -> Result<()> {
    let mut plane = Plane::new()?;
    for &(name, budget) in BUDGET {
        let instructions = plane.programs.verified_instructions(name)?;
        println!("{name}: {instructions} of {budget}");
        ensure!(
            instructions <= budget,
            "{name}: the verifier processed {instructions} instructions, the budget is {budget}: \
             look for a loop that was unrolled or for state that paths carry along"
        );
    }
    Ok(())
}
