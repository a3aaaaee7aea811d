//! References that a session holds: to an external port and to a permit of its remote address.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::limits,
    tables::{
        Tables,
        guests::GuestKey,
        mappings::MappingRecord,
        permits::PermitKey,
        ports::{PortKey, PortOwner, PortRecord},
        references,
        sessions::SessionFlags,
    },
    wire::address::Endpoint,
    work::opening::Refusal,
};

/// Adds the owner of an external port, with its mapping if it is the only one. No other CPU can
/// take a reference to the port before the mapping exists.
#[inline(always)]
pub(crate) fn add_port<A: Family, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &mut PortRecord<A>,
) -> Result<(), Refusal> {
    if !record.is_exclusive() {
        return Ok(tables.add_port(key, record)?);
    }
    let guest = GuestKey::new(record.address, record.network);
    limits::take_port(tables, &guest).map_err(Refusal::Final)?;
    let result = add_exclusive_port(tables, key, record);
    if result.is_err() {
        limits::give_port(tables, record.address, record.network);
    }
    result
}

#[inline(always)]
fn add_exclusive_port<A: Family, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &mut PortRecord<A>,
) -> Result<(), Refusal> {
    record.references = references::CLAIMED;
    tables.add_port(key, record)?;
    let mapping = MappingRecord::new(Endpoint::new(key.address, key.port));
    // If another CPU has added one for the same internal endpoint, the next attempt finds it.
    let added = tables.add_mapping(&record.mapping_key(key.protocol), &mapping);
    match (added, tables.port(key)) {
        (Ok(()), Some(owner)) => {
            owner.references.begin();
            Ok(())
        }
        (added, _) => {
            tables.remove_port(key);
            Err(added.err().map_or(Refusal::Busy, Refusal::from))
        }
    }
}

/// Takes references to a port and, if requested, to a permit; returns the corresponding flags.
#[inline(always)]
pub(crate) fn hold<A: Family, T: Tables<A>>(
    tables: &T,
    external: Endpoint<A>,
    remote: A,
    protocol: u8,
    owner: &PortOwner<A>,
    permit: bool,
) -> Result<SessionFlags, DropReason> {
    if !owner.references.acquire() {
        return Err(DropReason::Ending);
    }
    if !permit {
        return Ok(SessionFlags::REFS_PORT);
    }
    match add_permit(tables, &PermitKey::new(external, remote, protocol)) {
        Ok(()) => Ok(SessionFlags::REFS_PORT | SessionFlags::REFS_PERMIT),
        Err(refusal) => {
            release(tables, protocol, external, remote, SessionFlags::REFS_PORT);
            Err(match refusal {
                Refusal::Final(reason) => reason,
                _ => DropReason::Ending,
            })
        }
    }
}

/// Takes a reference to the permit of a remote address; adds it if it does not exist.
#[inline(always)]
pub(crate) fn add_permit<A: Family, T: Tables<A>>(
    tables: &T,
    key: &PermitKey<A>,
) -> Result<(), Refusal> {
    match tables.permit(key) {
        Some(references) if references.acquire() => Ok(()),
        Some(_) => Err(Refusal::Busy),
        None => Ok(tables.add_permit(key)?),
    }
}

/// Releases the references in `refs`: to an external port and to a remote's permit. An entry
/// without references is removed.
#[inline(always)]
pub(crate) fn release<A: Family, T: Tables<A>>(
    tables: &T,
    protocol: u8,
    external: Endpoint<A>,
    remote: A,
    refs: SessionFlags,
) {
    if refs.contains(SessionFlags::REFS_PERMIT) {
        let key = PermitKey::new(external, remote, protocol);
        if tables
            .permit(&key)
            .is_some_and(references::References::release)
        {
            tables.remove_permit(&key);
        }
    }
    if refs.contains(SessionFlags::REFS_PORT) {
        release_port(tables, protocol, external);
    }
}

/// Releases a reference to an external port.
#[inline(never)]
pub(crate) fn release_port<A: Family, T: Tables<A>>(
    tables: &T,
    protocol: u8,
    external: Endpoint<A>,
) {
    let key = PortKey::new(external, protocol);
    if let Some(owner) = tables.port(&key)
        && owner.references.release()
    {
        if owner.is_exclusive() {
            tables.remove_mapping(&owner.mapping_key(protocol));
            limits::give_port(tables, owner.address, owner.network);
        }
        tables.remove_port(&key);
    }
}
