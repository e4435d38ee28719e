//! Backups that were forged or damaged.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::EntryType;
use tenantry::FindingKind;
use tenantry::sqlite::rusqlite::Connection;

use crate::archives::{self, Forged, Forgeries, Forgery, dir_of, header, is_refusal, noise, tree};
use crate::backup::{back_up, files, restore, small_store, verify};
use crate::process::{self, Process};
use crate::support::{SqlitePlace, block_on};

impl Forged {
    /// Changes the database, announced as it is then.
    fn with_database(&mut self, change: impl FnOnce(&Connection)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        fs::write(&path, &self.entries[0].content).unwrap();
        let conn = Connection::open(&path).unwrap();
        change(&conn);
        conn.close().unwrap();
        self.replace(0, fs::read(&path).unwrap());
    }
}

/// A file in a directory of its own, beside which nothing may change, and what was wrong with that.
struct Hostile {
    dir: tempfile::TempDir,
    wrong: Vec<String>,
}

impl Hostile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        Self { dir, wrong: Vec::new() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("x.tar.zst")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("a/b/restored")
    }

    /// Makes sure that the archive is neither found good nor restored, and that nothing comes of
    /// the attempt.
    fn is_refused(&mut self, what: &str) {
        self.is_not_verified(what);
        self.is_not_restored(what);
    }

    fn is_not_verified(&mut self, what: &str) {
        match verify(&self.file()) {
            Err(error) if is_refusal(error.kind()) => {}
            // What is wrong within the database is what a verification is there to tell.
            Ok(verified)
                if verified
                    .findings
                    .iter()
                    .any(|found| found.kind == FindingKind::DatabaseDamaged) => {}
            other => self.wrong.push(format!("{what}, verified: {other:?}")),
        }
    }

    fn is_not_restored(&mut self, what: &str) {
        match restore(&self.file(), &self.target()) {
            Err(error) if is_refusal(error.kind()) => {}
            other => self.wrong.push(format!("{what}, restored: {other:?}")),
        }
        let left: Vec<PathBuf> = tree(self.dir.path()).into_keys().collect();
        if left != ["a", "a/b", "x.tar.zst"].map(PathBuf::from) {
            self.wrong.push(format!("{what}: there is {left:?}"));
            self.dir = Self::new().dir;
        }
    }

    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// What is no backup.
fn forgeries() -> Forgeries {
    let mut forgeries = archives::forgeries();
    for field in ["users", "trashed"] {
        forgeries.add(format!("another number of {field}"), move |x| {
            x.manifest[field] = (x.manifest[field].as_u64().unwrap() + 1).into();
        });
    }
    forgeries.add("a store id that isn't the database's", |x| {
        x.manifest["store_id"] = "3fa2b1c4-0000-4000-8000-000000000001".into();
    });
    forgeries.add("another schema version", |x| x.manifest["schema_version"] = 1.into());
    // Paths.
    forgeries.add_at(&[
        "",
        ".",
        "..",
        "/",
        "../x",
        "/etc/x",
        "storage/../../x",
        "storage/../x",
        "storage/..",
        "storage//x",
        "storage/./x",
        "storage/x/",
        "storage/x\0y",
        "x",
        "tenantry.db/x",
        "tenantry.db-wal",
        "tenantry.db-journal",
        "tenantry.lock",
        "quarantine/x",
        "storage",
        "trash",
        // The store writes it, and nobody else.
        "storage/.tenantry-store",
        "storage/.tenantry-store/x",
        // Nobody's.
        "storage/x",
        "storage/3f/x",
        "trash/x",
        "trash/3fa2b1c4-0000-4000-8000-000000000001",
        "storage/customers/bob",
    ]);
    forgeries.add("a user's directory that is a file", |x| {
        let path = x.of_user();
        x.entries.truncate(1);
        x.lines.truncate(1);
        (x.manifest["files"], x.manifest["bytes"]) = (1.into(), x.entries[0].content.len().into());
        x.push(&path, Some(b"x"));
    });
    forgeries.add("nothing but a manifest", |x| {
        x.entries.clear();
        x.lines.clear();
        (x.manifest["files"], x.manifest["bytes"]) = (0.into(), 0.into());
    });
    // The database.
    forgeries.add("no database", |x| {
        let length = x.entries.remove(0).content.len() as u64;
        x.lines.remove(0);
        x.manifest["files"] = (x.manifest["files"].as_u64().unwrap() - 1).into();
        x.manifest["bytes"] = (x.manifest["bytes"].as_u64().unwrap() - length).into();
    });
    forgeries.add("a database that comes later", |x| {
        x.entries.swap(0, 1);
        x.lines.swap(0, 1);
    });
    forgeries.add("a database at the end", |x| {
        x.entries.rotate_left(1);
        x.lines.rotate_left(1);
    });
    forgeries.add("two databases", |x| {
        let content = x.entries[0].content.clone();
        x.insert(1, "tenantry.db", Some(&content));
    });
    forgeries
        .add("a database that is none", |x| x.replace(0, "Dear diary,\n".repeat(1_000).into()));
    forgeries.add("an empty database", |x| x.replace(0, Vec::new()));
    forgeries.add("half a database", |x| {
        let mut content = x.entries[0].content.clone();
        content.truncate(content.len() / 2);
        x.replace(0, content);
    });
    forgeries.add("a damaged database", |x| {
        let mut content = x.entries[0].content.clone();
        content[4_096..].chunks_mut(512).for_each(|chunk| chunk.fill(0x55));
        x.replace(0, content);
    });
    for (what, sql) in [
        ("another application's database", "PRAGMA application_id = 42"),
        ("a newer schema", "PRAGMA user_version = 1000"),
        ("an older schema", "PRAGMA user_version = 1"),
        ("a schema that lies about its version", "DROP VIEW tenantry_living_users"),
        ("another store's id", "UPDATE tenantry_store SET id = randomblob(16)"),
        ("no store's id", "DELETE FROM tenantry_store"),
    ] {
        forgeries.add(what, move |x| x.with_database(|conn| conn.execute_batch(sql).unwrap()));
    }
    forgeries.add("no store's id, as the manifest has it", |x| {
        x.with_database(|conn| conn.execute_batch("DELETE FROM tenantry_store").unwrap());
        x.manifest["store_id"] = "00000000-0000-0000-0000-000000000000".into();
    });
    forgeries
}

