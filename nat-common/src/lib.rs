//! natbpf's packet pipeline, and the layout of all BPF maps.
//!
//! Every packet takes the same steps: **parse → look up → decide → apply → forward**. The code
//! is generic over two traits, [`wire::packet::Packet`] (read and write bytes) and
//! [`tables::Tables`] (look up and change state). The same functions therefore run in the kernel
//! and, on a byte slice and ordinary maps, in unit tests and fuzzers.
//!
//! This crate makes no system call, allocates nothing and calls no BPF helper.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

/// Makes a type usable in a map: plain bytes without padding, of exactly the size given here.
macro_rules! map_layout {
    ($type:ty, $size:literal) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: all fields are integers or byte arrays, valid for every bit pattern, and the
        // size written above is the sum of theirs, so there is no padding.
        unsafe impl bytemuck::Zeroable for $type {}
        // SAFETY: as above; the type is `Copy` and holds no reference.
        unsafe impl bytemuck::Pod for $type {}
    };
}
pub(crate) use map_layout;

/// The same for a type with addresses, of exactly these sizes for IPv4 and IPv6. `Address` and both
/// kinds of addresses are those where it is used.
macro_rules! map_layouts {
    ($type:ident, $size4:literal, $size6:literal) => {
        const _: () = assert!(core::mem::size_of::<$type<Addr4>>() == $size4);
        const _: () = assert!(core::mem::size_of::<$type<Addr6>>() == $size6);
        // SAFETY: all fields are integers or byte arrays, valid for every bit pattern. There are
        // two kinds of addresses (`Address` is sealed), and for both the size written above is the
        // sum of the fields', so there is no padding.
        unsafe impl<A: Address> bytemuck::Zeroable for $type<A> {}
        // SAFETY: as above; the type is `Copy` and holds no reference.
        unsafe impl<A: Address> bytemuck::Pod for $type<A> {}
    };
}
pub(crate) use map_layouts;

pub mod atomics;
pub mod drop_reason;
pub mod family;
pub mod headers;
pub mod nat64;
pub mod pipeline;
pub mod session;
pub mod tables;
pub mod translation;
pub mod verifier;
pub mod wire;
pub mod work;

/// Version of the layout of all maps. The name of a directory of pins contains it, and a loader
/// takes over only maps of the same version. It changes whenever a key or value in this crate
/// changes.
pub const LAYOUT_VERSION: u32 = 5;
