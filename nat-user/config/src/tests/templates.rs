//! `[[template]]`.

use std::path::Path;

use super::{
    super::{model::Config, parse},
    BASE, config, load, refusal, refusal_of, snat, thread_cpu_time, warnings,
};

/// Guests with a bridge each. Nineteen lines.
const GUESTS: &str = r#"[uplink.wan]
interface = "eth0"

[[template]]
for = { n = "1-3", public = "198.51.100.0-198.51.100.2" }

[template.network."br{n}"]
interface = "br{n}"
address = "10.77.{n}.1/24"
create = true

[[template.route]]
network = "br{n}"
addresses = "{public}"

[[template.snat]]
name = "private{n}"
network = "br{n}"
uplink = "wan"
to = "masquerade"
"#;

/// The same, written out.
fn written_out() -> String {
    let mut text = "[uplink.wan]\ninterface = \"eth0\"\n".to_owned();
    for n in 1..=3 {
        text += &format!(
            "[network.br{n}]\ninterface = \"br{n}\"\naddress = \"10.77.{n}.1/24\"\ncreate = true\n\
             [[route]]\nnetwork = \"br{n}\"\naddresses = \"198.51.100.{}\"\n\
             [[snat]]\nname = \"private{n}\"\nnetwork = \"br{n}\"\nuplink = \"wan\"\nto = \
             \"masquerade\"\n",
            n - 1
        );
    }
    text
}

fn names<T>(items: &[T], name: impl Fn(&T) -> &String) -> Vec<&str> {
    items.iter().map(|item| name(item).as_str()).collect()
}

fn forwards(config: &Config) -> Vec<&str> {
    names(&config.forwards, |rule| &rule.name)
}

/// A template after [`BASE`] that makes forwards, with these lists. The `for` is in line 9.
fn with_lists(lists: &str, name: &str) -> String {
    format!(
        "{BASE}[[template]]\nfor = {{ {lists} }}\n[[template.forward]]\nname = \"{name}\"\n\
         uplink = \"wan\"\nprotocol = \"udp\"\nports = \"{{n}}\"\nto = \"172.22.161.170\"\n"
    )
}

fn ports(lists: &str) -> Vec<u16> {
    let config = config(&with_lists(lists, "web{n}"));
    let rules = config.forwards.iter();
    rules
        .map(|rule| rule.matches.ports[0].external.first)
        .collect()
}

#[test]
fn a_template_is_as_if_written_out() {
    assert_eq!(config(GUESTS), config(&written_out()));
    assert!(warnings(GUESTS).is_empty());
}

#[test]
fn every_kind_of_table_can_be_in_a_template() {
    let text = r#"
        [[template]]
        for = { n = [1, 2] }
        [template.uplink."wan{n}"]
        interface = "eth{n}"
        addresses = ["203.0.113.{n}"]
        [template.network."lan{n}"]
        interface = "br{n}"
        address = "10.0.{n}.1/24"
        ports = ["tap{n}", "tap{n}b"]
        [template.network."lan{n}".dhcp]
        range = "10.0.{n}.10-10.0.{n}.99"
        [[template.guest]]
        name = "web{n}"
        network = "lan{n}"
        address = "10.0.{n}.5"
        mac = "52:54:00:00:00:{n:02x}"
        [[template.route]]
        network = "lan{n}"
        addresses = "192.0.2.{n}"
        uplink = "wan{n}"
        [[template.snat]]
        source = "10.0.{n}.0/24"
        uplink = "wan{n}"
        to = "masquerade"
        [[template.forward]]
        uplink = "wan{n}"
        protocol = "tcp"
        ports = ["{n}0000-{n}0009"]
        to = "web{n}"
        [[template.nat]]
        uplink = "wan{n}"
        address = "203.0.113.{n}{n}"
        to = "10.0.{n}.6"
    "#;
    let config = config(text);
    assert_eq!(names(&config.uplinks, |one| &one.name), ["wan1", "wan2"]);
    assert_eq!(config.networks[1].ports, ["tap2", "tap2b"]);
    assert!(config.networks[1].dhcp.is_some());
    assert_eq!(config.guests[1].mac, [0x52, 0x54, 0, 0, 0, 2]);
    assert_eq!(config.routes[1].uplink.0, 1);
    assert_eq!(config.snat.len(), 2);
    assert_eq!(config.forwards[1].matches.ports[0].external.first, 20000);
    assert_eq!(config.nats[1].address.to_string(), "203.0.113.22");
}

