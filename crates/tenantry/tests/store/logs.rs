//! No address gets into a log: not by an operation, not by a failure, not by printing what the
//! crate hands out.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tenantry::{
    Error, ErrorKind, Filter, ListQuery, NewUser, OnConflict, Store, UserUpdate, sqlite,
};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::process::{self, Process};
use crate::support::{block_on, email, new_user, new_user_at, numbered_id, only, to_email};

/// Parts of addresses that can't get anywhere by chance.
const TELLTALES: [&str; 3] = ["zyxlove", "zyxbyron", "zyxdomain"];
const ADA: &str = "Zyxlove@zyxdomain.example";
const BYRON: &str = "zyxbyron@zyxdomain.example";

/// The first telltale in a text.
fn telltale(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    TELLTALES.into_iter().find(|telltale| text.contains(telltale))
}

/// An error in every way in which it can be printed, with what is behind it.
fn printed(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_address_gets_into_a_log() {
    let dir = tempfile::tempdir().unwrap();
    // In a process of its own, since the subscriber has to hear all threads. Its files can't grow
    // beyond 1 MiB, so that a commit fails in the end.
    let shell = "trap '' XFSZ; ulimit -f 2048";
    let child = Process::start("logs", dir.path(), shell);
    assert_eq!(child.end(), ["no address was logged"]);
}

pub(crate) fn child_logs(dir: &Path) {
    let capture = Capture::default();
    let writer = capture.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let mut errors = block_on(every_operation(&dir.join("data")));
    errors.extend(block_on(a_failing_disk(&dir.join("full"))));

    let log = String::from_utf8(capture.0.lock().unwrap().clone()).unwrap();
    // What is looked at is really there.
    for span in [
        "create",
        "create_many",
        "get_by_email",
        "update",
        "delete",
        "sign_in",
        "list",
        "write",
        "read",
    ] {
        assert!(
            log.contains(&format!("{span}{{")) || log.contains(&format!("{span}:")),
            "{span} left no trace"
        );
    }
    assert!(log.contains("ERROR"), "the failed write left no trace");
    let line = log.lines().find(|line| telltale(line).is_some());
    assert_eq!(line, None);
    assert!(errors.len() > 15);
    for error in errors {
        assert_eq!(telltale(&printed(&error)), None, "{}", printed(&error));
    }
    process::say("no address was logged");
}

/// Every operation, with every failure of it that can be had easily.
async fn every_operation(data_dir: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut fails = |error: Error| errors.push(error);
    let store = Store::open(data_dir).await.unwrap();
    let ada = store.create(new_user(ADA)).await.unwrap();
    let byron = store.sign_in(email(BYRON)).await.unwrap().user;
    store.sign_in(email(BYRON)).await.unwrap();
    fails(store.create(new_user(ADA)).await.unwrap_err());
    fails(
        store
            .create(NewUser { id: Some(ada.id), ..new_user("zyxbyron2@zyxdomain.example") })
            .await
            .unwrap_err(),
    );
    fails(store.create(new_user_at("zyxbyron2@zyxdomain.example", "ab/x")).await.unwrap_err());
    fails(store.create(NewUser { version: Some(0), ..new_user(ADA) }).await.unwrap_err());
    for row in store
        .create_many(vec![new_user("zyxlove2@zyxdomain.example"), new_user(ADA)])
        .await
        .unwrap()
    {
        row.map_or_else(&mut fails, |user| assert_eq!(telltale(&format!("{user:?}")), None));
    }
    assert_eq!(store.get(ada.id).await.unwrap().as_ref(), Some(&ada));
    assert_eq!(store.get_by_email(&ada.email).await.unwrap().as_ref(), Some(&ada));
    store.update(ada.id, to_email("zyxlove@ZYXDOMAIN.example")).await.unwrap();
    fails(store.update(ada.id, to_email(BYRON)).await.unwrap_err());
    fails(
        store
            .update(ada.id, UserUpdate { expected_version: Some(9), ..to_email(ADA) })
            .await
            .unwrap_err(),
    );
    fails(store.update(numbered_id(1), to_email(ADA)).await.unwrap_err());
    store.record_login(byron.id).await.unwrap();
    fails(store.record_login(numbered_id(1)).await.unwrap_err());
    fails(store.delete(numbered_id(1)).await.unwrap_err());
    let filter = Filter {
        email_prefix: Some("zyxlove@zyxdomain.ex".into()),
        email_contains: Some("zyxdomain".into()),
        ..Filter::default()
    };
    assert_eq!(store.list(&only(filter.clone())).await.unwrap().users.len(), 1);
    let bad = Filter { email_prefix: Some("zyxlove\0@zyxdomain".into()), ..filter };
    fails(store.list(&only(bad)).await.unwrap_err());
    fails(store.list(&ListQuery { limit: 0, ..ListQuery::default() }).await.unwrap_err());
    assert_eq!(store.pages(ListQuery::default()).next().await.unwrap().unwrap().len(), 3);
    assert_eq!(store.count().await.unwrap(), 3);
    for on_conflict in [OnConflict::Fail, OnConflict::Skip, OnConflict::Update] {
        let row = NewUser { created_at: Some(tenantry::Timestamp::MIN), ..new_user(ADA) };
        let imported = store.write(move |tx| tx.upsert(&row, on_conflict)).await;
        imported.map_or_else(&mut fails, |_| ());
    }
    // SQL of the application's own, refused in three ways.
    for sql in [
        "INSERT INTO users (email) VALUES (?1)",
        "CREATE TABLE IF NOT EXISTS one (email TEXT CHECK (length(email) > 900)); INSERT INTO one VALUES (?1)",
        "SELECT * FROM nowhere WHERE email = ?1",
    ] {
        let refused = store
            .write(move |tx| {
                let conn = sqlite::connection(tx);
                let last = sql.split("; ").inspect(|sql| _ = conn.execute(sql, [])).last().unwrap();
                Ok::<_, Error>(conn.execute(last, [ADA])?)
            })
            .await;
        fails(refused.unwrap_err());
    }
    store.read(|tx| tx.get_by_email(&email(ADA))).await.unwrap();
    store.status().await.unwrap();
    store.delete(ada.id).await.unwrap();
    store.close().await.unwrap();
    fails(store.create(new_user(ADA)).await.unwrap_err());
    fails(Store::builder(data_dir.join("none")).create_if_missing(false).open().await.unwrap_err());
    errors
}

/// Writes until the file system refuses.
async fn a_failing_disk(data_dir: &Path) -> Vec<Error> {
    let store = Store::open(data_dir).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);
    let mut number = 0;
    let error = loop {
        let row = move |at| new_user(&format!("zyxlove{}@zyxdomain.example", number * 1_000 + at));
        match store.create_many((0..1_000).map(row).collect()).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 100, "100,000 users fit into files of 1 MiB");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    // This is for good: no further write is accepted.
    std::fs::remove_file(data_dir.join("tenantry.db-wal")).unwrap();
    let refused = store.create(new_user(BYRON)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Replaced, "{refused:?}");
    assert!(store.count().await.unwrap() >= number * 1_000);
    store.close().await.unwrap();
    vec![error, refused]
}

