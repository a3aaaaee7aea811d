use super::*;

/// A directory of this test's, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("natbpf-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_started_program_is_read_back_from_its_script() {
    let launch = Launch {
        program: PathBuf::from("/a dir/it's/usr/bin/tool"),
        libraries: vec![PathBuf::from("/a dir/it's/usr/lib"), PathBuf::from("/b")],
        variables: vec![("PLUGINS".to_owned(), PathBuf::from("/a dir/plugins"))],
    };
    assert_eq!(Launch::read(&launch.script()).as_ref(), Some(&launch));
    assert_eq!(Launch::read("#!/bin/sh\necho another script\n"), None);
    let plain = Launch::of(Path::new("/bin/sh"));
    assert_eq!(plain.program, Path::new("/bin/sh"));
    assert!(plain.libraries.is_empty());
}

#[test]
fn a_program_with_variables_is_started_with_them_and_its_arguments() {
    let scratch = Scratch::new("variables");
    let unpacked = Unpacked::below(scratch.0.clone());
    scratch.file("pkg/usr/sbin/tool.real", "#!/bin/sh\necho \"$DATA $1\"\n");
    let wanted = Wanted {
        name: "tool",
        files: &["tool.real"],
        variables: &[("DATA", "usr/share/tool")],
    };
    unpacked.provide("pkg", &wanted).unwrap();
    let said = capture(Command::new(unpacked.bin().join("tool")).arg("a b")).unwrap();
    let data = scratch.0.join("pkg/usr/share/tool");
    assert_eq!(said, format!("{} a b\n", data.display()));
}

#[test]
fn a_program_that_needs_nothing_is_a_link_and_keeps_its_name() {
    let scratch = Scratch::new("link");
    let unpacked = Unpacked::below(scratch.0.clone());
    scratch.file("pkg/bin/box", "#!/bin/sh\necho ${0##*/}\n");
    symlink("/bin/box", scratch.0.join("pkg/bin/applet")).unwrap();
    turn_links(&unpacked.root("pkg"), &unpacked.root("pkg")).unwrap();
    let wanted = Wanted {
        name: "applet",
        files: &[],
        variables: &[],
    };
    unpacked.provide("pkg", &wanted).unwrap();
    let program = unpacked.bin().join("applet");
    assert!(fs::read_link(&program).is_ok());
    assert_eq!(capture(&mut Command::new(program)).unwrap(), "applet\n");
}

#[test]
fn a_package_without_the_program_is_named() {
    let scratch = Scratch::new("without");
    let unpacked = Unpacked::below(scratch.0.clone());
    scratch.file("pkg/usr/bin/other", "");
    let wanted = Wanted {
        name: "tool",
        files: &[],
        variables: &[],
    };
    let error = unpacked.provide("pkg", &wanted).unwrap_err().to_string();
    assert_eq!(error, "Debian's pkg has no tool");
}

#[test]
fn installed_packages_demand_nothing_of_the_copied_status() {
    let status = "Package: a\nEssential: yes\nStatus: hold ok installed\nVersion: 1\n\
                  Depends: b (= 1)\nConflicts: c\nDescription: x\n y\n\n\
                  Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                  Package: libc6\nStatus: install ok installed\nVersion: 2\nProvides: d\n\n\
                  Package: b\nStatus: install ok installed\nVersion: 1\nBreaks: e\n";
    let all = undemanding(status, |_| true);
    assert_eq!(
        all,
        "Package: a\nVersion: 1\nStatus: install ok installed\n\n\
         Package: libc6\nVersion: 2\nProvides: d\nStatus: install ok installed\n\n\
         Package: b\nVersion: 1\nStatus: install ok installed\n\n"
    );
    let basis = undemanding(status, is_basis);
    assert!(basis.contains("Package: a\n") && basis.contains("Package: libc6\n"));
    assert!(!basis.contains("Package: b\n"));
}
