//! Words that packets on several CPUs change at once.
//!
//! The standard library has no read-modify-write atomics for the BPF target, but the machine has
//! (`BPF_ATOMIC`, from Linux 5.12 on), so they are spelled out there; elsewhere this is an
//! [`core::sync::atomic::AtomicU32`]. Loads and stores promise no order between different
//! words. What changes a word releases what was written before and acquires what others have
//! released: so the kernel has it for BPF (`BPF_FETCH`,
//! `Documentation/bpf/standardization/instruction-set.rst`, fully ordered as `atomic_fetch_add`),
//! and so it is elsewhere.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};
#[cfg(target_arch = "bpf")]
use core::{arch::asm, cell::UnsafeCell};

/// A word that packets on several CPUs change at once.
#[derive(Debug)]
#[repr(transparent)]
pub struct Shared(
    #[cfg(target_arch = "bpf")] UnsafeCell<u32>,
    #[cfg(not(target_arch = "bpf"))] AtomicU32,
);

// SAFETY: every access is one atomic instruction.
#[cfg(target_arch = "bpf")]
unsafe impl Sync for Shared {}

#[cfg(not(target_arch = "bpf"))]
impl Shared {
    /// A word with this value.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// The value.
    pub fn load(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Sets the value.
    pub fn store(&self, value: u32) {
        self.0.store(value, Relaxed);
    }

    /// Adds, wrapping, and gives the value before.
    pub fn fetch_add(&self, value: u32) -> u32 {
        self.0.fetch_add(value, AcqRel)
    }

    /// Sets bits and gives the value before.
    pub fn fetch_or(&self, value: u32) -> u32 {
        self.0.fetch_or(value, AcqRel)
    }

    /// Keeps the bits of `value` alone and gives the value before.
    pub fn fetch_and(&self, value: u32) -> u32 {
        self.0.fetch_and(value, AcqRel)
    }

    /// Sets the value to `new` if it is `current`; gives the value before.
    pub fn exchange_if(&self, current: u32, new: u32) -> u32 {
        self.0
            .compare_exchange(current, new, AcqRel, Acquire)
            .unwrap_or_else(|before| before)
    }
}

#[cfg(target_arch = "bpf")]
impl Shared {
    /// The value.
    #[inline(always)]
    pub fn load(&self) -> u32 {
        // SAFETY: the pointer is valid, and an aligned load of a word is one instruction.
        unsafe { self.0.get().read_volatile() }
    }

    /// Sets the value.
    #[inline(always)]
    pub fn store(&self, value: u32) {
        // SAFETY: the pointer is valid, and an aligned store of a word is one instruction.
        unsafe { self.0.get().write_volatile(value) };
    }

    /// Adds, wrapping, and gives the value before.
    #[inline(always)]
    pub fn fetch_add(&self, value: u32) -> u32 {
        let mut word = value;
        // SAFETY: the pointer is valid; the instruction changes that word and the register alone.
        unsafe {
            asm!(
                "{word} = atomic_fetch_add((u32 *)({place} + 0), {word})",
                word = inout(wreg) word,
                place = in(reg) self.0.get(),
                options(nostack),
            );
        }
        word
    }

    /// Sets bits and gives the value before.
    #[inline(always)]
    pub fn fetch_or(&self, value: u32) -> u32 {
        let mut word = value;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{word} = atomic_fetch_or((u32 *)({place} + 0), {word})",
                word = inout(wreg) word,
                place = in(reg) self.0.get(),
                options(nostack),
            );
        }
        word
    }

    /// Keeps the bits of `value` alone and gives the value before.
    #[inline(always)]
    pub fn fetch_and(&self, value: u32) -> u32 {
        let mut word = value;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{word} = atomic_fetch_and((u32 *)({place} + 0), {word})",
                word = inout(wreg) word,
                place = in(reg) self.0.get(),
                options(nostack),
            );
        }
        word
    }

    /// Sets the value to `new` if it is `current`; gives the value before.
    #[inline(always)]
    pub fn exchange_if(&self, current: u32, new: u32) -> u32 {
        let mut before = current;
        // SAFETY: as above; the machine compares with register 0 and puts the value before there.
        unsafe {
            asm!(
                "w0 = cmpxchg32_32({place} + 0, w0, {new})",
                inout("w0") before,
                place = in(reg) self.0.get(),
                new = in(wreg) new,
                options(nostack),
            );
        }
        before
    }
}
