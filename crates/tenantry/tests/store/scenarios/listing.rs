//! Listings: their order, pages, cursors and filters.

use std::time::Duration;

use tenantry::{Ambient, ErrorKind, Filter, ListQuery, NewUser, Order, Store, User};

use super::create;
use crate::support::{Bench, addresses, all, kind, new_user, only, page_of};

scenarios! {
    a_listing_is_in_the_order_of_creation,
    a_page_holds_fifty_unless_said_otherwise,
    a_limit_outside_of_1_to_1000_is_refused,
    pages_return_every_user_once_whatever_is_created_and_deleted_in_between,
    a_user_created_after_the_last_one_was_deleted_is_not_skipped,
    a_cursor_is_read_back_and_outlives_a_restart,
    nothing_but_a_cursor_is_read_as_one,
    a_listing_by_prefix_takes_it_literally_and_folds_it,
    a_listing_by_prefix_has_pages_in_the_order_of_creation,
    a_listing_by_a_part_looks_at_the_key_and_at_the_address,
    a_listing_by_creation_includes_the_start_and_excludes_the_end,
    a_listing_of_the_inactive_counts_from_the_creation_for_who_never_logged_in,
    a_listing_by_login_begins_with_who_was_away_longest,
    conditions_are_met_all_of_them,
    a_filter_that_few_users_meet_finds_them_behind_many_others,
    a_search_finds_what_a_walk_through_all_users_finds,
    a_search_that_two_threads_share_finds_what_a_walk_through_all_users_finds,
    a_filter_that_no_address_can_meet_is_refused,
}

async fn a_listing_is_in_the_order_of_creation(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut expected = Vec::new();
    // Neither the address nor the time of creation is in order.
    for (number, address) in
        ["m@example.com", "z@example.com", "a@example.com", "k@example.com"].iter().enumerate()
    {
        clock.back(3_600 * number as i64);
        expected.push(create(store, address).await);
    }
    let page = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!((page.users, page.next_cursor), (expected, None));
}

async fn a_page_holds_fifty_unless_said_otherwise(bench: &mut Bench) {
    let store = &bench.store;
    let users = (0..1_001).map(|number| new_user(&format!("u{number:04}@example.com"))).collect();
    let created: Vec<User> =
        store.create_many(users).await.unwrap().into_iter().map(Result::unwrap).collect();
    let first = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!(first.users, created[..50]);
    let second =
        store.list(&ListQuery { cursor: first.next_cursor, ..ListQuery::default() }).await.unwrap();
    assert_eq!(second.users, created[50..100]);

    let first = store.list(&page_of(1_000)).await.unwrap();
    assert_eq!(first.users, created[..1_000]);
    let second =
        store.list(&ListQuery { cursor: first.next_cursor, ..page_of(1_000) }).await.unwrap();
    assert_eq!((second.users.as_slice(), second.next_cursor), (&created[1_000..], None));
    // A page that is just full isn't followed by an empty one.
    store.delete(created[1_000].id).await.unwrap();
    assert_eq!(store.list(&page_of(1_000)).await.unwrap().next_cursor, None);
    assert_eq!(all(store, page_of(1)).await, created[..1_000]);
}

async fn a_limit_outside_of_1_to_1000_is_refused(bench: &mut Bench) {
    let store = &bench.store;
    for limit in [0, 1_001, usize::MAX] {
        assert_eq!(kind(store.list(&page_of(limit)).await), ErrorKind::InvalidQuery, "{limit}");
        assert_eq!(
            kind(store.read(move |tx| tx.list(&page_of(limit))).await),
            ErrorKind::InvalidQuery,
            "{limit}"
        );
        assert_eq!(
            kind(store.pages(page_of(limit)).next().await),
            ErrorKind::InvalidQuery,
            "{limit}"
        );
    }
}

