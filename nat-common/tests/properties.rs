//! What must always hold, whatever IPv4 packets are sent.

use kit::ipv4 as family;

mod traffic;
