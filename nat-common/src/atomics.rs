//! Words that packets on several CPUs change at once.
//!
//! The standard library has no read-modify-write atomics for the BPF target, but the machine does
//! (`BPF_ATOMIC`, since Linux 5.12), so this module writes them in assembly for that target. On
//! other targets this is a [`core::sync::atomic::AtomicU32`]. Loads and stores promise no order
//! between different words. A change of a word releases earlier writes and acquires what other CPUs
//! have released. The kernel defines it so for BPF (`BPF_FETCH`,
//! `Documentation/bpf/standardization/instruction-set.rst`, fully ordered as `atomic_fetch_add`);
//! other targets do the same.

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

    /// Adds, wrapping, and returns the previous value.
    pub fn fetch_add(&self, value: u32) -> u32 {
        self.0.fetch_add(value, AcqRel)
    }

    /// Sets bits and returns the previous value.
    pub fn fetch_or(&self, value: u32) -> u32 {
        self.0.fetch_or(value, AcqRel)
    }

    /// Keeps only the bits of `value` and returns the previous value.
    pub fn fetch_and(&self, value: u32) -> u32 {
        self.0.fetch_and(value, AcqRel)
    }

    /// Sets the value to `new` if it is `current` and returns the previous value.
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

    /// Adds, wrapping, and returns the previous value.
    #[inline(always)]
    pub fn fetch_add(&self, value: u32) -> u32 {
        let mut word = value;
        // SAFETY: the pointer is valid; the instruction changes only that word and the register.
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

    /// Sets bits and returns the previous value.
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

    /// Keeps only the bits of `value` and returns the previous value.
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

    /// Sets the value to `new` if it is `current` and returns the previous value.
    #[inline(always)]
    pub fn exchange_if(&self, current: u32, new: u32) -> u32 {
        let mut before = current;
        // SAFETY: as above; the machine compares with register 0 and writes the previous value to
        // it.
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
