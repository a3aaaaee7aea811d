//! Ethernet addresses.

use crate::{
    syntax::{Fault, Field},
    text::words::quote,
};

/// A DHCP unique identifier (RFC 8415 section 11): bytes as a client shows them.
pub(crate) fn duid(field: Field<'_>) -> Result<Vec<u8>, Fault> {
    let text = field.string()?;
    let byte = |part: &str| match part.len() {
        1 | 2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    let fits = |bytes: &Vec<u8>| (LEAST_DUID..=MOST_DUID).contains(&bytes.len());
    bytes.filter(fits).ok_or_else(|| {
        let problem = format!("{} is not a DHCP unique identifier", quote(text));
        let remedy = "write its bytes, as in \"00:03:00:01:52:54:00:12:34:56\"";
        field.fault(problem, remedy)
    })
}

/// Bytes of a DHCP unique identifier: the type, and at most 128 others.
const LEAST_DUID: usize = 3;
const MOST_DUID: usize = 130;

/// An Ethernet address that one interface can have.
pub(crate) fn mac(field: Field<'_>) -> Result<[u8; 6], Fault> {
    let text = field.string()?;
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<_> = text.split(':').collect();
    let bytes = parts
        .iter()
        .filter(|part| is_byte(part))
        .filter_map(|part| u8::from_str_radix(part, 16).ok());
    let bytes: Vec<u8> = bytes.collect();
    let problem = match <[u8; 6]>::try_from(bytes) {
        Ok(mac) if parts.len() == mac.len() && mac == [0; 6] => {
            "is not the address of an \
            interface"
        }
        Ok(mac) if parts.len() == mac.len() && mac[0] & 1 != 0 => "is a multicast address",
        Ok(mac) if parts.len() == mac.len() => return Ok(mac),
        _ => "is not an Ethernet address",
    };
    let remedy = "write six bytes as the guest's interface has them, as in \"52:54:00:12:34:56\"";
    Err(field.fault(format!("{} {problem}", quote(text)), remedy))
}
