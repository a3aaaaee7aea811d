//! What IPv4 alone has.
//!
//! | file | why |
//! | --- | --- |
//! | `bindings` | guests' names by ARP, DHCP and IPv4 addresses |
//! | `dhcp` | DHCP for IPv4, which a broadcast carries |
//! | `leaves` | functions of [`Addr4`](nat_common::wire::address::Addr4) and its header |
//! | `queries` | timestamps and address masks |

mod bindings;
mod dhcp;
mod leaves;
mod paged;
mod queries;
