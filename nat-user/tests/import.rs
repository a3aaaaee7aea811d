//! `natbpf import iptables` on dumps from real kernels: what it writes is a configuration, and
//! every rule of the nat table is in it or is spoken of.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nat_config::model::Config;
use nat_import::{Import, Options};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::TestCaseResult,
};

/// Every dump, and whether all of its nat table can be expressed.
const FIXTURES: [(&str, bool); 16] = [
    ("proxmox", true),
    ("kvm", true),
    ("snat", true),
    ("hetzner", true),
    ("docker", true),
    ("docker-engine", true),
    ("libvirt", true),
    // Certain senders are not.
    ("proxmox-post-up", false),
    ("one-to-one", true),
    ("filtered", true),
    // Rules that netfilter goes on with.
    ("stays", false),
    ("foreign", false),
    ("docker6", true),
    ("libvirt6", true),
    // Redirects to the host.
    ("filtered6", false),
    // A prefix that nothing maps back.
    ("prefixes6", false),
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.rules"))
}

fn import(name: &str, options: &Options) -> (String, Import) {
    let text = fs::read_to_string(file(name)).unwrap();
    let import = nat_import::iptables(&text, name, options).unwrap();
    (text, import)
}

fn config(import: &Import) -> Config {
    match nat_config::parse(&import.toml, Path::new("imported")) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}\n{}", import.toml),
    }
}

#[test]
fn every_dump_becomes_a_configuration() {
    for (name, is_complete) in FIXTURES {
        let (_, import) = import(name, &Options::default());
        config(&import);
        assert_eq!(import.problem, None, "{name}");
        assert_eq!(
            import.is_complete(),
            is_complete,
            "{name}: {:#?}",
            import.findings
        );
    }
}

#[test]
fn no_rule_of_the_nat_table_is_dropped_in_silence() {
    for (name, _) in FIXTURES {
        let (text, import) = import(name, &Options::default());
        let mut table = "";
        for (number, line) in (1..).zip(text.lines()) {
            table = line.strip_prefix('*').unwrap_or(table);
            let is_rule = table == "nat" && line.contains("-A ");
            // A jump, or what leaves a chain, is a condition of other rules.
            let is_structure = ["-j RETURN", "-j DOCKER", "-j LIBVIRT_PRT"]
                .iter()
                .any(|target| line.ends_with(target));
            if !is_rule || is_structure {
                continue;
            }
            let is_written = import.toml.contains(&format!("# line {number}: "));
            let is_said = import.findings.iter().any(|finding| finding.line == number);
            assert!(
                is_written || is_said,
                "{name}:{number}: {line}\n{}",
                import.toml
            );
        }
    }
}

#[test]
fn no_filter_rule_is_dropped_in_silence() {
    let options = Options {
        policies: true,
        ..Options::default()
    };
    for (name, _) in FIXTURES {
        let (text, import) = import(name, &options);
        config(&import);
        let mut table = "";
        for (number, line) in (1..).zip(text.lines()) {
            table = line.strip_prefix('*').unwrap_or(table);
            let decides = ["-j ACCEPT", "-j DROP", "-j REJECT", ":FORWARD DROP"];
            let decides = decides.iter().any(|target| line.contains(target));
            if table != "filter" || !decides {
                continue;
            }
            let is_written = import.toml.contains(&format!("# line {number}: "));
            let is_said = import.findings.iter().any(|finding| finding.line == number);
            assert!(
                is_written || is_said,
                "{name}:{number}: {line}\n{}",
                import.toml
            );
        }
    }
}