#[test]
fn an_archive_that_isn_t_what_its_manifest_announces_is_refused() {
    let (place, store, _) = small_store();
    let honest = place.as_ref().join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let honest = Forged::of(&honest);
    // Put together as it was, it is good; so it is the one change for which it is refused.
    let mut hostile = Hostile::new();
    honest.write(&hostile.file());
    verify(&hostile.file()).unwrap();
    assert_eq!(restore(&hostile.file(), &hostile.target()).unwrap().report.findings, []);
    fs::remove_dir_all(hostile.target()).unwrap();
    for (what, forge) in forgeries().0 {
        let mut forged = honest.clone();
        forge(&mut forged);
        forged.write(&hostile.file());
        hostile.is_refused(&what);
    }
    for (what, octets) in [
        ("an empty file", Vec::new()),
        ("a text", b"Dear diary,\n".repeat(1_000)),
        ("an empty archive", zstd::encode_all(&[][..], 1).unwrap()),
        ("an archive of nothing", zstd::encode_all(&[0; 1024][..], 1).unwrap()),
        ("something compressed", zstd::encode_all(&noise(10_000)[..], 1).unwrap()),
    ] {
        fs::write(hostile.file(), octets).unwrap();
        hostile.is_refused(what);
    }
    hostile.end();
}

/// What a store is to do when it is opened next is in its database, so in a backup's too.
#[test]
fn intents_of_a_forged_backup_that_lead_outside_are_refused() {
    let (place, store, _) = small_store();
    let honest = place.as_ref().join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let mut hostile = Hostile::new();
    for (path, name) in [
        ("storage/customers", "../../../evil"),
        ("storage/customers", "../../../../evil"),
        ("storage/customers", "../evil"),
        ("storage/customers", ".."),
        ("storage/customers", ""),
        ("storage/customers", "a/b"),
        ("storage/customers", "nul\0"),
        ("storage/../../victim", "name"),
        ("../victim", "name"),
        ("/victim", "name"),
        ("storage/./customers", "name"),
        ("storage//customers", "name"),
        ("storage/nul\0", "name"),
        ("", "name"),
    ] {
        let mut forged = Forged::of(&honest);
        forged.with_database(|conn| {
            let sql = "INSERT INTO tenantry_intents (action, path, name, recorded_at) VALUES ('quarantine', ?1, ?2, 0)";
            conn.execute(sql, (path.as_bytes(), name)).unwrap();
        });
        forged.write(&hostile.file());
        hostile.is_refused(&format!("{path:?} to {name:?}"));
    }
    hostile.end();
}

/// A store, and a backup of it that has many compressed blocks, and files that are read in many
/// steps.
fn larger_backup() -> (SqlitePlace, Vec<u8>) {
    let (place, store, ada) = small_store();
    fs::write(dir_of(&store, ada).join("noise"), noise(400_000)).unwrap();
    let file = place.as_ref().join("honest.tar.zst");
    back_up(&store, &file).unwrap();
    let octets = fs::read(file).unwrap();
    block_on(store.close()).unwrap();
    (place, octets)
}

/// A restore reads as a verification does, but makes directories that last, which takes long: it is
/// tried less often.
const RESTORE_EACH: usize = 5;

