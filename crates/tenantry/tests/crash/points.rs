//! Which failpoints there are, and in which scenarios each is reached.

/// Every point, with the scenarios in which it is passed. `delete*` are all whose names begin with
/// `delete`, and `*_copied` those that end so.
pub(crate) const POINTS: &[(&str, &str)] = &[
    ("adopt: change a mode", "adopt_first adopt_other adopt_new"),
    ("adopt: remove the empty directory", "adopt_other adopt_late recover_adopt adopt_copied"),
    ("adopt: sync a directory", "adopt_first adopt_other adopt_new"),
    ("adopt: sync the directory above", "adopt_other recover_adopt"),
    ("commit: a purge is done", "recover_purge"),
    ("commit: the database is rewritten", "purge* recover_purge"),
    (
        "commit: the intents are done",
        "make_* delete* restore* purge* adopt_other adopt_late import import_twice import_late repair recover_* adopt_copied import_copied repair_copied repair_file_copied bring_back* return_copied",
    ),
    (
        "commit: the rows",
        "make_* delete* restore* purge* adopt_first adopt_other adopt_new import* repair repair_copied repair_file_copied bring_back* return_copied",
    ),
    ("commit: what came before is on the disk", "delete_normal adopt_late recover_* adopt_copied"),
    ("copy: make a directory", DIRECTORY_COPIED),
    ("copy: make a file", COPIED),
    ("copy: make a link", "delete_copied"),
    ("copy: make a place", COPIED),
    ("copy: mark it as whole", COPIED),
    ("copy: name the directory", COPIED),
    ("copy: remove the mark", COPIED),
    ("copy: set attributes", COPIED),
    ("copy: sync", COPIED),
    ("copy: sync the end", COPIED),
    ("copy: sync the mark", COPIED),
    ("copy: sync the name", COPIED),
    ("copy: sync the removal", COPIED),
    ("create: fill the database", "open_*"),
    ("create: make the data directory", "open_*"),
    ("create: make the database", "open_*"),
    ("create: name the database", "open_*"),
    ("create: sync a directory", "open_* upgrade"),
    ("create: try the file system", "open_*"),
    ("erase: cut the log", "purge* recover_purge"),
    ("erase: rewrite the database", "purge* recover_purge"),
    ("import: make a stage", "import* bring_back* return_copied"),
    (
        "import: sync the files",
        "import import_twice import_late import_copied bring_back* return_copied",
    ),
    (
        "import: write the files",
        "import import_twice import_late import_copied bring_back* return_copied",
    ),
    (
        "make: a directory",
        "make_* restore* import import_twice import_late recover_make recover_restore recover_import repair import_copied recover_restore_copied bring_back* recover_bring_back return_copied",
    ),
    ("make: change a mode", "make_masked"),
    (
        "make: sync a directory",
        "make_* restore* import import_twice import_late recover_make recover_restore recover_import repair import_copied recover_restore_copied bring_back* recover_bring_back return_copied",
    ),
    ("open: make a directory of the store", "open_* upgrade"),
    ("open: name the marker", "open_* upgrade"),
    ("open: record that there is a marker", "open_* upgrade"),
    ("open: record the id of the store", "open_* upgrade"),
    ("open: sync the data directory", "open_* upgrade"),
    ("open: sync the marker", "open_* upgrade"),
    ("open: write the marker", "open_* upgrade"),
    ("quarantine: make a place", "adopt_late repair adopt_copied repair_copied repair_file_copied"),
    (
        "quarantine: make its directory",
        "adopt_late repair adopt_copied repair_copied repair_file_copied",
    ),
    ("quarantine: move", "adopt_late repair adopt_copied repair_copied repair_file_copied"),
    ("quarantine: sync", "adopt_late repair adopt_copied repair_copied repair_file_copied"),
    (
        "quarantine: sync the note",
        "adopt_late repair adopt_copied repair_copied repair_file_copied",
    ),
    (
        "quarantine: write the note",
        "adopt_late repair adopt_copied repair_copied repair_file_copied",
    ),
    (
        "remove: a directory",
        "purge* import_bare import_twice import_late open_* recover_purge *_copied",
    ),
    ("remove: a file", "purge* import_twice import_late recover_purge *_copied"),
    ("remove: change a mode", "purge purge_copied"),
    ("remove: move a directory up", "purge* import_late recover_purge"),
    ("remove: sync the trash", "purge* recover_purge"),
    ("repair: change a mode", "repair"),
    ("restore: move a file", "bring_back* recover_bring_back return_copied"),
    ("restore: remove an empty directory", "bring_back* recover_bring_back"),
    ("restore: sync a directory", "bring_back* recover_bring_back"),
    (
        "restore: move the directory",
        "restore* import import_twice import_late recover_restore recover_import import_copied recover_restore_copied bring_back_trashed recover_bring_back",
    ),
    (
        "restore: sync",
        "restore* import import_twice import_late recover_restore recover_import import_copied recover_restore_copied bring_back* recover_bring_back return_copied",
    ),
    ("trash: move the directory", "delete* recover_delete recover_delete_copied"),
    ("trash: sync", "delete* recover_delete recover_delete_copied"),
    ("upgrade: change the schema", "upgrade"),
    ("upgrade: make a directory for snapshots", "upgrade"),
    ("upgrade: name the snapshot", "upgrade"),
];

/// Where a directory is copied.
const DIRECTORY_COPIED: &str = "delete_copied restore_copied import_copied return_copied bring_back_copied adopt_copied repair_copied recover_delete_copied recover_restore_copied";
/// Where anything is copied.
const COPIED: &str = "delete_copied restore_copied import_copied return_copied bring_back_copied adopt_copied repair_copied repair_file_copied recover_delete_copied recover_restore_copied";

pub(crate) fn fits(scenario: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => scenario.ends_with(end),
        (None, Some(start)) => scenario.starts_with(start),
        (None, None) => scenario == pattern,
    }
}
