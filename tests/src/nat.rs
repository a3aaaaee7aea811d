//! The NAT under test.

use anyhow::Result;
use lab::topology::{Proxmox, Snat};
use lab::{Host, Natbpf, Place};

use crate::oracle::KernelNat;

/// natbpf on a host of the lab; or the kernel's own NAT with the same rules, when
/// `NATBPF_TEST_ORACLE` is set: a test that fails with both expects the wrong thing.
///
/// Only what both must do alike is to be started through this; all else is natbpf's own, see
/// [`Proxmox::natbpf`].
#[derive(Debug)]
pub enum Nat {
    /// natbpf.
    Natbpf(Natbpf),
    /// nftables.
    Kernel(KernelNat),
}

impl Nat {
    /// Starts it on a VM host of scenario `proxmox`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn proxmox(net: &Proxmox, config: &str) -> Result<Self> {
        Self::start(&net.host, net.lab().place(), config)
    }

    /// Starts it on the host of scenario `snat`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn snat(net: &Snat, config: &str) -> Result<Self> {
        Self::start(&net.host, net.lab().place(), config)
    }

    fn start(host: &Host, place: &Place, config: &str) -> Result<Self> {
        if std::env::var_os("NATBPF_TEST_ORACLE").is_some() {
            Ok(Self::Kernel(KernelNat::start(host, config)?))
        } else {
            Ok(Self::Natbpf(Natbpf::start(host, place, config)?))
        }
    }

    /// natbpf, when it is natbpf.
    #[must_use]
    pub fn natbpf(&self) -> Option<&Natbpf> {
        match self {
            Self::Natbpf(natbpf) => Some(natbpf),
            Self::Kernel(_) => None,
        }
    }
}