async fn pages_return_every_user_once_whatever_is_created_and_deleted_in_between(
    bench: &mut Bench,
) {
    let store = &bench.store;
    let mut stayed = Vec::new();
    for number in 0..20 {
        stayed.push(create(store, &format!("u{number:02}@example.com")).await);
    }
    let mut pages = store.pages(page_of(3));
    let mut met = Vec::new();
    let mut turn = 0;
    while let Some(page) = pages.next().await.unwrap() {
        // The user that the cursor stands behind goes, and somebody comes, four times.
        if turn < 4 {
            let last = page.last().unwrap().id;
            store.delete(last).await.unwrap();
            stayed.push(create(store, &format!("late{turn}@example.com")).await);
        }
        // So does one who is still to come: not met, and nobody is skipped for it.
        if turn == 2 {
            let coming = stayed.remove(15);
            store.delete(coming.id).await.unwrap();
        }
        met.extend(page);
        turn += 1;
    }
    assert_eq!(met, stayed);
}

async fn a_user_created_after_the_last_one_was_deleted_is_not_skipped(bench: &mut Bench) {
    let store = &bench.store;
    for address in ["a@example.com", "b@example.com", "c@example.com"] {
        create(store, address).await;
    }
    let first = store.list(&page_of(2)).await.unwrap();
    // All of the first page and what follows it go, and somebody comes.
    for user in all(store, ListQuery::default()).await {
        store.delete(user.id).await.unwrap();
    }
    let late = create(store, "d@example.com").await;
    let second = store.list(&ListQuery { cursor: first.next_cursor, ..page_of(2) }).await.unwrap();
    assert_eq!((second.users, second.next_cursor), (vec![late], None));
}

async fn a_cursor_is_read_back_and_outlives_a_restart(bench: &mut Bench) {
    for number in 0..6 {
        create(&bench.store, &format!("u{number}@example.com")).await;
    }
    let first = bench.store.list(&page_of(3)).await.unwrap();
    let cursor = first.next_cursor.unwrap();
    let text = cursor.to_string();
    bench.store.delete(first.users[2].id).await.unwrap();
    bench.reopen().await;

    let read_back = text.parse().unwrap();
    assert_eq!(read_back, cursor);
    let second =
        bench.store.list(&ListQuery { cursor: Some(read_back), ..page_of(3) }).await.unwrap();
    assert_eq!(addresses(&second.users), ["u3@example.com", "u4@example.com", "u5@example.com"]);
    // It is a place, not a filter: another query can go on from it.
    let prefix = only(Filter { email_prefix: Some("u".into()), ..Filter::default() });
    let second = bench.store.list(&ListQuery { cursor: Some(read_back), ..prefix }).await.unwrap();
    assert_eq!(second.users.len(), 3);
}

async fn nothing_but_a_cursor_is_read_as_one(bench: &mut Bench) {
    for number in 0..2 {
        create(&bench.store, &format!("u{number}@example.com")).await;
    }
    let text = bench.store.list(&page_of(1)).await.unwrap().next_cursor.unwrap().to_string();
    for other in [
        text.to_uppercase() + " ",
        format!(" {text}"),
        text[1..].to_owned(),
        text.replace('1', "2"),
    ] {
        assert_eq!(kind(other.parse::<tenantry::Cursor>()), ErrorKind::InvalidCursor, "{other}");
    }
}

async fn found_by_prefix(store: &Store, prefix: &str) -> Vec<String> {
    let filter = Filter { email_prefix: Some(prefix.to_owned()), ..Filter::default() };
    all(store, only(filter)).await.into_iter().map(|user| user.email.to_string()).collect()
}

