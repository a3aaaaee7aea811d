//! What must always hold, whatever IPv6 packets are sent.

use kit::ipv6 as family;

mod traffic;
