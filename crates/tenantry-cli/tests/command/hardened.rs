use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use syscalls::Sysno;

use super::serve::{Service, local};
use super::{Session, decode, missing};

/// Where the units and the image are.
const SYSTEMD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/systemd");
const CONTAINERFILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/docker/Containerfile");

/// The highest accepted rating of `systemd-analyze security`, in tenths.
const EXPOSURE_MAX: &str = "19";

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// The settings of a unit, each with its values in the order in which they are there.
struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(Path::new(SYSTEMD).join(name)).unwrap();
        let mut settings = BTreeMap::<String, Vec<String>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=') {
                settings.entry(name.to_owned()).or_default().push(value.to_owned());
            }
        }
        Self(settings)
    }

    fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn is_set(&self, name: &str) -> bool {
        self.all(name) == ["yes"]
    }

    /// The system calls that SystemCallFilter= allows: lists with a tilde take away from those
    /// before them.
    fn allowed_calls(&self) -> BTreeSet<i64> {
        let mut allowed = BTreeSet::new();
        for list in self.all("SystemCallFilter") {
            let (is_taken_away, names) =
                list.strip_prefix('~').map_or((false, &**list), |names| (true, names));
            for call in names.split(' ').flat_map(calls_of) {
                if is_taken_away {
                    allowed.remove(&call)
                } else {
                    allowed.insert(call)
                };
            }
        }
        allowed
    }

    /// The filters that systemd installs for the unit, as systemd.exec(5) has them.
    fn seccomp_filters(&self) -> Vec<BpfProgram> {
        let mut filters = Vec::new();
        if !self.all("SystemCallFilter").is_empty() {
            assert_eq!(self.all("SystemCallErrorNumber"), ["EPERM"]);
            let rules = self.allowed_calls().into_iter().map(|call| (call, Vec::new()));
            filters.push(filter(
                rules.collect(),
                SeccompAction::Errno(EPERM),
                SeccompAction::Allow,
            ));
        }
        let mut refuse = |setting: &str, errno: u32, calls: Vec<(Sysno, Vec<SeccompRule>)>| {
            if self.is_set(setting) || self.all(setting) == ["none"] {
                let rules = calls.into_iter().map(|(call, rules)| (i64::from(call.id()), rules));
                filters.push(filter(
                    rules.collect(),
                    SeccompAction::Allow,
                    SeccompAction::Errno(errno),
                ));
            }
        };
        // seccomp can't read the structures that openat2 and clone3 get.
        refuse("RestrictSUIDSGID", ENOSYS, vec![(Sysno::openat2, vec![])]);
        refuse("RestrictNamespaces", ENOSYS, vec![(Sysno::clone3, vec![])]);
        let with_bits = |argument, bits: u64| {
            let is_set = |bit: u32| SeccompCmpOp::MaskedEq(1 << bit);
            (0..64_u32)
                .filter(|bit| bits >> bit & 1 == 1)
                .map(|bit| rule(argument, is_set(bit), 1 << bit))
                .collect()
        };
        let setuid_and_setgid = 0o6000;
        refuse(
            "RestrictSUIDSGID",
            EPERM,
            vec![
                (Sysno::fchmod, with_bits(1, setuid_and_setgid)),
                (Sysno::fchmodat, with_bits(2, setuid_and_setgid)),
                (Sysno::mkdirat, with_bits(2, setuid_and_setgid)),
                (Sysno::mknodat, with_bits(2, setuid_and_setgid)),
                (Sysno::openat, with_bits(3, setuid_and_setgid)),
            ],
        );
        let namespaces = 0x7e02_0000;
        refuse(
            "RestrictNamespaces",
            EPERM,
            vec![
                (Sysno::clone, with_bits(0, namespaces)),
                (Sysno::unshare, vec![]),
                (Sysno::setns, vec![]),
            ],
        );
        let (write_and_execute, execute) = (6, 4);
        refuse(
            "MemoryDenyWriteExecute",
            EPERM,
            vec![
                (
                    Sysno::mmap,
                    vec![rule(2, SeccompCmpOp::MaskedEq(write_and_execute), write_and_execute)],
                ),
                (Sysno::mprotect, vec![rule(2, SeccompCmpOp::MaskedEq(execute), execute)]),
                (Sysno::pkey_mprotect, vec![rule(2, SeccompCmpOp::MaskedEq(execute), execute)]),
            ],
        );
        refuse("RestrictRealtime", EPERM, vec![(Sysno::sched_setscheduler, vec![])]);
        refuse("LockPersonality", EPERM, vec![(Sysno::personality, vec![])]);
        refuse("RestrictAddressFamilies", EAFNOSUPPORT, vec![(Sysno::socket, vec![])]);
        filters
    }
}