#[test]
fn lists_are_ranges_prefixes_and_items() {
    assert_eq!(ports("n = \"8-11\""), [8, 9, 10, 11]);
    assert_eq!(
        ports("n = [80, \"443\", \"8000-8001\"]"),
        [80, 443, 8000, 8001]
    );
    assert_eq!(ports("n = \"7-7\""), [7]);
    let addresses = "n = \"1-5\", to = [\"172.22.161.8/30\", \"172.22.161.20\"]";
    let text = with_lists(addresses, "web{n}").replace("172.22.161.170", "{to}");
    let config = config(&text);
    let to = config.forwards.iter().map(|rule| rule.to.to_string());
    let expected = [8, 9, 10, 11, 20].map(|last| format!("172.22.161.{last}"));
    assert_eq!(to.collect::<Vec<_>>(), expected);
}

#[test]
fn rules_take_the_place_of_their_template() {
    let plain = |name: &str, port: u16| {
        format!(
            "[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = {port}\n\
             to = \"172.22.161.170\"\n"
        )
    };
    let template = with_lists("n = \"1-2\"", "made{n}").replace(BASE, "");
    let more = "[[template.forward]]\nname = \"more{n}\"\nuplink = \"wan\"\nprotocol = \"tcp\"\n\
                ports = \"{n}\"\nto = \"172.22.161.170\"\n";
    let text = format!(
        "{BASE}{}{template}{more}{}",
        plain("first", 90),
        plain("last", 91)
    );
    assert_eq!(
        forwards(&config(&text)),
        ["first", "made1", "more1", "made2", "more2", "last"]
    );
}

#[test]
fn a_brace_that_stays_is_written_twice() {
    let config = config(&with_lists("n = \"1-1\"", "{{{n}}}-{{n}}"));
    assert_eq!(forwards(&config), ["{1}-{n}"]);
    // Outside of templates it is an ordinary character.
    let plain = with_lists("n = \"1-1\"", "a")
        + "[[snat]]\nname = \"{n}\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n";
    assert_eq!(load(&plain).config.snat[0].name, "{n}");
}

