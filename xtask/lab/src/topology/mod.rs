//! Ready-made networks: the hosts that natbpf must replace, with the world around them.

mod ipv6;
mod proxmox;
mod snat;

pub use ipv6::Ipv6;
pub use proxmox::{Inside, Options, Proxmox, Uplink};
pub use snat::Snat;