/// Returns the numbers of a system call, or of a set (`@file-system`) as `systemd-analyze` lists
/// it.
fn calls_of(name: &str) -> Vec<i64> {
    if !name.starts_with('@') {
        // Sets name calls of all architectures.
        return name.parse::<Sysno>().ok().map(|call| i64::from(call.id())).into_iter().collect();
    }
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "--no-pager", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}");
    let members = String::from_utf8(output.stdout).unwrap();
    let members = members
        .lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(calls_of).collect()
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompRule {
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value).unwrap();
    SeccompRule::new(vec![condition]).unwrap()
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> BpfProgram {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, otherwise, matched, arch).unwrap().try_into().unwrap()
}

/// A sandbox of `bubblewrap`, in which the command is /run/tenantry and sees of the session's files
/// what is named.
struct Sandbox<'s> {
    session: &'s Session,
    arguments: Vec<String>,
    filters: usize,
}

impl<'s> Sandbox<'s> {
    fn new(session: &'s Session) -> Self {
        let arguments = [
            "--die-with-parent",
            "--unshare-user",
            "--unshare-net",
            "--unshare-ipc",
            "--cap-drop",
            "ALL",
        ];
        let mut sandbox = Self { session, arguments: Vec::new(), filters: 0 };
        sandbox.with(&arguments);
        sandbox.with(&["--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]);
        sandbox
    }

    fn with(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().copied().map(str::to_owned));
    }

    fn with_user(&mut self, user: &str, group: &str) {
        self.with(&["--uid", user, "--gid", group]);
    }

    /// Adds a directory of the session that may be written in.
    fn with_dir(&mut self, name: &str, at: &str) {
        let dir = self.session.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        self.with(&["--bind", dir.to_str().unwrap(), at]);
    }

    fn with_filters(&mut self, filters: &[BpfProgram]) {
        for program in filters {
            let instruction = |i: &seccompiler::sock_filter| {
                let mut bytes = i.code.to_ne_bytes().to_vec();
                bytes.extend([i.jt, i.jf]);
                bytes.extend(i.k.to_ne_bytes());
                bytes
            };
            let bytes: Vec<u8> = program.iter().flat_map(instruction).collect();
            self.session.write(&format!("filter{}", self.filters), bytes);
            self.filters += 1;
        }
    }

    /// Runs a program in the sandbox.
    fn run(&self, program: &[&str]) -> (i32, String, String) {
        decode(self.command(program).output().unwrap())
    }

    fn command(&self, program: &[&str]) -> Command {
        // A shell opens the filters, since a child of a Rust program gets the standard descriptors
        // only.
        let mut script = String::new();
        for number in 0..self.filters {
            let descriptor = number + 3;
            script.push_str(&format!("exec {descriptor}<filter{number}\n"));
            script.push_str(&format!("set -- --add-seccomp-fd {descriptor} \"$@\"\n"));
        }
        script.push_str("exec bwrap \"$@\"");
        let mut command = self.session.in_dir("bash");
        command.args(["-c", &script, "bash"]).args(&self.arguments).args(program);
        command
    }
}

/// Runs all that the command can do, on an empty store, with files in the current directory.
fn run_every_command(sandbox: &Sandbox<'_>, command: &str) {
    let run = |arguments: &[&str]| {
        let (code, stdout, stderr) = sandbox.run(&[&[command], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    };
    let user = "ada@example.com";
    let created = run(&["user", "create", user, "--format", "json"]);
    let id = created.split('"').nth(3).unwrap();
    run(&["user", "get", id]);
    run(&["user", "login", user]);
    run(&["user", "update", user, "--email", "ada@example.org"]);
    run(&["user", "update", id, "--email", user]);
    run(&["user", "list", "--contains", "ada"]);
    run(&["storage", "path", user]);
    run(&["storage", "usage", user]);
    run(&["user", "export-archive", user, "ada.tar.zst"]);
    run(&["user", "delete", user, "--yes"]);
    run(&["trash", "list"]);
    run(&["user", "restore", id]);
    run(&["check"]);
    run(&["check", "--repair"]);
    run(&["export", "users.csv"]);
    run(&["import", "users.csv", "--on-conflict", "update"]);
    run(&["backup", "create", "backup.tar.zst"]);
    run(&["backup", "create", "--keep", "2", "."]);
    run(&["backup", "verify", "backup.tar.zst"]);
    run(&["backup", "restore", "backup.tar.zst", "--into", "restored"]);
    run(&["user", "delete", user, "--yes"]);
    run(&["user", "purge", id, "--yes"]);
    run(&["user", "import-archive", "ada.tar.zst", "--data-dir", "restored-user"]);
    run(&["user", "create", "bob@example.com", "--storage-path", "customers/bob"]);
    run(&["status"]);
    run(&["completions", "bash"]);
    run(&["man", "manual"]);
    assert!(run(&["user", "list", "--format", "csv"]).contains("bob@example.com"));
}

fn can_sandbox() -> bool {
    let mut probe = Command::new("bwrap");
    probe.args(["--ro-bind", "/", "/", "--unshare-user", "--uid", "65000", "true"]);
    probe.output().is_ok_and(|output| output.status.success())
}

/// Under this hardening, which is usual for a service with a StateDirectory=, no command worked
/// before the store did without `openat2`.
#[test]
fn every_command_works_under_the_hardening_of_the_systemd_units() {
    if !can_sandbox() || Command::new("systemd-analyze").arg("--version").output().is_err() {
        return missing("systemd's hardening needs `bwrap` (bubblewrap) and `systemd-analyze`");
    }
    for name in ["tenantry-hook@.service", "tenantry-backup.service", "tenantry.service"] {
        let unit = Unit::read(name);
        for setting in
            ["DynamicUser", "PrivateTmp", "PrivateDevices", "NoNewPrivileges", "RestrictSUIDSGID"]
        {
            assert!(unit.is_set(setting), "{name}: {setting}");
        }
        assert_eq!(unit.all("ProtectSystem"), ["strict"], "{name}");
        assert_eq!(unit.all("CapabilityBoundingSet"), [""], "{name}");

        let session = Session::new();
        let mut sandbox = Sandbox::new(&session);
        sandbox.with_user("64999", "64999");
        // ProtectSystem=strict, PrivateTmp=, PrivateDevices=, ProtectHome=.
        sandbox.with(&[
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/home",
        ]);
        sandbox.with(&["--tmpfs", "/root", "--tmpfs", "/run"]);
        sandbox.with(&["--ro-bind", env!("CARGO_BIN_EXE_tenantry"), "/run/tenantry"]);
        // bubblewrap makes the mount points, which it can't do below a root that is read-only.
        sandbox.with_dir("data", "/run/state/tenantry");
        sandbox.with_dir("backups", "/run/state/tenantry-backups");
        sandbox.with(&["--chdir", "/run/state/tenantry-backups"]);
        sandbox.with(&[
            "--setenv",
            "STATE_DIRECTORY",
            "/run/state/tenantry:/run/state/tenantry-backups",
        ]);
        sandbox.with_filters(&unit.seccomp_filters());

        // The filters and the mounts are in place.
        let (code, _, stderr) =
            sandbox.run(&["/bin/sh", "-c", "chmod 4755 . || unshare true || touch /var/x"]);
        assert_eq!(code, 1, "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 3, "{name}: {stderr}");

        run_every_command(&sandbox, "/run/tenantry");
        assert!(session.path("data/tenantry.db").exists(), "{name}");
        if name != "tenantry.service" {
            continue;
        }
        // The service raises limits and lowers priorities, which it has to do without here.
        let arguments = ["/run/tenantry", "serve", "--listen", "unix:/run/state/tenantry/t.sock"];
        let service = Service::spawn(&session, sandbox.command(&arguments));
        let created = local(
            &session.path("data/t.sock"),
            "POST",
            "/v1/users",
            r#"{"email":"eve@example.com"}"#,
        );
        assert_eq!(created.unwrap().0, 201, "{name}");
        drop(service);
    }
}

#[test]
fn systemd_accepts_the_units_and_rates_them_as_hardened() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return missing("verifying systemd's units needs `systemd-analyze`");
    }
    let session = Session::new();
    std::fs::create_dir(session.path("units")).unwrap();
    let mut services = 0;
    for entry in std::fs::read_dir(SYSTEMD).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // The programs and the manual are installed together with the units.
        let text = text
            .replace("/usr/local/bin/tenantry", "/bin/true")
            .replace("/etc/tenantry/hooks/%i", "/bin/true")
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .fold(String::new(), |text, line| text + line + "\n");
        let path = session.write(&format!("units/{name}"), text);
        if name.ends_with(".service") {
            services += 1;
            let mut command = session.in_dir("systemd-analyze");
            command
                .args(["security", "--no-pager", "--offline=true", "--threshold", EXPOSURE_MAX])
                .arg(&path);
            let (code, stdout, stderr) = decode(command.output().unwrap());
            assert_eq!(code, 0, "{name}: {stdout}{stderr}");
        }
        let (code, _, stderr) = decode(
            session
                .in_dir("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(&path)
                .output()
                .unwrap(),
        );
        assert_eq!((code, &*stderr), (0, ""), "{name}");
    }
    assert_eq!(services, 3);
}

/// What the image has of a file system, without an engine: the command, the C library, a volume and
/// nothing else.
#[test]
fn every_command_works_as_the_container_runs_it() {
    if !can_sandbox() {
        return missing("a container's file system needs `bwrap` (bubblewrap)");
    }
    let text = std::fs::read_to_string(CONTAINERFILE).unwrap();
    let setting = |name: &str| {
        let line = text.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("the Containerfile has no {name}"))
    };
    let (user, group) = setting("USER").split_once(':').unwrap();
    assert_ne!(user, "0");
    let volume = setting("VOLUME");
    let entry_point = setting("ENTRYPOINT").trim_start_matches("[\"").trim_end_matches("\"]");

    let session = Session::new();
    let mut sandbox = Sandbox::new(&session);
    sandbox.with_user(user, group);
    for dir in ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|dir| Path::new(dir).exists()) {
        sandbox.with(&["--ro-bind", dir, dir]);
    }
    sandbox.with(&[
        "--ro-bind",
        env!("CARGO_BIN_EXE_tenantry"),
        entry_point,
        "--ro-bind",
        "/proc",
        "/proc",
    ]);
    sandbox.with(&["--dev", "/dev"]);
    sandbox.with_dir("volume", volume);
    sandbox.with_dir("backups", "/backups");
    sandbox.with(&["--chdir", "/backups", "--remount-ro", "/"]);
    let (name, value) = setting("ENV").split_once('=').unwrap();
    sandbox.with(&["--setenv", name, value]);

    run_every_command(&sandbox, entry_point);
    assert!(session.path("volume/tenantry.db").exists());
}