async fn a_listing_by_prefix_takes_it_literally_and_folds_it(bench: &mut Bench) {
    let store = &bench.store;
    for address in [
        "Ada@example.com",
        "adam@example.com",
        "a_b@example.com",
        "axb@example.com",
        "a%b@example.com",
        "stra\u{df}e@example.com",
        "bob@b\u{fc}cher.example",
        "bob@example.com",
        "\u{7530}\u{4e2d}@example.com",
        "*@example.com",
    ] {
        create(store, address).await;
    }
    assert_eq!(found_by_prefix(store, "AD").await, ["Ada@example.com", "adam@example.com"]);
    assert_eq!(found_by_prefix(store, "ada@").await, ["Ada@example.com"]);
    assert_eq!(found_by_prefix(store, "ada@EXAMPLE.com").await, ["Ada@example.com"]);
    assert_eq!(found_by_prefix(store, "a_").await, ["a_b@example.com"]);
    assert_eq!(found_by_prefix(store, "a%").await, ["a%b@example.com"]);
    assert_eq!(found_by_prefix(store, "*").await, ["*@example.com"]);
    assert_eq!(found_by_prefix(store, "strass").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found_by_prefix(store, "STRA\u{1e9e}").await, ["stra\u{df}e@example.com"]);
    assert_eq!(
        found_by_prefix(store, "bob@").await,
        ["bob@b\u{fc}cher.example", "bob@example.com"]
    );
    assert_eq!(
        found_by_prefix(store, "Bob@B\u{dc}CHER.example").await,
        ["bob@b\u{fc}cher.example"]
    );
    assert_eq!(found_by_prefix(store, "bob@xn--").await, ["bob@b\u{fc}cher.example"]);
    for part in ["bob@b", "bob@B\u{fc}", "bob@b\u{fc}cher.ex", "bob@xn--bcher-kva.EX"] {
        assert_eq!(found_by_prefix(store, part).await, ["bob@b\u{fc}cher.example"], "{part}");
    }
    for part in ["bob@x", "bob@xn-", "bob@b\u{fc}-"] {
        assert!(found_by_prefix(store, part).await.is_empty(), "{part}");
    }
    assert_eq!(found_by_prefix(store, "\u{7530}").await, ["\u{7530}\u{4e2d}@example.com"]);
    for nobody in ["_", "%", "b_b", "da@", "ada@example.com.", "\\"] {
        assert!(found_by_prefix(store, nobody).await.is_empty(), "{nobody}");
    }
    assert_eq!(found_by_prefix(store, "").await.len(), 10, "an empty prefix is none");
}