#[test]
fn nothing_that_is_handed_out_shows_an_address_in_its_debug_output() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = Store::open(dir.path().join("data")).await.unwrap();
        let signed_in = store.sign_in(email(ADA)).await.unwrap();
        let page = store.list(&ListQuery::default()).await.unwrap();
        for text in [
            format!("{:?}", email(ADA)),
            format!("{:#?}", new_user(ADA)),
            format!("{:?}", to_email(ADA)),
            format!("{:#?}", signed_in.user),
            format!("{signed_in:?}"),
            format!("{page:?}"),
            format!("{store:?}"),
        ] {
            assert!(!text.is_empty());
            assert_eq!(telltale(&text), None, "{text}");
        }
        // For people it is shown, of course.
        assert_eq!(telltale(signed_in.user.email.as_str()), Some("zyxlove"));
        store.close().await.unwrap();
    });
}

#[test]
fn no_refusal_shows_the_address_that_it_refuses() {
    for address in [
        "zyxlove",
        "zyxlove @zyxdomain.example",
        "zyxlove@zyxdomain..example",
        "zyxlove@xn--zyxdomain.zyxdomain.xn--a",
        "zyxlove@zyxdomain_.example",
        "zyxlove@zyxdomain.example\n",
        "zyxlove\u{430}@zyxdomain.example",
        "zyxlove@[zyxdomain]",
        &format!("{}@zyxdomain.example", "zyxlove".repeat(40)),
    ] {
        let error = address.parse::<tenantry::Email>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEmail);
        assert_eq!(telltale(&printed(&error)), None, "{}", printed(&error));
    }
    // Nor if it is where something else was expected.
    for error in [
        ADA.parse::<tenantry::UserId>().unwrap_err(),
        ADA.parse::<tenantry::StoragePath>()
            .map_or_else(|error| error, |_| "".parse::<tenantry::StoragePath>().unwrap_err()),
        ADA.parse::<tenantry::Cursor>().unwrap_err(),
    ] {
        assert_eq!(telltale(&printed(&error)), None, "{}", printed(&error));
    }
}
