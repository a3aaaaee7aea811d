//! Files of every kind, read line by line.

use super::*;

fn dump(text: &str) -> Dump {
    read_lines(Family::V4, text, "rules").unwrap()
}

fn texts(dump: &Dump, table: &str, chain: &str) -> Vec<String> {
    let rules = dump
        .tables
        .get(table)
        .and_then(|table| table.chains.get(chain));
    let action = |rule: &usize| format!("{:?}", dump.rules[*rule].action);
    rules.into_iter().flatten().map(action).collect()
}

const RULE: &str = "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE";

/// Files that expand to more than the time or memory: a count refuses each at a line.
#[test]
fn files_that_would_take_too_much_are_refused_with_a_line() {
    let long = "x".repeat(LONGEST_LINE / 2);
    let of_variable = |times: usize| format!("A={long}\n{}", "echo $A\n".repeat(times));
    for (text, problem) in [
        ("x".repeat(LONGEST_LINE + 1), "longer than 64 KiB"),
        ("a \\\n".repeat(100_000), "longer than 64 KiB"),
        (
            format!("*nat\n{}", ":a -\n".repeat(300_001)),
            "300000 rules",
        ),
        (of_variable(2000), "32 MiB of text once variables"),
        (
            format!("A={long}\n{}", "echo $A$A$A\n".repeat(2000)),
            "32 MiB of text once variables",
        ),
        (
            format!("{}\n", "ip6tables -L;".repeat(4000)).repeat(200),
            "lines with too many commands",
        ),
        ("if a\nthen\n".repeat(300), "inside more than 256 blocks"),
    ] {
        let refused = read_lines(Family::V4, &text, "rules")
            .err()
            .map(|(_, problem)| problem);
        let refused = refused.unwrap_or_default();
        assert!(refused.contains(problem), "{problem}: {refused}");
    }
}

/// A word as long as a line may be is compared with each line, and copied for none.
#[test]
fn lines_before_a_long_word_take_no_longer() {
    let word = "x".repeat(LONGEST_LINE - 10);
    let text = format!(
        "{RULE}\ncat <<{word}\n{}{word}\n{RULE}\n",
        "a\n".repeat(300_000)
    );
    assert_eq!(texts(&dump(&text), "nat", "POSTROUTING").len(), 2);
}

/// `A=$A$A` doubles it: what it stands for gets no longer than a line may be.
#[test]
fn variables_that_double_stay_short() {
    let text = format!("A=0123456789\n{}{RULE}\n", "A=\"$A$A\"\n".repeat(60));
    let dump = dump(&text);
    assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1);
    assert_eq!(dump.aside.len(), 60 - 12, "lines that got too long");
}

#[test]
fn commands_of_one_line_are_rules_each() {
    for line in [
        format!("{RULE}; iptables -A FORWARD -j ACCEPT"),
        format!("post-up iptables -A FORWARD -j ACCEPT && {RULE}"),
        format!("PostUp = iptables -A FORWARD -j ACCEPT; {RULE} || true"),
        format!("ExecStart=-/bin/true; {RULE}; /sbin/iptables -w 5 -A FORWARD -j ACCEPT"),
    ] {
        let dump = dump(&line);
        assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1, "{line}");
        assert_eq!(texts(&dump, "filter", "FORWARD"), ["Accept"], "{line}");
    }
}

#[test]
fn check_or_append_adds_a_rule_once() {
    let line = format!("{} 2>/dev/null || {RULE}", RULE.replace("-A", "-C"));
    assert_eq!(texts(&dump(&line), "nat", "POSTROUTING").len(), 1);
    assert_eq!(
        texts(&dump(&format!("{line}\n{line}")), "nat", "POSTROUTING").len(),
        1
    );
    let check = RULE.replace("-A", "-C");
    let line = format!("if ! {check}; then\n  {RULE}\nfi");
    let twice = dump(&format!("{line}\n{line}"));
    assert_eq!(texts(&twice, "nat", "POSTROUTING").len(), 1);
    assert_eq!(twice.doubtful, []);
}

#[test]
fn deleted_and_flushed_rules_are_gone() {
    for undo in [
        RULE.replace("-A", "-D"),
        "iptables -t nat -F".to_owned(),
        "iptables -t nat -F POSTROUTING".to_owned(),
        "iptables -t nat -D POSTROUTING 1".to_owned(),
    ] {
        let dump = dump(&format!("{RULE}\n{undo}"));
        assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 0, "{undo}");
    }
    let other = dump(&format!("{RULE}\niptables -F"));
    assert_eq!(texts(&other, "nat", "POSTROUTING").len(), 1);
}

