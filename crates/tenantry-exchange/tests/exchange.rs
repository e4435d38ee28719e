//! Imports of files into a store, with exchanges and rejections, and exports of the users.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::fmt::Write as _;

use pollster::block_on;
use proptest::prelude::*;
use tenantry::{Email, ErrorKind, NewUser, OnConflict, Store, Timestamp, User, UserId};
use tenantry_exchange::{
    Error, Format, Importer, OnConfusable, RejectsWriter, RowReader, UserWriter, export,
};

struct World {
    store: Store,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path().join("data"))).unwrap();
        Self { store, _dir: dir }
    }

    /// Creates users `0@example.com` and so on.
    fn users(&self, count: usize) -> Vec<User> {
        block_on(self.store.write(move |tx| -> Result<_, tenantry::Error> {
            (0..count).map(|n| tx.create(&NewUser::new(address(n)))).collect()
        }))
        .unwrap()
    }

    /// Imports files, each as a chunk and a transaction of its own, and then the waiting rows.
    fn import(&self, policy: OnConflict, files: &[String]) -> Importer {
        let mut importer = Importer::new(policy);
        for file in files {
            let chunk = RowReader::new(Format::Csv, file.as_bytes()).unwrap().next_chunk().unwrap();
            importer = block_on(self.store.write(move |tx| -> Result<_, Error> {
                importer.write(tx, chunk)?;
                Ok(importer)
            }))
            .unwrap();
        }
        block_on(self.store.write(move |tx| -> Result<_, Error> {
            importer.finish(tx)?;
            Ok(importer)
        }))
        .unwrap()
    }

    fn email(&self, id: UserId) -> String {
        block_on(self.store.get(id)).unwrap().unwrap().email.to_string()
    }
}

fn address(n: usize) -> Email {
    format!("{n}@example.com").parse().unwrap()
}

/// A file that gives users, by id, addresses by number.
fn moves(users: &[User], moves: &[(usize, usize)]) -> String {
    let mut csv = "id,email\n".to_owned();
    for (user, to) in moves {
        writeln!(csv, "{},{}", users[*user].id, address(*to)).unwrap();
    }
    csv
}

/// Both rows of a swap were once rejected, since each found its address taken.
#[test]
fn addresses_are_exchanged_in_cycles_of_any_length() {
    for length in [2, 3, 4, 100] {
        let world = World::new();
        let users = world.users(length);
        let cycle: Vec<_> = (0..length).map(|n| (n, (n + 1) % length)).collect();
        let importer = world.import(OnConflict::Update, &[moves(&users, &cycle)]);
        assert_eq!((importer.tally().updated, importer.tally().rejected), (length as u64, 0));
        for (user, to) in cycle {
            assert_eq!(world.email(users[user].id), address(to).as_str());
            assert_eq!(block_on(world.store.get(users[user].id)).unwrap().unwrap().version, 2);
        }
    }
}

#[test]
fn addresses_are_passed_on_in_chains_in_whatever_order_and_across_chunks() {
    let world = World::new();
    let users = world.users(9);
    // A chain into a free address, backwards and over three chunks, and a cycle over two.
    let files = [
        moves(&users, &[(0, 1), (5, 6)]),
        moves(&users, &[(1, 2), (6, 7), (2, 3)]),
        moves(&users, &[(7, 5), (3, 20), (8, 8)]),
    ];
    let importer = world.import(OnConflict::Update, &files);
    assert_eq!(
        (importer.tally().updated, importer.tally().unchanged, importer.tally().rejected),
        (7, 1, 0)
    );
    for (user, to) in [(0, 1), (1, 2), (2, 3), (3, 20), (5, 6), (6, 7), (7, 5)] {
        assert_eq!(world.email(users[user].id), address(to).as_str());
    }
}

