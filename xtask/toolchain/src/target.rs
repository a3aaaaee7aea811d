//! The BPF target, and the environment of the cargo that builds for it.

use std::env;
use std::process::Command;

/// The BPF target in the byte order of the machine that is being built for.
pub(crate) fn target_triple() -> String {
    let big = match env::var("CARGO_CFG_TARGET_ENDIAN") {
        Ok(endian) => endian == "big",
        Err(_) => cfg!(target_endian = "big"),
    };
    format!("bpf{}-unknown-none", if big { "eb" } else { "el" })
}

/// Takes out of a command's environment what the calling cargo, rustup or build script put
/// there, which would otherwise steer the cargo that is being started. Settings about the
/// network, sources and output stay.
pub(crate) fn clean_environment(command: &mut Command) {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "RUSTUP_HOME",
        "RUST_BACKTRACE",
    ];
    const REMOVED: [&str; 6] = [
        "CARGO",
        "DEP_",
        "RUST",
        "MAKEFLAGS",
        "MFLAGS",
        "LD_LIBRARY_PATH",
    ];
    const BUILD_SCRIPT: [&str; 7] = [
        "HOST",
        "TARGET",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let has = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
        if (has(&REMOVED) && !has(&KEPT)) || BUILD_SCRIPT.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    // Set, though empty: a wrapper named in cargo's configuration must not be used either.
    command.env("RUSTC_WRAPPER", "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calling_cargo_does_not_steer_the_one_that_is_started() {
        let mut command = Command::new("true");
        clean_environment(&mut command);
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        assert!(
            removed.contains(&"CARGO_MANIFEST_DIR".as_ref()),
            "{removed:?}"
        );
        assert!(!removed.contains(&"CARGO_HOME".as_ref()), "{removed:?}");
    }
}