#[test]
fn a_truncated_archive_is_refused() {
    let (_place, octets) = larger_backup();
    let mut hostile = Hostile::new();
    // The end is where a cut is most easily overlooked.
    let cuts = (0..octets.len()).step_by(octets.len() / 180).chain(octets.len() - 20..octets.len());
    for (index, length) in cuts.enumerate() {
        fs::write(hostile.file(), &octets[..length]).unwrap();
        let what = format!("{length} of {} bytes", octets.len());
        hostile.is_not_verified(&what);
        if index % RESTORE_EACH == 0 || length > octets.len() - 6 {
            hostile.is_not_restored(&what);
        }
    }
    hostile.end();
}

#[test]
fn a_flipped_bit_in_an_archive_is_refused_unless_it_is_meaningless() {
    let (_place, octets) = larger_backup();
    let mut hostile = Hostile::new();
    fs::write(hostile.file(), &octets).unwrap();
    restore(&hostile.file(), &hostile.target()).unwrap();
    let expected = files(&hostile.target());
    fs::remove_dir_all(hostile.target()).unwrap();
    let mut random = blake3::Hasher::new().update(b"flips").finalize_xof();
    let mut overlooked = 0;
    for index in 0..300 {
        let mut number = [0; 8];
        random.fill(&mut number);
        // Most of it is noise: every other time it is at the beginning, where the manifest and the
        // database are.
        let octets_meant = if index % 2 == 0 { octets.len() } else { 5_000 };
        let bit = usize::try_from(u64::from_le_bytes(number) >> 8).unwrap() % (octets_meant * 8);
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(hostile.file(), flipped).unwrap();
        let what = format!("the bit {bit}");
        if let Err(error) = verify(&hostile.file()) {
            assert!(is_refusal(error.kind()), "{what}: {error:?}");
            if index % RESTORE_EACH == 0 {
                hostile.is_not_restored(&what);
            }
            continue;
        }
        overlooked += 1;
        assert_eq!(
            restore(&hostile.file(), &hostile.target()).unwrap().report.findings,
            [],
            "{what}"
        );
        assert!(files(&hostile.target()) == expected, "{what}");
        fs::remove_dir_all(hostile.target()).unwrap();
    }
    assert!(overlooked < 10, "{overlooked} of 300");
    hostile.end();
}

#[test]
fn a_decompression_bomb_exhausts_neither_memory_nor_disk() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Process::start("reads bombs", dir.path(), "").end();
    let mib: u64 = heard[0].parse().unwrap();
    assert!(mib < 100, "{mib} MiB");
}

pub(crate) fn child_reads_bombs(dir: &Path) {
    const MIB: usize = 1 << 20;
    let (_place, store, _) = small_store();
    let honest = dir.join("honest.tar.zst");
    back_up(&store, &honest).unwrap();
    let honest = Forged::of(&honest);
    let mut hostile = Hostile::new();
    let zeroes = vec![0; MIB];

    // A manifest of one line, and a name.
    for (what, name, kind, mib) in [
        ("a huge line", &b"manifest.jsonl"[..], EntryType::Regular, 512),
        ("a huge name", b"././@LongLink", EntryType::GNULongName, 100),
        ("a huge PAX header", b"pax", EntryType::XHeader, 100),
    ] {
        let mut output = zstd::Encoder::new(File::create(hostile.file()).unwrap(), 1).unwrap();
        if kind != EntryType::Regular {
            let manifest = honest.manifest();
            let first = Forgery::file("manifest.jsonl", manifest);
            first.write(&mut output);
            honest.entries[0].write(&mut output);
        }
        header(name, kind, (mib * MIB) as u64, 0o600).write(&mut output);
        for _ in 0..mib {
            output
                .write_all(if kind == EntryType::Regular { &[b' '; MIB] } else { &zeroes })
                .unwrap();
        }
        output.finish().unwrap();
        assert!(fs::metadata(hostile.file()).unwrap().len() < MIB as u64);
        hostile.is_refused(what);
    }

    // A gigabyte of zeroes that is announced is a file like any other.
    let mut output = zstd::Encoder::new(File::create(hostile.file()).unwrap(), 1).unwrap();
    let mut forged = honest.clone();
    let path = format!("{}/zeroes", forged.of_user());
    let mut hasher = blake3::Hasher::new();
    for _ in 0..1024 {
        hasher.update(&zeroes);
    }
    let size = 1024 * MIB;
    forged
        .lines
        .push(json!({ "path": path, "mode": 0o600, "size": size, "blake3": hasher.finalize().to_hex().to_string() }));
    forged.count(1, size);
    let manifest = Forgery::file("manifest.jsonl", forged.manifest());
    for entry in [&manifest].into_iter().chain(&forged.entries) {
        entry.write(&mut output);
    }
    header(path.as_bytes(), EntryType::Regular, size as u64, 0o600).write(&mut output);
    for _ in 0..1024 {
        output.write_all(&zeroes).unwrap();
    }
    output.write_all(&[0; 1024]).unwrap();
    output.finish().unwrap();
    assert_eq!(
        verify(&hostile.file()).unwrap().manifest.bytes,
        forged.manifest["bytes"].as_u64().unwrap()
    );

    hostile.end();

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    process::say(kib / 1024);
}
