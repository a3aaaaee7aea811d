//! The results of other programs about natbpf: its behaviour as they measure it, not as its own
//! tests expect it. Needs root.

mod oracles {
    mod coturn;
    mod tayga;
    mod tools;
}