#[test]
fn known_host_facts_leave_nothing_to_check() {
    let address = |interface: &str, net: &str| (interface.to_owned(), net.parse().unwrap());
    for (name, addresses) in [
        (
            "proxmox",
            [("vmbr0", "19.19.8.10/24"), ("vmbr1", "172.22.161.254/24")],
        ),
        (
            "kvm",
            [("eth0", "10.10.10.190/24"), ("virbr0", "192.168.122.1/24")],
        ),
        (
            "snat",
            [("eth0", "192.168.38.116/24"), ("veth0", "1.1.1.3/24")],
        ),
        (
            "docker",
            [("eth0", "10.10.10.190/24"), ("ns_br", "175.18.0.1/24")],
        ),
        (
            "hetzner",
            [("eth0", "123.45.12.48/32"), ("br112", "172.30.112.1/24")],
        ),
    ] {
        let options = Options {
            addresses: addresses
                .map(|(interface, net)| address(interface, net))
                .to_vec(),
            ..Options::default()
        };
        let (_, import) = import(name, &options);
        let config = config(&import);
        assert!(!import.toml.contains("check: no rule"), "{}", import.toml);
        assert_eq!(config.uplinks[0].interface, addresses[0].0, "{name}");
        assert_eq!(config.networks[0].interface, addresses[1].0, "{name}");
        assert_eq!(
            config.networks[0].address.unwrap().to_string(),
            addresses[1].1,
            "{name}"
        );
        assert_eq!(config.snat.len(), 1, "{name}");
    }
}

#[test]
fn libvirts_three_rules_are_one() {
    let config = config(&import("libvirt", &Options::default()).1);
    let [snat] = &config.snat[..] else {
        panic!("{:?}", config.snat)
    };
    assert_eq!(snat.exclude, []);
    assert_eq!(config.networks[0].interface, "virbr0");
}

#[test]
fn dockers_networks_and_ports_are_found() {
    let (_, import) = import("docker-engine", &Options::default());
    let config = config(&import);
    let bridges: Vec<&str> = config
        .networks
        .iter()
        .map(|net| net.interface.as_str())
        .collect();
    assert_eq!(bridges, ["docker0", "br-5e2b1f0d3c4a"]);
    assert_eq!(config.forwards.len(), 2);
    assert!(
        config
            .forwards
            .iter()
            .all(|forward| !forward.hairpin && forward.address.is_none())
    );
}

/// Rules of all dumps of a family, in any order, whole or cut off, one or two words from elsewhere
/// in them.
fn any_rules(is_ipv6: bool) -> impl Strategy<Value = String> {
    let mut rules = Vec::new();
    let dumps = FIXTURES.map(|(name, _)| name);
    for name in dumps.iter().filter(|name| name.ends_with('6') == is_ipv6) {
        let text = fs::read_to_string(file(name)).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.find("-A ").map(|at| line[at..].to_owned()));
        rules.extend(lines);
    }
    let words: Vec<String> = rules
        .iter()
        .flat_map(|rule| rule.split(' '))
        .map(str::to_owned)
        .collect();
    let cut = (select(rules), any::<Index>(), select(words), 0..10u8);
    let rule = cut.prop_map(|(rule, at, word, what)| {
        let mut words: Vec<&str> = rule.split(' ').collect();
        let at = at.index(words.len());
        match what {
            0 => words.truncate(at),
            1 => words[at] = &word,
            2 => words.insert(at, &word),
            _ => {}
        }
        words.join(" ")
    });
    vec(rule, 0..20).prop_map(|rules| format!("*nat\n{}\nCOMMIT\n", rules.join("\n")))
}

/// Whether each rule with one of these targets is in the configuration, or spoken of.
fn each_has_an_outcome(text: &str, targets: &[&str], options: &Options) -> TestCaseResult {
    let Ok(import) = nat_import::iptables(text, "any", options) else {
        return Ok(()); // The line that is none of iptables' is named.
    };
    prop_assert_eq!(&import.problem, &None, "{}", import.toml);
    for (number, line) in (1..).zip(text.lines()) {
        let ends = targets
            .iter()
            .any(|target| line.contains(&format!("-j {target}")));
        if !line.starts_with("-A ") || !ends {
            continue;
        }
        let is_written = import.toml.contains(&format!("# line {number}: "));
        let is_said = import.findings.iter().any(|finding| finding.line == number);
        prop_assert!(
            is_written || is_said,
            "{}: {}\n{}{}",
            number,
            line,
            text,
            import.toml
        );
    }
    Ok(())
}