#[test]
fn integers_can_have_a_form() {
    let names = |form: &str| {
        let config = config(&with_lists("n = [9, 255]", form));
        config
            .forwards
            .into_iter()
            .map(|rule| rule.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names("{n:03}"), ["009", "255"]);
    assert_eq!(names("{n:x}"), ["9", "ff"]);
    assert_eq!(names("{n:02x}"), ["09", "ff"]);
    // Numbers of a list may be written as text.
    let listed = config(&with_lists("n = [\"9\", \"255\"]", "{n:03}"));
    let names: Vec<_> = listed.forwards.into_iter().map(|rule| rule.name).collect();
    assert_eq!(names, ["009", "255"]);
}

#[test]
fn placeholders_that_cannot_be_filled_in() {
    let with_name = |name: &str| refusal(&with_lists("n = \"1-2\", who = [\"a\", \"b\"]", name));
    let at = "n.toml:11:8: template.template-1.forward.name";
    assert_eq!(
        with_name("{m}"),
        format!(
            "{at}: there is no list `m` for {{m}}; the lists of this template are `n`, `who` \
             (write a literal brace twice)"
        )
    );
    for (name, brace) in [("a{n", "{"), ("a}", "}"), ("{{n}", "}")] {
        assert_eq!(
            with_name(name),
            format!(
                "{at}: `{name}` contains a single `{brace}`; write {brace}{brace} for a literal \
                 brace"
            )
        );
    }
    for (form, value) in [
        ("who:02x", "a"),
        ("n:3", "1"),
        ("n:", "1"),
        ("n:099", "1"),
        ("n:0q", "1"),
    ] {
        let name = form.split(':').next().unwrap();
        assert_eq!(
            with_name(&format!("{{{form}}}")),
            format!(
                "{at}: {{{form}}} cannot be written for `{value}`; write {{{name}:03}} for three \
                 digits \
                 of an integer, {{{name}:02x}} for two in base 16"
            )
        );
    }
}

#[test]
fn lists_that_are_none() {
    let with = |lists: &str| refusal(&with_lists(lists, "web{n}"));
    let example = "write \"1-200\", \"192.0.2.0-192.0.2.199\", \"192.0.2.0/24\" or a list such as \
                   [\"a\", \"b\"]";
    let key = "template.template-1.for.n";
    for (list, column, problem) in [
        ("\"web\"", 13, "`web` is neither a range nor a list"),
        ("5", 13, "is neither a range nor a list"),
        ("[]", 13, "is an empty list"),
        (
            "[true]",
            13,
            "contains a value that is neither text nor an integer",
        ),
        ("[-1]", 13, "`-1` is less than 0"),
    ] {
        assert_eq!(
            with(&format!("n = {list}")),
            format!("n.toml:9:{column}: {key}: {problem}; {example}")
        );
    }
    for (list, said) in [
        ("200-1", "the range 200-1 is inverted; write \"1-200\""),
        (
            "10.0.0.9-10.0.0.1",
            "the range 10.0.0.9-10.0.0.1 is inverted; write \"10.0.0.1-10.0.0.9\"",
        ),
        (
            "10.0.0.1/24",
            "`10.0.0.1/24` has bits set beyond its prefix length; write \"10.0.0.0/24\"",
        ),
        ("0-4294967295", "has 4294967296 values; write at most 65536"),
        (
            "0-18446744073709551615",
            "has 18446744073709551615 values; write at most 65536",
        ),
        ("0.0.0.0/0", "has 4294967296 values; write at most 65536"),
        (
            "001-200",
            "`001-200` begins with a zero; write \"1-200\", and {NAME:03} where 3 digits are \
             needed",
        ),
    ] {
        assert_eq!(
            with(&format!("n = \"{list}\"")),
            format!("n.toml:9:13: {key}: {said}")
        );
    }
    assert_eq!(
        with("n = \"1-3\", public = [\"a\", \"b\"]"),
        "n.toml:9:29: template.template-1.for.public: has 2 values, but `n` has 3; write lists of \
         the same length, because each instance takes one value from each"
    );
    assert_eq!(
        with("\"a b\" = \"1-3\""),
        "n.toml:9:17: template.template-1.for.\"a b\": `a b` is not a valid name for a list; write \
         letters, digits, - and _"
    );
}

#[test]
fn templates_of_another_shape() {
    let example = "write for = { n = \"1-200\", address = \"192.0.2.0-192.0.2.199\" }";
    assert_eq!(
        refusal_of("[template]\nfor = { n = \"1-2\" }\n"),
        "n.toml:8:1: template: must be [[template]], not a table; begin it with a line [[template]]"
    );
    assert_eq!(
        refusal_of("[[template]]\n[[template.forward]]\n"),
        format!("n.toml:8:1: template.template-1.for: is missing; {example}")
    );
    assert_eq!(
        refusal_of("[[template]]\nfor = \"1-200\"\n"),
        format!("n.toml:9:7: template.template-1.for: is not a table of lists; {example}")
    );
    assert_eq!(
        refusal_of("[[template]]\nfor = {}\n"),
        format!("n.toml:9:7: template.template-1.for: is empty; {example}")
    );
    assert_eq!(
        refusal_of("[[template]]\nfor = { n = \"1-2\" }\nforwarding = \"fast\"\n"),
        "n.toml:10:14: template.template-1.forwarding: a template contains only tables, not a \
         string; write it above all tables, or as [[template.KIND]]"
    );
    assert_eq!(
        refusal_of("[[template]]\nfor = { n = \"1-2\" }\n[[template.template]]\n"),
        "n.toml:10:12: template.template-1.template: a template cannot be inside another template; \
         write it on its own, with lists that name every combination"
    );
    assert_eq!(
        refusal_of("[[template]]\nfor = { n = \"1-2\" }\n[[template.netwrok]]\n"),
        "n.toml:10:12: netwrok: unknown key `netwrok` (where n = 1); did you mean `network`?"
    );
    // What is a table of tables elsewhere, and the other way round.
    assert_eq!(
        refusal_of("[[template]]\nfor = { n = \"1-2\" }\n[[template.network]]\nname = \"br{n}\"\n"),
        "n.toml:10:12: network: is both [network.NAME] and [[network]] (line 4); use the same form \
         in the template as elsewhere"
    );
    let named = "[[template]]\nfor = { n = \"1-2\" }\n[template.snat.\"out{n}\"]\n";
    assert_eq!(
        refusal_of(&format!("{}{named}", snat("out", "network = \"lan\""))),
        "n.toml:14:11: snat: is both [snat.NAME] and [[snat]] (line 8); use the same form in the \
         template as elsewhere"
    );
}

#[test]
fn two_of_one_name() {
    assert_eq!(
        refusal(&GUESTS.replace("network.\"br{n}\"", "network.\"br\"")),
        "n.toml:7:19: network.br: both n = 1, public = 198.51.100.0 and n = 2, public = \
         198.51.100.1 create a table `br` (line 7); give each its own name, with a placeholder \
         such as {n}"
    );
    let plain = "[network.br2]\ninterface = \"x\"\naddress = \"10.0.0.1/24\"\n";
    assert_eq!(
        refusal(&format!("{GUESTS}{plain}")),
        "n.toml:7:19: network.br2: n = 2, public = 198.51.100.1 creates a table `br2`, which \
         already exists (line 21); give each its own name, with a placeholder such as {n}"
    );
    assert_eq!(
        refusal(&GUESTS.replace("private{n}", "private")),
        "n.toml:17:8: snat.private.name: another rule has the name `private` (line 16, n = 1, \
         public = 198.51.100.0) (where n = 2, public = 198.51.100.1, and 1 more); give each rule \
         its own name (a rule without one is named by its position)"
    );
}

#[test]
fn a_mistake_in_an_instance_names_place_and_instance() {
    assert_eq!(
        refusal(&GUESTS.replace("198.51.100.0-198.51.100.2", "10.77.2.5-10.77.2.7")),
        "n.toml:14:13: route.route-1.addresses: 10.77.2.5/32 overlaps 10.77.2.0/24 of network \
         `br2` (line 7, n = 2, public = 10.77.2.6) (where n = 1, public = 10.77.2.5, and 2 more); \
         guests use the network's own addresses without a route; write other addresses"
    );
    // In one alone.
    assert_eq!(
        refusal(
            &GUESTS
                .replace("1-3", "254-256")
                .replace("10.77.{n}.1", "10.{n}.0.1")
        ),
        "n.toml:9:11: network.br256.address: `10.256.0.1` is not an IPv4 address \
         (where n = 256, public = 198.51.100.2); \
         write four numbers from 0 to 255, as in \"192.0.2.10\""
    );
    // Every fault is reported once.
    let wrong = GUESTS
        .replace("\"masquerade\"", "\"masq\"")
        .replace("create = true", "create = 1");
    let error = parse(&wrong, Path::new("n.toml")).unwrap_err();
    let said: Vec<_> = error.all().map(|one| one.position.unwrap().line).collect();
    assert_eq!(said, [10, 20]);
}

#[test]
fn a_remark_of_the_host_names_place_and_instance() {
    let loaded = load(GUESTS);
    let remark = loaded
        .source
        .diagnostic(&["network", "br2", "interface"], "is odd", "change it");
    assert_eq!(
        remark.to_string(),
        "n.toml:8:13: network.br2.interface: is odd (where n = 2, public = 198.51.100.1); change it"
    );
    let remark = loaded
        .source
        .diagnostic(&["snat", "private3", "to"], "is odd", "change it");
    assert!(
        remark
            .to_string()
            .starts_with("n.toml:20:6: snat.private3.to: is odd (where n = 3,")
    );
    let remark = loaded
        .source
        .diagnostic(&["uplink", "wan", "interface"], "is odd", "change it");
    assert_eq!(
        remark.to_string(),
        "n.toml:2:13: uplink.wan.interface: is odd; change it"
    );
}

/// A few lines may expand to more than the memory: too many lists, texts, values or instances.
#[test]
fn templates_that_expand_too_far_are_refused() {
    let lists: String = (0..9).map(|n| format!("l{n} = \"1-65536\", ")).collect();
    let refused = refusal(&with_lists(&format!("{lists} n = \"1-65536\""), "a"));
    assert!(
        refused.contains("is list 9 of 65536 values each; write 8"),
        "{refused}"
    );

    let placeholders = "{n}".repeat(6000);
    let refused = refusal(&with_lists("n = [\"long-name\"]", &placeholders));
    assert!(
        refused.contains("becomes longer than 16384 bytes"),
        "{refused}"
    );

    let guests: String = (0..40)
        .map(|n| format!("[[template.guest]]\nname = \"g{n}-{{n}}\"\nnetwork = \"lan\"\n"))
        .collect();
    let many = format!("{BASE}[[template]]\nfor = {{ n = \"1-65536\" }}\n{guests}");
    let refused = refusal(&many);
    assert!(
        refused.contains("makes more than 1048576 values"),
        "{refused}"
    );

    let empty = "[[template]]\nfor = { a = \"1-65536\", b = \"1-65536\", c = \"1-65536\" }\n";
    let refused = refusal(&format!("{BASE}{}", empty.repeat(300)));
    assert!(refused.contains("16 MiB of text"), "{refused}");
}

#[test]
fn two_hundred_guests_take_few_lines_and_little_time() {
    let text = GUESTS
        .replace("1-3", "1-200")
        .replace("100.2\"", "100.199\"");
    assert!(text.lines().count() < 40);
    let begun = thread_cpu_time();
    let config = config(&text);
    assert_eq!(
        (
            config.networks.len(),
            config.routes.len(),
            config.snat.len()
        ),
        (200, 200, 200)
    );
    let took = thread_cpu_time() - begun;
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}
