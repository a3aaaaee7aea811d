//! What programs of others say about natbpf: its behaviour as they find it, not as its own tests
//! expect it. Needs root.

mod oracles {
    mod coturn;
    mod tools;
}
