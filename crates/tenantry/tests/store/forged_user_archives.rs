//! Archives of a user that were forged or damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::EntryType;
use tenantry::{ErrorKind, Store, User, check, read_user_manifest};

use crate::archives::{
    self, FileState, Forged, Forgeries, Forgery, dir_of, header, is_refusal, names, noise,
};
use crate::process::{self, Process};
use crate::support::{SqlitePlace, block_on, email, kind, new_user_at};
use crate::user_archive::{export, import, other_store, small_store, stages, world};

/// A store into which archives are imported that should be refused, and what was wrong with that.
struct Hostile {
    place: SqlitePlace,
    store: Store,
    file: PathBuf,
    before: (Vec<User>, Vec<User>, BTreeMap<PathBuf, FileState>),
    wrong: Vec<String>,
}

impl Hostile {
    fn new() -> Self {
        let (place, store) = other_store();
        let bob = block_on(store.create(new_user_at("bob@example.com", "bob"))).unwrap();
        fs::write(dir_of(&store, bob.id).join("mine"), "mine").unwrap();
        let before = world(&place, &store);
        Self { file: place.as_ref().join("x.tar.zst"), place, store, before, wrong: Vec::new() }
    }

    /// Makes sure that nothing comes of the attempt to import the file.
    fn is_refused(&mut self, what: &str, is_expected: impl Fn(ErrorKind) -> bool) {
        match import(&self.store, &self.file) {
            Err(error) if is_expected(error.kind()) => {}
            other => self.wrong.push(format!("{what}: {other:?}")),
        }
        let left = world(&self.place, &self.store);
        let outside = names(self.place.as_ref());
        if left != self.before || outside.len() != 2 {
            self.wrong.push(format!("{what}: there is {:?} and {outside:?}", left.2.keys()));
            *self = Self { wrong: std::mem::take(&mut self.wrong), ..Self::new() };
        }
    }

    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// What is no archive of a user.
fn forgeries() -> Forgeries {
    let mut forgeries = archives::forgeries();
    for given in [json!("backup"), json!("users"), json!(""), json!(null), json!(1)] {
        forgeries.add(format!("the kind {given}"), move |x| x.manifest["kind"] = given.clone());
    }
    forgeries.add_at(&[
        "",
        ".",
        "..",
        "/",
        "../x",
        "/etc/x",
        "files/../x",
        "files/..",
        "files//x",
        "files/./x",
        "files/x/",
        "files/x\0y",
        "x",
        "filesx",
        "File",
        "storage/x",
        "trash/x",
        "tenantry.db",
        "manifest.jsonl",
        "files",
    ]);
    forgeries.add("no directory for the files", |x| {
        x.entries.remove(0);
        x.lines.remove(0);
    });
    forgeries.add("the directory at the end", |x| {
        x.entries.rotate_left(1);
        x.lines.rotate_left(1);
    });
    for field in ["store_id", "exported_at", "user", "files", "bytes", "left_out"] {
        forgeries.add(format!("no {field}"), move |x| {
            drop(x.manifest.as_object_mut().unwrap().remove(field))
        });
    }
    for field in ["id", "email", "created_at", "storage_path", "updated_at", "version"] {
        forgeries.add(format!("no {field} of the user"), move |x| {
            x.manifest["user"].as_object_mut().unwrap().remove(field);
        });
        for value in [json!(null), json!([]), json!({}), json!(true), json!(1.5)] {
            forgeries.add(format!("the {field} {value} of the user"), move |x| {
                x.manifest["user"][field] = value.clone();
            });
        }
    }
    for value in [json!(-1), json!("1"), json!(1e300)] {
        forgeries.add(format!("the version {value}"), move |x| {
            x.manifest["user"]["version"] = value.clone()
        });
    }
    for (field, value) in
        [("suspended_at", json!(1)), ("external_id", json!(1)), ("name", json!([]))]
    {
        forgeries.add(format!("the {field} {value}"), move |x| {
            x.manifest["user"][field] = value.clone()
        });
    }
    forgeries.add("a field of a user that nobody knows", |x| {
        x.manifest["user"]["is_admin"] = true.into()
    });
    forgeries
}

#[test]
fn an_archive_that_isn_t_what_its_manifest_announces_is_refused() {
    let (_place, _store, ada, file) = small_store();
    let honest = Forged::of(&file);
    // Put together as it was, it is good; so it is the one change for which it is refused.
    let mut hostile = Hostile::new();
    honest.write(&hostile.file);
    let (_other_place, other) = other_store();
    assert_eq!(import(&other, &hostile.file).unwrap().user, ada);
    let forgeries = forgeries().0;
    assert!(forgeries.len() > 150, "{}", forgeries.len());
    for (what, forge) in forgeries {
        let mut forged = honest.clone();
        forge(&mut forged);
        forged.write(&hostile.file);
        hostile.is_refused(&what, is_refusal);
    }
    for (what, octets) in [
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary,\n".repeat(1_000)),
        ("an empty archive", zstd::encode_all(&[][..], 1).unwrap()),
        ("an archive of nothing", zstd::encode_all(&[0; 1024][..], 1).unwrap()),
        ("something compressed", zstd::encode_all(&noise(10_000)[..], 1).unwrap()),
    ] {
        fs::write(&hostile.file, octets).unwrap();
        hostile.is_refused(what, is_refusal);
    }
    hostile.end();
}

#[test]
fn a_row_that_no_user_can_have_is_refused_as_such() {
    let (_place, _store, _, file) = small_store();
    let honest = Forged::of(&file);
    let mut hostile = Hostile::new();
    let long = format!("{}@example.com", "a".repeat(65));
    let values: [(&str, ErrorKind, &[Value]); 11] = [
        (
            "email",
            ErrorKind::InvalidEmail,
            &[json!(""), json!("x"), json!("a\0b@example.com"), json!(long)],
        ),
        (
            "id",
            ErrorKind::InvalidId,
            &[
                json!(""),
                json!("../x"),
                json!("00000000-0000-0000-0000-000000000000"),
                json!("018f3b5c-0000-7000-8000-000000000001"),
            ],
        ),
        (
            "storage_path",
            ErrorKind::InvalidPath,
            &[
                json!(""),
                json!("../x"),
                json!("/etc/x"),
                json!("x/../../y"),
                json!("x\0"),
                json!("e\u{301}"),
                json!(".tenantry-store"),
                json!("3f/a2/3fa2b1c4-0000-4000-8000-000000000001"),
                json!("x".repeat(513)),
            ],
        ),
        (
            "created_at",
            ErrorKind::InvalidTimestamp,
            &[json!(""), json!("now"), json!("9999-12-31T00:00:00Z")],
        ),
        ("last_login_at", ErrorKind::InvalidTimestamp, &[json!(""), json!("0000-01-01T00:00:00Z")]),
        ("updated_at", ErrorKind::InvalidTimestamp, &[json!("2026-02-30T00:00:00Z")]),
        ("suspended_at", ErrorKind::InvalidTimestamp, &[json!("now")]),
        (
            "external_id",
            ErrorKind::InvalidUser,
            &[json!(""), json!("a\nb"), json!("x".repeat(257))],
        ),
        (
            "name",
            ErrorKind::InvalidUser,
            &[json!(" "), json!("a\u{202e}b"), json!("x".repeat(257))],
        ),
        (
            "attributes",
            ErrorKind::InvalidUser,
            &[json!("{}"), json!([]), json!({ "a": "x".repeat(16 << 10) })],
        ),
        (
            "version",
            ErrorKind::InvalidUser,
            &[json!(0), json!(User::MAX_VERSION + 1), json!(u64::MAX)],
        ),
    ];
    for (field, expected, values) in values {
        for value in values {
            let mut forged = honest.clone();
            forged.manifest["user"][field] = value.clone();
            forged.write(&hostile.file);
            hostile.is_refused(&format!("the {field} {value}"), |kind| kind == expected);
        }
    }
    // What is odd but good comes over: another's derived path isn't, one's own is, and so is the
    // end of each range.
    let mut forged = honest;
    let user = &mut forged.manifest["user"];
    user["id"] = "3FA2B1C4-0000-4000-8000-000000000001".into();
    user["storage_path"] = "3f/a2/3fa2b1c4-0000-4000-8000-000000000001".into();
    user["version"] = User::MAX_VERSION.into();
    user["created_at"] = "0001-01-01T00:00:00Z".into();
    user["updated_at"] = "9999-12-30T22:00:00Z".into();
    forged.write(&hostile.file);
    let imported = import(&hostile.store, &hostile.file).unwrap().user;
    assert_eq!(
        block_on(hostile.store.get_by_email(&email("ada@example.com"))).unwrap(),
        Some(imported)
    );
    assert_eq!(block_on(check(hostile.place.data_dir())).unwrap().findings, []);
    hostile.before = world(&hostile.place, &hostile.store);
    hostile.end();
}

/// No more is written than the first line announces, however much the others list.
#[test]
fn an_archive_that_exceeds_its_totals_is_refused_before_it_is_written() {
    let (_place, _store, _, file) = small_store();
    for field in ["files", "bytes"] {
        let mut forged = Forged::of(&file);
        forged.manifest[field] = 0.into();
        let (place, store) = other_store();
        let file = place.as_ref().join("x");
        forged.write(&file);
        let failed =
            block_on(store.import_user(&file, |progress| {
                assert_eq!(progress.files, 0, "a file was written")
            }));
        assert_eq!(kind(failed), ErrorKind::Corrupt);
        assert_eq!(stages(&place), [""; 0]);
    }
}

/// An archive that has many compressed blocks.
fn larger_archive() -> (User, Vec<u8>, BTreeMap<PathBuf, FileState>) {
    let (place, store, ada, _) = small_store();
    fs::write(dir_of(&store, ada.id).join("noise"), noise(100_000)).unwrap();
    let file = place.as_ref().join("larger.tar.zst");
    export(&store, ada.id, &file).unwrap();
    let (place_there, there) = other_store();
    import(&there, &file).unwrap();
    let files = world(&place_there, &there).2;
    (ada, fs::read(file).unwrap(), files)
}

#[test]
fn a_truncated_archive_is_refused() {
    let (_, octets, _) = larger_archive();
    let mut hostile = Hostile::new();
    // The end is where a cut is most easily overlooked.
    for length in
        (0..octets.len()).step_by(octets.len() / 60).chain(octets.len() - 20..octets.len())
    {
        fs::write(&hostile.file, &octets[..length]).unwrap();
        hostile.is_refused(&format!("{length} of {} bytes", octets.len()), is_refusal);
    }
    hostile.end();
}

#[test]
fn a_flipped_bit_in_an_archive_is_refused_unless_it_is_meaningless() {
    let (ada, octets, expected) = larger_archive();
    let mut random = blake3::Hasher::new().update(b"flips").finalize_xof();
    let mut hostile = Hostile::new();
    let mut overlooked = 0;
    let regions = [0..600, 600..octets.len() - 20, octets.len() - 20..octets.len()];
    for index in 0..150 {
        let mut number = [0; 8];
        random.fill(&mut number);
        // Where the manifest is, in the files, and at the end.
        let region = &regions[index % regions.len()];
        let bit = region.start * 8
            + usize::try_from(u64::from_le_bytes(number) >> 8).unwrap() % (region.len() * 8);
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&hostile.file, &flipped).unwrap();
        let (place, store) = other_store();
        match import(&store, &hostile.file) {
            Err(_) => hostile.is_refused(&format!("the bit {bit}"), is_refusal),
            Ok(imported) => {
                overlooked += 1;
                let (users, trash, files) = world(&place, &store);
                assert_eq!(
                    (imported.user, users, trash),
                    (ada.clone(), vec![ada.clone()], vec![]),
                    "the bit {bit}"
                );
                let contents = |files: &BTreeMap<PathBuf, FileState>| -> Vec<_> {
                    let files =
                        files.iter().filter(|(path, _)| path.starts_with("storage/customers"));
                    files.map(|(path, met)| (path.clone(), met.content.clone(), met.mode)).collect()
                };
                assert!(contents(&files) == contents(&expected), "the bit {bit}");
            }
        }
    }
    assert!(overlooked < 10, "{overlooked} of 150");
    hostile.end();
}

