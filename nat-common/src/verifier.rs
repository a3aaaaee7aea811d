//! Barriers for the verifier of BPF programs. Elsewhere they do nothing.
//!
//! After [`verifier_barrier`], the verifier checks the following code once, not once for each path
//! that leads there.

/// Hides `value` from the compiler: the following code is compiled as if it could be anything.
#[inline(always)]
pub fn verifier_barrier<V>(value: &mut V) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: copies a register to itself; to the compiler it may have changed any memory.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) core::ptr::from_mut(value) => _, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = value;
}

/// The same value, to be read in this function. The compiler would otherwise read a packet's bounds
/// in the caller and pass them in registers, where the verifier no longer knows them.
#[inline(always)]
pub fn read_here<V>(value: &V) -> &V {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = core::ptr::from_ref(value);
        // SAFETY: copies a register to itself. The pointer is that of the reference.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nostack));
            &*value
        }
    };
    value
}

/// The same number, with a value unknown to the compiler.
#[inline(always)]
#[must_use]
pub fn unknown(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // SAFETY: copies a register to itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack));
        }
        number
    };
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_behind_a_barrier() {
        for number in [0, 1, 2, u64::MAX] {
            let mut value = number;
            verifier_barrier(&mut value);
            assert_eq!([value, unknown(number), *read_here(&number)], [number; 3]);
        }
    }
}