#[test]
fn a_new_user_gets_an_address_that_a_later_row_releases() {
    let world = World::new();
    let users = world.users(2);
    let new = "3fa2b1c4-0000-4000-8000-000000000001";
    let file = format!("id,email\n{new},0@example.com\n{},9@example.com\n", users[0].id);
    let importer = world.import(OnConflict::Update, &[file]);
    assert_eq!(
        (importer.tally().created, importer.tally().updated, importer.tally().rejected),
        (1, 1, 0)
    );
    assert_eq!(world.email(new.parse().unwrap()), "0@example.com");
}

#[test]
fn an_address_that_no_row_releases_rejects_the_row_and_those_that_wait_for_it() {
    let world = World::new();
    let users = world.users(4);
    let importer = world.import(OnConflict::Update, &[moves(&users, &[(0, 1), (1, 2), (3, 30)])]);
    assert_eq!((importer.tally().updated, importer.tally().rejected), (1, 2));
    let mut lines: Vec<_> =
        importer.rejected().iter().map(|rejection| rejection.row.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [2, 3]);
    assert!(importer.rejected().iter().all(|rejection| rejection.kind == ErrorKind::EmailTaken));
    for (n, user) in users[..3].iter().enumerate() {
        assert_eq!(world.email(user.id), address(n).as_str());
    }
}

#[test]
fn a_cycle_with_a_bad_row_is_rejected_as_a_whole() {
    let world = World::new();
    let users = world.users(3);
    let file = format!(
        "id,email,created_at\n{},1@example.com,\n{},2@example.com,2020-01-01T00:00:00Z\n{},0@example.com,\n",
        users[0].id, users[1].id, users[2].id
    );
    let importer = world.import(OnConflict::Update, &[file]);
    assert_eq!((importer.tally().updated, importer.tally().rejected), (0, 3));
    for (n, user) in users.iter().enumerate() {
        assert_eq!(block_on(world.store.get(user.id)).unwrap().as_ref(), Some(user), "user {n}");
    }
}

#[test]
fn a_failed_exchange_is_rolled_back() {
    let world = World::new();
    let users = world.users(2);
    let row =
        |user: usize, to: usize| NewUser { id: Some(users[user].id), ..NewUser::new(address(to)) };
    let rows = [row(0, 1), NewUser { created_at: Some(Timestamp::MIN), ..row(1, 0) }];
    let error = block_on(
        world.store.write(move |tx| Ok::<_, Error>(tx.upsert_exchange(&rows).unwrap_err())),
    )
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::Immutable);
    for user in &users {
        assert_eq!(block_on(world.store.get(user.id)).unwrap().as_ref(), Some(user));
        assert_eq!(block_on(world.store.get_by_email(&user.email)).unwrap().as_ref(), Some(user));
    }
}

/// The later row is the final state, so an earlier one that waited must not be applied after it.
#[test]
fn rows_about_the_same_user_or_address_keep_their_order() {
    let world = World::new();
    let users = world.users(3);
    // User 0 waits for address 1, then gets address 20; user 2 wants address 1 as well, after user
    // 0.
    let importer =
        world.import(OnConflict::Update, &[moves(&users, &[(0, 1), (0, 20), (2, 1), (1, 10)])]);
    assert_eq!(importer.tally().rejected, 0, "{:?}", importer.rejected());
    assert_eq!(world.email(users[0].id), "20@example.com");
    assert_eq!(world.email(users[1].id), "10@example.com");
    assert_eq!(world.email(users[2].id), "1@example.com");
}

#[test]
fn rows_wait_only_with_the_policy_update() {
    for policy in [OnConflict::Skip, OnConflict::Fail] {
        let world = World::new();
        let users = world.users(2);
        let chunk = RowReader::new(Format::Csv, moves(&users, &[(0, 1), (1, 0)]).as_bytes())
            .unwrap()
            .next_chunk()
            .unwrap();
        let written = block_on(world.store.write(move |tx| -> Result<_, Error> {
            let mut importer = Importer::new(policy);
            importer.write(tx, chunk)?;
            assert_eq!(importer.reject_waiting(), 0);
            Ok(importer.tally().skipped)
        }));
        match policy {
            OnConflict::Fail => assert!(
                matches!(written, Err(Error::Rejected(rejection)) if rejection.row.line == 2)
            ),
            _ => assert_eq!(written.unwrap(), 2),
        }
    }
}

