use super::Session;

/// The directory in which a command looks for its store, as its error names it.
fn looked_in(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let session = Session::new();
    let mut command = session.tenantry(arguments);
    for name in ["TENANTRY_DATA_DIR", "STATE_DIRECTORY", "XDG_DATA_HOME", "HOME"] {
        command.env_remove(name);
    }
    let (code, _, stderr) = super::told(command.arg("status").envs(environment.iter().copied()).output().unwrap());
    assert_eq!(code, 3, "{stderr}");
    let dir = stderr.strip_prefix("error: there is no store in ").unwrap();
    dir.split(';').next().unwrap().to_owned()
}

#[test]
fn the_flag_comes_before_the_environment_and_that_before_the_home_directory() {
    let all = [("TENANTRY_DATA_DIR", "/a"), ("STATE_DIRECTORY", "/b:/c"), ("XDG_DATA_HOME", "/d"), ("HOME", "/e")];
    assert_eq!(looked_in(&["--data-dir", "/f"], &all), "/f");
    assert_eq!(looked_in(&[], &all), "/a");
    assert_eq!(looked_in(&[], &all[1..]), "/b");
    assert_eq!(looked_in(&[], &all[2..]), "/d/tenantry");
    assert_eq!(looked_in(&[], &all[3..]), "/e/.local/share/tenantry");
}

#[test]
fn an_empty_variable_names_nothing_and_a_relative_data_home_is_ignored() {
    assert_eq!(
        looked_in(&[], &[("TENANTRY_DATA_DIR", ""), ("STATE_DIRECTORY", ""), ("HOME", "/e")]),
        "/e/.local/share/tenantry"
    );
    // The XDG base directory specification says so.
    assert_eq!(looked_in(&[], &[("XDG_DATA_HOME", "d"), ("HOME", "/e")]), "/e/.local/share/tenantry");
}

#[test]
fn the_data_directory_and_what_is_in_it_are_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt;

    let session = Session::new();
    let created = session
        .in_dir("sh")
        .args(["-c", "umask 000; tenantry --data-dir deep/er/data user create ada@example.com"])
        .output()
        .unwrap();
    assert!(created.status.success());
    let mode = |path| std::fs::metadata(session.path(path)).unwrap().permissions().mode() & 0o777;
    for dir in ["deep", "deep/er", "deep/er/data"] {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    for file in ["deep/er/data/tenantry.db", "deep/er/data/tenantry.lock"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

/// A half-made database under the store's name, cut off from its log, could never be opened again.
#[test]
fn a_creation_on_a_full_disk_leaves_nothing_in_the_way() {
    // A disk of its own, in a namespace of its own, that grows after the first attempt.
    let script = "
        mkdir disk && mount -t tmpfs -o size=${1}k tmpfs disk || exit 99
        tenantry --data-dir disk/data user create ada@example.com; first=$?
        mount -o remount,size=10m disk || exit 99
        tenantry --data-dir disk/data user get ada@example.com; there=$?
        tenantry --data-dir disk/data user login ada@example.com --create; second=$?
        echo \"$first $there $second\" $(ls disk/data)";
    let mut failed = 0;
    let sizes = (20..=260).step_by(4);
    let attempts = sizes.clone().count();
    for size in sizes {
        let session = Session::new();
        let namespace = session.in_dir("unshare").args(["-rm", "sh", "-c", script, "sh", &size.to_string()]).output();
        let Some((0, stdout, stderr)) = namespace.ok().map(super::told) else {
            return super::missing("a full disk needs `unshare` and permission to mount a tmpfs in a namespace");
        };
        let outcome = stdout.lines().last().unwrap();
        // The user may be there though nobody could be told, but never the other way round.
        let expected =
            ["0 0 0", "1 0 0", "1 3 0"].map(|codes| format!("{codes} storage tenantry.db tenantry.lock trash"));
        assert!(expected.iter().any(|expected| expected == outcome), "{size} KiB: {outcome}\n{stderr}");
        failed += usize::from(!outcome.starts_with('0'));
    }
    assert!(0 < failed && failed < attempts, "{failed} of {attempts} failed: the limit is not where it matters");
}
