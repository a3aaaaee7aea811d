//! Where the fields are in the kernel's own record of a packet (`struct sk_buff`).
//!
//! The kernel describes its types in BTF ("BPF Type Format", `Documentation/bpf/btf.rst`). This
//! module reads only the members of one structure and the number of one function.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use nat_common::wire::offload::{FIELDS, RECORD_CALL, WINDOW, field};

/// The kernel's description of its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The possible lockdown modes, with the current one in brackets (`security/lockdown/lockdown.c`).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// `BTF_KIND_…`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// The kernel function that turns a program's context into the record behind it, since Linux 6.2
/// (`kernel/bpf/helpers.c`). The verifier replaces its call by a move between registers
/// (`fixup_kfunc_call` in `kernel/bpf/verifier.c`).
const CAST: &str = "bpf_cast_to_kern_ctx";

/// What programs need in order to read the kernel's record of a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SkBuff {
    /// Where the fields are; all 0 if the kernel does not describe them or lets no program read
    /// them. Programs then know only what a packet's context shows.
    pub(super) fields: [u16; FIELDS],
    /// The number of [`CAST`] among the kernel's types. Without it, programs copy the record.
    cast: Option<u32>,
}

impl SkBuff {
    /// That of the running kernel.
    pub(super) fn of_kernel() -> Self {
        let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
        check_lockdown(&lockdown)
            .and_then(|()| fs::read(BTF).with_context(|| format!("read {BTF}")))
            .and_then(|bytes| Self::read(&bytes))
            .unwrap_or_else(|error| {
                log::warn!(
                    "programs cannot see which checksums of a packet are unfinished: false virtio \
                     headers of guests are not dropped, and a tunnel's own UDP checksum may be \
                     wrong: {error:#}"
                );
                Self::default()
            })
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let types = Types::read(bytes)?;
        Ok(Self {
            fields: places(&types.members("sk_buff")?)?,
            cast: types.number(kind::FUNC, CAST),
        })
    }

    /// An object whose programs read the record as this kernel lays it out. (As words, for
    /// alignment.)
    pub(super) fn give(&self, object: &[u8]) -> Vec<u64> {
        let (call, mov): (u64, u64) = (0x85, 0xb7);
        let wanted = call | u64::from(RECORD_CALL.cast_unsigned()) << u32::BITS;
        let given = match self.cast {
            // BPF_PSEUDO_KFUNC_CALL (linux/bpf.h) in place of a source register.
            Some(number) => call | 2 << 12 | u64::from(number) << u32::BITS,
            // r0 = 0
            None => mov,
        };
        let mut words = vec![0; object.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words)[..object.len()].copy_from_slice(object);
        for word in &mut words {
            if *word == wanted.to_le() {
                *word = given.to_le();
            }
        }
        words
    }
}

/// Refuses a kernel that does not let programs read its memory. (The verifier would refuse the
/// programs.)
fn check_lockdown(chosen: &str) -> Result<()> {
    ensure!(
        !chosen.contains("[confidentiality]"),
        "the kernel is locked down to keep its memory confidential ({LOCKDOWN})"
    );
    Ok(())
}

/// The places of the fields that programs read, by the first bits of the members.
fn places(members: &BTreeMap<String, u32>) -> Result<[u16; FIELDS]> {
    let bit = |name: &str| {
        let bit = members.get(name).copied();
        bit.with_context(|| format!("no member {name} in struct sk_buff"))
    };
    // Each with its width in bits.
    let bits = [(bit("ip_summed")?, 2), (bit("encapsulation")?, 1)];
    let words = [
        bit("csum_start")?,
        bit("csum_offset")?,
        bit("network_header")?,
        bit("inner_network_header")?,
        bit("inner_transport_header")?,
    ];
    let all = bits.iter().map(|(bit, _)| bit).chain(&words);
    let all = all.map(|bit| bit / u8::BITS);
    // The window starts with a word.
    let first = all.clone().min().unwrap_or_default() & !1;
    let last = all.max().unwrap_or_default();
    ensure!(
        first != 0 && ((last - first) as usize) < WINDOW - 1,
        "the fields of struct sk_buff are too far apart: from byte {first} to {last}"
    );
    let mut places = [0; FIELDS];
    let mut set = |field: usize, value: u32| -> Result<()> {
        places[field] = value.try_into().context("place of a field")?;
        Ok(())
    };
    set(field::WINDOW, first)?;
    for (index, (bit, width)) in bits.into_iter().enumerate() {
        let within = bit % u8::BITS;
        ensure!(
            within + width <= u8::BITS,
            "a field of struct sk_buff continues in the next byte, from bit {bit}"
        );
        // Bits count from a byte's lowest one on little-endian machines, else from its highest.
        let lowest = match cfg!(target_endian = "little") {
            true => within,
            false => u8::BITS - (within + width),
        };
        set(field::SUMMED + 2 * index, bit / u8::BITS - first)?;
        set(field::SUMMED_BIT + 2 * index, lowest)?;
    }
    for (index, bit) in words.into_iter().enumerate() {
        ensure!(
            bit % u16::BITS == 0,
            "a field of struct sk_buff begins at bit {bit}"
        );
        set(field::CSUM_START + index, bit / u8::BITS - first)?;
    }
    Ok(places)
}

/// A type: its kind and, for a structure or union, where its members are described.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    members: usize,
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn len(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Bytes that follow the common part of a type's description.
    fn rest(self) -> usize {
        match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.len(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.len(),
            _ => 0,
        }
    }
}

