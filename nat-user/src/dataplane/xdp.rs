//! The XDP program of an interface: attaching it, and what it calls.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapError, ProgramArray},
    programs::{
        ProgramFd, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
    },
};

/// The map of what it calls for frames of other protocols than IPv4. It is not part of a layout: if
/// it is lost, IPv6 is not in XDP.
const OTHERS: &str = "EARLY_OTHERS";

/// Attaches the program in the driver, by a link with this pin. It must be a link: a link reserves
/// the hook, and goes with its pin.
pub(super) fn attach(program: &mut Xdp, interface: &str, pin: &Path) -> Result<()> {
    if pin.exists() {
        let link = FdLink::from(PinnedLink::from_pin(pin)?);
        match program.attach_to_link(link.try_into()?) {
            // Only the pin may hold the link, so that the link goes with the pin.
            Ok(id) => {
                drop(program.take_link(id)?);
                return Ok(());
            }
            // The interface is gone, and its link with it.
            Err(_) => fs::remove_file(pin)?,
        }
    }
    let id = program.attach(interface, XdpMode::Driver)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

/// Names the program that it calls for frames of other protocols, or none.
pub(super) fn set_others(ebpf: &mut Ebpf, program: Option<&ProgramFd>) -> Result<()> {
    let map = ebpf.map_mut(OTHERS);
    let mut others = ProgramArray::try_from(map.with_context(|| format!("no map {OTHERS}"))?)?;
    let result = match program {
        Some(program) => others.set(0, program, 0),
        None => others.clear_index(&0),
    };
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        result => result.with_context(|| format!("write map {OTHERS}")),
    }
}