#[test]
fn rows_that_wait_have_a_limit_and_are_rejected_when_the_import_ends_early() {
    let world = World::new();
    let users = world.users(2);
    let path = format!("{}/", "x".repeat(200)).repeat(2);
    let mut csv = "id,email,storage_path\n".to_owned();
    for n in 0..60_000 {
        writeln!(csv, "3fa2b1c4-0000-4000-8000-{n:012x},0@example.com,{path}{n}").unwrap();
    }
    writeln!(csv, "{},9@example.com,", users[1].id).unwrap();
    let mut reader = RowReader::new(Format::Csv, csv.as_bytes()).unwrap();
    let mut importer = Importer::new(OnConflict::Update);
    loop {
        let chunk = reader.next_chunk().unwrap();
        let is_last = chunk.end.is_some();
        importer = block_on(world.store.write(move |tx| -> Result<_, Error> {
            importer.write(tx, chunk)?;
            Ok(importer)
        }))
        .unwrap();
        if is_last {
            break;
        }
    }
    let refused = importer.take_rejected();
    assert!(refused.len() > 10_000 && refused.len() < 50_000, "{}", refused.len());
    assert!(refused.iter().all(|rejection| rejection.reason.contains("too many rows wait")));
    assert_eq!(importer.tally().updated, 1);
    let waiting = importer.reject_waiting();
    assert_eq!(waiting + refused.len() as u64, 60_000);
    assert_eq!((importer.tally().rejected, importer.rejected().len() as u64), (60_000, waiting));
}

/// Imports a file into a new store as one transaction.
fn import_with(on_confusable: OnConfusable, file: &str) -> Importer {
    let world = World::new();
    let chunk = RowReader::new(Format::Csv, file.as_bytes()).unwrap().next_chunk().unwrap();
    block_on(world.store.write(move |tx| -> Result<_, Error> {
        let mut importer = Importer::new(OnConflict::Skip).on_confusable(on_confusable);
        importer.write(tx, chunk)?;
        importer.finish(tx)?;
        Ok(importer)
    }))
    .unwrap()
}

#[test]
fn a_confusable_address_is_reported_refused_or_ignored_also_within_one_import() {
    // The first address is Cyrillic, the second Latin.
    let file =
        "email\n\u{441}\u{43e}\u{441}\u{43e}@example.com\ncoco@example.com\nbob@example.com\n";
    let mut importer = import_with(OnConfusable::Warn, file);
    assert_eq!((importer.tally().created, importer.tally().confusables), (3, 1));
    let confusables = importer.take_confusables();
    assert_eq!(confusables.len(), 1);
    let expected = format!(
        "line 3: coco@example.com: the address looks like that of the user {}",
        confusables[0].other.id
    );
    assert_eq!(confusables[0].to_string(), expected);
    assert!(importer.take_confusables().is_empty());

    let importer = import_with(OnConfusable::Refuse, file);
    assert_eq!((importer.tally().created, importer.tally().rejected), (2, 1));
    let rejection = &importer.rejected()[0];
    assert_eq!((rejection.row.line, rejection.kind), (3, ErrorKind::EmailTaken));
    assert!(
        rejection.reason.starts_with("the address looks like that of the user "),
        "{}",
        rejection.reason
    );

    let mut importer = import_with(OnConfusable::Ignore, file);
    assert_eq!((importer.tally().created, importer.tally().confusables), (3, 0));
    assert!(importer.take_confusables().is_empty());
    // Without another address nothing is confusable.
    assert_eq!(import_with(OnConfusable::Warn, "email\ncoco@example.com\n").tally().confusables, 0);
}

