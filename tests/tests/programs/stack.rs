//! How much of the stack the programs take, as Linux 6.1 counts it.
//!
//! All functions of a chain of calls share 512 bytes, and each takes a multiple of 32
//! (`check_max_stack_depth`, `kernel/bpf/verifier.c`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result, ensure};
use aya_obj::{Object, generated::bpf_insn};
use nat_user::dataplane::{OBJECT, OBJECT_6};

/// Bytes of the stack that a chain of calls may take. The rest is for longer addresses.
const STACK_BUDGET: u32 = 400;
/// The same of IPv6's programs: what the kernel allows.
const STACK_BUDGET_6: u32 = 512;
/// A function takes a multiple of this.
const UNIT: u32 = 32;

/// Instruction classes and codes (`linux/bpf.h`).
const LOAD: u8 = 1;
const STORE_NUMBER: u8 = 2;
const STORE: u8 = 3;
const CLASS: u8 = 7;
const ADD_NUMBER: u8 = 0x07;
const LOAD_WIDE: u8 = 0x18;
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
/// The register that holds the stack's end.
const STACK: u8 = 10;
/// How a call of another function of the program is marked, and how the address of one.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNCTION: u8 = 4;

/// A function of a program: the bytes of the stack that it takes, and the functions that it calls.
#[derive(Default)]
struct Frame {
    bytes: u32,
    calls: BTreeSet<usize>,
}

/// The functions of a program by the place of their first instruction; the program itself is at 0.
fn frames(instructions: &[bpf_insn]) -> Result<BTreeMap<usize, Frame>> {
    let mut starts = BTreeSet::from([0]);
    for (at, instruction) in instructions.iter().enumerate() {
        starts.extend(callee(at, instruction));
    }
    let ends: Vec<usize> = starts
        .iter()
        .copied()
        .skip(1)
        .chain([instructions.len()])
        .collect();
    let mut frames = BTreeMap::new();
    for (&start, end) in starts.iter().zip(ends) {
        let body = instructions.get(start..end).context("a call to nowhere")?;
        let mut frame = Frame::default();
        let mut points_to_stack = [false; 16];
        for (at, instruction) in (start..).zip(body) {
            let (to, from) = (instruction.dst_reg(), instruction.src_reg());
            let below = match instruction.code & CLASS {
                LOAD if from == STACK => -i32::from(instruction.off),
                STORE | STORE_NUMBER if to == STACK => -i32::from(instruction.off),
                _ if instruction.code == ADD_NUMBER && points_to_stack[usize::from(to)] => {
                    -instruction.imm
                }
                _ => 0,
            };
            frame.bytes = frame.bytes.max(u32::try_from(below).unwrap_or(0));
            if matches!(instruction.code & CLASS, LOAD | 4..) && instruction.code != ADD_NUMBER {
                points_to_stack[usize::from(to)] = instruction.code == MOVE && from == STACK;
            }
            frame.calls.extend(callee(at, instruction));
        }
        frames.insert(start, frame);
    }
    Ok(frames)
}

/// The start of the function that an instruction calls or passes to a helper.
fn callee(at: usize, instruction: &bpf_insn) -> Option<usize> {
    let is_call = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
    let is_address = instruction.code == LOAD_WIDE && instruction.src_reg() == PSEUDO_FUNCTION;
    let next = isize::try_from(at + 1).ok()?;
    (is_call || is_address)
        .then(|| usize::try_from(next + instruction.imm as isize).ok())
        .flatten()
}

/// The bytes of the frames of the longest chain of calls from a function on.
fn longest_chain(frames: &BTreeMap<usize, Frame>, start: usize) -> Vec<u32> {
    let frame = &frames[&start];
    let deepest = frame.calls.iter().map(|call| longest_chain(frames, *call));
    let mut chain = vec![frame.bytes];
    chain.extend(deepest.max_by_key(|chain| taken(chain)).unwrap_or_default());
    chain
}

/// The bytes that a chain takes.
fn taken(chain: &[u32]) -> u32 {
    chain
        .iter()
        .map(|bytes| bytes.max(&1).next_multiple_of(UNIT))
        .sum()
}

/// The kernel refuses a program if a chain of calls takes more than 512 bytes. Addresses of 16
/// bytes need the rest.
#[test]
fn every_chain_of_calls_fits_on_the_stack() -> Result<()> {
    check_chains(OBJECT, 20, STACK_BUDGET)?;
    check_chains(OBJECT_6, 15, STACK_BUDGET_6)
}

/// Checks the chains of an object with at least so many programs.
fn check_chains(object: &[u8], programs: usize, budget: u32) -> Result<()> {
    let mut object = Object::parse(object)?;
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections)?;
    let mut over = Vec::new();
    let names: BTreeSet<&String> = object.programs.keys().collect();
    ensure!(names.len() >= programs, "{names:?}");
    for name in names {
        let function = object.functions.get(&object.programs[name].function_key());
        let frames = frames(&function.context("a program without code")?.instructions)?;
        let chain = longest_chain(&frames, 0);
        let bytes = taken(&chain);
        println!("{name}: {bytes} of {budget} bytes of stack: {chain:?}");
        if bytes > budget {
            over.push(format!("{name}: {bytes} of {budget}: {chain:?}"));
        }
    }
    ensure!(
        over.is_empty(),
        "chains of calls take more of the stack than the budget allows: move keys and results to \
         the work area, or call what is deep from a function that has little on the stack\n{}",
        over.join("\n")
    );
    Ok(())
}