const HEADER6: &str = "# Generated by ip6tables-save v1.8.9 (nf_tables)\n";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_rules_are_each_is_written_or_spoken_of(text in any_rules(false)) {
        let targets = ["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "ACCEPT"];
        each_has_an_outcome(&text, &targets, &Options::default())?;
    }

    #[test]
    fn whatever_the_rules_of_ipv6_are_each_is_written_or_spoken_of(text in any_rules(true)) {
        let targets = ["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "ACCEPT"];
        each_has_an_outcome(&format!("{HEADER6}{text}\n"), &targets, &Options::default())?;
        let mangle = text.replace("*nat", "*mangle");
        let targets = ["SNPT", "DNPT"];
        each_has_an_outcome(&format!("{HEADER6}{mangle}\n"), &targets, &Options::default())?;
    }

    #[test]
    fn every_filter_rule_of_ipv6_is_converted_or_reported(text in any_rules(true), drops: bool) {
        let policy = if drops { "DROP" } else { "ACCEPT" };
        let filter = text.replace("*nat", &format!("*filter\n:FORWARD {policy} [0:0]"));
        let nat = "*nat\n-A POSTROUTING -s fd00:18::/64 -o eth0 -j MASQUERADE\nCOMMIT\n";
        let options = Options {
            addresses: vec![("br0".to_owned(), "fd00:18::1/64".parse().unwrap())],
            default_route6: Some("eth0".to_owned()),
            policies: true,
            ..Options::default()
        };
        let targets = ["ACCEPT", "DROP", "REJECT"];
        each_has_an_outcome(&format!("{HEADER6}{filter}\n{nat}"), &targets, &options)?;
    }

    #[test]
    fn every_filter_rule_is_converted_or_reported(text in any_rules(false), drops: bool) {
        let policy = if drops { "DROP" } else { "ACCEPT" };
        let filter = text.replace("*nat", &format!("*filter\n:FORWARD {policy} [0:0]"));
        let nat = "*nat\n-A POSTROUTING -s 10.0.0.0/24 -o eth0 -j MASQUERADE\nCOMMIT\n";
        let options = Options {
            addresses: vec![("br0".to_owned(), "10.0.0.1/24".parse().unwrap())],
            default_route: Some("eth0".to_owned()),
            default_route6: None,
            policies: true,
        };
        let targets = ["ACCEPT", "DROP", "REJECT"];
        each_has_an_outcome(&format!("{filter}{nat}"), &targets, &options)?;
    }
}

fn natbpf(words: &[&str], input: Option<&str>) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_natbpf"));
    command
        .args(["import", "iptables"])
        .args(words)
        .stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(input.unwrap_or_default().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_exit_code_shows_whether_all_rules_were_converted() {
    for (name, is_complete) in FIXTURES {
        let path = file(name);
        let (code, toml, _) = natbpf(&[path.to_str().unwrap()], None);
        assert_eq!(code, Some(if is_complete { 0 } else { 3 }), "{name}");
        assert!(
            nat_config::parse(&toml, Path::new("imported")).is_ok(),
            "{name}"
        );
    }
    let (code, toml, stderr) = natbpf(&["/nowhere/rules"], None);
    assert_eq!((code, toml.as_str()), (Some(1), ""));
    assert!(stderr.contains("/nowhere/rules"), "{stderr}");
    assert_eq!(natbpf(&["--address", "vmbr1"], None).0, Some(2));
}

#[test]
fn standard_input_is_read_like_a_file() {
    let text = fs::read_to_string(file("foreign")).unwrap();
    let (code, _, stderr) = natbpf(&["-"], Some(&text));
    assert_eq!(code, Some(3));
    let line = "-:16: -A PREROUTING -i br0 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128: ";
    assert!(
        stderr.lines().any(|said| said.starts_with(line)),
        "{stderr}"
    );
    let (code, toml, stderr) = natbpf(&[], Some("hello\n"));
    assert_eq!((code, toml.as_str()), (Some(1), ""));
    assert!(
        stderr.contains("-:1: is not a line of iptables-save"),
        "{stderr}"
    );
}
