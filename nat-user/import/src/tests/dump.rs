//! Tables, chains and rules of a file.

use super::*;
use crate::dump::{Call, Place};

#[test]
fn counters_comments_and_blank_lines_do_not_matter() {
    let text = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\n\
                [1:60] -A PREROUTING -p tcp -j DOCKER\nCOMMIT\n*filter\n:FORWARD DROP [1:2]\n\
                -A FORWARD -j ACCEPT -c 1 60\nCOMMIT\n";
    let dump = script::read(text, "rules").unwrap();
    assert_eq!(dump.tables["nat"].chains["PREROUTING"], [0]);
    assert_eq!(dump.tables["nat"].chains["DOCKER"], [0; 0]);
    assert_eq!(dump.rules[0].text, "-A PREROUTING -p tcp -j DOCKER");
    assert_eq!(dump.rules[0].line, 6);
    assert_eq!(
        dump.tables["filter"].policies,
        [(9, ":FORWARD DROP".to_owned())]
    );
    assert_eq!(dump.rules_of("filter"), [1]);
}

#[test]
fn the_table_of_a_list_follows_from_its_chains() {
    for (chains, table) in [
        ("PREROUTING INPUT OUTPUT POSTROUTING", "nat"),
        ("PREROUTING POSTROUTING OUTPUT", "nat"),
        ("INPUT FORWARD OUTPUT", "filter"),
        ("PREROUTING INPUT FORWARD OUTPUT POSTROUTING", "mangle"),
        ("PREROUTING OUTPUT", "raw"),
    ] {
        let mut text = String::new();
        for chain in chains.split(' ') {
            text += &format!("-P {chain} ACCEPT\n");
        }
        text += "-N mine\n-A OUTPUT -j mine\n";
        let dump = script::read(&text, "rules").unwrap();
        assert_eq!(dump.tables.keys().collect::<Vec<_>>(), [table], "{chains}");
        assert_eq!(dump.rules_of(table), [0]);
    }
}

#[test]
fn calls_of_iptables_are_rules_too() {
    let text = "auto vmbr1\niface vmbr1 inet static\n  address 172.22.161.254/24\n\
                post-up iptables -t nat -A POSTROUTING -s '172.22.161.0/24' -j MASQUERADE\n\
                post-up iptables -t nat -I POSTROUTING -j ACCEPT\n\
                post-down iptables -t nat -D POSTROUTING -j ACCEPT\n";
    let dump = script::read(text, "rules").unwrap();
    assert_eq!(dump.tables["nat"].chains["POSTROUTING"], [1, 0]);
    let expected = ("vmbr1".to_owned(), "172.22.161.254/24".parse().unwrap());
    assert_eq!(dump.addresses, [expected]);
    // Commands that undo it when the interface goes down.
    assert_eq!(dump.aside.len(), 1);
}

/// A thousand rules are searched, moved or removed as often as the limit allows, and not once
/// more.
#[test]
fn searching_and_moving_rules_is_counted_and_bounded() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let place = Place::at(1, "");
    for edit in ["-C c -j ACCEPT", "-D c -j ACCEPT", "-I c -j ACCEPT", "-F"] {
        let mut dump = Dump::default();
        for number in 0..1000 {
            dump.chain(1, "filter", &format!("c{number}"), "-");
            dump.command(place, Call::of(&words(&format!("-A c -p {number}"))));
        }
        let before = dump.spent.clone();
        dump.command(place, Call::of(&words(edit)));
        let steps = dump.spent.steps_since(&before);
        assert!(steps >= 60, "{edit}: {steps}");
        dump.spent.steps(spent::MOST_STEPS);
        assert!(dump.spent.excess().is_some(), "{edit}");
    }
}

#[test]
fn an_invalid_dump_is_refused_with_its_line() {
    assert_eq!(script::read("", "rules").unwrap_err().0, 0);
    assert_eq!(
        script::read("*nat\n-A PREROUTING -j ACCEPT\nhello\n", "rules")
            .unwrap_err()
            .0,
        3
    );
    assert_eq!(
        script::read("-A PREROUTING -j ACCEPT\n", "rules")
            .unwrap_err()
            .0,
        1
    );
    assert_eq!(
        script::read("*nat\n-A X --comment \"a\n", "rules")
            .unwrap_err()
            .0,
        2
    );
}