#[test]
fn no_bit_that_has_changed_changes_who_is_in_an_archive() {
    let (place, _store, _, file) = small_store();
    let (honest, octets) = (block_on(read_user_manifest(&file)).unwrap(), fs::read(&file).unwrap());
    let flipped = place.as_ref().join("flipped");
    let mut refused = 0;
    for bit in 0..octets.len() * 8 {
        let mut other = octets.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        fs::write(&flipped, other).unwrap();
        match block_on(read_user_manifest(&flipped)) {
            Ok(manifest) => assert_eq!(manifest, honest, "the bit {bit}"),
            // And not an address, say, that nobody can have.
            Err(error) => {
                assert!(is_refusal(error.kind()), "the bit {bit}: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > octets.len() * 2, "{refused} of {}", octets.len() * 8);
}

#[test]
fn a_decompression_bomb_exhausts_neither_memory_nor_disk() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Process::start("imports bombs", dir.path(), "").end();
    let mib: u64 = heard[0].parse().unwrap();
    assert!(mib < 100, "{mib} MiB");
}

pub(crate) fn child_imports_bombs(_: &Path) {
    const MIB: usize = 1 << 20;
    let (_place, _store, _, file) = small_store();
    let honest = Forged::of(&file);
    let mut hostile = Hostile::new();
    for (what, name, kind, octet) in [
        ("a huge line", &b"manifest.jsonl"[..], EntryType::Regular, b' '),
        ("a huge name", b"././@LongLink", EntryType::GNULongName, 0),
        ("a huge file that isn't announced", b"files/huge", EntryType::Regular, 0),
    ] {
        let output = fs::File::create(&hostile.file).unwrap();
        let mut output = zstd::Encoder::new(output, 1).unwrap();
        if name != b"manifest.jsonl" {
            Forgery::file("manifest.jsonl", honest.manifest()).write(&mut output);
            honest.entries[0].write(&mut output);
        }
        header(name, kind, (512 * MIB) as u64, 0o600).write(&mut output);
        for _ in 0..512 {
            std::io::Write::write_all(&mut output, &[octet; MIB]).unwrap();
        }
        output.finish().unwrap();
        assert!(fs::metadata(&hostile.file).unwrap().len() < MIB as u64);
        hostile.is_refused(what, is_refusal);
        assert_eq!(
            kind_of_peek(&hostile.file),
            (name == b"manifest.jsonl").then_some(ErrorKind::Corrupt)
        );
    }
    hostile.end();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    process::say(kib / 1024);
}

fn kind_of_peek(file: &Path) -> Option<ErrorKind> {
    block_on(read_user_manifest(file)).err().map(|error| error.kind())
}
