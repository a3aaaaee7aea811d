//! The sum that the kernel keeps of a received packet (`CHECKSUM_COMPLETE`, `skb->csum`), against
//! the packet's bytes.

use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use lab::Host;

use crate::foreign_program::{
    Hook, PROG_TYPE_SCHED_CLS, TC_ACT_UNSPEC, array_of, link, load, number, read,
};

/// Length of the packets that a probe looks at, from the IP header on: a multiple of 4 that fits
/// the stack of a program.
pub const LEN: usize = 120;

/// Length of the Ethernet header, which the sum leaves out.
const ETHERNET: usize = 14;

// Numbers of helpers (`linux/bpf.h`).
const SKB_LOAD_BYTES: i32 = 26;
const CSUM_DIFF: i32 = 28;
const CSUM_UPDATE: i32 = 40;

/// A program behind all others at an interface's ingress. It notes the sum of each packet of
/// [`LEN`] bytes.
#[derive(Debug)]
pub struct Probe {
    noted: OwnedFd,
    _link: OwnedFd,
}

/// What is known of a packet's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// The kernel has none.
    Unknown,
    /// It is that of the bytes.
    Right,
    /// It is another one.
    Wrong,
}

impl Probe {
    /// Attaches one to an Ethernet interface of a host: by TCX, which Linux has from 6.6 on.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn attach(host: &Host, interface: &str) -> Result<Self> {
        let noted = array_of(3 * size_of::<u64>())?;
        let program = load(PROG_TYPE_SCHED_CLS, "sums", &instructions(number(&noted)?)?)?;
        let link = link(&program, host, interface, Hook::TcIngress)?;
        Ok(Self { noted, _link: link })
    }

    /// How many packets it has seen.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn seen(&self) -> Result<u64> {
        let [seen, ..] = read::<3>(&self.noted)?;
        Ok(seen)
    }

    /// What it knows of the last one.
    ///
    /// # Errors
    /// When there was none, or the kernel does not tell.
    pub fn last(&self) -> Result<Sum> {
        let [seen, kept, of_bytes] = read(&self.noted)?;
        ensure!(seen > 0, "no packet");
        if kept.cast_signed() < 0 {
            return Ok(Sum::Unknown);
        }
        Ok(match fold(kept) == fold(of_bytes) {
            true => Sum::Right,
            false => Sum::Wrong,
        })
    }
}

/// A sum of 16 bits; the two zeros of the ones' complement are one.
fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum % 0xffff
}

/// One instruction: code, registers, offset of a jump or in memory, immediate value.
fn instruction(code: u8, [to, from]: [u8; 2], offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

fn instructions(map: u32) -> Result<Vec<u64>> {
    let (len, ethernet) = (i32::try_from(LEN)?, i32::try_from(ETHERNET)?);
    let set = |to, value| instruction(0xb7, [to, 0], 0, value);
    let copy = |to, from| instruction(0xbf, [to, from], 0, 0);
    let add = |to, value| instruction(0x07, [to, 0], 0, value);
    let call = |helper| instruction(0x85, [0, 0], 0, helper);
    let store = |to, offset, from| instruction(0x7b, [to, from], offset, 0);
    let mut code = vec![
        copy(6, 1),
        // r7 = length of the frame
        instruction(0x61, [7, 6], 0, 0),
    ];
    let body = [
        // r8 = the kernel's sum, or an error, by adding nothing to it
        copy(1, 6),
        set(2, 0),
        call(CSUM_UPDATE),
        copy(8, 0),
        // the packet to the stack
        copy(1, 6),
        set(2, ethernet),
        copy(3, 10),
        add(3, -len),
        set(4, len),
        call(SKB_LOAD_BYTES),
        // r0 = the sum of its bytes
        set(1, 0),
        set(2, 0),
        copy(3, 10),
        add(3, -len),
        set(4, len),
        set(5, 0),
        call(CSUM_DIFF),
        // r1 = address of the map's value, of two instructions (BPF_PSEUDO_MAP_VALUE)
        instruction(0x18, [1, 2], 0, map.cast_signed()),
        0,
        store(1, 8, 8),
        store(1, 16, 0),
        // lock *(u64 *)(r1 + 0) += 1
        set(2, 1),
        instruction(0xdb, [1, 2], 0, 0),
    ];
    // if r7 is another length, jump to the end
    let over = i16::try_from(body.len())?;
    code.push(instruction(0x55, [7, 0], over, len + ethernet));
    code.extend(body);
    code.extend([set(0, TC_ACT_UNSPEC), instruction(0x95, [0, 0], 0, 0)]);
    Ok(code)
}
