//! Files that cannot be read, or are not TOML.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use super::{super::load, refusal};

/// Writes a file and returns the message about it, without the directory.
fn refusal_of_file(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let line = load(file.path()).unwrap_err().to_string();
    line.replace(&file.path().display().to_string(), "FILE")
}

#[test]
fn a_file_that_is_not_there() {
    let error = load(Path::new("/nonexistent/natbpf.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/natbpf.toml: there is no such file; write it, or name another with --config"
    );
}

#[test]
fn a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let line = load(directory.path()).unwrap_err().to_string();
    let name = directory.path().display();
    assert_eq!(line, format!("{name}: is a directory; name a file in it"));
}

#[test]
fn a_file_without_permission() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let line = load(file.path()).unwrap_err().to_string();
    let name = file.path().display();
    if fs::File::open(file.path()).is_ok() {
        // Root may read it nevertheless, and finds it empty.
        assert!(line.starts_with(&format!("{name}:1:1: uplink:")), "{line}");
    } else {
        assert_eq!(
            line,
            format!("{name}: may not be read; run as root, or change its permissions")
        );
    }
}

#[test]
fn a_file_that_never_ends() {
    assert_eq!(
        load(Path::new("/dev/zero")).unwrap_err().to_string(),
        "/dev/zero: is larger than 16 MiB; name a configuration file"
    );
}

/// What would take more memory than natbpf needs for 100,000 forwards is refused before it is
/// parsed.
#[test]
fn a_file_of_nothing_but_marks_or_tables_is_refused_unread() {
    for (text, times, what) in [
        ("k=1\n", 1_500_001, "1500000 values"),
        ("[[snat]]\n", 375_001, "1500000 values"),
        ("a,", 1_500_001, "1500000 values"),
        ("\n", 3_500_001, "3500000 lines"),
        ("#\n", 1_750_001, "3500000 lines"),
        ("\"\n", 1_750_001, "3500000 lines"),
        ("a.", 3_500_001, "3500000 lines"),
    ] {
        let refused = refusal_of_file(text.repeat(times).as_bytes());
        assert!(refused.contains(what), "{text:?}: {refused}");
    }
}

#[test]
fn of_many_unknown_keys_the_first_ones_are_named() {
    let text: String = (0..3000).map(|n| format!("key{n} = 1\n")).collect();
    let error = super::super::parse(&text, Path::new("FILE")).unwrap_err();
    let keys: Vec<_> = error.all().map(|one| one.key.as_str()).collect();
    let unknown: Vec<String> = (0..20).map(|n| format!("key{n}")).collect();
    assert_eq!(keys[..20], unknown);
    assert_eq!(keys[20..], ["uplink"]);
}

#[test]
fn a_byte_that_is_not_utf8() {
    assert_eq!(
        refusal_of_file(b"# gr\xc3\xbc\xc3\x9fe\n[uplink.\xe9t\xe9]\n"),
        "FILE:2:9: byte 0xe9 is not UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        refusal_of_file(b"# gr\xc3\xbc\xdfe\n"),
        "FILE:1:6: byte 0xdf is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn an_empty_file() {
    let expected = "FILE:1:1: uplink: there is no uplink; \
                    add [uplink.NAME] with interface = \"vmbr0\", for example";
    assert_eq!(refusal_of_file(b""), expected);
    assert_eq!(refusal_of_file(b"\xef\xbb\xbf"), expected);
    assert_eq!(
        refusal_of_file(b"# nothing\n"),
        expected.replace(":1:1:", ":2:1:")
    );
}

#[test]
fn a_word_without_quotes() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface = vmbr0\n"),
        "n.toml:2:13: uplink.wan.interface: `vmbr0` is not a value; \
         put text into quotes, as in \"vmbr0\""
    );
}

#[test]
fn a_key_without_a_value() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface\n"),
        "n.toml:2:10: uplink.wan: not valid TOML: key with no value; expected `=`"
    );
}

#[test]
fn a_header_that_is_not_closed() {
    assert_eq!(
        refusal("[uplink.wan\ninterface = \"a\"\n"),
        "n.toml:1:12: uplink.wan: not valid TOML: unclosed table; expected `]`"
    );
}

#[test]
fn a_string_that_is_not_closed() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface = \"vmbr0\naddresses = []\n"),
        "n.toml:2:19: uplink.wan.interface: not valid TOML: invalid basic string; expected `\"`"
    );
}

#[test]
fn an_uplink_that_is_there_twice() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface = \"a\"\n\n[uplink.wan]\ninterface = \"b\"\n"),
        "n.toml:4:9: uplink.wan: `wan` is used twice; a table or key may appear only once; rename \
         or remove one"
    );
}

#[test]
fn a_key_that_is_there_twice() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface = \"a\"\ninterface = \"b\"\n"),
        "n.toml:3:1: uplink.wan.interface: `interface` is used twice; a table or key may appear \
         only once; rename or remove one"
    );
}

/// Numbers in a list take fifty times the memory of their text.
#[test]
fn a_file_of_values_alone() {
    let line = refusal_of_file("1,".repeat(1_500_001).as_bytes());
    assert_eq!(
        line,
        "FILE: has more than 1500000 values; write ranges instead of lists"
    );
}
