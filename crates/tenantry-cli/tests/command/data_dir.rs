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
