//! Ethernet addresses.

use crate::{
    syntax::{Fault, Field},
    text::words::quote,
};

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
