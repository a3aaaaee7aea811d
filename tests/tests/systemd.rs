//! natbpf's unit under a real systemd: in a container of systemd-nspawn, with a Debian in it whose
//! network is that of a host of the lab. Needs root; `cargo xtask test systemd` makes the Debian.

mod systemd {
    mod daemon;
    mod dnsmasq;
    mod guest;
    mod machine;
    mod unit;
}
