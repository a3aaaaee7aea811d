//! Ready-made networks: the hosts that natbpf must replace, with the world around them.

mod proxmox;
mod snat;

pub use proxmox::{Inside, Options, Proxmox, Uplink};
pub use snat::Snat;
