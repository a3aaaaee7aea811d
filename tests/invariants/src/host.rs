//! The host in memory that nat-common's tests of the pipeline run on.

#[path = "../../../nat-common/tests/pipeline/interleave.rs"]
#[expect(dead_code, reason = "here one packet comes after the other")]
pub(crate) mod interleave;
#[path = "../../../nat-common/tests/pipeline/memory.rs"]
pub(crate) mod memory;
#[path = "../../../nat-common/tests/pipeline/packets.rs"]
#[expect(dead_code, reason = "the pipeline's tests need more of it")]
pub(crate) mod packets;
#[path = "../../../nat-common/tests/pipeline/world.rs"]
#[expect(dead_code, reason = "the pipeline's tests need more of it")]
pub(crate) mod world;