async fn a_listing_by_prefix_has_pages_in_the_order_of_creation(bench: &mut Bench) {
    let store = &bench.store;
    let mut expected = Vec::new();
    // The order of creation is neither that of the keys nor its reverse.
    for number in [5, 1, 9, 3, 7, 2, 8, 4, 6, 0] {
        expected.push(create(store, &format!("ada{number}@example.com")).await);
        create(store, &format!("bob{number}@example.com")).await;
    }
    for limit in [1, 3, 9, 10, 11] {
        let filter = Filter { email_prefix: Some("ada".into()), ..Filter::default() };
        let mut query = ListQuery { limit, ..only(filter) };
        let mut found = Vec::new();
        loop {
            let page = store.list(&query).await.unwrap();
            assert_eq!(page.users.len(), limit.min(expected.len() - found.len()));
            found.extend(page.users);
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{limit}");
    }
}

async fn a_listing_by_a_part_looks_at_the_key_and_at_the_address(bench: &mut Bench) {
    let store = &bench.store;
    for address in
        ["Ada@Example.com", "a_b@example.org", "stra\u{df}e@example.com", "bob@b\u{fc}cher.example"]
    {
        create(store, address).await;
    }
    let found = async |part: &str| {
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        all(store, only(filter))
            .await
            .into_iter()
            .map(|user| user.email.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(found("DA@E").await, ["Ada@Example.com"]);
    assert_eq!(found("example.com").await, ["Ada@Example.com", "stra\u{df}e@example.com"]);
    assert_eq!(found("_").await, ["a_b@example.org"]);
    assert_eq!(found("ass").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found("\u{df}e@").await, ["stra\u{df}e@example.com"]);
    assert_eq!(found("xn--").await, ["bob@b\u{fc}cher.example"]);
    assert_eq!(found("\u{fc}cher").await, ["bob@b\u{fc}cher.example"]);
    assert_eq!(found("BOB@B\u{dc}CH").await, ["bob@b\u{fc}cher.example"]);
    let capital = create(store, "cyd@B\u{fc}cher.example").await;
    assert_eq!(found("d@b\u{fc}").await, ["cyd@B\u{fc}cher.example"]);
    store.delete(capital.id).await.unwrap();
    for nothing in ["%", "*", "?", "[a-z]", "a?b", "a*b", "da*example"] {
        assert!(found(nothing).await.is_empty(), "{nothing}");
    }
    for address in ["x*y?z@example.com", "xxyyz@example.com"] {
        create(store, address).await;
    }
    for part in ["*", "?", "X*Y?z", "*y?z@"] {
        assert_eq!(found(part).await, ["x*y?z@example.com"], "{part}");
    }
    assert_eq!(found("").await.len(), 6, "an empty part is no condition");
}

async fn a_listing_by_creation_includes_the_start_and_excludes_the_end(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let mut times = Vec::new();
    for address in ["a@example.com", "b@example.com", "c@example.com", "d@example.com"] {
        times.push(clock.forward(10));
        create(store, address).await;
    }
    let found = async |after: Option<usize>, before: Option<usize>| {
        let filter = Filter {
            created_after: after.map(|at| times[at]),
            created_before: before.map(|at| times[at]),
            ..Filter::default()
        };
        addresses(&all(store, only(filter)).await)
            .iter()
            .map(|address| address[..1].to_owned())
            .collect::<String>()
    };
    assert_eq!(found(Some(1), None).await, "bcd");
    assert_eq!(found(None, Some(1)).await, "a");
    assert_eq!(found(Some(1), Some(3)).await, "bc");
    assert_eq!(found(Some(2), Some(2)).await, "");
    assert_eq!(found(Some(3), Some(1)).await, "");
}

async fn a_listing_of_the_inactive_counts_from_the_creation_for_who_never_logged_in(
    bench: &mut Bench,
) {
    let Bench { store, clock, .. } = bench;
    let old = create(store, "old@example.com").await;
    let faithful = create(store, "faithful@example.com").await;
    let middle = clock.forward(100);
    store.record_login(faithful.id).await.unwrap();
    create(store, "young@example.com").await;
    let late = clock.forward(100);
    store.record_login(faithful.id).await.unwrap();

    let inactive_since = async |moment| {
        let filter = Filter { inactive_since: Some(moment), ..Filter::default() };
        addresses(&all(store, only(filter)).await)
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert!(inactive_since(old.created_at).await.is_empty(), "the moment itself is not before it");
    assert_eq!(inactive_since(middle).await, ["old@example.com"]);
    assert_eq!(inactive_since(late).await, ["old@example.com", "young@example.com"]);
    clock.forward(1);
    assert_eq!(
        inactive_since(clock.now()).await,
        ["old@example.com", "faithful@example.com", "young@example.com"]
    );
    // As a program asks that wants to know who was away for 90 seconds.
    let away = clock.now().saturating_sub(Duration::from_secs(90));
    assert_eq!(inactive_since(away).await, ["old@example.com", "young@example.com"]);

    let never = all(store, only(Filter { never_logged_in: true, ..Filter::default() })).await;
    assert_eq!(addresses(&never), ["old@example.com", "young@example.com"]);
}

async fn a_listing_by_login_begins_with_who_was_away_longest(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    // More than two steps of the walk, of whom many came at one time.
    let users = (0..9_000).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    let users: Vec<User> =
        store.create_many(users).await.unwrap().into_iter().map(Result::unwrap).collect();
    clock.forward(10);
    let last = create(store, "last@example.com").await;
    for number in [0, 8_999] {
        clock.forward(10);
        store.record_login(users[number].id).await.unwrap();
    }
    let by_login = |limit| ListQuery { limit, order: Order::LastLogin, ..ListQuery::default() };
    let mut expected: Vec<_> = users[1..8_999].iter().map(|user| user.id).collect();
    expected.extend([last.id, users[0].id, users[8_999].id]);
    for limit in [999, 1_000] {
        let listed: Vec<_> = all(store, by_login(limit)).await.iter().map(|user| user.id).collect();
        assert!(listed == expected, "{limit}");
    }
    // Whoever logs in between two pages comes again at the end, and nobody else is missed.
    let first = store.list(&by_login(1_000)).await.unwrap();
    clock.forward(10);
    store.record_login(first.users[5].id).await.unwrap();
    store.delete(users[8_000].id).await.unwrap();
    let rest = ListQuery { cursor: first.next_cursor, ..by_login(1_000) };
    let rest: Vec<_> = all(store, rest).await.iter().map(|user| user.id).collect();
    expected.retain(|id| *id != users[8_000].id);
    expected.push(first.users[5].id);
    assert!(rest == expected[1_000..]);
    let filter = Filter {
        email_prefix: Some("u899".into()),
        email_contains: Some("9@".into()),
        ..Filter::default()
    };
    let some = all(store, ListQuery { filter, ..by_login(1) }).await;
    assert_eq!(addresses(&some), ["u899@example.com", "u8999@example.com"]);
    let read = store.read(move |tx| tx.list(&by_login(2))).await.unwrap();
    assert_eq!(addresses(&read.users), ["u1@example.com", "u2@example.com"]);
    let other = ListQuery { cursor: read.next_cursor, ..ListQuery::default() };
    assert_eq!(kind(store.list(&other).await), ErrorKind::InvalidCursor);
}

async fn conditions_are_met_all_of_them(bench: &mut Bench) {
    let Bench { store, clock, .. } = bench;
    let start = clock.now();
    for (number, address) in ["ada1", "bob1", "ada2", "ada3", "ada4"].iter().enumerate() {
        let new = NewUser {
            external_id: Some("1".parse().unwrap()),
            ..new_user(&format!("{address}@example.com"))
        };
        let user = store.create(new).await.unwrap();
        if number % 2 == 0 {
            store.record_login(user.id).await.unwrap();
        }
        clock.forward(10);
    }
    let filter = Filter {
        email_prefix: Some("ada".into()),
        email_contains: Some("@EXAMPLE".into()),
        created_after: Some(start),
        created_before: Some(clock.now()),
        inactive_since: Some(clock.now()),
        never_logged_in: true,
        suspended: Some(false),
        external_id: Some("1".parse().unwrap()),
    };
    assert_eq!(addresses(&all(store, only(filter.clone())).await), ["ada3@example.com"]);
    for (without, expected) in [
        (Filter { never_logged_in: false, ..filter.clone() }, 4),
        (Filter { email_prefix: None, ..filter.clone() }, 2),
        (Filter { email_prefix: None, never_logged_in: false, ..filter.clone() }, 5),
        (Filter { email_contains: Some("4".into()), ..filter.clone() }, 0),
        (Filter { created_before: Some(start), ..filter.clone() }, 0),
        (Filter { created_after: Some(clock.now()), ..filter.clone() }, 0),
        (Filter { suspended: Some(true), ..filter.clone() }, 0),
        (Filter { email_prefix: None, suspended: Some(true), ..filter.clone() }, 0),
        (Filter { external_id: Some("2".parse().unwrap()), ..filter.clone() }, 0),
        (Filter { external_id: None, ..filter.clone() }, 1),
        (Filter { inactive_since: Some(start), ..filter }, 0),
    ] {
        assert_eq!(
            all(store, ListQuery { limit: 1, ..only(without.clone()) }).await.len(),
            expected,
            "{without:?}"
        );
    }
}

async fn a_filter_that_few_users_meet_finds_them_behind_many_others(bench: &mut Bench) {
    let store = &bench.store;
    // More than two steps of the search.
    let users = (0..9_000).map(|number| new_user(&format!("u{number}@example.com"))).collect();
    store.create_many(users).await.unwrap();
    for part in ["u0@", "u4095@", "u4096@", "u8191@", "u8192@", "u8999@"] {
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        let page = store.list(&only(filter)).await.unwrap();
        assert_eq!(addresses(&page.users), [format!("{part}example.com")]);
        assert_eq!(page.next_cursor, None);
    }
    // Pages that end where steps end.
    let filter = Filter { email_contains: Some("5@".to_owned()), ..Filter::default() };
    let mut expected: Vec<String> = (0..9_000)
        .filter(|number| number % 10 == 5)
        .map(|number| format!("u{number}@example.com"))
        .collect();
    let found = all(store, ListQuery { limit: 7, ..only(filter.clone()) }).await;
    assert_eq!(addresses(&found), expected);
    let in_closure =
        store.read(|tx| tx.list(&ListQuery { limit: 1_000, ..only(filter) })).await.unwrap();
    assert_eq!(addresses(&in_closure.users), expected);
    expected.clear();
    let nobody = Filter { email_contains: Some("nobody".to_owned()), ..Filter::default() };
    assert_eq!(addresses(&all(store, only(nobody)).await), expected);
}

async fn a_search_finds_what_a_walk_through_all_users_finds(bench: &mut Bench) {
    let store = &bench.store;
    // More than one step, with addresses that are their own keys and others that aren't.
    let name =
        |n: usize| if n.is_multiple_of(3) { format!("Ada.{n:x}") } else { format!("bob.{n:x}") };
    let users = (0..5_000).map(|n| new_user(&format!("{}@example.com", name(n)))).collect();
    store.create_many(users).await.unwrap();
    let everybody = all(store, page_of(1_000)).await;
    assert_eq!(everybody.len(), 5_000);
    for part in ["ada", "Ada", "ADA.1", "b.F", "B.f", "ff@", "FF@", ".0@", "@Example", "nobody"] {
        let is_match =
            |user: &&User| user.email.to_string().to_lowercase().contains(&part.to_lowercase());
        let expected: Vec<User> = everybody.iter().filter(is_match).cloned().collect();
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        for limit in [97, 1_000] {
            assert_eq!(
                all(store, ListQuery { limit, ..only(filter.clone()) }).await,
                expected,
                "{part}"
            );
        }
    }
}

/// A second thread may take the second half of a long walk, whose users follow those of the first.
async fn a_search_that_two_threads_share_finds_what_a_walk_through_all_users_finds(
    bench: &mut Bench,
) {
    let store = &bench.store;
    // So many that the second half is worth a thread.
    let address = |n: usize| match n {
        // In both halves, and in another order than the keys.
        7_100 | 23_900 => format!("Zoe.{}@rare.example", 30_000 - n),
        9_000..9_020 => format!("zo{}@m{n}.R\u{e4}re.example", "\u{eb}".repeat(n % 2)),
        15_000 => "stra\u{df}e.rare@example.com".to_owned(),
        n => format!("u{}@example.com", n * 7_919 % 100_000),
    };
    let users = (0..24_000).map(|n| new_user(&address(n))).collect();
    let created: Vec<User> =
        store.create_many(users).await.unwrap().into_iter().map(Result::unwrap).collect();
    store.delete(created[9_003].id).await.unwrap();
    store.delete(created[7_100].id).await.unwrap();
    let again = create(store, "zoe.again@rare.example").await;
    let is_in = |n: usize, part: &str| match n {
        7_100 | 9_003 => false,
        // A domain is found as it is shown, as it was written, and as the key has it.
        9_000..9_020 => ["r\u{e4}re", "example", "xn--", "zo"].contains(&part),
        15_000 => ["rare", "example", "sse.r", "stra\u{df}e"].contains(&part),
        23_900 => ["rare", "example", "zo", "zoe", "oe.6"].contains(&part),
        _ => part == "example",
    };
    for part in
        ["rare", "Rare", "r\u{e4}re", "zo", "Zoe", "xn--", "sse.r", "STRA\u{df}E", "oe.6", "nobody"]
    {
        let folded = part.to_lowercase();
        let mut expected: Vec<User> = created
            .iter()
            .enumerate()
            .filter(|(n, _)| is_in(*n, &folded))
            .map(|(_, user)| user.clone())
            .collect();
        expected.extend(["rare", "zo", "zoe"].contains(&&*folded).then(|| again.clone()));
        let filter = Filter { email_contains: Some(part.to_owned()), ..Filter::default() };
        for limit in [1, 3, 50, 1_000] {
            let found = all(store, ListQuery { limit, ..only(filter.clone()) }).await;
            assert_eq!(addresses(&found), addresses(&expected), "{part}, {limit}");
            assert_eq!(found, expected);
        }
        let query = ListQuery { limit: 1_000, ..only(filter) };
        let in_closure = store.read(move |tx| tx.list(&query)).await.unwrap();
        assert_eq!(in_closure.users, expected, "{part}");
    }
    // A page that ends in the first half.
    let filter = Filter { email_contains: Some("u".to_owned()), ..Filter::default() };
    let page = store.list(&ListQuery { limit: 1_000, ..only(filter) }).await.unwrap();
    assert_eq!(page.users, created[..1_000]);
}

async fn a_filter_that_no_address_can_meet_is_refused(bench: &mut Bench) {
    let store = &bench.store;
    for text in ["a b".to_owned(), "a\0".to_owned(), "a\u{200b}".to_owned(), "a".repeat(255)] {
        let prefix = Filter { email_prefix: Some(text.clone()), ..Filter::default() };
        let part = Filter { email_contains: Some(text.clone()), ..Filter::default() };
        for filter in [prefix, part] {
            assert_eq!(kind(store.list(&only(filter)).await), ErrorKind::InvalidQuery, "{text:?}");
        }
    }
}