/// The parsed description of types.
struct Types<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// By their numbers, from 1.
    types: Vec<Type>,
}

impl<'a> Types<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let magic = bytes
            .first_chunk::<2>()
            .map(|word| u16::from_ne_bytes(*word));
        ensure!(magic == Some(0xeb9f), "no BTF of this machine");
        let word = |at| word(bytes, at);
        let header = word(4)? as usize;
        let (start, len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        let mut types = Vec::new();
        let mut at = start;
        while at < start + len {
            let one = Type {
                name: word(at)?,
                info: word(at + 4)?,
                members: at + 12,
            };
            at += 12 + one.rest();
            types.push(one);
        }
        Ok(Self {
            bytes,
            strings,
            types,
        })
    }

    fn name(&self, offset: u32) -> &[u8] {
        let start = self.bytes.get(self.strings + offset as usize..);
        start
            .and_then(|text| text.split(|byte| *byte == 0).next())
            .unwrap_or_default()
    }

    /// The number of a type of this kind and name.
    fn number(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |one: &Type| one.kind() == kind && self.name(one.name) == name.as_bytes();
        let index = self.types.iter().position(is_it)?;
        u32::try_from(index + 1).ok()
    }

    /// The members of a structure, each with its first bit.
    fn members(&self, name: &str) -> Result<BTreeMap<String, u32>> {
        let number = self.number(kind::STRUCT, name);
        let number = number.with_context(|| format!("the kernel describes no struct {name}"))?;
        let mut found = BTreeMap::new();
        self.collect(self.types[number as usize - 1], 0, &mut found)?;
        Ok(found)
    }

    /// Adds the members of a structure at this bit to `found`, including those of unnamed
    /// structures in it.
    fn collect(&self, one: Type, bit: u32, found: &mut BTreeMap<String, u32>) -> Result<()> {
        for index in 0..one.len() {
            let at = one.members + 12 * index;
            let (name, number) = (word(self.bytes, at)?, word(self.bytes, at + 4)?);
            let offset = word(self.bytes, at + 8)?;
            // With the first bit of the information set, the high byte is the width of a bit field.
            let place = bit
                + if one.info >> 31 == 1 {
                    offset & 0x00ff_ffff
                } else {
                    offset
                };
            let name = self.name(name);
            if !name.is_empty() {
                found.insert(String::from_utf8_lossy(name).into_owned(), place);
                continue;
            }
            let inner = self.types.get((number as usize).wrapping_sub(1));
            let is_nested = |inner: &&Type| matches!(inner.kind(), kind::STRUCT | kind::UNION);
            if let Some(inner) = inner.filter(is_nested) {
                self.collect(*inner, place, found)?;
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    word.map(|word| u32::from_ne_bytes(*word))
        .context("BTF ends early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_this_kernels_packets_are_found() {
        let bytes = fs::read(BTF).unwrap();
        let members = Types::read(&bytes).unwrap().members("sk_buff").unwrap();
        let places = places(&members).unwrap();
        let start = u32::from(places[field::WINDOW]);
        let csum = members["csum_start"] / 8;
        assert_eq!(u32::from(places[field::CSUM_START]) + start, csum);
        assert_eq!(members["csum_offset"] / 8, csum + 2);
        assert!(
            places
                .iter()
                .skip(1)
                .all(|place| usize::from(*place) < WINDOW)
        );
    }

    /// Each placeholder call of an object is replaced, and nothing else changes.
    #[test]
    fn programs_read_the_record_as_the_kernel_allows() {
        let wanted = [&[0x85, 0, 0, 0][..], &RECORD_CALL.to_le_bytes()].concat();
        let object = [&[1; 8], &wanted[..], &[0x85, 0, 0, 0, 1, 0, 0, 0], &wanted].concat();
        let given = |cast| {
            let fields = [0; FIELDS];
            let words = SkBuff { fields, cast }.give(&object);
            bytemuck::cast_slice::<u64, u8>(&words).to_vec()
        };
        let call = [0x85, 0x20, 0, 0, 0x39, 0x30, 0, 0];
        let zero = [0xb7, 0, 0, 0, 0, 0, 0, 0];
        for (cast, one) in [(Some(12345), call), (None, zero)] {
            let expected = [&[1; 8], &one[..], &[0x85, 0, 0, 0, 1, 0, 0, 0], &one].concat();
            assert_eq!(given(cast), expected, "{cast:?}");
        }
    }

    #[test]
    fn a_kernel_that_keeps_its_memory_confidential_is_not_asked() {
        assert!(check_lockdown("none integrity [confidentiality]\n").is_err());
        for chosen in [
            "",
            "[none] integrity confidentiality\n",
            "none [integrity] confidentiality\n",
        ] {
            assert!(check_lockdown(chosen).is_ok(), "{chosen}");
        }
    }

    #[test]
    fn invalid_btf_is_refused() {
        for bytes in [&b""[..], b"\0\0\0\0", &[0x9f, 0xeb, 1, 0]] {
            assert!(SkBuff::read(bytes).is_err());
        }
        let far = [("ip_summed", 8), ("encapsulation", 9), ("csum_start", 16)];
        let far = far.into_iter().chain([
            ("csum_offset", 32),
            ("network_header", 48),
            ("inner_network_header", 64),
            ("inner_transport_header", 8 * 200),
        ]);
        let far = far.map(|(name, bit)| (name.to_owned(), bit)).collect();
        assert!(places(&far).is_err());
    }
}