#[test]
fn variables_that_the_script_sets_are_read() {
    let text = format!(
        "IPT=/sbin/iptables\nexport WAN=\"eth0\"\n$IPT -t nat -A POSTROUTING -o $WAN -j \
         MASQUERADE\n{RULE}"
    );
    let dump = dump(&text);
    let [first, second] = &dump.tables["nat"].chains["POSTROUTING"][..] else {
        panic!("{dump:?}")
    };
    assert_eq!(dump.rules[*first].condition, dump.rules[*second].condition);
}

#[test]
fn a_variable_that_nothing_sets_is_named() {
    for (line, variable) in [
        (RULE.replace("eth0", "$WAN"), "$WAN"),
        (
            format!("WAN=$(route)\n{}", RULE.replace("eth0", "${WAN}")),
            "${WAN}",
        ),
        (format!("PostUp = {}", RULE.replace("eth0", "%i")), "%i"),
    ] {
        let dump = dump(&line);
        let actions = texts(&dump, "nat", "POSTROUTING");
        assert!(actions[0].contains(variable), "{actions:?}");
    }
    let own = RULE.replace("eth0", "%i");
    let wg = read_lines(
        Family::V4,
        &format!("[Interface]\nPostUp = {own}"),
        "/etc/wireguard/wg7.conf",
    )
    .unwrap();
    assert_eq!(wg.rules[0].condition.output.is, ["wg7"]);
}

#[test]
fn conditions_are_assumed_true_with_a_warning() {
    let text = format!("if [ \"$1\" = start ]; then\n{RULE}\nelse\n{RULE}\nfi\n");
    let dump = dump(&text);
    assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1);
    assert_eq!(dump.doubtful.len(), 1);
    assert_eq!(dump.aside.len(), 1);
}

#[test]
fn branches_and_functions_that_stop_do_not_run() {
    let flush = "iptables -t nat -F";
    for text in [
        format!("case \"$1\" in\nstart)\n{RULE}\n;;\nstop)\n{flush}\n;;\nesac"),
        format!("start() {{\n{RULE}\n}}\nstop() {{\n{flush}\n}}\nstart"),
        format!("{RULE}\nexit 0\n{flush}"),
    ] {
        assert_eq!(texts(&dump(&text), "nat", "POSTROUTING").len(), 1, "{text}");
    }
}

#[test]
fn lines_that_seem_to_hold_rules_and_are_not_read_are_left() {
    for line in [
        "xargs -n1 iptables -t nat -A PREROUTING -j DNAT --to-destination",
        "nft add rule ip nat postrouting masquerade",
        "iptables-restore < /etc/iptables/rules.v4",
        "iptables -t nat -A POSTROUTING -j MASQUERADE \"",
    ] {
        assert_eq!(dump(line).unread.len(), 1, "{line}");
    }
    for line in [
        "sysctl -w net.ipv4.ip_forward=1",
        "# iptables -t nat -A X",
        "it's",
    ] {
        assert_eq!(dump(line).unread.len(), 0, "{line}");
    }
}

#[test]
fn rules_between_here_and_its_word_are_read() {
    let text = "iptables-restore <<EOF\n*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j \
        MASQUERADE\nCOMMIT\nEOF\ncat <<X\n*nat\nX\n";
    assert_eq!(texts(&dump(text), "nat", "POSTROUTING").len(), 1);
}

#[test]
fn interfaces_files_say_addresses_and_the_gateway() {
    let text = "source /etc/network/interfaces.d/*\nallow-hotplug eth0\niface eth0 inet \
        static\n address 192.0.2.10\n netmask 24\n gateway 192.0.2.1\n description the host's \
        uplink\niface br0 inet static\n address 10.1.0.254\n netmask 255.255.255.0\n post-up \
        iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o eth0 -j MASQUERADE\n post-down \
        iptables -t nat -F\n";
    let dump = dump(text);
    let nets: Vec<String> = dump
        .addresses
        .iter()
        .map(|(name, net)| format!("{name} {net}"))
        .collect();
    assert_eq!(nets, ["eth0 192.0.2.10/24", "br0 10.1.0.254/24"]);
    assert_eq!(dump.default_route.as_deref(), Some("eth0"));
    assert_eq!(dump.aside.len(), 2, "another file, and what undoes");
}

#[test]
fn rules_that_iptables_save_cannot_print_are_listed() {
    for line in [
        "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.",
        "# Table `nat' is incompatible, use 'nft' tool.",
        "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them",
    ] {
        assert_eq!(dump(line).unread.len(), 1, "{line}");
    }
}
