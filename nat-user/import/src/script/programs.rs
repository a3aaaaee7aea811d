//! What the programs that a script calls do to rules.

use crate::shell;

/// Programs that only decide what runs next.
pub(super) fn is_condition(name: &str) -> bool {
    [
        "[", "[[", "test", "grep", "command", "which", "type", "sleep", "shift",
    ]
    .contains(&name)
}

pub(super) fn is_iptables(name: &str) -> bool {
    ["iptables", "iptables-nft", "iptables-legacy"].contains(&name)
}

/// Whether a command is for another host or network namespace.
pub(super) fn is_elsewhere(text: &str) -> bool {
    let others = [
        "ip netns exec",
        "nsenter",
        "ssh ",
        "docker exec",
        "lxc exec",
    ];
    others.iter().any(|other| text.contains(other))
}

/// Whether a command loads rules from other files.
pub(super) fn loads(name: &str, words: &[String]) -> bool {
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    match name {
        "iptables-restore"
        | "iptables-apply"
        | "iptables-legacy-restore"
        | "iptables-nft-restore" => true,
        "nft" => has(&["-f", "--file"]),
        "netfilter-persistent" | "shorewall" | "firehol" | "ferm" => {
            !has(&["save", "stop", "clear", "flush"])
        }
        _ => false,
    }
}

/// Whether a text may add rules of the nat table.
pub(super) fn holds_nat(text: &str) -> bool {
    let text = text.to_lowercase();
    let is_call = ["iptables", "nft ", "firewall-cmd"]
        .iter()
        .any(|call| text.contains(call));
    let of_nat = [
        "masquerade",
        "dnat",
        "snat",
        "netmap",
        "redirect",
        "prerouting",
        "postrouting",
        "forward-port",
        "nat",
    ];
    is_call && of_nat.iter().any(|word| text.contains(word)) || is_of_nat(&text)
}

/// Whether the options suggest it, for any program.
pub(super) fn is_of_nat(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).any(|pair| match pair {
        ["-t" | "--table", value] => value.trim_matches(['"', '\'']) == "nat",
        ["-j" | "--jump" | "-g", value] => {
            let targets = ["masquerade", "dnat", "snat", "netmap", "redirect"];
            targets.contains(&value.trim_matches(['"', '\'']))
        }
        _ => false,
    })
}

/// The program that a command runs and its words, without wrappers such as sudo.
pub(super) fn program(words: &[String]) -> Option<(&str, &[String])> {
    let mut rest = words;
    while let Some((first, behind)) = rest.split_first() {
        let name = first.rsplit('/').next().unwrap_or_default();
        let is_before = [
            "up",
            "post-up",
            "pre-up",
            "sudo",
            "exec",
            "nice",
            "env",
            "busybox",
            "builtin",
            "xtables-nft-multi",
            "xtables-legacy-multi",
            "time",
            "nohup",
            "doas",
            "-",
        ];
        let is_option = first.starts_with('-') && rest.len() < words.len();
        let is_pattern = first.ends_with(')') && !first.contains('(');
        if is_before.contains(&name)
            || is_option
            || is_pattern
            || shell::assignment(first).is_some()
        {
            rest = behind;
        } else {
            return Some((name, behind));
        }
    }
    None
}