#[test]
fn a_chunk_with_a_bad_row_fails_the_check_of_an_all_or_nothing_import_alone() {
    let chunk = || {
        RowReader::new(Format::Csv, &b"email\nada@example.com\nbob\n"[..])
            .unwrap()
            .next_chunk()
            .unwrap()
    };
    let Err(Error::Rejected(rejection)) = Importer::new(OnConflict::Fail).check(&mut chunk())
    else {
        panic!("the bad row passed")
    };
    assert_eq!(rejection.to_string(), "line 3: bob: email: the address has no @");
    assert_eq!(rejection.kind, ErrorKind::InvalidUser);
    for policy in [OnConflict::Skip, OnConflict::Update] {
        assert!(Importer::new(policy).check(&mut chunk()).is_ok());
    }
    let mut good = RowReader::new(Format::Csv, &b"email\nada@example.com\n"[..])
        .unwrap()
        .next_chunk()
        .unwrap();
    assert!(Importer::new(OnConflict::Fail).check(&mut good).is_ok());
}

/// A rejected row `=1+1` isn't a formula in the file of rejects, and has its value again when it is
/// imported.
#[test]
fn formula_injection_is_escaped_in_rejects_and_reversed_by_an_import() {
    let rows = ["=1+1", "'=1+1", "''=1+1", "\u{ff1d}1+1", "@sum", "-1", "+1", "'x"];
    let file = format!("email\n{}\n", rows.join("\n"));
    let addresses = |file: &str| {
        let mut reader = RowReader::new(Format::Csv, file.as_bytes()).unwrap();
        let chunk = reader.next_chunk().unwrap();
        let bad = |row: &tenantry_exchange::Row| row.user.as_ref().unwrap_err().address.clone();
        (chunk.rows.iter().map(bad).collect::<Vec<_>>(), chunk)
    };
    let (_, chunk) = addresses(&file);
    let world = World::new();
    let importer = block_on(world.store.write(move |tx| -> Result<_, Error> {
        let mut importer = Importer::new(OnConflict::Skip);
        importer.write(tx, chunk)?;
        Ok(importer)
    }))
    .unwrap();
    let mut writer = RejectsWriter::new(Vec::new()).unwrap();
    importer.rejected().iter().for_each(|rejection| writer.write(rejection).unwrap());
    let rejects = writer.finish().unwrap();
    let cells: Vec<String> = csv::Reader::from_reader(rejects.as_slice())
        .records()
        .map(|record| record.unwrap()[2].to_owned())
        .collect();
    assert_eq!(cells, ["'=1+1", "'=1+1", "''=1+1", "'\u{ff1d}1+1", "'@sum", "'-1", "'+1", "'x"]);
    // The reader removes the apostrophe, so each row is rejected for the same value again.
    let again = format!("email\n{}\n", cells.join("\n"));
    let reasons = |file: &str| {
        let chunk = RowReader::new(Format::Csv, file.as_bytes()).unwrap().next_chunk().unwrap();
        chunk.rows.into_iter().map(|row| row.user.unwrap_err().reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&again), reasons(&file));
}

fn new_users() -> impl Strategy<Value = Vec<NewUser>> {
    let start =
        prop::sample::select(vec!["", "=", "+", "-", "'", "'=", "''+", "\u{ff1d}", "\u{ff0b}"]);
    let local = prop::sample::select(vec![
        "ada",
        "Bob",
        "o'neil",
        "\u{7528}\u{6237}",
        "\u{fc}ser",
        "a.b+tag",
    ]);
    let time = || {
        (Timestamp::MIN.as_unix_us()..=Timestamp::MAX.as_unix_us())
            .prop_map(|us| Timestamp::from_unix_us(us).unwrap())
    };
    let path = prop::option::of("[a-z]{1,8}( [a-z=',;\"]{1,8})?");
    let user =
        (start, local, path, time(), prop::option::of(time()), 1..=User::MAX_VERSION, profile());
    prop::collection::vec(user, 0..8).prop_map(|users| {
        let user = |(n, (start, local, path, time, login, version, profile))| {
            let path: Option<String> = path;
            NewUser {
                storage_path: path.and_then(|path| format!("x{n} {path}").parse().ok()),
                created_at: Some(time),
                last_login_at: login,
                updated_at: Some(time),
                version: Some(version),
                email: format!("{start}{local}{n}@example.com").parse().unwrap(),
                ..profile
            }
        };
        users.into_iter().enumerate().map(user).collect()
    })
}

