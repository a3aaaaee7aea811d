//! Tests of whole configurations.

mod bad_files;
mod bad_input;
mod doubts;
mod forms;
mod ipv6;
mod policies;
mod reachable;
mod round_trip;
mod routes;
mod services;
mod templates;

use std::{path::Path, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::{Loaded, model::Config, parse};

/// The uplink and the network to which most tests add something. Seven lines.
const BASE: &str = r#"[uplink.wan]
interface = "vmbr0"
addresses = ["19.19.8.10"]
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"

"#;

/// CPU time that this thread has used.
fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

fn load(text: &str) -> Loaded {
    parse(text, Path::new("n.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn config(text: &str) -> Config {
    load(text).config
}

/// The message with which a configuration is refused.
fn refusal(text: &str) -> String {
    let error = parse(text, Path::new("n.toml")).expect_err(text);
    error.to_string()
}

/// The same for lines that follow [`BASE`].
fn refusal_of(lines: &str) -> String {
    refusal(&format!("{BASE}{lines}"))
}

fn warnings(text: &str) -> Vec<String> {
    load(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A `[[forward]]` of tcp to a guest of [`BASE`], in six lines with those given.
fn forward(name: &str, lines: &str) -> String {
    let to = "to = \"172.22.161.170\"";
    format!("[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\n{to}\n{lines}\n")
}

/// A `[[snat]]` out of the uplink of [`BASE`], with the lines given.
fn snat(name: &str, lines: &str) -> String {
    format!("[[snat]]\nname = \"{name}\"\nuplink = \"wan\"\n{lines}\n")
}

/// A `[[nat]]` of the uplink of [`BASE`], in five lines.
fn nat(name: &str, address: &str, to: &str) -> String {
    format!(
        "[[nat]]\nname = \"{name}\"\nuplink = \"wan\"\naddress = \"{address}\"\nto = \"{to}\"\n"
    )
}

/// A `[[guest]]` of the network of [`BASE`], in five lines.
fn guest(name: &str, address: &str, mac: &str) -> String {
    format!(
        "[[guest]]\nname = \"{name}\"\nnetwork = \"lan\"\naddress = \"{address}\"\nmac = \
         \"{mac}\"\n"
    )
}
