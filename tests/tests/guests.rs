//! natbpf and real virtual machines: QEMU's, each with a virtio network card on a tap that QEMU's
//! own scripts attach, and nothing but what DHCP and routers tell them. Needs root;
//! `cargo xtask test guests` fetches the guests' kernel.

mod guests {
    mod ipv6;
    mod machine;
    mod network;
}