/// A user with what a user may lack, whose address is to be replaced.
fn profile() -> impl Strategy<Value = NewUser> {
    let external_id = prop::option::of("[ =+'\"{a-z\u{e9}]{1,8}");
    let name = prop::option::of("[ =+'\",a-z\u{5d0}]{0,8}x[ a-z]{0,3}");
    let attributes = prop::option::of(prop::sample::select(vec![
        "{}",
        r#"{"b":1.50,"a":"=1"}"#,
        r#"{"":[{"\u00e9":"\n"}]}"#,
    ]));
    (any::<bool>(), external_id, name, attributes).prop_map(
        |(is_suspended, external_id, name, attributes)| NewUser {
            suspended_at: is_suspended.then_some(Timestamp::MAX),
            external_id: external_id.map(|id| id.parse().unwrap()),
            name: name.map(|name| name.parse().unwrap()),
            attributes: attributes.map(|json| json.parse().unwrap()),
            ..NewUser::new("ada@example.com".parse().unwrap())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_export_round_trips_through_an_import(users in new_users()) {
        thread_local! { static WORLD: World = World::new(); }
        WORLD.with(|world| {
            let (store, count) = (&world.store, users.len());
            // In a transaction that is rolled back.
            let undone = block_on(store.write(move |tx| -> Result<(), Undo> {
                let created = users.iter().map(|user| tx.create(user)).collect::<Result<Vec<_>, _>>()?;
                let mut files = Vec::new();
                for format in [Format::Csv, Format::Jsonl, Format::Json] {
                    let mut writer = UserWriter::new(format, Vec::new())?;
                    export(tx, &mut writer, |_| Ok::<_, Undo>(()))?;
                    files.push((format, writer.finish()?));
                }
                Err(Undo::Done(created, files))
            }));
            let Err(Undo::Done(created, files)) = undone else { panic!("the transaction failed") };
            for (format, file) in files {
                let mut reader = RowReader::new(format, file.as_slice()).unwrap();
                let chunk = reader.next_chunk().unwrap();
                assert_eq!(chunk.rows.len(), count);
                for (row, user) in chunk.rows.into_iter().zip(&created) {
                    assert_eq!(row.user.unwrap(), whole(user), "{format:?}");
                }
            }
        });
    }
}

enum Undo {
    Done(Vec<User>, Vec<(Format, Vec<u8>)>),
    Failed,
}

impl From<Error> for Undo {
    fn from(_: Error) -> Self {
        Self::Failed
    }
}

impl From<tenantry::Error> for Undo {
    fn from(_: tenantry::Error) -> Self {
        Self::Failed
    }
}

impl From<std::io::Error> for Undo {
    fn from(_: std::io::Error) -> Self {
        Self::Failed
    }
}

/// Returns the user with every field set.
fn whole(user: &User) -> NewUser {
    NewUser {
        id: Some(user.id),
        storage_path: Some(user.storage_path.clone()),
        created_at: Some(user.created_at),
        last_login_at: user.last_login_at,
        updated_at: Some(user.updated_at),
        version: Some(user.version),
        suspended_at: user.suspended_at,
        external_id: user.external_id.clone(),
        name: user.name.clone(),
        attributes: user.attributes.clone(),
        ..NewUser::new(user.email.clone())
    }
}
