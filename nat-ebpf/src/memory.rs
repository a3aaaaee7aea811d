//! Bytes of a packet, in as few accesses as the machine allows.
//!
//! Packets are not aligned. The compiler assumes that BPF machines do not support unaligned access,
//! and would read every byte individually; the kernel allows it if the processor does
//! (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`, `check_ptr_alignment` in `kernel/bpf/verifier.c`).

/// Whether the processor supports unaligned words.
const TAKES_WORDS: bool = cfg!(any(
    bpf_target_arch = "x86_64",
    bpf_target_arch = "aarch64",
    bpf_target_arch = "powerpc64",
    bpf_target_arch = "s390x"
));

macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $name:literal) => {
        #[inline(always)]
        unsafe fn $load(from: *const u8) -> $type {
            #[cfg(target_arch = "bpf")]
            // SAFETY: the caller has checked that the bytes can be read; nothing else is touched.
            unsafe {
                let word: u32;
                core::arch::asm!(
                    concat!("{0} = *(", $name, " *)({1} + 0)"),
                    out(wreg) word,
                    in(reg) from,
                    options(nostack, readonly, pure),
                );
                word as $type
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above.
            unsafe {
                from.cast::<$type>().read_unaligned()
            }
        }

        #[inline(always)]
        unsafe fn $store(to: *mut u8, word: $type) {
            #[cfg(target_arch = "bpf")]
            // SAFETY: the caller has checked that the bytes can be written.
            unsafe {
                core::arch::asm!(
                    concat!("*(", $name, " *)({0} + 0) = {1}"),
                    in(reg) to,
                    in(wreg) u32::from(word),
                    options(nostack),
                );
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above.
            unsafe {
                to.cast::<$type>().write_unaligned(word);
            }
        }
    };
}

access!(load_u32, store_u32, u32, "u32");
access!(load_u16, store_u16, u16, "u16");

/// No parsed header starts later. The verifier needs a bound, and the compiler does not remove a
/// power of two.
const MAX_OFFSET: usize = 0x3fff;

/// A pointer to `N` bytes of a packet that lies between two addresses.
#[inline(always)]
pub(crate) fn within<const N: usize>(
    data: usize,
    data_end: usize,
    offset: usize,
) -> Option<*mut [u8; N]> {
    let start = data + (offset & MAX_OFFSET);
    (start + N <= data_end).then_some(start as *mut [u8; N])
}

/// Reads `N` bytes.
///
/// # Safety
///
/// They must lie within the packet.
#[inline(always)]
pub(crate) unsafe fn load<const N: usize>(from: *const [u8; N]) -> [u8; N] {
    if !TAKES_WORDS {
        // SAFETY: the caller promises it.
        return unsafe { from.read_unaligned() };
    }
    let from = from.cast::<u8>();
    let mut bytes = [0; N];
    let mut at = 0;
    // SAFETY: every access ends at `N` at the latest.
    unsafe {
        while at + 4 <= N {
            let [a, b, c, d] = load_u32(from.add(at)).to_ne_bytes();
            (bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]) = (a, b, c, d);
            at += 4;
        }
        if at + 2 <= N {
            let [a, b] = load_u16(from.add(at)).to_ne_bytes();
            (bytes[at], bytes[at + 1]) = (a, b);
            at += 2;
        }
        if at < N {
            bytes[at] = *from.add(at);
        }
    }
    bytes
}

/// Writes `N` bytes.
///
/// # Safety
///
/// They must lie within the packet.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(to: *mut [u8; N], bytes: [u8; N]) {
    if !TAKES_WORDS {
        // SAFETY: the caller promises it.
        return unsafe { to.write_unaligned(bytes) };
    }
    let to = to.cast::<u8>();
    let mut at = 0;
    // SAFETY: every access ends at `N` at the latest.
    unsafe {
        while at + 4 <= N {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            store_u32(to.add(at), u32::from_ne_bytes(word));
            at += 4;
        }
        if at + 2 <= N {
            store_u16(to.add(at), u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
            at += 2;
        }
        if at < N {
            *to.add(at) = bytes[at];
        }
    }
}
